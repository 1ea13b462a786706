"""The closed-loop score of nuPlan, from the metrics of an episode."""

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Bool, Float

from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.metrics.metric import MetricValue, flag, masked_value
from waymax_sim.metrics.progress import logged_way
from waymax_sim.pytree import Array

# What the score is made from; an environment has to judge these: `EnvConfig(metrics=NUPLAN_METRICS)`.
NUPLAN_METRICS = (
    "at_fault_vehicle_collision",
    "at_fault_vru_collision",
    "at_fault_object_collisions",
    "road_edge_distance",
    "wrong_way_distance",
    "time_to_collision",
    "log_progress",
    "speeding",
    "discomfort",
)
# Parts that are multiplied, and parts that are averaged with their weights.
MULTIPLIERS = (
    "no_ego_at_fault_collisions",
    "drivable_area_compliance",
    "driving_direction_compliance",
    "ego_is_making_progress",
)
WEIGHTS = {
    "time_to_collision_within_bound": 5.0,
    "ego_progress_along_expert_route": 5.0,
    "speed_limit_compliance": 4.0,
    "ego_is_comfortable": 2.0,
}
# A corner may be so far off the road (m). Going so far against the traffic within a second is forgiven, and half
# forgiven (m).
MAX_OFF_ROAD, FORGIVEN, HALF_FORGIVEN = 0.3, 2.0, 6.0
# Time to collision at least (s), share of the way of the expert to be made, ways shorter than this count as this (m),
# speeding on average that is worth nothing (m/s).
MIN_TIME, MIN_PROGRESS, MIN_WAY, MAX_SPEEDING = 0.95, 0.2, 2.0, 2.23


def nuplan_score(
    values: Mapping[str, MetricValue], scenario: Scenario, active: Bool[Array, " T"], dt: float = 0.1
) -> dict[str, MetricValue]:
    """The nuPlan closed-loop score of an episode and its parts, each from 0 to 1, for every judged agent.

    `nuplan_score` is the product of four parts times the weighted mean of four others:

    - `no_ego_at_fault_collisions`: 0 after a collision with a vehicle, pedestrian or cyclist by own fault, or more than
      one with other objects; 0.5 after one with an object; else 1.
    - `drivable_area_compliance`: 1 if no corner was ever more than 0.3 m beyond the road edge.
    - `driving_direction_compliance`: by the way made against the lane within any second: 1 below 2 m, 0.5 below 6 m.
    - `ego_is_making_progress`: 1 if the progress is at least 0.2.
    - `time_to_collision_within_bound` (weight 5): 1 if it never fell below 0.95 s.
    - `ego_progress_along_expert_route` (5): way made along the logged way, as a share of what the log made of it in the
      same time, both at least 2 m.
    - `speed_limit_compliance` (4): 1 minus the mean excess over the limit divided by 2.23 m/s, but at least 0.
    - `ego_is_comfortable` (2): 1 if no limit of `discomfort` was exceeded.

    A part whose metric was never valid, such as the speed limit off all lanes, is not valid: it neither multiplies nor
    is averaged. Progress is 1 where the log makes no way. To score many episodes, average the scores, not the parts.

    Args:
      values: Values per step of at least `NUPLAN_METRICS`, [T, N], as in `Trace.metrics`.
      scenario: The scene.
      active: Steps that count, the first of which follows the current step of the scenario, as in `Trace.active`.
      dt: Step, s.

    Source: nuPlan (Karnchanachari et al., 2024), closed-loop challenges, with the constants of devkit 1.2. Limits: the
    metrics are those of this project, so times to collision see traffic from the sides, the route of the expert is its
    logged path, and drivable areas are bounded by road edges.
    """
    counted = {name: values[name].valid & active[:, None] for name in NUPLAN_METRICS}
    known = {name: jnp.any(counted[name], axis=0) for name in NUPLAN_METRICS}

    def kept(name: str) -> Float[Array, "T N"]:
        """Values where they count, 0 elsewhere."""
        return jnp.where(counted[name], values[name].value, 0.0)

    there = counted["time_to_collision"]
    duration = dt * jnp.maximum(jnp.sum(there, axis=0), 1).astype(jnp.float32)

    road_users = jnp.max(kept("at_fault_vehicle_collision") + kept("at_fault_vru_collision"), axis=0)
    objects = jnp.sum(kept("at_fault_object_collisions"), axis=0)
    blame = jnp.where((road_users > 0) | (objects > 1), 0.0, jnp.where(objects > 0, 0.5, 1.0))

    against = _most_within(kept("wrong_way_distance"), max(1, round(1.0 / dt)))
    direction = jnp.where(against < FORGIVEN, 1.0, jnp.where(against < HALF_FORGIVEN, 0.5, 0.0))

    expert = logged_way(scenario)
    end = jnp.minimum(scenario.current_step + jnp.sum(active), scenario.num_steps - 1)
    covered = jnp.sum(kept("log_progress"), axis=0) * expert[-1]
    progress = jnp.minimum(jnp.maximum(covered, MIN_WAY) / jnp.maximum(expert[end], MIN_WAY), 1.0)

    soonest = jnp.min(jnp.where(there, values["time_to_collision"].value, jnp.inf), axis=0)
    excess = jnp.sum(kept("speeding"), axis=0) * dt / (MAX_SPEEDING * duration)
    present = known["time_to_collision"]
    parts = {
        "no_ego_at_fault_collisions": masked_value(blame, known["at_fault_vehicle_collision"]),
        "drivable_area_compliance": flag(
            jnp.max(kept("road_edge_distance"), axis=0) <= MAX_OFF_ROAD, known["road_edge_distance"]
        ),
        "driving_direction_compliance": masked_value(direction, known["wrong_way_distance"]),
        "ego_is_making_progress": flag(progress >= MIN_PROGRESS, present),
        "time_to_collision_within_bound": flag(soonest >= MIN_TIME, present),
        "ego_progress_along_expert_route": masked_value(progress, present),
        "speed_limit_compliance": masked_value(jnp.maximum(1.0 - excess, 0.0), known["speeding"]),
        "ego_is_comfortable": flag(jnp.max(kept("discomfort"), axis=0) <= 1.0, known["discomfort"]),
    }
    return parts | {"nuplan_score": _score(parts, present)}


def _score(parts: Mapping[str, MetricValue], present: Bool[Array, " N"]) -> MetricValue:
    gate = jnp.ones(present.shape)
    for name in MULTIPLIERS:
        gate = gate * jnp.where(parts[name].valid, parts[name].value, 1.0)
    weights = {name: jnp.where(parts[name].valid, weight, 0.0) for name, weight in WEIGHTS.items()}
    total = sum(weights.values(), start=jnp.zeros(present.shape))
    mean = sum((weights[name] * parts[name].value for name in WEIGHTS), start=jnp.zeros(present.shape))
    return masked_value(gate * mean / jnp.where(total > 0, total, 1.0), present)


def _most_within(value: Float[Array, "T N"], num_steps: int) -> Float[Array, " N"]:
    """The largest sum over so many steps in a row."""
    upto = jnp.cumsum(value, axis=0)
    before = jnp.concatenate([jnp.zeros((num_steps, value.shape[1])), upto])[: value.shape[0]]
    return jnp.max(upto - before, axis=0)
