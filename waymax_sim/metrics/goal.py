"""Reaching a goal."""

import jax.numpy as jnp

from waymax_sim import geometry
from waymax_sim.datatypes.goals import Goals
from waymax_sim.maps.goals import end_of_log
from waymax_sim.metrics.metric import MetricValue, Snapshot, flag, masked_value
from waymax_sim.pytree import take

# Within this distance a goal is reached (m).
RADIUS = 2.0


def goal_distance(snapshot: Snapshot) -> MetricValue:
    """Distance of an agent to its goal (m).

    Goals are those of the scenario, or where it has none the last logged places. Valid where the agent is and has one.
    """
    goals, agents = snapshot.once(_goals), snapshot.subjects
    return masked_value(geometry.norm(agents.xyz[:, :2] - goals.xy), agents.valid & goals.valid)


def goal_reached(snapshot: Snapshot, radius: float = RADIUS) -> MetricValue:
    """Whether an agent is within 2 m of its goal now.

    Valid where the agent had to travel: at the current step of the record it was valid and farther than the radius from
    its goal. Parked agents have no value. For another radius use
    `dataclasses.replace(METRICS["goal_reached"], compute=functools.partial(goal_reached, radius=...))`.

    Args:
      snapshot: The evaluated moment.
      radius: Distance at which a goal is reached, m.
    """
    distance, scenario = snapshot.once(goal_distance), snapshot.scenario
    start = snapshot.of_subjects(take(scenario.log, scenario.current_step))
    to_go = geometry.norm(jnp.asarray(start.xyz[:, :2]) - snapshot.once(_goals).xy)
    return flag(distance.value <= radius, distance.valid & start.valid & (to_go > radius))


def goal_progress(snapshot: Snapshot) -> MetricValue:
    """How much nearer an agent came to its goal in the last step (m), as the crow flies.

    Going round in circles earns nothing: the sum over an episode is what the distance shrank by. Valid where the agent
    is and was one step before, and has a goal.
    """
    now, before = snapshot.once(goal_distance), snapshot.of_subjects(snapshot.previous)
    was = geometry.norm(before.xyz[:, :2] - snapshot.once(_goals).xy)
    return masked_value(was - now.value, now.valid & before.valid)


def _goals(snapshot: Snapshot) -> Goals:
    return snapshot.of_subjects(snapshot.scenario.goals or end_of_log(snapshot.scenario))
