"""Kinematic bicycle model of the rear axle."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from waymax_sim import geometry
from waymax_sim.datatypes.agents import AgentState, forward_speed
from waymax_sim.datatypes.state import Action
from waymax_sim.dynamics.bicycle import Bicycle
from waymax_sim.dynamics.protocol import TimeStep
from waymax_sim.pytree import Array


@dataclasses.dataclass(frozen=True)
class RearAxleBicycle:
    """Bicycle model whose rear axle moves along the heading: acceleration (m/s^2) and curvature of its path (1/m).

    The velocity of the rear axle has no lateral component; that of the center of the box has one in bends. Agents are
    stored by their centers, as everywhere.

    Attributes:
      bicycle: Limits, and motion of the rear axle.
      axle_distance: Distance from the rear axle to the center of the box, m. Vehicles differ, but dynamics do not know
        sizes; 1.35 m is 0.28, the ratio of the vehicle of nuPlan (1.461 m of 5.176 m), of a length of 4.8 m.
    """

    bicycle: Bicycle = Bicycle()
    axle_distance: float = 1.35

    preserves_finite = True

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of (acceleration, curvature)."""
        return self.bicycle.bounds

    def apply(self, agents: AgentState, value: Float[Array, "N 2"], dt: TimeStep) -> AgentState:
        """Moves the rear axle by `bicycle`; the center follows from the new heading.

        Args:
          agents: N agents.
          value: (acceleration, curvature).
          dt: Duration, s.
        """
        axle = self.bicycle.apply(self.rear_axle(agents), value, dt)
        turn = geometry.wrap_angle(axle.yaw - agents.yaw)
        forward = geometry.unit_vector(axle.yaw)
        left = jnp.stack([-forward[:, 1], forward[:, 0]], axis=-1)
        return dataclasses.replace(
            axle,
            xyz=jnp.concatenate([axle.xyz[:, :2] + self.axle_distance * forward, agents.xyz[:, 2:]], axis=-1),
            velocity=axle.velocity + self.axle_distance * left * (turn / dt)[:, None],
        )

    def invert(self, before: AgentState, after: AgentState, dt: TimeStep) -> Action:
        """The action of `bicycle` for the motion of the rear axle.

        Args:
          before: N agents.
          after: The same agents `dt` later.
          dt: Duration, s.
        """
        return self.bicycle.invert(self.rear_axle(before), self.rear_axle(after), dt)

    def rear_axle(self, agents: AgentState) -> AgentState:
        """The agents with positions and velocities of their rear axles."""
        forward = geometry.unit_vector(agents.yaw)
        xy = agents.xyz[:, :2] - self.axle_distance * forward
        return dataclasses.replace(
            agents,
            xyz=jnp.concatenate([xy, agents.xyz[:, 2:]], axis=-1),
            velocity=forward * forward_speed(agents)[:, None],
        )
