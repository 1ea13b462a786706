"""Motion that no car or bicycle could make."""

import jax.numpy as jnp

from waymax_sim.datatypes.agents import CYCLIST, VEHICLE
from waymax_sim.dynamics.bicycle import explain_motion
from waymax_sim.metrics.metric import MetricValue, Snapshot, flag

# Hard braking of a passenger car on dry asphalt is about 1.06 g (m/s^2); a radius of 3.3 m is tighter than
# any car turns (1/m). Both are the limits that Waymax judges recorded data by.
MAX_ACCELERATION = 10.4
MAX_CURVATURE = 0.3
# Slack for rounding, so that an action at the limit passes.
TOLERANCE = 1e-3


def kinematic_infeasibility(
    snapshot: Snapshot, max_acceleration: float = MAX_ACCELERATION, max_curvature: float = MAX_CURVATURE
) -> MetricValue:
    """Whether the last step of a vehicle or cyclist needed more acceleration or curvature than is possible.

    Valid for vehicles and cyclists that were there one step before. For other limits use
    `dataclasses.replace(METRICS["kinematic_infeasibility"], compute=functools.partial(kinematic_infeasibility, ...))`.
    """
    kind, previous = snapshot.info.type, snapshot.of_subjects(snapshot.previous)
    valid = snapshot.subjects.valid & previous.valid & ((kind == VEHICLE) | (kind == CYCLIST))
    needed = jnp.abs(explain_motion(previous, snapshot.subjects, snapshot.dt))
    limits = jnp.asarray([max_acceleration + TOLERANCE, max_curvature + TOLERANCE], jnp.float32)
    return flag(jnp.any(needed > limits[None], axis=-1), valid)
