"""Builds segments from map points, once per scene, on the host."""

from collections.abc import Collection

import numpy as np
from jaxtyping import Float, Int

from waymax_sim.datatypes.roadmap import CHUNK_SIZE, PADDING_COORDINATE, Segments
from waymax_sim.maps.index import build_index

# Maximal distance between the first and the last point of a closed polyline, m (WOSAC).
MAX_LOOP_GAP = 1.0
# Maximal length of a segment in the plane, m: longer ones are split.
MAX_SEGMENT_LENGTH = 10.0
# Maximal number of pieces of a segment.
MAX_PIECES = 64
# Maximal number of pieces that splitting adds to a map: beyond it no segment is split. Recorded maps need a thousand.
MAX_ADDED_PIECES = 100_000


def build_segments(
    xyz: Float[np.ndarray, "P 3"],
    feature: Int[np.ndarray, " P"],
    feature_type: Int[np.ndarray, " F"],
    types: Collection[int],
    sided: bool = True,
) -> Segments:
    """Builds segments between consecutive points of the features of some types.

    Points that repeat the preceding one in the plane are skipped, so every segment has a direction. Segments longer
    than 10 m in the plane are split into equal pieces, unless there are too many; this changes no distance and no side.

    Args:
      xyz: Points, contiguous and in order per feature, m.
      feature: Row of each point in the feature table.
      feature_type: The type column of the table.
      types: Feature types to select.
      sided: Whether the index stores the sides of its leaves.
    """
    keep = np.isin(feature_type[feature], list(types)) if len(feature) else np.zeros(0, bool)
    repeats = np.zeros(len(keep), bool)
    repeats[1:] = (feature[1:] == feature[:-1]) & np.all(xyz[1:, :2] == xyz[:-1, :2], axis=-1)
    xyz, feature = xyz[keep & ~repeats], feature[keep & ~repeats]

    first = np.flatnonzero(feature[1:] == feature[:-1])
    owner, start, end = feature[first], xyz[first], xyz[first + 1]
    heads = np.flatnonzero(np.diff(owner, prepend=-1))
    tails = np.append(heads[1:], len(owner))[: len(heads)] - 1
    gap = np.linalg.norm(start[heads] - end[tails], axis=-1)
    is_loop = (gap < MAX_LOOP_GAP) & (tails - heads >= 2)

    # Short segments are candidates of few cells of the index.
    length = np.linalg.norm((end - start)[:, :2], axis=-1)
    pieces = np.clip(np.ceil(length / MAX_SEGMENT_LENGTH), 1, MAX_PIECES).astype(int)
    if pieces.sum() - len(pieces) > MAX_ADDED_PIECES:
        pieces = np.ones_like(pieces)
    piece = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    owner, start, end, pieces = (np.repeat(values, pieces, axis=0) for values in (owner, start, end, pieces))
    along, is_last = (end - start) / pieces[:, None], (piece == pieces - 1)[:, None]
    start, end = start + along * piece[:, None], np.where(is_last, end, start + along * (piece + 1)[:, None])

    first = np.flatnonzero(np.diff(owner, prepend=-1))
    count = np.diff(first, append=len(owner))
    # Every feature starts a new chunk.
    padded_count = -(-count // CHUNK_SIZE) * CHUNK_SIZE
    index = np.arange(len(owner)) + np.repeat(np.cumsum(padded_count) - padded_count - first, count)
    heads, tails = index[first], index[first] + count - 1

    # At least one chunk, of padding, so that the arrays are never empty.
    total = max(int(padded_count.sum()), CHUNK_SIZE)
    first_ends, second_ends = np.full((2, total, 3), PADDING_COORDINATE, np.float32)
    previous, next_ = np.full((2, total), -1, np.int32)
    valid, owners = np.zeros(total, bool), np.zeros(total, np.int32)
    first_ends[index], second_ends[index] = start, end
    previous[index], next_[index], owners[index], valid[index] = index - 1, index + 1, owner, True
    previous[heads] = np.where(is_loop, tails, -1)
    next_[tails] = np.where(is_loop, heads, -1)
    ends = [values.reshape(-1, CHUNK_SIZE, 3) for values in (first_ends, second_ends)]
    endpoints = np.concatenate(ends, axis=-1).swapaxes(1, 2).copy()
    rows = {"previous": previous, "next": next_, "feature": owners, "valid": valid}
    chunked = {name: values.reshape(-1, CHUNK_SIZE) for name, values in rows.items()}
    segment_index = build_index(endpoints, chunked["valid"], chunked["previous"], chunked["next"], sided)
    return Segments(endpoints=endpoints, **chunked, index=segment_index)
