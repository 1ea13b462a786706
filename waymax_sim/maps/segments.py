"""Builds segments from map points, once per scene, on the host."""

from collections.abc import Collection

import numpy as np
from jaxtyping import Float, Int

from waymax_sim.datatypes.roadmap import Segments

# First and last point of a polyline this close make it a loop (m; the WOSAC rule).
LOOP_GAP = 1.0


def build_segments(
    xyz: Float[np.ndarray, "P 3"],
    feature: Int[np.ndarray, " P"],
    feature_type: Int[np.ndarray, " F"],
    types: Collection[int],
) -> Segments:
    """Segments between consecutive points of the features of some types.

    Points that repeat the one before them in the plane are skipped, so every segment has a direction.

    Args:
      xyz: Points, contiguous and in order per feature, m.
      feature: Row of each point in the feature table.
      feature_type: The type column of the table.
      types: Feature types to take.
    """
    keep = np.isin(feature_type[feature], list(types)) if len(feature) else np.zeros(0, bool)
    repeats = np.zeros(len(keep), bool)
    repeats[1:] = (feature[1:] == feature[:-1]) & np.all(xyz[1:, :2] == xyz[:-1, :2], axis=-1)
    xyz, feature = xyz[keep & ~repeats], feature[keep & ~repeats]

    first = np.flatnonzero(feature[1:] == feature[:-1])
    owner = feature[first]
    index = np.arange(len(first))
    follows = np.zeros(len(first), bool)
    follows[1:] = owner[1:] == owner[:-1]
    precedes = np.roll(follows, -1)
    previous = np.where(follows, index - 1, -1)
    next_ = np.where(precedes, index + 1, -1)

    heads, tails = index[~follows], index[~precedes]
    start, end = xyz[first], xyz[first + 1]
    gap = np.linalg.norm(start[heads] - end[tails], axis=-1)
    loops = (gap < LOOP_GAP) & (tails - heads >= 2)
    previous[heads[loops]] = tails[loops]
    next_[tails[loops]] = heads[loops]
    return Segments(
        start=start.astype(np.float32),
        end=end.astype(np.float32),
        previous=previous.astype(np.int32),
        next=next_.astype(np.int32),
        feature=owner.astype(np.int32),
        valid=np.ones(len(first), bool),
    )
