"""The loop: reset, step, observe, roll out."""

from waymax_sim.env.env import Env, EnvConfig, StepOutput
from waymax_sim.env.observation import Observation, observe
from waymax_sim.env.policy import Policy
from waymax_sim.env.presets import PRESETS
from waymax_sim.env.rollout import Trace, rollout
from waymax_sim.env.view import View, present_rows, view

__all__ = [
    "PRESETS",
    "Env",
    "EnvConfig",
    "Observation",
    "Policy",
    "StepOutput",
    "Trace",
    "View",
    "observe",
    "present_rows",
    "rollout",
    "view",
]
