"""A packed scene, taken apart: what it holds in which order, but not yet what it means."""

import math
import struct
import zlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Shaped, UInt8

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.store import integers
from waymax_sim.datasets.store.layout import MAGIC, MAX_DEPTH, Counts, Shape
from waymax_sim.datatypes.elements import GROUP
from waymax_sim.datatypes.scenario import ID_BYTES

HEADER = struct.Struct(f"<4sI{len(Counts._fields) + 2 * len(Shape._fields)}i")
CHECKED = 8  # bytes before those that the checksum is of


class Row:
    """Takes numbers from the front of a row."""

    def __init__(self, values: Shaped[np.ndarray, " n"]):
        self._values, self._at = values, 0

    def take(self, *shape: int) -> Shaped[np.ndarray, "..."]:
        """The next numbers, in some shape; they may be written to.

        Raises:
          DataError: There are not so many.
        """
        start, self._at = self._at, self._at + math.prod(shape)
        if min(shape) < 0 or self._at > len(self._values):
            raise DataError("has fewer numbers than announced")
        return self._values[start : self._at].reshape(shape)


class Content(NamedTuple):
    """What a packed scene holds.

    Attributes:
      counts: How many there are of everything.
      edges: Sizes of the index of edges.
      lanes: Sizes of the index of lanes.
      floats: Numbers that are kept as they are.
      id_bytes: The scenario id.
      roles: Whether each agent is the sdc, to be predicted, of interest.
      seen: When each agent, then each light, was seen.
      on_route: Whether each path is the one that was driven.
      sampled: Which samples paths have.
      inferred: Which links between lanes were inferred.
      beside: Which lane segments have another one on the left, and on the right.
      places: What cells list, as places in the tables of their blocks.
      rising: Integers of which differences were kept.
      other: All other integers.
    """

    counts: Counts
    edges: Shape
    lanes: Shape
    floats: Row
    id_bytes: UInt8[np.ndarray, " bytes"]
    roles: Bool[np.ndarray, "3 N"]
    seen: Bool[np.ndarray, "tracks T"]
    on_route: Bool[np.ndarray, " M"]
    sampled: Bool[np.ndarray, "M R"]
    inferred: Bool[np.ndarray, " 4"]
    beside: Bool[np.ndarray, "2 E"]
    places: UInt8[np.ndarray, "C W"]
    rising: Row
    other: Row


def content_of(data: memoryview) -> Content:
    """Takes a packed scene apart.

    Raises:
      DataError: It does not match its checksum, or announces what it does not hold.
      ValueError, struct.error: It ends early.
    """
    magic, checksum, *header = HEADER.unpack_from(data)
    if magic != MAGIC or zlib.crc32(data[CHECKED:]) != checksum:
        raise DataError("does not match its checksum, or is no packed scene")
    n, edges, lanes = Counts(*header[:-6]), Shape(*header[-6:-3]), Shape(*header[-3:])
    if min(header) < 0 or n.current_step >= n.num_steps or max(edges.depth, lanes.depth) > MAX_DEPTH:
        raise DataError("has an impossible header")
    if min(n.width, n.block, edges.nodes, lanes.nodes, edges.lists, lanes.lists) < 1:
        raise DataError("has an impossible header")

    num_floats = 12 + n.num_steps + 3 * n.num_agents + n.num_features + 3 * n.num_extra + 5 * n.num_stop_lines
    floats = np.frombuffer(data, "<f4", num_floats, HEADER.size).copy()
    at = HEADER.size + floats.nbytes
    id_bytes = np.frombuffer(data, np.uint8, ID_BYTES, at).copy()
    tracks = n.num_agents + n.num_signals
    num_flags = 3 * n.num_agents + tracks * n.num_steps + n.num_paths * (1 + n.num_samples)
    num_flags += 4 + 2 * n.num_segments
    packed = np.frombuffer(data, np.uint8, -(-num_flags // 8), at + ID_BYTES)
    flags = Row(np.unpackbits(packed, count=num_flags).view(bool))
    at += ID_BYTES + len(packed)
    roles, seen = flags.take(3, n.num_agents), flags.take(tracks, n.num_steps)
    places = np.frombuffer(data, np.uint8, n.rows * n.columns * n.width, at).reshape(-1, n.width)
    values = integers.decode(data[at + places.size :])
    num_rising = n.num_runs + n.num_features + n.num_links + np.count_nonzero(seen[: n.num_agents]) + n.num_irregular
    num_rising += edges.lists - 1 + lanes.lists - 1 + n.num_long + GROUP * n.num_groups + n.num_listed
    rising = values[:num_rising]
    rising.cumsum(out=rising)
    return Content(
        counts=n,
        edges=edges,
        lanes=lanes,
        floats=Row(floats),
        id_bytes=id_bytes,
        roles=roles,
        seen=seen,
        on_route=flags.take(n.num_paths),
        sampled=flags.take(n.num_paths, n.num_samples),
        inferred=flags.take(4),
        beside=flags.take(2, n.num_segments),
        places=places,
        rising=Row(rising),
        other=Row(values[num_rising:]),
    )
