"""How a packed scene is laid out; shared by the two directions.

A packed scene is a header and one LZ4 block. In the block are the arrays of a padded scenario, one after the other,
most of them as they are: so most of loading is one call, and what it gives are the arrays. Some have a shorter form:

- `PLANES`: small integers. The low bytes of all come first, then the high bytes, which are nearly all the same.
- `DERIVED`: arrays that follow from others and from `Extras`. Positions are whole steps of a grid of about a
  millimetre, so a polyline is its first point, its first step and how each step differs from the one before.
"""

import dataclasses
import functools
import math
import struct
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from waymax_sim.datasets.errors import DataError
from waymax_sim.datatypes.agents import AgentInfo, AgentState
from waymax_sim.datatypes.elements import MapElements
from waymax_sim.datatypes.goals import Goals
from waymax_sim.datatypes.lanes import LaneGraph, StopLines
from waymax_sim.datatypes.padding import axes
from waymax_sim.datatypes.roadmap import RoadMap, SegmentIndex, Segments
from waymax_sim.datatypes.route import Routes
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.datatypes.signals import Signals

MAGIC = b"WSP5"
# What it is, the checksum of all that follows, the size of what is in the block, whether there are routes and goals.
HEADER = struct.Struct("<4s2I2?2x")
CHECKED = 8  # bytes before those that the checksum is of
# Steps of the grid: 2**-10 m, exact in float32 up to 16 km; 2**-7 m/s; 2**15 in a turn.
POSITION, VELOCITY, YAW = 2.0**-10, 2.0**-7, np.pi / 2**14
# Of lanes, 1/m.
CURVATURE = 2.0**-12
YAW_BITS = 15

_SEGMENTS = ("edges", "lanes")
PLANES = frozenset(
    [
        *(f"{part}.{name}" for part in _SEGMENTS for name in ("previous", "next")),
        *(f"{part}.index.{name}" for part in _SEGMENTS for name in ("root", "nodes", "lists")),
        *("graph.left", "graph.right", "graph.curvature", "elements.first"),
    ]
)
DERIVED = frozenset(
    [
        *("log.xyz", "log.yaw", "log.velocity", "roadmap.xyz", "routes.xyz"),
        *("edges.ends", "lanes.ends", "graph.arc_length", "elements.points"),
    ]
)


class Extras(NamedTuple):
    """What is kept instead of derived arrays, and of planes. Lengths are those without padding.

    Attributes:
      lengths: Of the axes, by name in order, without padding.
      heads: First point of each polyline: of map features, then of routes.
      jumps: From the point before to that first point, in steps of the grid.
      bends: How steps between points differ from the ones before.
      sharp: Which of the bends are larger than a byte.
      sharp_bends: These bends.
      spare: Joints that are no map points, m.
      edges_first: First joint of each chunk of edges, less that of the one before.
      lanes_first: The same of lanes.
      start: x, y, z, velocities and heading of agents at the first step, all in whole steps.
      motion: How they change from step to step, one number of one agent after the other, as planes. Where an agent is
        not seen, it stands.
      shorts: Planes of all arrays of 16 bits, one after the other.
      longs: Planes of all arrays of 32 bits.
    """

    lengths: np.ndarray
    heads: np.ndarray
    jumps: np.ndarray
    bends: np.ndarray
    sharp: np.ndarray
    sharp_bends: np.ndarray
    spare: np.ndarray
    edges_first: np.ndarray
    lanes_first: np.ndarray
    start: np.ndarray
    motion: np.ndarray
    shorts: np.ndarray
    longs: np.ndarray


# Types of arrays, by the number that stands for them.
TYPES = tuple(np.dtype(kind) for kind in ("?", "i1", "u1", "<i2", "<i4", "<f4"))
# Type, number of dimensions, and three dimensions of each array; the table of all stands first in the block.
ROW = 5
# What a scenario is made of, by path.
PARTS = {
    "agents": AgentInfo,
    "log": AgentState,
    "roadmap": RoadMap,
    **dict.fromkeys(_SEGMENTS, Segments),
    **{f"{part}.index": SegmentIndex for part in _SEGMENTS},
    "graph": LaneGraph,
    "graph.stop_lines": StopLines,
    "elements": MapElements,
    "signals": Signals,
    "routes": Routes,
    "goals": Goals,
}


