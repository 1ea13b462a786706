"""Kinematic infeasibility: motion beyond the limits of vehicles and cyclists."""

import jax.numpy as jnp

from waymax_sim.dynamics.bicycle import estimate_controls
from waymax_sim.metrics.metric import MetricValue, Snapshot, flag

# Limits of Waymax. Acceleration, m/s^2: hard braking of a passenger car on dry asphalt, about 1.06 g.
MAX_FEASIBLE_ACCELERATION = 10.4
# Curvature, 1/m: a radius of 3.3 m, smaller than the turning radius of any car.
MAX_FEASIBLE_CURVATURE = 0.3
# Tolerance for rounding of actions at a limit, m/s^2 and 1/m.
LIMIT_SLACK = 1e-3


def kinematic_infeasibility(
    snapshot: Snapshot,
    max_acceleration: float = MAX_FEASIBLE_ACCELERATION,
    max_curvature: float = MAX_FEASIBLE_CURVATURE,
) -> MetricValue:
    """Whether the last step of a vehicle or cyclist needed more acceleration or curvature than is feasible.

    Valid for vehicles and cyclists that are valid now and one step earlier. For other limits use
    `dataclasses.replace(METRICS["kinematic_infeasibility"], compute=functools.partial(kinematic_infeasibility, ...))`.

    Args:
      snapshot: The evaluated step.
      max_acceleration: Largest feasible acceleration, m/s^2.
      max_curvature: Largest feasible curvature, 1/m.
    """
    previous = snapshot.select_evaluated(snapshot.previous)
    valid = snapshot.is_wheeled & previous.valid
    needed = jnp.abs(estimate_controls(previous, snapshot.evaluated_agents, snapshot.dt))
    limits = jnp.asarray([max_acceleration + LIMIT_SLACK, max_curvature + LIMIT_SLACK], jnp.float32)
    return flag(jnp.any(needed > limits[None], axis=-1), valid)
