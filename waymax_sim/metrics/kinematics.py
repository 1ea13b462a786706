"""Kinematic infeasibility: motion beyond the limits of vehicles and cyclists."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Bool, Float

from waymax_sim import geometry
from waymax_sim.datatypes.agents import AgentState, forward_speed
from waymax_sim.dynamics.bicycle import MIN_HEADING_SPEED
from waymax_sim.metrics.metric import MetricValue, Snapshot, flag
from waymax_sim.pytree import Array


class FeasibilityParams(NamedTuple):
    """Limits of feasible motion: those of Waymax, and tolerances above the noise of recorded tracks.

    The tolerances are the 99.9th percentiles of recorded tracks of WOMD, rounded up.

    Attributes:
      max_acceleration: m/s^2; hard braking of a passenger car on dry asphalt, about 1.06 g (Waymax).
      max_curvature: 1/m; a radius of 3.3 m, smaller than the turning radius of any car (Waymax).
      max_position_error: Distance of the position from that of the bicycle model, m.
      max_lateral_speed: Speed across the heading beyond the sideslip of the center of the box, m/s.
      slack: Tolerance for rounding of actions at a limit, m/s^2 and 1/m.
    """

    max_acceleration: float = 10.4
    max_curvature: float = 0.3
    max_position_error: float = 0.1
    max_lateral_speed: float = 1.0
    slack: float = 1e-3


FEASIBILITY = FeasibilityParams()


def kinematic_infeasibility(snapshot: Snapshot, params: FeasibilityParams = FEASIBILITY) -> MetricValue:
    """Whether no vehicle or cyclist could have made the motion of the last step; see `is_infeasible`.

    Valid for vehicles and cyclists that are valid now and one step earlier. For other limits use
    `dataclasses.replace(METRICS["kinematic_infeasibility"], compute=functools.partial(kinematic_infeasibility, ...))`.
    """
    before, after = snapshot.select_evaluated(snapshot.previous), snapshot.evaluated_agents
    condition = is_infeasible(before, after, snapshot.info.size[:, 0], snapshot.dt, params)
    return flag(condition, snapshot.is_wheeled & before.valid)


def is_infeasible(
    before: AgentState,
    after: AgentState,
    length: Float[Array, " N"],
    dt: float,
    params: FeasibilityParams = FEASIBILITY,
) -> Bool[Array, " N"]:
    """Whether a step violates a kinematic bicycle model with limits of acceleration and curvature.

    A step is infeasible if any of these exceeds its limit:

    - the acceleration: the change of the speed along the heading, per time;
    - the curvature: the change of the heading per distance; not below 0.6 m/s, where recorded headings are noise;
    - the distance along the mean heading, against the mean speed: by the position error, the distance that the largest
      acceleration adds in a step, and the shortening by the turn;
    - the distance across the mean heading: by the position error and the sideslip. A box turns around its rear axle,
      at most half its length behind the center, so the center moves across the heading by up to that length times the
      turn; a model that moves first and turns then, by up to half of the distance times the turn;
    - the speed across the heading: by the limit and the sideslip.

    Args:
      before: N agents.
      after: The same agents `dt` later.
      length: Lengths of their boxes, m.
      dt: Duration, s.
      params: Limits.
    """
    speed, new_speed = forward_speed(before), forward_speed(after)
    distance = (speed + new_speed) / 2 * dt
    turn = geometry.wrap_angle(after.yaw - before.yaw)
    is_slow = jnp.minimum(jnp.abs(speed), jnp.abs(new_speed)) < MIN_HEADING_SPEED
    feasible_turn = (params.max_curvature + params.slack) * jnp.abs(distance)
    # Limits that must hold, so that a motion that is not finite is infeasible.
    is_feasible = jnp.abs(new_speed - speed) <= (params.max_acceleration + params.slack) * dt
    is_feasible &= is_slow | (jnp.abs(turn) <= feasible_turn)

    step = after.xyz[:, :2] - before.xyz[:, :2]
    heading = geometry.unit_vector(before.yaw + turn / 2)
    along, across = geometry.dot(step, heading), geometry.cross(heading, step)
    slip_turn = jnp.minimum(jnp.abs(turn), feasible_turn)
    # In the mean direction a step that turns first or last is shorter by 1 - cos(turn / 2).
    shortening = jnp.abs(distance) * slip_turn**2 / 8
    max_along_error = params.max_position_error + params.max_acceleration * dt**2 / 2 + shortening
    is_feasible &= jnp.abs(along - distance) <= max_along_error
    slip = jnp.maximum(length, jnp.abs(distance)) / 2 * slip_turn
    is_feasible &= jnp.abs(across) <= params.max_position_error + slip
    lateral_speed = jnp.abs(geometry.cross(geometry.unit_vector(after.yaw), after.velocity))
    return ~(is_feasible & (lateral_speed <= params.max_lateral_speed + length / 2 * slip_turn / dt))
