"""Environment configurations of common tasks; adapt them with `dataclasses.replace`.

config = dataclasses.replace(PRESETS["nuplan"], controlled="all")
"""

from waymax_sim.env.config import EnvConfig
from waymax_sim.metrics import NUPLAN_METRICS
from waymax_sim.metrics.nuplan import NUPLAN

# Steps of an episode of the Waymo Open Motion Dataset; rewards per unit of time are divided by it.
EPISODE_STEPS = 80

PRESETS: dict[str, EnvConfig] = {
    # Penalties only: -1 for a collision, for leaving the road and for running a red light, each of which ends the
    # episode. A stationary agent is optimal: for evaluation, or combined with a progress reward.
    "safety": EnvConfig(
        metrics=("overlap", "offroad", "red_light_violation"),
        rewards=(("overlap", -1.0), ("offroad", -1.0), ("red_light_violation", -1.0)),
        terminate_on=("overlap", "offroad", "red_light_violation"),
    ),
    # The weighted terms of the nuPlan score, distributed over steps: 5/16 for the whole logged path, and over 80 steps
    # -4/16 at 2.23 m/s above the speed limit, -5/16 below 0.95 s to collision, -2/16 beyond the comfort limits. The
    # multiplicative terms are penalties: -1 for an at-fault collision and for 0.3 m off the road, both of which end the
    # episode; -1 for 6 m against the direction of the lane.
    "nuplan": EnvConfig(
        metrics=(*NUPLAN_METRICS, "at_fault_collision"),
        rewards=(
            ("at_fault_collision", -1.0),
            ("road_edge_distance", -1.0, NUPLAN.max_offroad_distance),
            ("wrong_way_distance", -1 / 6),
            ("log_progress", 5 / 16),
            ("time_to_collision", -5 / 16 / EPISODE_STEPS, NUPLAN.min_time_to_collision),
            ("speeding", -4 / 16 / EPISODE_STEPS / NUPLAN.max_mean_speeding),
            ("comfort_violation", -2 / 16 / EPISODE_STEPS, 1.0),
        ),
        terminate_on=("at_fault_collision", ("road_edge_distance", NUPLAN.max_offroad_distance)),
    ),
    # Self-play of all traveling vehicles, as in GPUDrive: 1 at the goal (the end of the log unless the scenario has
    # goals), -0.75 for a collision and for leaving the road, 0.01 per meter of progress towards the goal. Each of the
    # first three ends the episode of the agent and removes it. A stationary agent earns 0.
    "goal": EnvConfig(
        controlled="traveling",
        spawn="never",
        goals="end_of_log",
        metrics=("goal_reached", "goal_progress", "overlap", "offroad"),
        evaluated="controlled",
        rewards=(("goal_reached", 1.0), ("goal_progress", 0.01), ("overlap", -0.75), ("offroad", -0.75)),
        terminate_on=("goal_reached", "overlap", "offroad"),
        ends="agent",
        at_end="remove",
    ),
    # The same with the shaped penalties of "Imitation Is Not Enough" (Lu et al. 2023) in equal parts: 0.1 in each step
    # per meter that is lacking to 1 m of clearance to other vehicles, and to 1 m from the road edge. A collision costs
    # more than the rest of an episode with small margins.
    "shaped": EnvConfig(
        controlled="traveling",
        spawn="never",
        goals="end_of_log",
        metrics=("goal_reached", "goal_progress", "overlap", "offroad", "clearance_deficit", "edge_deficit"),
        evaluated="controlled",
        rewards=(
            ("goal_reached", 1.0),
            ("goal_progress", 0.01),
            ("overlap", -2.0),
            ("offroad", -2.0),
            ("clearance_deficit", -0.1),
            ("edge_deficit", -0.1),
        ),
        terminate_on=("goal_reached", "overlap", "offroad"),
        ends="agent",
        at_end="remove",
    ),
}
