"""Absolute poses."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from waymax_sim import geometry
from waymax_sim.datatypes.agents import AgentState
from waymax_sim.datatypes.state import Action
from waymax_sim.dynamics.protocol import TimeStep, float_bounds
from waymax_sim.pytree import Array


@dataclasses.dataclass(frozen=True)
class Teleport:
    """Sets the pose (x, y, yaw) and the velocity (vx, vy) of agents: m, rad, m/s, local frame. Unbounded."""

    preserves_finite = True

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Five unbounded components."""
        return float_bounds((np.inf,) * 5)

    def apply(self, agents: AgentState, value: Float[Array, "N 5"], dt: TimeStep) -> AgentState:
        """Sets poses and velocities. A yaw within [-pi, pi) is unchanged.

        Args:
          agents: N agents.
          value: (x, y, yaw, vx, vy).
          dt: Duration, s.
        """
        xyz = jnp.concatenate([value[:, :2], agents.xyz[:, 2:]], axis=-1)
        return dataclasses.replace(agents, xyz=xyz, yaw=geometry.wrap_angle(value[:, 2]), velocity=value[:, 3:])

    def invert(self, before: AgentState, after: AgentState, dt: TimeStep) -> Action:
        """The pose and velocity of `after`; valid where `after` is, since the previous pose does not matter.

        Args:
          before: N agents.
          after: The same agents `dt` later.
          dt: Duration, s.
        """
        value = jnp.concatenate([after.xyz[:, :2], after.yaw[:, None], after.velocity], axis=-1)
        return Action(value=jnp.where(after.valid[:, None], value, 0.0), valid=after.valid)
