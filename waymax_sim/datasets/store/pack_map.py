"""What is known of a map, as small integers."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.store.layout import (
    LONG_LIST,
    SEGMENT_TYPES,
    SHORT_LIST,
    SPLIT,
    Shape,
    Table,
    block_of_cell,
    elements_of,
    in_z_order,
    table,
)
from waymax_sim.datatypes.elements import MapElements
from waymax_sim.datatypes.roadmap import RoadMap, SegmentIndex, Segments

# Sides of the blocks of cells that share a table of at most 256 groups, the largest first.
BLOCKS = (8, 6, 5, 4, 3, 2, 1)


class Runs(NamedTuple):
    """Map points by feature: first point, number of points and row in the feature table of each."""

    start: Int[np.ndarray, " runs"]
    length: Int[np.ndarray, " runs"]
    row: Int[np.ndarray, " runs"]


class Joints(NamedTuple):
    """How segments follow from points.

    Attributes:
      tables: Chunks of edges and lanes.
      irregular: Runs whose segments do not simply join their points: some points repeat, some segments were cut.
      segments: Number of segments of each irregular run.
      extra: Joints of the irregular runs, m.
    """

    tables: dict[str, Table]
    irregular: Int[np.ndarray, " K"]
    segments: Int[np.ndarray, " K"]
    extra: Float[np.ndarray, "X 3"]


def runs_of(roadmap: RoadMap) -> Runs:
    """Finds the runs.

    Raises:
      DataError: The points of a feature are not in one piece.
    """
    start = np.flatnonzero(np.diff(roadmap.feature, prepend=-1))
    runs = Runs(start, np.diff(start, append=len(roadmap.feature)), roadmap.feature[start])
    if len(np.unique(runs.row)) < len(runs.row):
        raise DataError("the points of a feature are not in one piece", field="point_feature")
    return runs


def joints_of(roadmap: RoadMap, runs: Runs, parts: dict[str, Segments], num_points: int) -> Joints:
    """Compares segments with the points they were made from; `num_points` are those of all polylines."""
    run_type = roadmap.feature_type[runs.row]
    segments, base = runs.length - 1, runs.start.copy()
    irregular, extra, total = [], [np.zeros((0, 3), np.float32)], num_points
    for name, part in parts.items():
        feature = np.where(part.valid, part.feature, -1).reshape(-1)
        for run in np.flatnonzero(SEGMENT_TYPES[name][run_type] & (segments > 0)):
            own = np.flatnonzero(feature == runs.row[run])
            joints = np.concatenate([part.start[own], part.end[own[-1:]]])
            if not np.array_equal(joints, roadmap.xyz[runs.start[run] :][: runs.length[run]]):
                irregular.append(run)
                extra.append(joints)
    order = np.argsort(irregular).astype(int)
    irregular, extra = np.array(irregular, int)[order], [extra[0], *(extra[1 + i] for i in order)]
    sizes = np.array([len(joints) for joints in extra[1:]], int)
    segments[irregular] = np.maximum(sizes - 1, 0)
    base[irregular] = total + np.cumsum(sizes) - sizes
    tables = {name: table(SEGMENT_TYPES[name], run_type, segments, base) for name in parts}
    return Joints(tables, irregular, segments[irregular], np.concatenate(extra))


def segment_numbers(part: Segments, chunks: Table) -> tuple[list[np.ndarray], Shape]:
    """Integers of segments, and the sizes of their index."""
    used = len(chunks.first)
    z = part.ends[:used, 2::3]
    last = part.valid[:used].sum(axis=1) - 1
    joints = np.concatenate([z[:, 0], z[np.arange(used), 1, last][:, None]], axis=1)
    # A chunk that is not full ends in padding; its last joint is behind its last segment.
    joints = np.where(np.arange(joints.shape[1]) <= last[:, None], joints, joints[:, -1:])
    extremes = [joints.argmin(axis=1) - 1, joints.argmax(axis=1) - 1]
    loops = part.previous.reshape(-1)[chunks.head] >= 0
    numbers, shape = index_numbers(part.index)
    return [loops, *extremes, *numbers], shape


def index_numbers(index: SegmentIndex) -> tuple[list[np.ndarray], Shape]:
    """Integers of an index, and its sizes."""
    lists = index.lists[1:].astype(np.int64)
    # A list goes up and then repeats its first chunk: no difference stands for the repetition.
    more = np.maximum(np.diff(lists, axis=1), 0)
    long = np.flatnonzero(more[:, SHORT_LIST - 1])
    codes = np.concatenate([in_z_order(index.root), index.nodes[:-1].reshape(-1)]).astype(np.int64)
    split = codes >= 0
    differences = np.diff(~codes[~split], prepend=0)
    cells = np.full(len(codes), SPLIT)
    cells[~split] = differences - (differences <= SPLIT)
    numbers = [
        np.diff(lists[:, 0], prepend=0),
        more[:, : SHORT_LIST - 1].T,
        np.diff(long, prepend=0),
        more[long, SHORT_LIST - 1 : LONG_LIST - 1].T,
        cells,
    ]
    return numbers, Shape(index.root.shape[0].bit_length() - 1, len(index.nodes), len(index.lists), len(long))


def element_numbers(
    elements: MapElements, length: Int[np.ndarray, " runs"]
) -> tuple[list[np.ndarray], UInt8[np.ndarray, "C W"], int]:
    """Integers of elements, the cells as rows of tables, and the side of the blocks of cells that share one."""
    order = np.searchsorted(elements_of(length)[0], elements.first.reshape(-1))
    rows, columns = int(elements.rows), int(elements.columns)
    for side in BLOCKS:
        block = block_of_cell(rows, columns, side)
        members = [np.flatnonzero(block == number) for number in range(block[-1] + 1 if len(block) else 0)]
        tables = [np.unique(elements.cells[cells]) for cells in members]
        if all(len(groups) <= 256 for groups in tables):
            break
    places = np.zeros(elements.cells.shape, np.uint8)
    for cells, groups in zip(members, tables, strict=True):
        places[cells] = np.searchsorted(groups, elements.cells[cells])
    groups = np.concatenate([np.zeros(0, np.int64), *tables])
    sizes = np.array([len(groups) for groups in tables], int)
    return [np.diff(order, prepend=0), sizes, np.diff(groups, prepend=0)], places, side
