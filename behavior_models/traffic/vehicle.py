"""Limits of vehicle motion, shared by traffic models and planners."""

from waymax_sim.pytree import static_record


@static_record
class VehicleLimits:
    """Bounds of the actions of all drivers and planners. The values are choices of this package.

    Attributes:
      max_acceleration: Upper bound of the acceleration, m/s^2; passenger cars rarely exceed it.
      max_deceleration: Upper bound of the deceleration, m/s^2; an emergency stop on dry asphalt.
      max_curvature: Upper bound of the path curvature, 1/m; a turning radius of 5 m.
      max_lateral_acceleration: Bound on the lateral acceleration of steering, m/s^2; half the friction limit.
      standstill_speed: Agents below this speed are stationary, m/s; logged boxes at rest jitter by less.
    """

    max_acceleration: float = 3.0
    max_deceleration: float = 8.0
    max_curvature: float = 0.2
    max_lateral_acceleration: float = 4.0
    standstill_speed: float = 0.3


VEHICLE_LIMITS = VehicleLimits()
