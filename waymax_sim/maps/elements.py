"""Builds map elements and the index of which are near, once per scene, on the host."""

import numpy as np
from jaxtyping import Float, Float32, Int

from waymax_sim.datatypes.elements import GROUP, NUM_ELEMENT_POINTS, MapElements

# Groups listed per cell, and those of them that are enough where few elements are asked for. In recorded scenes, with
# cells of 8 m, 64 groups (256 elements) surely hold the 64 elements nearest to about 99 % of the agents, and 34 groups
# the 16 nearest; the rest are answered without the index.
NUM_LISTED, NUM_NEAR = 64, 34
MIN_SIDE = 8.0
# The lists of all cells take at most this many bytes per map point, less than the point itself.
BYTES_PER_POINT = 12


def build_elements(xyz: Float[np.ndarray, "P 3"], feature: Int[np.ndarray, " P"]) -> MapElements:
    """Cuts features into elements, groups them and lists for each cell of a grid which groups are near.

    Args:
      xyz: Points, contiguous and in order per feature, m, local frame.
      feature: Row of each point in the feature table.
    """
    first, count = _cut(feature)
    xy = xyz[:, :2].astype(np.float32)
    low, high = (reduce.reduceat(xy, first) if len(first) else xy for reduce in (np.minimum, np.maximum))
    order = _along_a_curve((low + high) / 2)
    # The last group is filled up with empty elements that lie where its last one does.
    order = np.append(order, np.repeat(order[-1:], -len(order) % GROUP)).reshape(-1, GROUP)
    num_elements = len(first)
    count = np.where(np.arange(order.size).reshape(order.shape) < num_elements, count[order], 0)
    box = np.concatenate([low[order].min(axis=1), high[order].max(axis=1)], axis=-1)
    first, count = first[order].astype(np.int32), count.astype(np.int32)
    points = points_of_groups(xy.T, first, count)
    return MapElements(first=first, count=count, points=points, box=box, **_grid(box, len(xyz)))


def points_of_groups(
    xy: Float32[np.ndarray, "2 P"], first: Int[np.ndarray, "G 4"], count: Int[np.ndarray, "G 4"]
) -> Float32[np.ndarray, "G 2 8 4"]:
    """`MapElements.points` from the points of the map."""
    offset = np.arange(NUM_ELEMENT_POINTS)[:, None]
    points = xy.take(first[:, None] + offset, axis=1, mode="clip")
    points[:, offset >= count[:, None]] = np.inf
    return np.ascontiguousarray(points.swapaxes(0, 1))


def _cut(feature: Int[np.ndarray, " P"]) -> tuple[np.ndarray, np.ndarray]:
    """First point and number of points of each element, in the order of the map."""
    starts = np.flatnonzero(np.diff(feature, prepend=feature[:1] - 1))
    lengths = np.diff(starts, append=len(feature))
    inside = np.arange(len(feature)) - np.repeat(starts, lengths)
    first = np.flatnonzero(inside % NUM_ELEMENT_POINTS == 0)
    return first, np.diff(first, append=len(feature))


def _along_a_curve(xy: Float[np.ndarray, "E 2"]) -> Int[np.ndarray, " E"]:
    """Order along a Z-curve of 2 m cells: what is close in it is close in the plane (Morton 1966)."""
    if not len(xy):
        return np.zeros(0, int)
    cell = np.clip((xy - xy.min(axis=0)) / 2.0, 0, 2**16 - 1).astype(np.uint32)
    for shift, mask in ((8, 0x00FF00FF), (4, 0x0F0F0F0F), (2, 0x33333333), (1, 0x55555555)):
        cell = (cell | (cell << shift)) & mask
    return np.argsort(cell[:, 0] | (cell[:, 1] << 1), kind="stable")


def _grid(box: Float[np.ndarray, "G 4"], num_points: int) -> dict[str, np.ndarray]:
    """The grid and its lists; no cells where there is no map."""
    rows = columns = 0
    side, low = MIN_SIDE, np.zeros(2, np.float32)
    if len(box):
        low, high = box[:, :2].min(axis=0), box[:, 2:].max(axis=0)
        max_cells = BYTES_PER_POINT * num_points // (2 * (NUM_LISTED + 1)) + 1
        while True:
            rows, columns = np.maximum(np.ceil((high - low) / side), 1).astype(int)
            if rows * columns <= max_cells:
                break
            side *= 1.05
    x = (low[0] + side * (np.arange(rows) + 0.5)).astype(np.float32)
    y = (low[1] + side * (np.arange(columns) + 0.5)).astype(np.float32)
    gap = _gap2(x, box[:, 0], box[:, 2])[:, None] + _gap2(y, box[:, 1], box[:, 3])
    id_type = np.int16 if len(box) <= np.iinfo(np.int16).max else np.int32
    return {
        "cells": _nearest(gap.reshape(rows * columns, len(box)), id_type),
        "low": low.astype(np.float32),
        "side": np.asarray(side, np.float32),
        "rows": np.asarray(rows, np.int32),
        "columns": np.asarray(columns, np.int32),
    }


def _gap2(
    at: Float[np.ndarray, " C"], low: Float[np.ndarray, " G"], high: Float[np.ndarray, " G"]
) -> Float[np.ndarray, "C G"]:
    """Squared distance (m^2) to intervals along one axis."""
    return np.maximum(np.maximum(low - at[:, None], at[:, None] - high), 0) ** 2


def _nearest(gap: Float[np.ndarray, "C G"], id_type: type[np.signedinteger]) -> Int[np.ndarray, "C W"]:
    """The groups that each cell lists, see `MapElements.cells`."""
    width = NUM_LISTED + 1
    if gap.shape[1] > width:
        groups = np.argpartition(gap, NUM_LISTED, axis=-1)[:, :width]
    else:
        groups = np.broadcast_to(np.arange(gap.shape[1]), gap.shape)
    order = np.argsort(np.take_along_axis(gap, groups, axis=-1), axis=-1, kind="stable")
    missing = max(width - gap.shape[1], 0)
    listed = np.take_along_axis(groups, order, axis=-1).astype(id_type)
    listed = np.pad(listed, ((0, 0), (0, missing)), constant_values=-1)
    for lot in (listed[:, :NUM_NEAR], listed[:, NUM_NEAR + 1 : NUM_LISTED]):
        # Without a sign, what is none comes last.
        lot.view(f"u{lot.itemsize}").sort(axis=-1)
    return listed
