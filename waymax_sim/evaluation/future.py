"""Records without a recorded future, as in testing splits: metrics that cannot be evaluated in them."""

import numpy as np

from waymax_sim.datatypes.agents import Selector
from waymax_sim.datatypes.scenario import Scenario

NO_FUTURE_NOTE = "no future in the record: metrics that need the log, the lights or agents of the log are not valid"
# Metrics that compare with the log after the current step, or with lights and routes that are known from it.
LOG_METRICS = frozenset(
    (
        "log_divergence",
        "log_progress",
        "off_route",
        "route_progression",
        "red_light_violation",
        "nuplan_score",
        "ego_is_making_progress",
        "ego_progress_along_expert_route",
    )
)
# Metrics of an agent and the others, which are absent after the current step if they follow the log.
INTERACTION_METRICS = frozenset(
    (
        "overlap",
        "time_to_collision",
        "post_encroachment_time",
        "clearance",
        "at_fault_collision",
        "at_fault_vru_collision",
        "at_fault_vehicle_collision",
        "at_fault_object_collisions",
        "no_ego_at_fault_collisions",
        "time_to_collision_within_bound",
    )
)


def has_future(scenario: Scenario) -> bool:
    """Whether an agent is recorded after the current step."""
    return bool(np.asarray(scenario.log.valid)[int(scenario.current_step) + 1 :].any())


def invalid_without_future(agents: Selector, *, log_traffic: bool) -> frozenset[str]:
    """Names of the metrics that are not valid in a record without a future.

    Args:
      agents: The agents that the policy controls.
      log_traffic: Whether the other agents follow the log.
    """
    return LOG_METRICS | (INTERACTION_METRICS if log_traffic and agents != "all" else frozenset())
