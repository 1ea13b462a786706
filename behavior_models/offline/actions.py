"""Discrete actions along the route: an acceleration, and a lateral offset from the route that steering approaches."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from behavior_models.offline.route_frame import RouteFrame, route_point
from waymax_sim.dynamics import Bicycle
from waymax_sim.pytree import Array

ROUTE_DYNAMICS = Bicycle(max_acceleration=8.0)


@dataclasses.dataclass(frozen=True)
class RouteActions:
    """The product of accelerations and lateral offsets; offsets vary fastest. The levels are choices of this package.

    Steering is pure pursuit of the route at the offset (Coulter 1992). The vehicle does not roll backwards.

    Attributes:
      accelerations: m/s^2.
      offsets: Lateral offsets from the route, m, positive to the left; 0 is one of them.
      lookahead_time: Driving time to the target point, s.
      min_lookahead: Smallest distance to it, m.
      max_lateral: Largest lateral acceleration, m/s^2.
    """

    accelerations: tuple[float, ...] = (-5.0, -2.5, -1.0, 0.0, 1.0, 2.0, 3.0)
    offsets: tuple[float, ...] = (-1.0, 0.0, 1.0, 2.0, 3.0)
    lookahead_time: float = 0.9
    min_lookahead: float = 5.0
    max_lateral: float = 4.0

    @property
    def num_actions(self) -> int:
        """Number of actions."""
        return len(self.accelerations) * len(self.offsets)

    @property
    def hold(self) -> int:
        """The action that keeps the speed on the route."""
        return self.accelerations.index(0.0) * len(self.offsets) + self.offsets.index(0.0)

    def levels(self) -> tuple[Float[Array, " L"], Float[Array, " L"]]:
        """Acceleration and offset of each action."""
        acceleration, offset = jnp.meshgrid(
            jnp.asarray(self.accelerations, jnp.float32), jnp.asarray(self.offsets, jnp.float32), indexing="ij"
        )
        return acceleration.reshape(-1), offset.reshape(-1)

    def mask(self, is_lateral: bool) -> Bool[Array, " L"]:
        """The actions of a task: all, or those without an offset."""
        return (self.levels()[1] == 0.0) | is_lateral

    def control(self, frame: RouteFrame, action: Int[Array, ""]) -> Float[Array, " 2"]:
        """Acceleration (m/s^2) and curvature (1/m) of the ego for one step.

        Args:
          frame: The ego on its route.
          action: Index of the action.
        """
        accelerations, offsets = self.levels()
        acceleration, offset = accelerations[action], offsets[action]
        lookahead = jnp.maximum(self.lookahead_time * frame.speed, self.min_lookahead)
        x, y, cos, sin = route_point(frame, frame.arc_length + lookahead)
        dx, dy = x - offset * sin - frame.x, y + offset * cos - frame.y
        left = jnp.cos(frame.yaw) * dy - jnp.sin(frame.yaw) * dx
        limit = jnp.minimum(0.2, self.max_lateral / jnp.maximum(frame.speed, 1.0) ** 2)
        curvature = jnp.clip(2.0 * left / jnp.maximum(dx * dx + dy * dy, 1.0), -limit, limit)
        # Braking ends at a standstill.
        acceleration = jnp.maximum(acceleration, -frame.speed / frame.dt)
        return jnp.stack([acceleration, curvature])


ROUTE_ACTIONS = RouteActions()
