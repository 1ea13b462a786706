"""The closed-loop score of nuPlan from the metrics of an episode."""

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Bool, Float

from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.metrics.metric import MetricValue, flag, masked_value
from waymax_sim.metrics.progress import log_arc_length
from waymax_sim.pytree import Array

# Metrics that the score needs: `EnvConfig(metrics=NUPLAN_METRICS)`.
NUPLAN_METRICS = (
    "at_fault_vehicle_collision",
    "at_fault_vru_collision",
    "at_fault_object_collisions",
    "road_edge_distance",
    "wrong_way_distance",
    "time_to_collision",
    "log_progress",
    "speeding",
    "comfort_violation",
)
# Parts that are multiplied.
MULTIPLIERS = (
    "no_ego_at_fault_collisions",
    "drivable_area_compliance",
    "driving_direction_compliance",
    "ego_is_making_progress",
)
# Weights of the parts that are averaged.
WEIGHTS = {
    "time_to_collision_within_bound": 5.0,
    "ego_progress_along_expert_route": 5.0,
    "speed_limit_compliance": 4.0,
    "ego_is_comfortable": 2.0,
}


class NuplanParams(NamedTuple):
    """Thresholds of the score (nuPlan devkit 1.2).

    Attributes:
      max_offroad_distance: Largest tolerated distance of a corner beyond the road edge, m.
      wrong_way_horizon: Time over which distances against the traffic are added, s.
      compliant_wrong_way_distance: Distance against the traffic within a second below which the part is 1, m.
      max_wrong_way_distance: Distance against the traffic within a second from which the part is 0, m.
      min_time_to_collision: s.
      min_progress: Progress from which an agent makes progress, ratio.
      min_path_length: Shorter distances along the log count as this one, m; farther backwards, progress is 0.
      max_mean_speeding: Mean excess over the speed limit from which the part is 0, m/s.
    """

    max_offroad_distance: float = 0.3
    wrong_way_horizon: float = 1.0
    compliant_wrong_way_distance: float = 2.0
    max_wrong_way_distance: float = 6.0
    min_time_to_collision: float = 0.95
    min_progress: float = 0.2
    min_path_length: float = 2.0
    max_mean_speeding: float = 2.23


NUPLAN = NuplanParams()


