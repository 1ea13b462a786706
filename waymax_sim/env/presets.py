"""Rules of environments for common tasks; change what you like with `dataclasses.replace`.

config = dataclasses.replace(PRESETS["nuplan"], controlled="all")
"""

from waymax_sim.env.config import EnvConfig
from waymax_sim.metrics import NUPLAN_METRICS
from waymax_sim.metrics.nuplan import MAX_OFF_ROAD, MAX_SPEEDING, MIN_TIME

# Steps of an episode of the Waymo Open Motion Dataset, over which rewards are spread that count for how long.
STEPS = 80

PRESETS: dict[str, EnvConfig] = {
    # Nothing but harm: -1 for a collision, for leaving the road and for running a red light, each of which ends the
    # episode. Standing still is safe, so use it to judge, or with a policy that wants something.
    "safety": EnvConfig(
        metrics=("overlap", "offroad", "red_light_violation"),
        rewards=(("overlap", -1.0), ("offroad", -1.0), ("red_light_violation", -1.0)),
        terminate_on=("overlap", "offroad", "red_light_violation"),
    ),
    # The weighted terms of the nuPlan score, spread over steps: 5/16 for all of the logged way, and over 80 steps -4/16
    # at 2.23 m/s too fast, -5/16 below 0.95 s from a collision, -2/16 beyond the limits of comfort. What nuPlan
    # multiplies costs: -1 at a collision by own fault and 0.3 m off the road, both of which end the episode; -1 for 6 m
    # against the lane.
    "nuplan": EnvConfig(
        metrics=(*NUPLAN_METRICS, "at_fault_collision"),
        rewards=(
            ("at_fault_collision", -1.0),
            ("road_edge_distance", -1.0, MAX_OFF_ROAD),
            ("wrong_way_distance", -1 / 6),
            ("log_progress", 5 / 16),
            ("time_to_collision", -5 / 16 / STEPS, MIN_TIME),
            ("speeding", -4 / 16 / STEPS / MAX_SPEEDING),
            ("discomfort", -2 / 16 / STEPS, 1.0),
        ),
        terminate_on=("at_fault_collision", ("road_edge_distance", MAX_OFF_ROAD)),
    ),
    # Self-play of all travelling vehicles, as on GPUDrive: 1 at the goal (the end of the log unless the scenario
    # has goals), -0.75 for a collision and for leaving the road, each of which ends the agent's own episode and removes
    # it, and 0.01 per meter of approach. Standing still earns 0.
    "goal": EnvConfig(
        controlled="travelling",
        spawn="never",
        goals="end_of_log",
        metrics=("goal_reached", "goal_progress", "overlap", "offroad"),
        evaluated="controlled",
        rewards=(("goal_reached", 1.0), ("goal_progress", 0.01), ("overlap", -0.75), ("offroad", -0.75)),
        terminate_on=("goal_reached", "overlap", "offroad"),
        ends="agent",
        at_end="remove",
    ),
}
