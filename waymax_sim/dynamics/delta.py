"""Displacements per step."""

import dataclasses
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from waymax_sim import geometry
from waymax_sim.datatypes.agents import AgentState
from waymax_sim.datatypes.state import Action
from waymax_sim.dynamics.protocol import Step, float_bounds
from waymax_sim.pytree import Array


@dataclasses.dataclass(frozen=True)
class Delta:
    """Displacement (dx, dy) in m and turn in rad per step; the limits hold in `apply` and in `invert`.

    Attributes:
      frame: Axes of the displacement: of the local frame ("world") or of the agent's old heading ("body").
      max_displacement: Limit of |dx| and |dy|, m per step.
      max_turn: Limit of |turn|, rad per step.
    """

    frame: Literal["world", "body"] = "world"
    max_displacement: float = 6.0
    max_turn: float = float(np.pi)

    preserves_finite = True

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of (dx, dy, turn)."""
        return float_bounds((self.max_displacement, self.max_displacement, self.max_turn))

    def apply(self, agents: AgentState, value: Float[Array, "N 3"], dt: Step) -> AgentState:
        """Displaces and turns; the velocity becomes the displacement over `dt`."""
        low, high = self.bounds
        value = jnp.clip(value, low[None], high[None])
        moved = value[:, :2]
        if self.frame == "body":
            moved = geometry.rotate(moved, agents.yaw)
        xyz = jnp.concatenate([agents.xyz[:, :2] + moved, agents.xyz[:, 2:]], axis=-1)
        yaw = geometry.wrap_angle(agents.yaw + value[:, 2])
        return dataclasses.replace(agents, xyz=xyz, yaw=yaw, velocity=moved / dt)

    def invert(self, before: AgentState, after: AgentState, dt: Step) -> Action:
        """Difference of the poses, clipped to the bounds in the frame of the action."""
        valid = before.valid & after.valid
        moved = after.xyz[:, :2] - before.xyz[:, :2]
        if self.frame == "body":
            moved = geometry.rotate(moved, -before.yaw)
        turn = geometry.wrap_angle(after.yaw - before.yaw)
        low, high = self.bounds
        value = jnp.clip(jnp.concatenate([moved, turn[:, None]], axis=-1), low[None], high[None])
        return Action(value=jnp.where(valid[:, None], value, 0.0), valid=valid)
