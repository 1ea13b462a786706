"""Builds map polylines and their grid index, once per scene, on the host."""

import numpy as np
from jaxtyping import Float, Float32, Int

from waymax_sim.datatypes.polylines import POINTS_PER_POLYLINE, POLYLINES_PER_GROUP, Polylines

# Number of groups listed per cell. With cells of 8 m in recorded scenarios, 64 groups (256 polylines) provably contain
# the 64 polylines nearest to about 99 % of the agents.
NUM_LISTED_GROUPS = 64
# Number of groups in the nearer part of a list, which contain the 16 nearest polylines of as many agents.
NUM_NEAR_GROUPS = 34
# Minimal side of a cell, m; the actual one follows from MAX_BYTES_PER_POINT.
MIN_CELL_SIZE = 8.0
# Factor by which the side of a cell grows until the lists of all cells are small enough.
CELL_GROWTH = 1.05
# Maximal size of the lists of all cells, bytes per map point: less than the point itself.
MAX_BYTES_PER_POINT = 12
# Maximal number of pairs of a cell and a group, all of which are compared; reached above about 130,000 map points.
MAX_CELL_GROUP_PAIRS = 50_000_000
# Number of pairs per batch, which bounds the memory.
CELL_GROUP_BATCH = 4_000_000
# Side of the cells of the Z-curve, m.
CURVE_CELL_SIZE = 2.0


def build_polylines(xyz: Float[np.ndarray, "P 3"], feature: Int[np.ndarray, " P"]) -> Polylines:
    """Splits features into polylines, groups these, and lists the nearest groups of each cell of a grid.

    Args:
      xyz: Points, contiguous and in order per feature, m, local frame.
      feature: Row of each point in the feature table.
    """
    first, count = _split_features(feature)
    xy = xyz[:, :2].astype(np.float32)
    low, high = (reduce.reduceat(xy, first) if len(first) else xy for reduce in (np.minimum, np.maximum))
    order = _z_curve_order((low + high) / 2)
    # The last group is padded with empty copies of its last polyline.
    order = np.append(order, np.repeat(order[-1:], -len(order) % POLYLINES_PER_GROUP)).reshape(-1, POLYLINES_PER_GROUP)
    count = np.where(np.arange(order.size).reshape(order.shape) < len(first), count[order], 0)
    box = np.concatenate([low[order].min(axis=1), high[order].max(axis=1)], axis=-1)
    first, count = first[order].astype(np.int32), count.astype(np.int32)
    points = group_points(xy.T, first, count)
    return Polylines(first_point=first, num_points=count, points=points, bounding_box=box, **_grid(box, len(xyz)))


def group_points(
    xy: Float32[np.ndarray, "2 P"], first: Int[np.ndarray, "G 4"], count: Int[np.ndarray, "G 4"]
) -> Float32[np.ndarray, "G 2 8 4"]:
    """`Polylines.points` of groups.

    Args:
      xy: Points of the map, m.
      first: First point of each polyline.
      count: Number of its points.
    """
    offset = np.arange(POINTS_PER_POLYLINE)[:, None]
    points = xy.take(first[:, None] + offset, axis=1, mode="clip")
    points[:, offset >= count[:, None]] = np.inf
    return np.ascontiguousarray(points.swapaxes(0, 1))


def _split_features(feature: Int[np.ndarray, " P"]) -> tuple[np.ndarray, np.ndarray]:
    """First point and number of points of each polyline, in the order of the map."""
    starts = np.flatnonzero(np.diff(feature, prepend=feature[:1] - 1))
    lengths = np.diff(starts, append=len(feature))
    position = np.arange(len(feature)) - np.repeat(starts, lengths)
    first = np.flatnonzero(position % POINTS_PER_POLYLINE == 0)
    return first, np.diff(first, append=len(feature))


def _z_curve_order(xy: Float[np.ndarray, "E 2"]) -> Int[np.ndarray, " E"]:
    """Order along a Z-curve, in which neighbors are close in the plane (Morton 1966)."""
    if not len(xy):
        return np.zeros(0, int)
    cell = np.clip((xy - xy.min(axis=0)) / CURVE_CELL_SIZE, 0, 2**16 - 1).astype(np.uint32)
    for shift, mask in ((8, 0x00FF00FF), (4, 0x0F0F0F0F), (2, 0x33333333), (1, 0x55555555)):
        cell = (cell | (cell << shift)) & mask
    return np.argsort(cell[:, 0] | (cell[:, 1] << 1), kind="stable")


