"""Scores of ego rollouts: the nuPlan closed-loop score of the predicted future, by the kernels of the metrics."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from behavior_models.planners.prediction import (
    PREDICTION,
    EgoRollouts,
    PlanningContext,
    prediction_times,
)
from behavior_models.planners.reference_path import interpolate, path_point
from waymax_sim import geometry
from waymax_sim.datatypes.agents import AgentState
from waymax_sim.datatypes.roadmap import Segments
from waymax_sim.datatypes.scenario import interval_steps
from waymax_sim.env import Observation
from waymax_sim.maps.nearest import signed_distance
from waymax_sim.metrics.comfort import comfort_ratio, comfort_steps, savgol_derivatives
from waymax_sim.metrics.contact import FRONT_CONTACT_COSINE, ContactInterval, MovingBoxes, contact_interval
from waymax_sim.metrics.nuplan import NUPLAN, WEIGHTS, wrong_way_compliance
from waymax_sim.metrics.overlap import Boxes3D
from waymax_sim.metrics.time_to_collision import MAX_TIME_TO_COLLISION
from waymax_sim.metrics.wrong_way import MAX_LANE_CENTER_DISTANCE
from waymax_sim.pytree import Array, pytree, static_record, tree_index


@static_record
class ScoringParams:
    """Detail of the score terms and weights of the cost. The values are choices of this package.

    Attributes:
      road_edge_interval: Time between two queries of the road edge, s.
      comfort_interval: Time between the starts of two windows of the comfort limits, s.
      min_progress: Lower bound of the progress that others are compared with, m.
      infeasible_scale: Scale of the score of rollouts with a fault; it orders them where all have one.
      fault_cost: Cost of a contact at the horizon, of a crossed stop line, and of 1 m beyond the road edge.
      lateral_offset_weight: Cost of the mean squared offset from the reference path, 1/m^2.
    """

    road_edge_interval: float = 0.4
    comfort_interval: float = 0.4
    min_progress: float = 0.5
    infeasible_scale: float = 1e-3
    fault_cost: float = 4.0
    lateral_offset_weight: float = 0.05


SCORING = ScoringParams()


@pytree
class ScoreTerms:
    """Terms of the score of K rollouts.

    Attributes:
      contact_time: Time of the first contact at fault of the ego, s; infinite without one.
      time_to_collision: Its minimum, s; at most `MAX_TIME_TO_COLLISION`.
      off_road_distance: Largest distance of a corner beyond the road edge, minus that of now, m; 0 on the road.
      wrong_way_distance: Distance driven against the direction of the reference path, or outside its lane, m.
      crosses_stop_line: Whether the front passes the stop line to stop at.
      progress: Along the reference path, m.
      speeding: Mean excess over the speed limit, m/s.
      comfort_ratio: Largest ratio of a kinematic quantity to its comfort limit.
    """

    contact_time: Float[Array, " K"]
    time_to_collision: Float[Array, " K"]
    off_road_distance: Float[Array, " K"]
    wrong_way_distance: Float[Array, " K"]
    crosses_stop_line: Bool[Array, " K"]
    progress: Float[Array, " K"]
    speeding: Float[Array, " K"]
    comfort_ratio: Float[Array, " K"]


def score_terms(observation: Observation, context: PlanningContext, rollouts: EgoRollouts) -> ScoreTerms:
    """Evaluates rollouts against the prediction. No gradient flows.

    A contact is at fault of the ego if the ego moves, is not hit at its rear, and the other agent does not come from
    behind. Contacts at a side count: whether the ego left its lane is not known without a lane query for each rollout.

    Args:
      observation: The present.
      context: Its planning context.
      rollouts: Candidates.
    """
    observation, context, rollouts = jax.lax.stop_gradient((observation, context, rollouts))
    agents, half_length = rollouts.agents, context.size[0] / 2
    excess = geometry.norm(agents.velocity) - interpolate(context.reference.speed_limit, rollouts.arc_length)
    # An ego that has passed the line already commits no new violation.
    is_before_line = context.arc_length + half_length <= context.stop_line_s
    contact_time, time_to_collision = _contacts(context, agents)
    return ScoreTerms(
        contact_time=contact_time,
        time_to_collision=time_to_collision,
        off_road_distance=_off_road_distance(observation.edges, context, rollouts),
        wrong_way_distance=_wrong_way_distance(context, rollouts),
        crosses_stop_line=is_before_line & (jnp.max(rollouts.arc_length + half_length, axis=0) > context.stop_line_s),
        progress=rollouts.arc_length[-1] - context.arc_length,
        speeding=jnp.mean(jnp.maximum(excess, 0.0), axis=0),
        comfort_ratio=_comfort_ratio(context, agents),
    )


def closed_loop_score(terms: ScoreTerms) -> Float[Array, " K"]:
    """The nuPlan closed-loop score (0 to 1) of each rollout: multipliers for faults times a weighted mean.

    Progress is relative to the best rollout without a fault, since the expert of the metric is unknown.
    """
    has_fault = jnp.isfinite(terms.contact_time) | (terms.off_road_distance > 0) | terms.crosses_stop_line
    multiplier = (~has_fault).astype(jnp.float32) * wrong_way_compliance(terms.wrong_way_distance)
    # Where no rollout makes progress, as at a red light, all are equal in it.
    best, min_progress = jnp.max(jnp.where(multiplier > 0, terms.progress, 0.0)), SCORING.min_progress
    progress = jnp.where(best > min_progress, terms.progress / jnp.maximum(best, min_progress), 1.0)
    parts = {
        "time_to_collision_within_bound": (terms.time_to_collision >= NUPLAN.min_time_to_collision).astype(jnp.float32),
        "ego_progress_along_expert_route": jnp.clip(progress, 0.0, 1.0),
        "speed_limit_compliance": jnp.maximum(1.0 - terms.speeding / NUPLAN.max_mean_speeding, 0.0),
        "ego_is_comfortable": (terms.comfort_ratio <= 1.0).astype(jnp.float32),
    }
    return (multiplier + SCORING.infeasible_scale) * _weighted_mean(parts)


def rollout_cost(terms: ScoreTerms, rollouts: EgoRollouts) -> Float[Array, " K"]:
    """Cost of planners that optimize: 1 minus the score, with slopes in place of its steps.

    A step function does not tell a bad sequence from a worse one. Early contacts cost more than late ones.
    """
    # A late contact leaves time to avoid it at the next steps.
    lateness = jnp.minimum(terms.contact_time / MAX_TIME_TO_COLLISION, 1.0)
    contact_cost = SCORING.fault_cost * jnp.where(jnp.isfinite(terms.contact_time), 2.0 - lateness, 0.0)
    cost = contact_cost + SCORING.fault_cost * terms.crosses_stop_line.astype(jnp.float32)
    cost = cost + SCORING.fault_cost * jnp.minimum(terms.off_road_distance, 1.0)
    cost = cost + jnp.minimum(terms.wrong_way_distance / NUPLAN.max_wrong_way_distance, 1.0)
    sufficient_time = 2 * NUPLAN.min_time_to_collision
    parts = {
        "time_to_collision_within_bound": jnp.minimum(terms.time_to_collision / sufficient_time, 1.0),
        "ego_progress_along_expert_route": terms.progress / jnp.maximum(jnp.max(terms.progress), SCORING.min_progress),
        "speed_limit_compliance": 1.0 - terms.speeding / NUPLAN.max_mean_speeding,
        "ego_is_comfortable": 1.0 - terms.comfort_ratio,
    }
    offset_cost = SCORING.lateral_offset_weight * jnp.mean(rollouts.lateral**2, axis=0)
    return cost + 1.0 - _weighted_mean(parts) + offset_cost


def _weighted_mean(parts: dict[str, Float[Array, " K"]]) -> Float[Array, " K"]:
    return sum((WEIGHTS[name] * part for name, part in parts.items()), start=jnp.zeros(())) / sum(WEIGHTS.values())


def _contacts(context: PlanningContext, agents: AgentState) -> tuple[Float[Array, " K"], Float[Array, " K"]]:
    """Time of the first contact at fault of the ego, and the minimum time to collision, s."""
    # Rows are times, columns candidates, the last axis agents.
    interval, ego, others = predicted_contacts(context, agents)
    in_contact = (interval.begin < 0) & (interval.end > 0)
    is_not_rear = interval.contact_cosine > -FRONT_CONTACT_COSINE
    # Agents behind the ego see it and can brake; a stationary one cannot come from behind.
    from_behind = (context.agents_on_path.center[0] < context.arc_length) & ~others.is_stationary[0, 0]
    is_responsible = ~ego.is_stationary & ~from_behind[None, None]
    at_fault = is_responsible & (others.is_stationary | is_not_rear)
    # Boxes that already overlap now are in no new contact.
    is_new = jnp.any(in_contact[1:] & ~in_contact[:-1] & at_fault[1:], axis=-1)
    # The first row is the present.
    time = prediction_times(context.dt)
    contact_time = jnp.min(jnp.where(is_new, time[1:, None], jnp.inf), axis=0)
    will_meet = (interval.begin < interval.end) & (interval.end > 0) & is_not_rear & is_responsible & ~in_contact[:1]
    begin = jnp.clip(interval.begin, 0.0, MAX_TIME_TO_COLLISION)
    # Agents that already touch the ego have no time to collision.
    time_to_collision = jnp.where(will_meet, begin, MAX_TIME_TO_COLLISION)
    return contact_time, jnp.min(time_to_collision[1:], axis=(0, 2))


def predicted_contacts(
    context: PlanningContext, agents: AgentState
) -> tuple[ContactInterval, MovingBoxes, MovingBoxes]:
    """Contact intervals of rollouts [T, K] with O predicted agents, [1 + T / stride, K, O], from now on."""
    ego = jax.tree.map(lambda leaf: leaf[..., None], _subsample(context, agents, PREDICTION.stride(context.dt)))
    half_length, half_width = jnp.abs(context.size[:2]) / 2
    ego_outline = geometry.Boxes(
        ego.xyz[..., 0, :], ego.xyz[..., 1, :], jnp.cos(ego.yaw), jnp.sin(ego.yaw), half_length, half_width
    )
    ours = _on_one_level(ego_outline, ego.velocity[..., 0, :], ego.velocity[..., 1, :], ego.valid)
    # [1, 1, O]: agents are the same for all candidates.
    row = jax.tree.map(lambda leaf: leaf[None, None], context.agents)
    outline = row.outline_at(prediction_times(context.dt)[:, None, None])
    theirs = _on_one_level(outline, row.velocity_x, row.velocity_y, row.valid)
    return contact_interval(ours, theirs), ours, theirs


def _on_one_level(outline: geometry.Boxes, velocity_x: Array, velocity_y: Array, valid: Array) -> MovingBoxes:
    """Moving boxes whose heights always overlap."""
    absence = jnp.where(valid, 0.0, jnp.inf)
    return MovingBoxes(Boxes3D(outline, jnp.zeros(()), jnp.ones(()), absence), velocity_x, velocity_y, jnp.zeros(()))


def _subsample(context: PlanningContext, agents: AgentState, stride: int) -> AgentState:
    """The ego now and after every `stride` steps of the rollouts [T, K]."""
    # The present state is common to all candidates.
    now = jax.tree.map(lambda leaf, future: jnp.broadcast_to(leaf, future.shape[1:])[None], context.ego, agents)
    future = tree_index(agents, slice(stride - 1, None, stride))
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), now, future)


def corner_distances(edges: Segments, context: PlanningContext, rollouts: EgoRollouts) -> Float[Array, "T K"]:
    """Signed distance (m) of the outermost corner of the ego to the road edge, positive beyond it, from now on.

    Args:
      edges: Road edges; without one near, the distance is that of a corner far inside.
      context: The present.
      rollouts: Candidates, of which one step per `road_edge_interval` is evaluated.
    """
    stride = interval_steps(SCORING.road_edge_interval, context.dt)
    agents = _subsample(context, rollouts.agents, stride)
    # Heights select the road surface of bridges; those of the reference path hold for the future.
    arc_length = jax.lax.stop_gradient(rollouts.arc_length[stride - 1 :: stride])
    height = path_point(context.reference, arc_length).z
    bottom = jnp.broadcast_to(context.ego.xyz[2] - context.size[2] / 2, (1, height.shape[1]))
    height = jnp.concatenate([bottom, height])
    size = jnp.broadcast_to(context.size[:2], (*height.shape, 2))
    xy = geometry.box_corners(agents.xyz[..., :2], agents.yaw, size)
    height = jnp.broadcast_to(height[..., None, None], (*xy.shape[:-1], 1))
    corners = jnp.concatenate([xy, height], axis=-1)
    distance, has_edge = signed_distance(edges, corners, jnp.ones(corners.shape[:-1], bool))
    return jnp.max(jnp.where(has_edge, distance, -MAX_TIME_TO_COLLISION), axis=-1)


def _off_road_distance(edges: Segments, context: PlanningContext, rollouts: EgoRollouts) -> Float[Array, " K"]:
    """An ego that is off the road already is not charged for returning to it."""
    distance = corner_distances(edges, context, rollouts)
    return jnp.maximum(jnp.max(distance[1:], axis=0) - jnp.maximum(distance[0], 0.0), 0.0)


def _wrong_way_distance(context: PlanningContext, rollouts: EgoRollouts) -> Float[Array, " K"]:
    """Outside the lane of the path the direction of travel is unknown, so all motion counts."""
    point, agents = path_point(context.reference, rollouts.arc_length), rollouts.agents
    # Speed along the path; negative against its direction.
    speed = geometry.dot(agents.velocity, jnp.stack([point.cos, point.sin], axis=-1))
    is_outside_lane = jnp.abs(rollouts.lateral) > MAX_LANE_CENTER_DISTANCE
    distance = jnp.where(is_outside_lane, jnp.abs(speed), jnp.maximum(-speed, 0.0)) * context.dt
    return jnp.sum(distance, axis=0)


def _comfort_ratio(context: PlanningContext, agents: AgentState) -> Float[Array, " K"]:
    """Windows of the metric over the last two states and the rollouts [T, K]."""
    history = jax.tree.map(
        lambda leaf, future: jnp.broadcast_to(leaf[:, None], (2, *future.shape[1:])), context.history, agents
    )
    states = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), history, agents)
    num_steps, stride = comfort_steps(context.dt), interval_steps(SCORING.comfort_interval, context.dt)
    starts = range(0, len(states.yaw) + 1 - num_steps, stride)
    # Windows as long as those of the metric, so that its limits apply.
    windows = [tree_index(states, slice(start, start + num_steps)) for start in starts]
    windows_by_column = jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), *windows)
    kinematics = savgol_derivatives(windows_by_column, context.dt)
    return jnp.max(comfort_ratio(kinematics).reshape(len(windows), -1), axis=0)
