"""Policies that drive agents. Each is a `waymax_sim.env.Policy`."""

from behavior_models.baselines.kinematic import ConstantSpeed, ConstantVelocity, Stationary
from behavior_models.baselines.log_expert import LogExpert
from behavior_models.baselines.log_replay import LogReplay
from behavior_models.baselines.noisy import NoisyConstantVelocity
from behavior_models.baselines.random import Random
from behavior_models.planners.follow_plan import FollowPlan, LogTrajectory
from behavior_models.planners.gradient import GradientPlanner
from behavior_models.planners.mppi import MPPI
from behavior_models.planners.pdm import PDM
from behavior_models.program_search.policy import FoundFollower
from behavior_models.registry import POLICIES
from behavior_models.traffic.idm import IDM
from behavior_models.traffic.log_path import LogPathIDM
from behavior_models.traffic.mobil import MOBIL
from behavior_models.traffic.social_force import SocialForce

__all__ = [
    "IDM",
    "MOBIL",
    "MPPI",
    "PDM",
    "POLICIES",
    "ConstantSpeed",
    "ConstantVelocity",
    "FollowPlan",
    "FoundFollower",
    "GradientPlanner",
    "LogExpert",
    "LogPathIDM",
    "LogReplay",
    "LogTrajectory",
    "NoisyConstantVelocity",
    "Random",
    "SocialForce",
    "Stationary",
]
