"""How a packed scene is laid out; shared by the two directions.

A packed scene is a header, numbers that are kept as they are, and one long row of small integers. Positions are whole
steps of a grid of about a millimetre, so a polyline is its first point, its first step and how each step differs from
the one before. The header says how many there are of everything.
"""

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Num

from waymax_sim.datatypes.elements import NUM_ELEMENT_POINTS
from waymax_sim.datatypes.roadmap import CHUNK, LANE_TYPES, ROAD_EDGE_TYPES

MAGIC = b"WSP1"
# The largest grid of an index: 2**8 cells a side.
MAX_DEPTH = 8
# Steps of the grid: 2**-10 m, exact in float32 up to 16 km; 2**-7 m/s; 2**15 in a turn.
POSITION, VELOCITY, YAW = 2.0**-10, 2.0**-7, np.pi / 2**14
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
    num_groups: int
    rows: int
    columns: int
    listed: int
    block: int


class Shape(NamedTuple):
    """The sizes of an index of segments; those of edges and of lanes follow the counts in the header."""

    depth: int
    nodes: int
    lists: int
    long: int


class Table(NamedTuple):
    """Where the segments of one kind are: which runs of points have them, and how they fill chunks.

    Attributes:
      runs: Runs of map points that have segments.
      count: Number of segments of each.
      head: First segment of each; every run starts a chunk of its own.
      first: First joint of each chunk, among all points and the extra joints.
      hollow: Places in chunks that have no segment.
    """

    runs: Int[np.ndarray, " K"]
    count: Int[np.ndarray, " K"]
    head: Int[np.ndarray, " K"]
    first: Int[np.ndarray, " C"]
    hollow: Int[np.ndarray, " H"]


def _membership(types: tuple[int, ...]) -> Bool[np.ndarray, " codes"]:
    # The last entry is that of type -1, which no segment has.
    member = np.zeros(32, bool)
    member[list(types)] = True
    return member


SEGMENT_TYPES = {"edges": _membership(ROAD_EDGE_TYPES), "lanes": _membership(LANE_TYPES)}


def ramp(lengths: Int[np.ndarray, " K"]) -> Int[np.ndarray, " n"]:
    """0, 1, 2, ... for each of several lengths, one after the other."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)


def table(
    member: Bool[np.ndarray, " codes"],
    run_type: Int[np.ndarray, " runs"],
    segments: Int[np.ndarray, " runs"],
    base: Int[np.ndarray, " runs"],
) -> Table:
    """Chunks of the segments of some types, given how many segments each run has and where its joints begin."""
    runs = np.flatnonzero(member[run_type] & (segments > 0))
    count = segments[runs]
    chunks = -(-count // CHUNK)
    head = CHUNK * (np.cumsum(chunks) - chunks)
    spare = CHUNK * chunks - count
    return Table(
        runs=runs,
        count=count,
        head=head,
        first=np.repeat(base[runs], chunks) + CHUNK * ramp(chunks),
        hollow=np.repeat(head + count, spare) + ramp(spare),
    )


def elements_of(length: Int[np.ndarray, " runs"]) -> tuple[Int[np.ndarray, " E"], Int[np.ndarray, " E"]]:
    """First point and number of points of each element of runs of points, in order."""
    pieces = -(-length // NUM_ELEMENT_POINTS)
    offset = NUM_ELEMENT_POINTS * ramp(pieces)
    first = np.repeat(np.cumsum(length) - length, pieces) + offset
    return first, np.minimum(np.repeat(length, pieces) - offset, NUM_ELEMENT_POINTS)


@functools.cache
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