def nuplan_score(
    values: Mapping[str, MetricValue],
    scenario: Scenario,
    active: Bool[Array, " T"],
    params: NuplanParams = NUPLAN,
) -> dict[str, MetricValue]:
    """The nuPlan closed-loop score of an episode and its parts, each from 0 to 1, for every evaluated agent.

    `nuplan_score` is the product of four parts times the weighted mean of four others:

    - `no_ego_at_fault_collisions`: 0 after an at-fault collision with a vehicle, pedestrian or cyclist, or more than
      one with other objects; 0.5 after one with an object; else 1.
    - `drivable_area_compliance`: 1 if no corner was ever more than 0.3 m beyond the road edge.
    - `driving_direction_compliance`: 1 below 2 m against the lane within any second, 0.5 below 6 m, else 0.
    - `ego_is_making_progress`: 1 if the progress is at least 0.2.
    - `time_to_collision_within_bound` (weight 5): 1 if it never fell below 0.95 s.
    - `ego_progress_along_expert_route` (5): distance driven along the logged path, as a share of the distance that the
      log drives in the same time, both at least 2 m; 0 for an agent that moved more than 2 m backwards.
    - `speed_limit_compliance` (4): 1 minus the mean excess over the limit divided by 2.23 m/s, but at least 0.
    - `ego_is_comfortable` (2): 1 if no limit of `comfort_violation` was exceeded.

    A part whose metric was never valid, such as the speed limit off all lanes, is not valid: it neither multiplies nor
    is averaged. Progress is 1 where the log does not move. To score many episodes, average the scores, not the parts.

    Args:
      values: Values per step of at least `NUPLAN_METRICS`, [T, N], as in `Trace.metrics`.
      scenario: The scenario.
      active: Mask of the steps to score, the first of which follows the current step, as in `Trace.active`.
      params: Thresholds.

    Source: nuPlan (Karnchanachari et al., 2024), closed-loop challenges, with the constants of devkit 1.2. Limits: the
    metrics are those of this project, so times to collision include traffic from the sides, the route of the expert is
    its logged path, and drivable areas are bounded by road edges.
    """
    dt = scenario.time_step
    masks = {name: values[name].valid & active[:, None] for name in NUPLAN_METRICS}
    has_value = {name: jnp.any(masks[name], axis=0) for name in NUPLAN_METRICS}

    def masked(name: str) -> Float[Array, "T N"]:
        return jnp.where(masks[name], values[name].value, 0.0)

    valid = masks["time_to_collision"]
    duration = dt * jnp.maximum(jnp.sum(valid, axis=0), 1).astype(jnp.float32)

    road_users = jnp.max(masked("at_fault_vehicle_collision") + masked("at_fault_vru_collision"), axis=0)
    objects = jnp.sum(masked("at_fault_object_collisions"), axis=0)
    no_collisions = jnp.where((road_users > 0) | (objects > 1), 0.0, jnp.where(objects > 0, 0.5, 1.0))

    # A second has one sample more than it has steps.
    wrong_way = _max_window_sum(masked("wrong_way_distance"), round(params.wrong_way_horizon / dt) + 1)
    direction = wrong_way_compliance(wrong_way, params)

    expert = log_arc_length(scenario)
    end = jnp.minimum(scenario.current_step + jnp.sum(active), scenario.last_step)
    distance = jnp.sum(masked("log_progress"), axis=0) * expert[-1]
    shortest = params.min_path_length
    progress = jnp.minimum(jnp.maximum(distance, shortest) / jnp.maximum(expert[end], shortest), 1.0)
    progress = jnp.where(distance < -shortest, 0.0, progress)

    min_time = jnp.min(jnp.where(valid, values["time_to_collision"].value, jnp.inf), axis=0)
    excess = jnp.sum(masked("speeding"), axis=0) * dt / (params.max_mean_speeding * duration)
    is_on_road = jnp.max(masked("road_edge_distance"), axis=0) <= params.max_offroad_distance
    is_comfortable = jnp.max(masked("comfort_violation"), axis=0) <= 1.0
    present = has_value["time_to_collision"]
    parts = {
        "no_ego_at_fault_collisions": masked_value(no_collisions, has_value["at_fault_vehicle_collision"]),
        "drivable_area_compliance": flag(is_on_road, has_value["road_edge_distance"]),
        "driving_direction_compliance": masked_value(direction, has_value["wrong_way_distance"]),
        "ego_is_making_progress": flag(progress >= params.min_progress, present),
        "time_to_collision_within_bound": flag(min_time >= params.min_time_to_collision, present),
        "ego_progress_along_expert_route": masked_value(progress, present),
        "speed_limit_compliance": masked_value(jnp.maximum(1.0 - excess, 0.0), has_value["speeding"]),
        "ego_is_comfortable": flag(is_comfortable, has_value["comfort_violation"]),
    }
    return parts | {"nuplan_score": _score(parts, present)}


def wrong_way_compliance(distance: Float[Array, "*n"], params: NuplanParams = NUPLAN) -> Float[Array, "*n"]:
    """1, 0.5 or 0 by the distance driven against the traffic within a second (m)."""
    half = jnp.where(distance < params.max_wrong_way_distance, 0.5, 0.0)
    return jnp.where(distance < params.compliant_wrong_way_distance, 1.0, half)


def _score(parts: Mapping[str, MetricValue], present: Bool[Array, " N"]) -> MetricValue:
    product = jnp.ones(present.shape)
    for name in MULTIPLIERS:
        product = product * jnp.where(parts[name].valid, parts[name].value, 1.0)
    weights = {name: jnp.where(parts[name].valid, weight, 0.0) for name, weight in WEIGHTS.items()}
    total = sum(weights.values(), start=jnp.zeros(present.shape))
    mean = sum((weights[name] * parts[name].value for name in WEIGHTS), start=jnp.zeros(present.shape))
    return masked_value(product * mean / jnp.where(total > 0, total, 1.0), present)


def _max_window_sum(value: Float[Array, "T N"], num_steps: int) -> Float[Array, " N"]:
    """The largest sum over `num_steps` consecutive steps."""
    cumulative = jnp.cumsum(value, axis=0)
    before = jnp.concatenate([jnp.zeros((num_steps, value.shape[1])), cumulative])[: value.shape[0]]
    return jnp.max(cumulative - before, axis=0)