def _grid(box: Float[np.ndarray, "G 4"], num_points: int) -> dict[str, np.ndarray]:
    """The fields of `Polylines` that describe the grid; no cells for a map without points."""
    rows = columns = 0
    side, low = MIN_CELL_SIZE, np.zeros(2, np.float32)
    if len(box):
        low, high = box[:, :2].min(axis=0), box[:, 2:].max(axis=0)
        max_cells = MAX_BYTES_PER_POINT * num_points // (2 * (NUM_LISTED_GROUPS + 1)) + 1
        max_cells = max(min(max_cells, MAX_CELL_GROUP_PAIRS // len(box)), 1)
        while True:
            rows, columns = np.maximum(np.ceil((high - low) / side), 1).astype(int)
            if rows * columns <= max_cells:
                break
            side *= CELL_GROWTH
    x = (low[0] + side * (np.arange(rows) + 0.5)).astype(np.float32)
    y = (low[1] + side * (np.arange(columns) + 0.5)).astype(np.float32)
    return {
        "cell_groups": _cell_groups(x, y, box),
        "grid_corner": low.astype(np.float32),
        "cell_size": np.asarray(side, np.float32),
        "num_rows": np.asarray(rows, np.int32),
        "num_columns": np.asarray(columns, np.int32),
    }


def _squared_gap(
    position: Float[np.ndarray, " C"], low: Float[np.ndarray, " G"], high: Float[np.ndarray, " G"]
) -> Float[np.ndarray, "C G"]:
    """Squared distance (m^2) of positions to intervals along one axis."""
    return np.maximum(np.maximum(low - position[:, None], position[:, None] - high), 0) ** 2


def _cell_groups(
    x: Float[np.ndarray, " rows"], y: Float[np.ndarray, " columns"], box: Float[np.ndarray, "G 4"]
) -> Int[np.ndarray, "C W"]:
    """`Polylines.cell_groups` of the cells with centers at x and y, m, for groups with these bounding boxes."""
    id_type = np.int16 if len(box) <= np.iinfo(np.int16).max else np.int32
    lists = np.empty((len(x) * len(y), NUM_LISTED_GROUPS + 1), id_type)
    cells, size = np.arange(len(lists)), max(CELL_GROUP_BATCH // max(len(box), 1), 1)
    for start in range(0, len(lists), size):
        row, column = np.divmod(cells[start : start + size], len(y))
        gap_x, gap_y = _squared_gap(x[row], box[:, 0], box[:, 2]), _squared_gap(y[column], box[:, 1], box[:, 3])
        lists[start : start + size] = _nearest_groups(gap_x + gap_y, id_type)
    return lists


def _nearest_groups(squared_gap: Float[np.ndarray, "C G"], id_type: type[np.signedinteger]) -> Int[np.ndarray, "C W"]:
    """The groups nearest to each cell, from the squared distances of the centers of cells to groups, m^2."""
    width = NUM_LISTED_GROUPS + 1
    if squared_gap.shape[1] > width:
        groups = np.argpartition(squared_gap, NUM_LISTED_GROUPS, axis=-1)[:, :width]
    else:
        groups = np.broadcast_to(np.arange(squared_gap.shape[1]), squared_gap.shape)
    order = np.argsort(np.take_along_axis(squared_gap, groups, axis=-1), axis=-1, kind="stable")
    padding = max(width - squared_gap.shape[1], 0)
    lists = np.take_along_axis(groups, order, axis=-1).astype(id_type)
    lists = np.pad(lists, ((0, 0), (0, padding)), constant_values=-1)
    for part in (lists[:, :NUM_NEAR_GROUPS], lists[:, NUM_NEAR_GROUPS + 1 : NUM_LISTED_GROUPS]):
        # As unsigned integers the padding is last.
        part.view(f"u{part.itemsize}").sort(axis=-1)
    return lists
