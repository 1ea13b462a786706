"""How a packed scene is laid out; shared by the two directions.

A packed scene is a header, numbers that are kept as they are, and one long row of small integers. Positions are whole
steps of a grid of about a millimetre, so a polyline is its first point, its first step and how each step differs from
the one before. The header says how many there are of everything.
"""

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Int32, Num

from waymax_sim.datatypes.elements import GROUP, NUM_ELEMENT_POINTS
from waymax_sim.datatypes.roadmap import CHUNK, LANE_TYPES, ROAD_EDGE_TYPES

MAGIC = b"WSP3"
# The largest grid of an index: 2**8 cells a side.
MAX_DEPTH = 8
# Steps of the grid: 2**-10 m, exact in float32 up to 16 km; 2**-7 m/s; 2**15 in a turn.
POSITION, VELOCITY, YAW = 2.0**-10, 2.0**-7, np.pi / 2**14
# Of lanes, 1/m.
CURVATURE = 2.0**-12
YAW_BITS = 15
# Chunks of a list that every list has room for; those of longer lists are apart.
SHORT_LIST, LONG_LIST = 4, 8
# Stands for a quartered cell among the differences of lists.
SPLIT = -7


class Counts(NamedTuple):
    """The header: how many there are of everything, of a packed scene."""

    num_steps: int
    num_agents: int
    current_step: int
    num_points: int
    num_runs: int
    num_features: int
    num_links: int
    num_signals: int
    has_routes: int
    num_paths: int
    num_samples: int
    num_irregular: int
    num_extra: int
    num_long: int
    num_groups: int
    num_listed: int
    rows: int
    columns: int
    width: int
    block: int
    num_segments: int
    num_successors: int
    num_predecessors: int
    num_left: int
    num_right: int
    num_stop_lines: int


class Shape(NamedTuple):
    """The sizes of an index of segments; those of edges and of lanes follow the counts in the header."""

    depth: int
    nodes: int
    lists: int


class Chunks(NamedTuple):
    """The chunks of segments, first those of edges, then those of lanes.

    Attributes:
      num_edges: How many of them are of edges.
      runs: Runs of map points that have segments, in the order of their chunks.
      head: First segment of each of these runs; every run starts a chunk of its own.
      count: Number of segments of each of these runs.
      run: Run of each chunk.
      first: First joint of each chunk, among all points and the extra joints.
    """

    num_edges: int
    runs: Int[np.ndarray, " K"]
    head: Int[np.ndarray, " K"]
    count: Int[np.ndarray, " K"]
    run: Int[np.ndarray, " C"]
    first: Int[np.ndarray, " C"]


def _membership(types: tuple[int, ...]) -> Bool[np.ndarray, " codes"]:
    # The last entry is that of type -1, which no segment has.
    member = np.zeros(32, bool)
    member[list(types)] = True
    return member


IS_EDGE, IS_LANE = _membership(ROAD_EDGE_TYPES), _membership(LANE_TYPES)


def ramp(lengths: Int[np.ndarray, " K"]) -> Int[np.ndarray, " n"]:
    """0, 1, 2, ... for each of several lengths, one after the other."""
    ends = lengths.cumsum()
    return np.arange(ends[-1] if len(ends) else 0) - (ends - lengths).repeat(lengths)


def chunks_of(
    run_type: Int[np.ndarray, " runs"], segments: Int[np.ndarray, " runs"], base: Int[np.ndarray, " runs"]
) -> Chunks:
    """The chunks of a map, given the type of each run of points, its number of segments and its first joint."""
    some = segments > 0
    edges, lanes = (member[run_type] & some for member in (IS_EDGE, IS_LANE))
    runs = np.concatenate([edges.nonzero()[0], lanes.nonzero()[0]])
    count = segments[runs]
    size = -(-count // CHUNK)
    begin = size.cumsum() - size
    run = runs.repeat(size)
    return Chunks(
        num_edges=int(-(-segments[edges] // CHUNK).sum()),
        runs=runs,
        head=CHUNK * begin,
        count=count,
        run=run,
        first=base[run] + CHUNK * ramp(size),
    )


def elements_of(length: Int[np.ndarray, " runs"]) -> tuple[Int[np.ndarray, " E"], Int[np.ndarray, " E"]]:
    """First point and number of points of each element of runs of points, in order."""
    pieces = -(-length // NUM_ELEMENT_POINTS)
    offset = NUM_ELEMENT_POINTS * ramp(pieces)
    first = (length.cumsum() - length).repeat(pieces) + offset
    return first, np.minimum(length.repeat(pieces) - offset, NUM_ELEMENT_POINTS)


def ends_of_elements(
    points: Int32[np.ndarray, "3 n"], first: Int[np.ndarray, " E"], size: Int[np.ndarray, " E"]
) -> tuple[Int32[np.ndarray, "2 G"], Int32[np.ndarray, "2 G"]]:
    """Smallest and largest x and y of the first and last points of the elements of each group."""
    ends = np.concatenate([first.reshape(-1, GROUP).T, (first + size - 1).reshape(-1, GROUP).T])
    xy = points[:2].take(ends, axis=1, mode="clip")
    return np.minimum.reduce(xy, axis=1), np.maximum.reduce(xy, axis=1)


@functools.lru_cache(maxsize=64)
def block_of_cell(rows: int, columns: int, side: int) -> Int[np.ndarray, " C"]:
    """The square block that each cell of a grid is in."""
    row, column = np.arange(rows) // side, np.arange(columns) // side
    return (row[:, None] * (-(-columns // side)) + column).reshape(-1)


def in_z_order(root: Num[np.ndarray, "G G"]) -> Num[np.ndarray, " n"]:
    """The cells of a grid whose side is a power of two along a Z-curve."""
    depth = root.shape[0].bit_length() - 1
    axes = [axis for level in range(depth) for axis in (level, depth + level)]
    return root.reshape((2,) * (2 * depth)).transpose(axes).reshape(-1)


def from_z_order(codes: Num[np.ndarray, " n"], depth: int) -> Num[np.ndarray, "G G"]:
    """The grid again."""
    axes = [*range(0, 2 * depth, 2), *range(1, 2 * depth, 2)]
    return codes.reshape((2,) * (2 * depth)).transpose(axes).reshape(2**depth, 2**depth)
