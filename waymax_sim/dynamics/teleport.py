"""Absolute poses."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from waymax_sim import geometry
from waymax_sim.datatypes.agents import AgentState
from waymax_sim.datatypes.state import Action
from waymax_sim.dynamics.protocol import Step, float_bounds
from waymax_sim.pytree import Array


@dataclasses.dataclass(frozen=True)
class Teleport:
    """Puts agents at (x, y, yaw) with velocity (vx, vy): m, rad, m/s, local frame. Any finite value is allowed."""

    preserves_finite = True

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Unbounded, five numbers."""
        return float_bounds((np.inf,) * 5)

    def apply(self, agents: AgentState, value: Float[Array, "N 5"], dt: Step) -> AgentState:
        """Takes the pose as it is. A yaw already in [-pi, pi) is kept bit for bit."""
        xyz = jnp.concatenate([value[:, :2], agents.xyz[:, 2:]], axis=-1)
        return dataclasses.replace(agents, xyz=xyz, yaw=geometry.wrap_angle(value[:, 2]), velocity=value[:, 3:])

    def invert(self, before: AgentState, after: AgentState, dt: Step) -> Action:
        """The pose of `after`; valid where `after` is, since where an agent comes from does not matter."""
        value = jnp.concatenate([after.xyz[:, :2], after.yaw[:, None], after.velocity], axis=-1)
        return Action(value=jnp.where(after.valid[:, None], value, 0.0), valid=after.valid)
