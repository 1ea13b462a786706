"""Reaching a goal."""

from waymax_sim import geometry
from waymax_sim.maps.goals import end_of_log
from waymax_sim.metrics.metric import MetricValue, Snapshot, flag, masked_value

# Within this distance a goal is reached (m).
RADIUS = 2.0


def goal_distance(snapshot: Snapshot) -> MetricValue:
    """Distance of an agent to its goal (m).

    Goals are those of the scenario, or where it has none the last logged places. Valid where the agent is and has one.
    """
    goals = snapshot.scenario.goals or end_of_log(snapshot.scenario)
    goals = snapshot.of_subjects(goals)
    agents = snapshot.subjects
    return masked_value(geometry.norm(agents.xyz[:, :2] - goals.xy), agents.valid & goals.valid)


def goal_reached(snapshot: Snapshot, radius: float = RADIUS) -> MetricValue:
    """Whether an agent is within 2 m of its goal now.

    For another radius use `dataclasses.replace(METRICS["goal_reached"], compute=functools.partial(goal_reached, ...))`.
    """
    distance = goal_distance(snapshot)
    return flag(distance.value <= radius, distance.valid)
