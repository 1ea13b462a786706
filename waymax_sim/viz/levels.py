"""Drawing order by height in levels of 2 m: a bridge is drawn above the road below it."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

# Height range of one level, m.
LEVEL_HEIGHT = 2.0
# Raises agents by one level, m: above the road that they drive on, yet below a bridge 4 m above it.
AGENT_LIFT = 2.0
# Lowers asphalt by two levels, m: it covers the road below a bridge, but neither the lines of a sloping road nor
# agents below a bridge of common height.
SURFACE_LIFT = -4.0


def group_by_level(height: Float[np.ndarray, " K"]) -> Iterator[tuple[int, Int[np.ndarray, " k"]]]:
    """Indices of items grouped by level of height (m), as pairs of a level and its indices, lowest level first."""
    level = np.floor(height / LEVEL_HEIGHT).astype(int)
    for value in np.unique(level):
        yield int(value), np.flatnonzero(level == value)
