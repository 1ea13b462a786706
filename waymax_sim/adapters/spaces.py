"""What is seen and done, as spaces of gymnasium."""

import numpy as np

from waymax_sim.adapters import missing
from waymax_sim.adapters.loop import SimulationLoop

try:
    from gymnasium import spaces
except ImportError as error:
    raise missing("gymnasium") from error


def observation_space(loop: SimulationLoop, shape: tuple[int, ...]) -> spaces.Box:
    """Numbers of one shape within the limit of what is observed."""
    return spaces.Box(-loop.limit, loop.limit, shape, np.float32)


def action_space(loop: SimulationLoop) -> spaces.Space:
    """The bounds of the dynamics, or as many actions as it has."""
    if loop.num_actions is not None:
        return spaces.Discrete(loop.num_actions)
    low, high = loop.env.dynamics.bounds
    return spaces.Box(low, high, dtype=np.float32)
