"""Who covers whom: heights in levels of 2 m, so that a bridge is drawn above what passes under it."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

LEVEL = 2.0  # m
# An agent is drawn one level above its ground: never under its own road, yet under a bridge 4 m up.
AGENT_LIFT = 2.0
# Asphalt lies deep: it covers the road under a bridge, but neither the lines of a road on a slope, nor
# agents under bridges of common height.
SURFACE_LIFT = -4.0


def by_level(height: Float[np.ndarray, " K"]) -> Iterator[tuple[int, Int[np.ndarray, " k"]]]:
    """Groups things by height (m): pairs of a level, lowest first, and the indices of what lies there."""
    level = np.floor(height / LEVEL).astype(int)
    for value in np.unique(level):
        yield int(value), np.flatnonzero(level == value)
