"""Tasks that learners are trained on: actions, rules and observations."""

import dataclasses
from typing import Literal

from waymax_sim.adapters.functional import FunctionalEnv
from waymax_sim.dynamics import Bicycle, Delta, Discrete, Dynamics
from waymax_sim.env import PRESETS, Env
from waymax_sim.env.flat_view import FlatView

# Levels of the discrete bicycle actions: fine near zero, where vehicles drive most of the time.
ACCELERATIONS = (-5.0, -2.5, -1.0, 0.0, 1.0, 2.0, 3.5)  # m/s^2
CURVATURES = (-0.2, -0.08, -0.03, -0.01, 0.0, 0.01, 0.03, 0.08, 0.2)  # 1/m
# Steps for which an action is held: decisions at 5 Hz in records of 10 Hz.
STEPS_PER_ACTION = 2
# Largest number of agents that are controlled in a scenario.
MAX_CONTROLLED = 16

DISCRETE_BICYCLE = Discrete(Bicycle(), levels=(ACCELERATIONS, CURVATURES))
# Continuous actions in (-1, 1): a bicycle, and displacements of up to 4 m (40 m/s) and 0.3 rad in a step of 0.1 s.
BICYCLE = Bicycle(normalized=True)
DELTA = Delta("body", max_displacement=4.0, max_turn=0.3, normalized=True)
ACTIONS: dict[str, Dynamics] = {"bicycle_discrete": DISCRETE_BICYCLE, "bicycle": BICYCLE, "delta": DELTA}
SELF_PLAY_VIEW = FlatView("controlled", num_agents=8, num_polylines=24)
SELF_PLAY_CONFIG, SHAPED_CONFIG = (
    dataclasses.replace(PRESETS[name], steps_per_action=STEPS_PER_ACTION, max_controlled=MAX_CONTROLLED)
    for name in ("goal", "shaped")
)
# Self-play of all traveling vehicles to their goals.
GOAL_TASK = FunctionalEnv(Env(DISCRETE_BICYCLE, SELF_PLAY_CONFIG), SELF_PLAY_VIEW)
# The same with continuous actions, and rewards for safety margins.
SHAPED_TASK = FunctionalEnv(Env(BICYCLE, SHAPED_CONFIG), SELF_PLAY_VIEW)


def goal_task(action: str = "bicycle_discrete", at_end: Literal["remove", "stop"] = "remove") -> FunctionalEnv:
    """`GOAL_TASK` with one of `ACTIONS`, and another state of vehicles after their episodes (`EnvConfig.at_end`)."""
    config = dataclasses.replace(SELF_PLAY_CONFIG, at_end=at_end)
    return dataclasses.replace(GOAL_TASK, env=Env(ACTIONS[action], config))
