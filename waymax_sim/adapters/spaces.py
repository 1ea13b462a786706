"""Observation and action spaces of gymnasium."""

import numpy as np

from waymax_sim.adapters import missing_library
from waymax_sim.adapters.loop import SimulationLoop

try:
    from gymnasium import spaces
except ImportError as error:
    raise missing_library("gymnasium") from error


def observation_space(loop: SimulationLoop, shape: tuple[int, ...]) -> spaces.Box:
    """Box of the observation, bounded by the limit of the encoder."""
    return spaces.Box(-loop.limit, loop.limit, shape, np.float32)


def action_space(loop: SimulationLoop) -> spaces.Space:
    """Box of the bounds of the dynamics, or its discrete actions."""
    if loop.num_actions is not None:
        return spaces.Discrete(loop.num_actions)
    low, high = loop.env.dynamics.bounds
    return spaces.Box(low, high, dtype=np.float32)
