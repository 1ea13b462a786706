"""What is known of a map, as small integers."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Int32, UInt8

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.store.layout import (
    IS_EDGE,
    IS_LANE,
    LONG_LIST,
    SHORT_LIST,
    SPLIT,
    Chunks,
    Shape,
    block_of_cell,
    chunks_of,
    elements_of,
    ends_of_elements,
    in_z_order,
)
from waymax_sim.datatypes.elements import MapElements
from waymax_sim.datatypes.roadmap import RoadMap, SegmentIndex, Segments
from waymax_sim.datatypes.scenario import Scenario

# Sides of the blocks of cells that share a table of at most 256 groups, the largest first.
BLOCKS = (8, 6, 5, 4, 3, 2, 1)

Numbers = list[np.ndarray]


class Runs(NamedTuple):
    """Map points by feature: first point, number of points and row in the feature table of each."""

    start: Int[np.ndarray, " runs"]
    length: Int[np.ndarray, " runs"]
    row: Int[np.ndarray, " runs"]


class Joints(NamedTuple):
    """How segments follow from points.

    Attributes:
      chunks: The chunks of segments.
      irregular: Runs whose segments do not simply join their points: some points repeat, some segments were cut.
      segments: Number of segments of each irregular run.
      extra: Joints of the irregular runs, m.
    """

    chunks: Chunks
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


def joints_of(scenario: Scenario, runs: Runs, num_points: int) -> Joints:
    """Compares segments with the points they were made from; `num_points` are those of all polylines."""
    run_type = scenario.roadmap.feature_type[runs.row]
    segments, base = runs.length - 1, runs.start.copy()
    irregular: dict[int, np.ndarray] = {}
    for part, member in ((scenario.edges, IS_EDGE), (scenario.lanes, IS_LANE)):
        start, end, feature = part.start, part.end, np.where(part.valid, part.feature, -1).reshape(-1)
        for run in np.flatnonzero(member[run_type] & (segments > 0)):
            own = np.flatnonzero(feature == runs.row[run])
            joints = np.concatenate([start[own], end[own[-1:]]])
            if not np.array_equal(joints, scenario.roadmap.xyz[runs.start[run] :][: runs.length[run]]):
                irregular[int(run)] = joints
    which = np.array(sorted(irregular), int)
    sizes = np.array([len(irregular[run]) for run in which], int)
    segments[which] = np.maximum(sizes - 1, 0)
    base[which] = num_points + np.cumsum(sizes) - sizes
    extra = np.concatenate([np.zeros((0, 3), np.float32), *(irregular[run] for run in which)])
    return Joints(chunks_of(run_type, segments, base), which, segments[which], extra)


def segment_numbers(part: Segments) -> tuple[np.ndarray, np.ndarray]:
    """Which of the segments in each chunk has the lowest joint and the highest: their joints, counted from -1."""
    used = part.valid.any(axis=1)
    z, last = part.ends[used][:, 2::3], part.valid[used].sum(axis=1) - 1
    joints = np.concatenate([z[:, 0], z[np.arange(len(z)), 1, last][:, None]], axis=1)
    # A chunk that is not full ends in padding; its last joint is behind its last segment.
    joints = np.where(np.arange(joints.shape[1]) <= last[:, None], joints, joints[:, -1:])
    return joints.argmin(axis=1) - 1, joints.argmax(axis=1) - 1


class IndexNumbers(NamedTuple):
    """An index of segments as integers: ascending ones and others, and its sizes."""

    first: Int[np.ndarray, " L"]
    more: Int[np.ndarray, "L k"]
    side: Int[np.ndarray, " L"]
    codes: Int[np.ndarray, " n"]
    shape: Shape


def index_numbers(index: SegmentIndex) -> IndexNumbers:
    """Lists as their first chunks and the steps to the next ones, and codes of cells as they are."""
    lists = index.lists[1:].astype(np.int64)
    # A list goes up and then repeats its first chunk: no step stands for the repetition.
    more = np.maximum(np.diff(lists, axis=1), 0)
    codes = np.concatenate([in_z_order(index.root), index.nodes[:-1].reshape(-1)]).astype(np.int64)
    shape = Shape(index.root.shape[0].bit_length() - 1, len(index.nodes), len(index.lists))
    return IndexNumbers(lists[:, 0], more, index.side[1:], codes, shape)


def indexes_numbers(edges: IndexNumbers, lanes: IndexNumbers, num_edge_chunks: int) -> tuple[Numbers, Numbers, int]:
    """Both indexes as one: numbers that ascend or nearly do, other numbers, and how many lists are long."""
    more = np.concatenate([edges.more, lanes.more])
    long = np.flatnonzero(more[:, SHORT_LIST - 1])
    codes = np.concatenate([edges.codes, lanes.codes])
    split = codes >= 0
    which = np.concatenate([~edges.codes, ~lanes.codes + edges.shape.lists])
    steps = np.diff(which[~split], prepend=0)
    cells = np.full(len(codes), SPLIT)
    cells[~split] = steps - (steps <= SPLIT)
    rising = [np.concatenate([edges.first, lanes.first + num_edge_chunks]), long]
    # Lanes have no sides.
    other = [more[:, : SHORT_LIST - 1].T, more[long, SHORT_LIST - 1 : LONG_LIST - 1].T, edges.side, cells]
    return rising, other, len(long)


class ElementNumbers(NamedTuple):
    """Elements as integers: near to one another and others, the cells as rows of tables, and the side of a block."""

    rising: Numbers
    other: Numbers
    places: UInt8[np.ndarray, "C W"]
    block: int


def element_numbers(elements: MapElements, length: Int[np.ndarray, " runs"], points: Int32[np.ndarray, "3 n"], unit):
    """Integers of elements, given the lengths of runs and the points of the map in whole units (m)."""
    first, size = elements_of(length)
    order = np.searchsorted(first, elements.first.reshape(-1))
    low, high = ends_of_elements(points, first[order], size[order])
    box = np.round(elements.box.T / unit).astype(np.int64) - np.concatenate([low, high])
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
    sizes = np.array([len(groups) for groups in tables], int)
    groups = np.concatenate([np.zeros(0, np.int64), *tables])
    return ElementNumbers([order, groups], [sizes, box], places, side)
