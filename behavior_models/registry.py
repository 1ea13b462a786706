"""The policies that this package registers as entry points, by name (`setup.py`, group `waymax_sim.policies`)."""

from behavior_models.baselines.kinematic import ConstantSpeed, ConstantVelocity, Stationary
from behavior_models.baselines.log_expert import LogExpert
from behavior_models.baselines.log_replay import LogReplay
from behavior_models.baselines.noisy import NoisyConstantVelocity
from behavior_models.baselines.random import Random
from behavior_models.planners.gradient import GradientPlanner
from behavior_models.planners.mppi import MPPI
from behavior_models.planners.pdm import PDM
from behavior_models.program_search.policy import FoundFollower
from behavior_models.traffic.idm import IDM
from behavior_models.traffic.log_path import LogPathIDM
from behavior_models.traffic.mobil import MOBIL
from behavior_models.traffic.social_force import SocialForce

# Each class is exported by `behavior_models` and has a default for every option.
POLICIES = {
    "log_replay": LogReplay,
    "log_expert": LogExpert,
    "constant_velocity": ConstantVelocity,
    "noisy_constant_velocity": NoisyConstantVelocity,
    "constant_speed": ConstantSpeed,
    "stationary": Stationary,
    "random": Random,
    "idm": IDM,
    "log_path_idm": LogPathIDM,
    "mobil": MOBIL,
    "found_follower": FoundFollower,
    "social_force": SocialForce,
    "pdm": PDM,
    "mppi": MPPI,
    "gradient": GradientPlanner,
}
