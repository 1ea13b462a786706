"""Dynamics models: they map actions to motion, and logged motion to actions."""

from waymax_sim.dynamics.bicycle import Bicycle
from waymax_sim.dynamics.delta import Delta
from waymax_sim.dynamics.discrete import Discrete
from waymax_sim.dynamics.protocol import Dynamics
from waymax_sim.dynamics.teleport import Teleport

__all__ = ["Bicycle", "Delta", "Discrete", "Dynamics", "Teleport"]
