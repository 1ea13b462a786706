"""Distance to goals, and their arrival."""

import jax.numpy as jnp

from waymax_sim import geometry
from waymax_sim.datatypes.goals import Goals
from waymax_sim.maps.goals import log_end_goals
from waymax_sim.metrics.metric import MetricValue, Snapshot, flag, masked_value
from waymax_sim.pytree import tree_index

# Distance within which a goal is reached, m.
GOAL_RADIUS = 2.0


def goal_distance(snapshot: Snapshot) -> MetricValue:
    """Distance of an agent to its goal (m).

    Goals are those of the scenario; without any, the last logged positions. Valid for valid agents with a goal.
    """
    goals, agents = snapshot.cached(_goals), snapshot.evaluated_agents
    return masked_value(geometry.norm(agents.xyz[:, :2] - goals.xy), agents.valid & goals.valid)


def goal_reached(snapshot: Snapshot, radius: float = GOAL_RADIUS) -> MetricValue:
    """Whether an agent is within 2 m of its goal now.

    Valid where the agent had to travel: at the current step of the record it was valid and farther than the radius from
    its goal. Parked agents have no value. For another radius use
    `dataclasses.replace(METRICS["goal_reached"], compute=functools.partial(goal_reached, radius=...))`.

    Args:
      snapshot: The evaluated step.
      radius: Distance at which a goal is reached, m.
    """
    distance, scenario = snapshot.cached(goal_distance), snapshot.scenario
    start = snapshot.select_evaluated(tree_index(scenario.log, scenario.current_step))
    to_go = geometry.norm(jnp.asarray(start.xyz[:, :2]) - snapshot.cached(_goals).xy)
    return flag(distance.value <= radius, distance.valid & start.valid & (to_go > radius))


def goal_progress(snapshot: Snapshot) -> MetricValue:
    """Decrease of the straight-line distance of an agent to its goal in the last step (m).

    The sum over an episode is the total decrease, so a closed path earns nothing. Valid for agents with a goal that are
    valid now and one step earlier.
    """
    now, before = snapshot.cached(goal_distance), snapshot.select_evaluated(snapshot.previous)
    previous_distance = geometry.norm(before.xyz[:, :2] - snapshot.cached(_goals).xy)
    return masked_value(previous_distance - now.value, now.valid & before.valid)


def _goals(snapshot: Snapshot) -> Goals:
    return snapshot.select_evaluated(snapshot.scenario.goals or log_end_goals(snapshot.scenario))
