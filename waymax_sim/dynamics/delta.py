"""Displacement per step."""

import dataclasses
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from waymax_sim import geometry
from waymax_sim.datatypes.agents import AgentState
from waymax_sim.datatypes.state import Action
from waymax_sim.dynamics.protocol import TimeStep, float_bounds
from waymax_sim.pytree import Array


@dataclasses.dataclass(frozen=True)
class Delta:
    """Displacement (dx, dy) in m and turn in rad per step; `apply` and `invert` clip to the limits.

    Attributes:
      frame: Frame of the displacement: the local frame ("world") or that of the agent before the step ("body").
      max_displacement: Limit of |dx| and |dy|, m per step.
      max_turn: Limit of |turn|, rad per step.
      normalized: Actions are in [-1, 1] and scaled by the limits.
    """

    frame: Literal["world", "body"] = "world"
    max_displacement: float = 6.0
    max_turn: float = float(np.pi)
    normalized: bool = False

    preserves_finite = True

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of (dx, dy, turn)."""
        return float_bounds((1.0, 1.0, 1.0) if self.normalized else self._limits)

    @property
    def _limits(self) -> tuple[float, float, float]:
        return self.max_displacement, self.max_displacement, self.max_turn

    def apply(self, agents: AgentState, value: Float[Array, "N 3"], dt: TimeStep) -> AgentState:
        """Displaces and turns agents; the velocity becomes the displacement over `dt`.

        Args:
          agents: N agents.
          value: (dx, dy, turn).
          dt: Duration, s.
        """
        low, high = self.bounds
        scale = jnp.asarray(self._limits if self.normalized else (1.0, 1.0, 1.0), jnp.float32)
        value = jnp.clip(value, low[None], high[None]) * scale[None]
        displacement = value[:, :2]
        if self.frame == "body":
            displacement = geometry.rotate(displacement, agents.yaw)
        xyz = jnp.concatenate([agents.xyz[:, :2] + displacement, agents.xyz[:, 2:]], axis=-1)
        yaw = geometry.wrap_angle(agents.yaw + value[:, 2])
        return dataclasses.replace(agents, xyz=xyz, yaw=yaw, velocity=displacement / dt)

    def invert(self, before: AgentState, after: AgentState, dt: TimeStep) -> Action:
        """The difference of the poses, clipped to the bounds in the frame of the action.

        Args:
          before: N agents.
          after: The same agents `dt` later.
          dt: Duration, s.
        """
        valid = before.valid & after.valid
        displacement = after.xyz[:, :2] - before.xyz[:, :2]
        if self.frame == "body":
            displacement = geometry.rotate(displacement, -before.yaw)
        turn = geometry.wrap_angle(after.yaw - before.yaw)
        limits = jnp.asarray(self._limits, jnp.float32)[None]
        value = jnp.clip(jnp.concatenate([displacement, turn[:, None]], axis=-1), -limits, limits)
        value = jnp.where(valid[:, None], value, 0.0)
        return Action(value=value / limits if self.normalized else value, valid=valid)
