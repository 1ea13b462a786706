"""Proposals of PDM: lane following at several lateral offsets and speeds.

Dauner, Hallgarten, Geiger, Chitta 2023: Parting with misconceptions about learning-based vehicle motion planning.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from behavior_models.planners.prediction import (
    PREDICTION,
    EgoRollouts,
    EgoState,
    PlanningContext,
    forward_simulate,
)
from behavior_models.planners.reference_path import REFERENCE_PATH, ReferencePath, interpolate, path_point
from behavior_models.traffic.car_following import (
    CAR_FOLLOWING,
    FAR,
    IDMParams,
    bounded_interaction_deceleration,
    free_acceleration,
)
from behavior_models.traffic.pure_pursuit import lookahead_distance, pursuit_curvature
from behavior_models.traffic.route_following import speed_profile
from behavior_models.traffic.vehicle import VEHICLE_LIMITS
from waymax_sim import geometry
from waymax_sim.datatypes.agents import forward_speed
from waymax_sim.pytree import Array, static_record, tree_index


@static_record
class PDMParams:
    """Parameters of the proposals. Values of the paper are marked, others are choices of this package.

    Attributes:
      lateral_offsets: Offsets from the reference path to the left, m (paper).
      speed_fractions: Desired speeds as fractions of the speed limit (paper).
      max_acceleration: IDM acceleration (a), m/s^2 (paper).
      comfortable_deceleration: IDM deceleration (b), m/s^2 (paper).
      time_headway: IDM headway to other agents (T), s (paper).
      stop_line_headway: IDM headway to stop lines, s; less, since lines do not move away.
      min_gap: IDM gap at standstill (s0), m.
      max_lateral_acceleration: Bound on the lateral acceleration in curves, m/s^2.
      max_speed: m/s.
      max_jerk: Bound on the change of the acceleration, m/s^3, except for braking beyond the comfortable deceleration.
      max_yaw_acceleration: Bound on the change of the yaw rate, rad/s^2.
      min_steering_speed: Lower bound of speeds in the conversion between yaw rate and curvature, m/s; recorded headings
        of slower vehicles are too noisy for a curvature.
      max_sidestep: Bound on the lateral distance from the ego to the target of the steering, m.
      lateral_tie_break: Cost of the mean lateral offset, 1/m: without it, the inside of a curve is always best.
    """

    lateral_offsets: tuple[float, ...] = (0.0, 1.0, -1.0)
    speed_fractions: tuple[float, ...] = (1.0, 0.8, 0.6, 0.4, 0.2)
    max_acceleration: float = 1.5
    comfortable_deceleration: float = 3.0
    time_headway: float = 1.5
    stop_line_headway: float = 0.5
    min_gap: float = 1.5
    max_lateral_acceleration: float = 2.5
    max_speed: float = 45.0
    max_jerk: float = 3.5
    max_yaw_acceleration: float = 1.5
    min_steering_speed: float = 2.0
    max_sidestep: float = 1.0
    lateral_tie_break: float = 0.04

    @property
    def num_proposals(self) -> int:
        """Combinations of a lateral offset and a speed."""
        return len(self.lateral_offsets) * len(self.speed_fractions)


PDM_PARAMS = PDMParams()


def simulate_proposals(context: PlanningContext) -> EgoRollouts:
    """Rollouts of each speed at each lateral offset, the fastest first; the offsets vary fastest.

    Each proposal follows the reference path by pure pursuit and keeps its gap to predicted agents by the Intelligent
    Driver Model.
    """
    # [K]: all offsets at the highest speed first, so ties go to the fastest proposal on the path.
    offset = jnp.tile(jnp.asarray(PDM_PARAMS.lateral_offsets), len(PDM_PARAMS.speed_fractions))
    desired_speeds = jnp.repeat(desired_speed_profiles(context.reference), len(PDM_PARAMS.lateral_offsets), axis=0)
    idm = ego_idm_params()

    def control(state: EgoState, last: Float[Array, "K 2"], step: Int[Array, ""]):
        speed = jnp.maximum(state.speed, 0.0)
        ahead = state.arc_length + CAR_FOLLOWING.anticipation_time * speed
        desired_speed = jax.vmap(interpolate)(desired_speeds, ahead)
        free = jnp.maximum(free_acceleration(speed, desired_speed, idm), -idm.comfortable_deceleration)
        deceleration = _required_deceleration(context, state, speed, offset, step)
        # The speed profile alone is no reason to brake harder than is comfortable.
        max_deceleration = jnp.maximum(deceleration, PREDICTION.comfortable_deceleration)
        acceleration = jnp.maximum(free - deceleration, -max_deceleration)
        action = jnp.stack([acceleration, _offset_curvature(context.reference, state, speed, offset)], axis=-1)
        action = limit_rates(action, last, speed, context.dt)
        return action, action

    num_proposals = PDM_PARAMS.num_proposals
    first = jnp.broadcast_to(last_action(context)[None], (num_proposals, 2))
    return forward_simulate(context, control, first, num_proposals)


def _required_deceleration(
    context: PlanningContext, state: EgoState, speed: Float[Array, " K"], offset: Float[Array, " K"], step
) -> Float[Array, " K"]:
    """IDM deceleration (m/s^2) for agents on the path, at their positions of this step, and for the stop line."""
    idm, half_length, half_width = ego_idm_params(), *context.size[:2] / 2
    agents = tree_index(context.agents_on_path, step // PREDICTION.stride(context.dt))
    # Agents lead a proposal only where they overlap its own strip, so that offsets can pass them.
    is_inside = jnp.abs(agents.lateral[None] - offset[:, None]) < half_width + agents.half_width[None]
    leads = (agents.center[None] > state.arc_length[:, None]) & is_inside
    # Bumper to bumper along the path.
    gap = jnp.where(leads, agents.rear[None] - state.arc_length[:, None] - half_length, FAR)
    # [K, O]: each proposal against each agent.
    column = speed[:, None]
    deceleration = bounded_interaction_deceleration(column, gap, column - agents.speed[None], idm)
    line_gap = context.stop_line_s - state.arc_length - half_length + CAR_FOLLOWING.stop_line_offset
    # A stop line is a leading vehicle of speed zero.
    to_line = dataclasses.replace(idm, time_headway=jnp.asarray(PDM_PARAMS.stop_line_headway))
    to_line = bounded_interaction_deceleration(speed, jnp.minimum(line_gap, FAR), speed, to_line)
    return jnp.maximum(jnp.max(deceleration, axis=-1), to_line)


def ego_idm_params() -> IDMParams:
    """IDM parameters of the ego."""
    values = {
        "max_acceleration": PDM_PARAMS.max_acceleration,
        "comfortable_deceleration": PDM_PARAMS.comfortable_deceleration,
        "time_headway": PDM_PARAMS.time_headway,
        "min_gap": PDM_PARAMS.min_gap,
        "max_lateral_acceleration": PDM_PARAMS.max_lateral_acceleration,
        "speed_limit_factor": 1.0,
        "max_speed": PDM_PARAMS.max_speed,
    }
    arrays: dict[str, Any] = {name: jnp.asarray(value, jnp.float32) for name, value in values.items()}
    return IDMParams(**arrays)


def last_action(context: PlanningContext) -> Float[Array, " 2"]:
    """Acceleration (m/s^2) and curvature (1/m) of the last step; zero without a valid state before it."""
    history, limits, dt = context.history, VEHICLE_LIMITS, context.dt
    speed = forward_speed(history)
    # Simulated and recorded states: the latter can imply accelerations beyond the limits.
    acceleration = jnp.clip((speed[1] - speed[0]) / dt, -limits.max_deceleration, limits.max_acceleration)
    distance = jnp.sum(speed) / 2 * dt
    # The curvature is the change of heading over the distance.
    is_fast = distance > PDM_PARAMS.min_steering_speed * dt
    curvature = geometry.wrap_angle(history.yaw[1] - history.yaw[0]) / jnp.where(is_fast, distance, 1.0)
    curvature = jnp.where(is_fast, jnp.clip(curvature, -limits.max_curvature, limits.max_curvature), 0.0)
    return jnp.where(jnp.all(history.valid), jnp.stack([acceleration, curvature]), 0.0)


def limit_rates(
    action: Float[Array, "K 2"], last: Float[Array, "K 2"], speed: Float[Array, " K"], dt: float
) -> Float[Array, "K 2"]:
    """Actions with bounded jerk and yaw acceleration. Braking beyond the comfortable deceleration is not delayed.

    Args:
      action: Accelerations (m/s^2) and curvatures (1/m).
      last: Those of the last step.
      speed: m/s.
      dt: Time step, s.
    """
    comfortable, max_change = PREDICTION.comfortable_deceleration, PDM_PARAMS.max_jerk * dt
    # Comfort is secondary in an emergency.
    low = jnp.where(action[:, 0] < -comfortable, -VEHICLE_LIMITS.max_deceleration, last[:, 0] - max_change)
    # After hard braking the acceleration rises from the comfortable deceleration on.
    high = jnp.maximum(last[:, 0], -comfortable) + max_change
    acceleration = jnp.clip(action[:, 0], low, jnp.minimum(high, VEHICLE_LIMITS.max_acceleration))
    max_turn = PDM_PARAMS.max_yaw_acceleration * dt / jnp.maximum(speed, PDM_PARAMS.min_steering_speed)
    curvature = jnp.clip(action[:, 1], last[:, 1] - max_turn, last[:, 1] + max_turn)
    return jnp.stack([acceleration, curvature], axis=-1)


def desired_speed_profiles(reference: ReferencePath) -> Float[Array, "V R"]:
    """Desired speeds (m/s) along the reference path for each fraction of the speed limit, less in curves."""
    limit = jnp.asarray(PDM_PARAMS.speed_fractions)[:, None] * reference.speed_limit[None]
    return speed_profile(limit, reference.curvature[None], ego_idm_params(), REFERENCE_PATH.spacing)


def _offset_curvature(
    reference: ReferencePath, state: EgoState, speed: Float[Array, " K"], offset: Float[Array, " K"]
) -> Float[Array, " K"]:
    """Curvature (1/m) by pure pursuit of a point at a lateral offset from the reference path.

    An ego far from its offset approaches it in small steps: the arc to a distant target would be too sharp.
    """
    point = path_point(reference, state.arc_length + lookahead_distance(speed))
    max_sidestep = PDM_PARAMS.max_sidestep
    offset = state.lateral + jnp.clip(offset - state.lateral, -max_sidestep, max_sidestep)
    # The normal to the left of the path is (-sin, cos).
    target = jnp.stack([point.x - offset * point.sin, point.y + offset * point.cos], axis=-1)
    return pursuit_curvature(target, state.agents, speed)