class Form(NamedTuple):
    """The arrays of all scenarios that have the same of the optional parts.

    Attributes:
      structure: How they make up the scenario.
      names: Their paths, in order.
      listed: Those that are not derived, and extras: what the table in the block is of.
      axes: Names of the padded axes, in order.
    """

    structure: Any
    names: tuple[str, ...]
    listed: tuple[str, ...]
    axes: tuple[str, ...]


class Place(NamedTuple):
    """Where an array is: its type, its shape, and its first byte in the block; of planes, its first number."""

    dtype: np.dtype
    shape: tuple[int, ...]
    begin: int


@functools.cache
def form(routes: bool, goals: bool) -> Form:
    """The form of scenarios with or without routes and goals."""
    absent = {name for name, there in (("routes", routes), ("goals", goals)) if not there}
    scenario = _outline(Scenario, "", absent)
    names = tuple(path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(scenario))
    listed = (*(name for name in names if name not in DERIVED), *Extras._fields)
    found = dict.fromkeys(axis for name in names for axis in axes(name) if axis is not None)
    return Form(jax.tree.structure(scenario), names, listed, tuple(found))


def _outline(kind: type, path: str, absent: set[str]) -> Any:
    """A record without arrays. It is not initialised, which would ask for them."""
    record = object.__new__(kind)
    for field in dataclasses.fields(kind):
        inner = f"{path}.{field.name}" if path else field.name
        part = PARTS.get(inner)
        value = None if inner in absent else 0 if part is None else _outline(part, inner, absent)
        object.__setattr__(record, field.name, value)
    return record


def path_of(path: Any) -> str:
    """A path in a scenario, as text."""
    return ".".join(key.name for key in path)


def table_of(arrays: Iterable[np.ndarray]) -> bytes:
    """The table of arrays that are listed."""
    rows = [(TYPES.index(a.dtype), a.ndim, *a.shape, *(3 - a.ndim) * (0,)) for a in arrays]
    return np.array(rows, "<i4").tobytes()


@functools.lru_cache(maxsize=256)
def places(table: bytes, listed: tuple[str, ...]) -> tuple[dict[str, Place], int]:
    """Where each array is, given the table, and where the last one ends. Many scenes have the same table.

    Raises:
      DataError: The table is damaged.
    """
    found, at, lengths = {}, dict.fromkeys((1, 2, 4), 0), {}
    rows = np.frombuffer(table, "<i4").reshape(len(listed), ROW)
    numbers = dict.fromkeys(("<i2", "<i4"), 0)
    kinds, dimensions = rows[:, 0], rows[:, 1]
    if rows.min() < 0 or kinds.max() >= len(TYPES) or dimensions.max() > 3:
        raise DataError("has an impossible table of arrays")
    for name, (kind, dimension, *shape) in zip(listed, rows.tolist(), strict=True):
        dtype, shape = TYPES[kind], tuple(shape[:dimension])
        for axis, length in zip(axes(name), shape, strict=False):
            if axis is not None and lengths.setdefault(axis, length) != length:
                raise DataError(f"has arrays of other lengths than announced along {axis}")
        row, key = (numbers, dtype.str) if name in PLANES else (at, dtype.itemsize)
        if key not in row:
            raise DataError(f"has an impossible {name}")
        found[name] = Place(dtype, shape, row[key])
        row[key] += math.prod(shape) * (1 if row is numbers else dtype.itemsize)
    # The widest come first, so that each is aligned.
    base = {4: len(table), 2: len(table) + at[4], 1: len(table) + at[4] + at[2]}
    for name, place in found.items():
        if name not in PLANES:
            found[name] = place._replace(begin=base[place.dtype.itemsize] + place.begin)
    return found, base[1] + at[1]
