"""Dynamics models: they map actions to motion, and logged motion to actions."""

from waymax_sim.dynamics.bicycle import Bicycle
from waymax_sim.dynamics.delta import Delta
from waymax_sim.dynamics.discrete import Discrete
from waymax_sim.dynamics.protocol import Dynamics
from waymax_sim.dynamics.rear_axle import RearAxleBicycle
from waymax_sim.dynamics.teleport import Teleport
from waymax_sim.dynamics.tracking import TrackingParams
from waymax_sim.dynamics.trajectory import Trajectory

__all__ = ["Bicycle", "Delta", "Discrete", "Dynamics", "RearAxleBicycle", "Teleport", "TrackingParams", "Trajectory"]
