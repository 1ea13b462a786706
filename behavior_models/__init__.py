"""Policies that drive agents. Each is a `waymax_sim.env.Policy`."""

from behavior_models.constant import ConstantSpeed, ConstantVelocity, Stationary
from behavior_models.idm import IDM
from behavior_models.noisy import NoisyConstantVelocity
from behavior_models.random import Random
from behavior_models.replay import LogReplay

# Policies by the names that the command line knows, with default settings.
POLICIES = {
    "log_replay": LogReplay,
    "constant_velocity": ConstantVelocity,
    "noisy_constant_velocity": NoisyConstantVelocity,
    "constant_speed": ConstantSpeed,
    "stationary": Stationary,
    "random": Random,
    "idm": IDM,
}

__all__ = [
    "IDM",
    "POLICIES",
    "ConstantSpeed",
    "ConstantVelocity",
    "LogReplay",
    "NoisyConstantVelocity",
    "Random",
    "Stationary",
]
