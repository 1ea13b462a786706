"""Padding: scenes of similar size get equal shapes, so compiled programs are reused and scenes stack."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from waymax_sim.datatypes.roadmap import FAR
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.pytree import host_arrays, take

# The padded axes of arrays, by their path in a scenario or the start of it; letters as in the shapes of the records.
_AXES = {
    "agents": ("N",),
    "log": (None, "N"),
    "roadmap": ("P",),
    "roadmap.feature_id": ("F",),
    "roadmap.feature_type": ("F",),
    "roadmap.speed_limit": ("F",),
    "roadmap.links": ("L",),
    **{
        f"{segments}{path}": tuple(f"{segments}.{axis}" for axis in axes)
        for segments in ("edges", "lanes")
        for path, axes in {
            "": ("C",),
            ".index.corner": (),
            ".index.root": ("G", "G"),
            ".index.nodes": ("Q",),
            ".index.lists": ("L",),
            ".index.side": ("L",),
            ".index.low": ("L",),
            ".index.high": ("L",),
        }.items()
    },
    "graph": ("graph.F",),
    **dict.fromkeys(("graph.arc_length", "graph.curvature", "graph.left", "graph.right"), ("lanes.C",)),
    "graph.inferred": (),
    "graph.stop_lines": ("graph.Z",),
    "elements": ("elements.G",),
    "elements.cells": ("elements.C",),
    "elements.low": (),
    "signals": (None, "S"),
    "signals.lane_id": ("S",),
    "routes": ("M", "R"),
    "goals": ("N",),
}
# Where padding is not zero or False: ids, indices and codes of nothing, and places that are never nearest.
_FILL: dict[str, float | int] = dict.fromkeys(
    ("feature_type", "feature_id", "links", "lane_id", "previous", "next", "id", "root", "nodes", "cells"), -1
)
_FILL |= dict.fromkeys(("successors", "predecessors", "light", "left", "right", "lane"), -1)
_FILL |= {"ends": FAR, "points": np.inf}


def axes(path: str) -> tuple[str | None, ...]:
    """Names of the leading axes of the array at a path such as `log.xyz`; None for one that is never padded.

    They are those of the longest part of the path in the table.
    """
    names = path.split(".")
    parts = (".".join(names[:length]) for length in range(len(names), 0, -1))
    return next((_AXES[part] for part in parts if part in _AXES), ())


def fill_value(path: str) -> float | int:
    """Value of padding in the array at a path."""
    return _FILL.get(path.split(".")[-1], 0)


class _Leaf(NamedTuple):
    """How one of the arrays of a scenario is padded: the names of its leading axes, and with what."""

    axes: tuple[str | None, ...]
    fill: float


@functools.lru_cache(maxsize=16)
def _leaves(structure: Any) -> list[_Leaf]:
    """How the arrays of scenarios are padded, in order, given which of them there are."""
    outline = jax.tree.unflatten(structure, [0] * structure.num_leaves)
    paths = [[key.name for key in path] for path, _ in jax.tree_util.tree_leaves_with_path(outline)]
    return [_Leaf(axes(".".join(path)), fill_value(".".join(path))) for path in paths]


def sizes(scenario: Scenario) -> dict[str, int]:
    """Lengths of the padded axes of one scenario (no batch axis), by name."""
    leaves, structure = jax.tree.flatten(scenario)
    found = {}
    for leaf, how in zip(leaves, _leaves(structure), strict=True):
        found.update(zip(how.axes, leaf.shape, strict=False))
    found.pop(None, None)
    return found


def common_sizes(scenarios: Sequence[Scenario]) -> dict[str, int]:
    """The least lengths of the padded axes that hold all of some scenarios, by name."""
    lengths = [sizes(scenario) for scenario in scenarios]
    return {axis: max(length[axis] for length in lengths) for axis in lengths[0]}


# Sizes of everything about a map of 4096 points, with room to spare on recorded maps.
_MAP_UNIT = {"P": 4096, "F": 64, "graph.F": 64, "L": 128, "elements.G": 144, "elements.C": 384}
_MAP_UNIT |= {"edges.C": 192, "edges.Q": 1024, "edges.L": 1024, "lanes.C": 320, "lanes.Q": 1280, "lanes.L": 1280}


def bucket(lengths: Mapping[str, int]) -> dict[str, int]:
    """Sizes rounded up so that few different shapes occur.

    Everything about the map grows in step: to the least multiple 1, 2, 3, 4, 6, 8, 12, ... of a unit of 4096 points
    that holds all of it. Other axes are rounded up to 8, 16, 24, 32, 48, 64, 96, ...
    """
    scale = _round_up(max(-(-lengths[axis] // unit) for axis, unit in _MAP_UNIT.items()), 1)
    others = {axis: _round_up(size, 8) for axis, size in lengths.items() if axis not in _MAP_UNIT}
    return others | {axis: scale * unit for axis, unit in _MAP_UNIT.items()}


# Sizes of the smallest class of scenes. What is about agents and map grows in step, other axes each by itself.
_CLASS = {axis: 4 * unit for axis, unit in _MAP_UNIT.items()} | {"N": 64, "goals.N": 64}
_CLASS_ALONE = {"S": 64, "M": 8, "R": 2048, "edges.G": 32, "lanes.G": 32, "graph.Z": 64}


def size_class(lengths: Mapping[str, int]) -> dict[str, int]:
    """Sizes rounded up so far that a data set has two or three shapes of scenes, each worth a compiled program.

    The class of a scene depends on nothing but its own sizes. The smallest is of 64 agents and 16384 map points, the
    next ones are of 2, 4, 8, ... times as many of both.
    """
    scale = _power(max(-(-size // _CLASS[axis]) for axis, size in lengths.items() if axis in _CLASS))
    alone = {axis: unit * _power(-(-lengths[axis] // unit)) for axis, unit in _CLASS_ALONE.items() if axis in lengths}
    return {axis: scale * _CLASS[axis] if axis in _CLASS else alone[axis] for axis in lengths}


def _power(factor: int) -> int:
    """The least power of two that is no less, at least 1."""
    return 1 << max(factor - 1, 0).bit_length()


def _round_up(size: int, unit: int) -> int:
    power = unit
    while power < size:
        if power > unit and power + power // 2 >= size:
            return power + power // 2
        power *= 2
    return power if size else 0


def larger_in(scenario: Scenario, to: Mapping[str, int]) -> list[str]:
    """The axes that are longer than asked; where an axis is not asked for, nothing may be along it."""
    return [axis for axis, size in sizes(scenario).items() if size > to.get(axis, 0)]


def pad(scenario: Scenario, to: Mapping[str, int]) -> Scenario:
    """Pads a scenario on the host. Padding is invalid everywhere and changes no result.

    Raises:
      ValueError: An axis is already longer than asked.
    """
    larger = larger_in(scenario, to)
    if larger:
        raise ValueError(f"cannot pad {scenario.scenario_id!r}: it is larger than asked in {', '.join(larger)}")
    stack = Stack([scenario], to, 1)
    stack.put(0, scenario)
    return take(stack.batch, (0, ...))


def pad_to_class(scenario: Scenario) -> Scenario:
    """Pads a scenario on the host to its `size_class`."""
    return pad(scenario, size_class(sizes(scenario)))


def stack_scenarios(scenarios: Sequence[Scenario]) -> Scenario:
    """Pads scenarios to their common size and stacks them along a leading batch axis B.

    Raises:
      ValueError: There are none, they differ in the number of steps, or only some have routes or goals.
    """
    if not scenarios:
        raise ValueError("no scenarios to stack")
    if len({scenario.num_steps for scenario in scenarios}) > 1:
        raise ValueError("scenarios of different numbers of steps cannot be stacked")
    for name in ("routes", "goals"):
        if len({getattr(scenario, name) is None for scenario in scenarios}) > 1:
            raise ValueError(f"scenarios with {name} and scenarios without cannot be stacked")
    stack = Stack(scenarios, common_sizes(scenarios), len(scenarios))
    for row, scenario in enumerate(scenarios):
        stack.put(row, scenario)
    return stack.batch


class Stack:
    """Room on the host for scenarios, which are padded as they are put in; see `host_arrays`.

    Args:
      examples: Some like those that will be put in: they say which optional parts there are, and the types of arrays.
      to: Lengths of the padded axes, as `larger_in` takes them.
      count: Number of scenarios.

    Attributes:
      batch: The scenarios, along a leading axis B. Rows that nothing was put in hold anything.
    """

    batch: Scenario

    def __init__(self, examples: Sequence[Scenario], to: Mapping[str, int], count: int):
        leaves, self._structure = jax.tree.flatten(examples[0])
        alike = zip(*map(jax.tree.leaves, examples), strict=True)
        kinds = [np.result_type(*(leaf.dtype for leaf in leaves)) for leaves in alike]
        self._to, self._num_steps = to, examples[0].num_steps
        shapes = []
        for leaf, how in zip(leaves, _leaves(self._structure), strict=True):
            lengths = zip(how.axes, leaf.shape, strict=False)
            named = [size if axis is None else to.get(axis, 0) for axis, size in lengths]
            shapes.append((count, *named, *leaf.shape[len(named) :]))
        self._arrays = host_arrays(shapes, kinds)
        self.batch = jax.tree.unflatten(self._structure, self._arrays)

    def holds(self, scenario: Scenario) -> bool:
        """Whether there is room for a scenario."""
        leaves, structure = jax.tree.flatten(scenario)
        return (
            structure == self._structure
            and scenario.num_steps == self._num_steps
            and not larger_in(scenario, self._to)
            and all(leaf.dtype <= room.dtype for leaf, room in zip(leaves, self._arrays, strict=True))
        )

    def put(self, row: int, scenario: Scenario) -> None:
        """Puts a scenario that it has room for in a row."""
        leaves = jax.tree.leaves(scenario)
        for room, leaf, how in zip(self._arrays, leaves, _leaves(self._structure), strict=True):
            if leaf.shape != room.shape[1:]:
                room[row] = how.fill
            room[(row, *map(slice, leaf.shape))] = leaf
