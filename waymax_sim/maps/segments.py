"""Builds segments from map points, once per scene, on the host."""

from collections.abc import Collection

import numpy as np
from jaxtyping import Float, Int

from waymax_sim.datatypes.roadmap import CHUNK, FAR, Segments
from waymax_sim.maps.index import build_index

# First and last point of a polyline this close make it a loop (m; the WOSAC rule).
LOOP_GAP = 1.0
# Segments longer than this are cut (m), into so many pieces at most.
LONGEST, MOST_PIECES = 10.0, 64


def build_segments(
    xyz: Float[np.ndarray, "P 3"],
    feature: Int[np.ndarray, " P"],
    feature_type: Int[np.ndarray, " F"],
    types: Collection[int],
    sided: bool = True,
) -> Segments:
    """Segments between consecutive points of the features of some types.

    Points that repeat the one before them in the plane are skipped, so every segment has a direction. Segments of more
    than 10 m are cut into equal pieces, which changes no distance and no side.

    Args:
      xyz: Points, contiguous and in order per feature, m.
      feature: Row of each point in the feature table.
      feature_type: The type column of the table.
      types: Feature types to take.
      sided: Whether the index knows of places on which side of the nearest segment they are.
    """
    keep = np.isin(feature_type[feature], list(types)) if len(feature) else np.zeros(0, bool)
    repeats = np.zeros(len(keep), bool)
    repeats[1:] = (feature[1:] == feature[:-1]) & np.all(xyz[1:, :2] == xyz[:-1, :2], axis=-1)
    xyz, feature = xyz[keep & ~repeats], feature[keep & ~repeats]

    first = np.flatnonzero(feature[1:] == feature[:-1])
    owner, begin, finish = feature[first], xyz[first], xyz[first + 1]
    heads = np.flatnonzero(np.diff(owner, prepend=-1))
    tails = np.append(heads[1:], len(owner))[: len(heads)] - 1
    gap = np.linalg.norm(begin[heads] - finish[tails], axis=-1)
    loops = (gap < LOOP_GAP) & (tails - heads >= 2)

    # Long segments are cut, so that each lies near to few places.
    pieces = np.clip(np.ceil(np.linalg.norm(finish - begin, axis=-1) / LONGEST), 1, MOST_PIECES).astype(int)
    piece = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    owner, begin, finish, pieces = (np.repeat(each, pieces, axis=0) for each in (owner, begin, finish, pieces))
    along, last = (finish - begin) / pieces[:, None], (piece == pieces - 1)[:, None]
    begin, finish = begin + along * piece[:, None], np.where(last, finish, begin + along * (piece + 1)[:, None])

    begins = np.flatnonzero(np.diff(owner, prepend=-1))
    length = np.diff(begins, append=len(owner))
    # Every feature starts a chunk of its own.
    room = -(-length // CHUNK) * CHUNK
    place = np.arange(len(owner)) + np.repeat(np.cumsum(room) - room - begins, length)
    heads, tails = place[begins], place[begins] + length - 1

    # Without any segment there is one chunk of padding, so that nothing has to ask for that case.
    total = max(int(room.sum()), CHUNK)
    start, end = np.full((2, total, 3), FAR, np.float32)
    previous, next_ = np.full((2, total), -1, np.int32)
    valid, of = np.zeros(total, bool), np.zeros(total, np.int32)
    start[place], end[place] = begin, finish
    previous[place], next_[place], of[place], valid[place] = place - 1, place + 1, owner, True
    previous[heads] = np.where(loops, tails, -1)
    next_[tails] = np.where(loops, heads, -1)
    ends = np.concatenate([start.reshape(-1, CHUNK, 3), end.reshape(-1, CHUNK, 3)], axis=-1).swapaxes(1, 2).copy()
    rows = {"previous": previous, "next": next_, "feature": of, "valid": valid}
    chunked = {name: values.reshape(-1, CHUNK) for name, values in rows.items()}
    index = build_index(ends, chunked["valid"], chunked["previous"], chunked["next"], sided)
    return Segments(ends=ends, **chunked, index=index)
