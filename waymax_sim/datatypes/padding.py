"""Padding of scenarios to common axis lengths, so that they stack and share compiled programs."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from waymax_sim.datatypes.roadmap import PADDING_COORDINATE
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.pytree import aligned_host_arrays, tree_index

# Names of the leading axes of an array, by its path in a `Scenario` or a prefix of it; None for an axis that is never
# padded. The letters are those of the shapes in the records.
PADDED_AXES = {
    "agents": ("N",),
    "log": (None, "N"),
    "roadmap": ("P",),
    "roadmap.feature_id": ("F",),
    "roadmap.feature_type": ("F",),
    "roadmap.speed_limit": ("F",),
    "roadmap.links": ("L",),
    "roadmap.driveways": ("D",),
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
            ".index.min_z": ("L",),
            ".index.max_z": ("L",),
        }.items()
    },
    "graph": ("graph.F",),
    **dict.fromkeys(("graph.arc_length", "graph.curvature", "graph.left", "graph.right"), ("lanes.C",)),
    "graph.has_unassigned_sign": (),
    "graph.inferred": (),
    "graph.stop_lines": ("graph.Z",),
    "polylines": ("polylines.G",),
    "polylines.cell_groups": ("polylines.C",),
    "polylines.grid_corner": (),
    "signals": (None, "S"),
    "signals.lane_id": ("S",),
    "routes": ("M", "R"),
    "goals": ("N",),
}
# Padding values other than zero and False, by field: -1 for ids, indices and codes, and coordinates that are never
# nearest.
FILL_VALUES: dict[str, float | int] = dict.fromkeys(
    ("feature_type", "feature_id", "links", "lane_id", "previous", "next", "id", "root", "nodes", "cell_groups"), -1
)
FILL_VALUES |= dict.fromkeys(("successors", "predecessors", "light", "left", "right", "lane"), -1)
FILL_VALUES |= {"endpoints": PADDING_COORDINATE, "driveways": PADDING_COORDINATE, "points": np.inf}
# Minimum length of axes other than one: a route has a segment.
MIN_LENGTHS = {"R": 2}


def axis_names(path: str) -> tuple[str | None, ...]:
    """Names of the leading axes of the array at a path such as `log.xyz`, from the longest prefix in `PADDED_AXES`."""
    names = path.split(".")
    parts = (".".join(names[:length]) for length in range(len(names), 0, -1))
    return next((PADDED_AXES[part] for part in parts if part in PADDED_AXES), ())


def fill_value(path: str) -> float | int:
    """Padding value of the array at a path."""
    return FILL_VALUES.get(path.split(".")[-1], 0)


def min_length(axis: str) -> int:
    """Minimum length of an axis of a scenario; without content it consists of padding."""
    return MIN_LENGTHS.get(axis, 1)


class LeafPadding(NamedTuple):
    """Padding of one array of a scenario.

    Attributes:
      axes: Names of the leading axes, None for one that is never padded.
      fill: Value of padding.
    """

    axes: tuple[str | None, ...]
    fill: float


@functools.lru_cache(maxsize=16)
def _leaf_padding(structure: Any) -> list[LeafPadding]:
    """Padding of each leaf of a scenario with the given tree structure, in the order of the leaves."""
    outline = jax.tree.unflatten(structure, [0] * structure.num_leaves)
    paths = [[key.name for key in path] for path, _ in jax.tree_util.tree_leaves_with_path(outline)]
    return [LeafPadding(axis_names(".".join(path)), fill_value(".".join(path))) for path in paths]


def axis_lengths(scenario: Scenario) -> dict[str, int]:
    """Lengths of the padded axes of a scenario without a batch axis, by name."""
    leaves, structure = jax.tree.flatten(scenario)
    lengths = {}
    for leaf, padding in zip(leaves, _leaf_padding(structure), strict=True):
        lengths.update(zip(padding.axes, leaf.shape, strict=False))
    lengths.pop(None, None)
    return lengths


def pad_empty_axes(scenario: Scenario) -> Scenario:
    """Pads the axes below their minimum length, on the host; the arrays of other axes are shared.

    A reduction over an empty axis is undefined, and so is an index into it. Scenarios without some content therefore
    have a row of padding instead of an empty axis.
    """
    leaves, structure = jax.tree.flatten(scenario)
    pairs = zip(leaves, _leaf_padding(structure), strict=True)
    return jax.tree.unflatten(structure, [_pad_empty_leaf(leaf, padding) for leaf, padding in pairs])


def _pad_empty_leaf(leaf: np.ndarray, padding: LeafPadding) -> np.ndarray:
    named = zip(padding.axes, leaf.shape, strict=False)
    leading = [length if axis is None else max(length, min_length(axis)) for axis, length in named]
    shape = (*leading, *leaf.shape[len(leading) :])
    if shape == leaf.shape:
        return leaf
    padded = np.full(shape, padding.fill, leaf.dtype)
    padded[tuple(map(slice, leaf.shape))] = leaf
    return padded


def common_lengths(scenarios: Sequence[Scenario]) -> dict[str, int]:
    """Minimum lengths of the padded axes that hold each of the scenarios, by name."""
    lengths = [axis_lengths(scenario) for scenario in scenarios]
    return {axis: max(min_length(axis), *(length[axis] for length in lengths)) for axis in lengths[0]}


# Lengths of the map axes for a map of 4096 points; recorded maps need less of each of the others.
MAP_UNIT = {"P": 4096, "F": 64, "graph.F": 64, "L": 128, "D": 96, "polylines.G": 144, "polylines.C": 384}
MAP_UNIT |= {"edges.C": 192, "edges.Q": 1024, "edges.L": 1024, "lanes.C": 320, "lanes.Q": 1280, "lanes.L": 1280}


def bucket_lengths(lengths: Mapping[str, int]) -> dict[str, int]:
    """Axis lengths rounded up to few distinct values.

    The map axes share one scale: the smallest of 1, 2, 3, 4, 6, 8, 12, ... for which that multiple of `MAP_UNIT` holds
    all of them. Every other axis is rounded up to 8, 16, 24, 32, 48, 64, 96, ...
    """
    scale = _round_up(max(-(-lengths[axis] // unit) for axis, unit in MAP_UNIT.items()), 1)
    others = {axis: _round_up(length, 8) for axis, length in lengths.items() if axis not in MAP_UNIT}
    return others | {axis: scale * unit for axis, unit in MAP_UNIT.items()}


# Axis lengths of the smallest size class. Agents and map share one scale; every other axis has a scale of its own.
COUPLED_CLASS = {axis: 4 * unit for axis, unit in MAP_UNIT.items()} | {"N": 64, "goals.N": 64}
INDEPENDENT_CLASS = {"S": 64, "M": 8, "R": 2048, "edges.G": 32, "lanes.G": 32, "graph.Z": 64}


def size_class_lengths(lengths: Mapping[str, int]) -> dict[str, int]:
    """Axis lengths rounded up so far that a data set has two or three shapes, each worth a compiled program.

    The size class of a scenario depends on its own lengths only. The smallest class has 64 agents and 16384 map points,
    the following ones 2, 4, 8, ... times as many of both.
    """
    coupled = [-(-lengths[axis] // unit) for axis, unit in COUPLED_CLASS.items() if axis in lengths]
    rounded = {axis: unit * _ceil_pow2(max(coupled)) for axis, unit in COUPLED_CLASS.items()}
    rounded |= {
        axis: unit * _ceil_pow2(-(-lengths[axis] // unit))
        for axis, unit in INDEPENDENT_CLASS.items()
        if axis in lengths
    }
    return {axis: rounded[axis] for axis in lengths}


def _ceil_pow2(factor: int) -> int:
    """The smallest power of two that is at least `factor` and at least 1."""
    return 1 << max(factor - 1, 0).bit_length()


def _round_up(length: int, unit: int) -> int:
    """The smallest of 1, 2, 3, 4, 6, 8, 12, ... units that is at least `length`."""
    power = unit
    while power < length:
        if power > unit and power + power // 2 >= length:
            return power + power // 2
        power *= 2
    return power


def axes_too_large(scenario: Scenario, lengths: Mapping[str, int]) -> list[str]:
    """Names of the axes that are longer than in `lengths`; an axis that is absent there has its minimum length."""
    return [axis for axis, length in axis_lengths(scenario).items() if length > lengths.get(axis, min_length(axis))]


def pad(scenario: Scenario, lengths: Mapping[str, int]) -> Scenario:
    """Pads a scenario on the host. Padding is invalid and changes no result.

    Raises:
      ValueError: An axis is already longer.
    """
    too_large = axes_too_large(scenario, lengths)
    if too_large:
        raise ValueError(f"cannot pad {scenario.scenario_id!r}: axes {', '.join(too_large)} are longer than `lengths`")
    buffer = BatchBuffer([scenario], lengths, 1)
    buffer.write(0, scenario)
    return tree_index(buffer.batch, (0, ...))


def pad_to_class(scenario: Scenario) -> Scenario:
    """Pads a scenario on the host to its `size_class_lengths`."""
    return pad(scenario, size_class_lengths(axis_lengths(scenario)))


# Number of steps that is never rounded up: that of WOMD.
WOMD_STEPS = 91


def step_class_length(num_steps: int) -> int:
    """A number of steps rounded up to few distinct values: 16, 20, 24, 28, 32, 40, 48, ..., or 91 for 91 steps."""
    if num_steps == WOMD_STEPS:
        return num_steps
    unit = max(4, _ceil_pow2(num_steps) // 8)
    return max(16, -(-num_steps // unit) * unit)


def pad_steps(scenario: Scenario, num_steps: int) -> Scenario:
    """Adds steps after `last_step`, on the host. They are never simulated, and change no result.

    Args:
      scenario: The scenario.
      num_steps: Number of steps T with padding.
    """
    missing = num_steps - scenario.num_steps
    if not missing:
        return scenario
    ahead = scenario.timestamps[-1] + scenario.time_step * np.arange(1, missing + 1, dtype=np.float32)

    def extend(steps: np.ndarray) -> np.ndarray:
        return np.concatenate([steps, np.zeros((missing, *steps.shape[1:]), steps.dtype)])

    return change_steps(scenario, extend, np.concatenate([scenario.timestamps, ahead.astype(np.float32)]))


def crop_steps(scenario: Scenario) -> Scenario:
    """Removes the steps after `last_step`, on the host."""
    steps = slice(int(scenario.last_step) + 1)
    return change_steps(scenario, lambda leaf: leaf[steps], scenario.timestamps[steps])


def change_steps(
    scenario: Scenario, change: Callable[[np.ndarray], np.ndarray], timestamps: Float[np.ndarray, " T"]
) -> Scenario:
    """A scenario with other steps, on the host.

    Args:
      scenario: The scenario.
      change: Applied to all arrays with an axis of steps, which is the first one, but the timestamps.
      timestamps: The new timestamps, s.
    """
    signals = scenario.signals
    states = {name: change(getattr(signals, name)) for name in ("state", "stop_point", "valid")}
    return dataclasses.replace(
        scenario,
        timestamps=timestamps,
        log=jax.tree.map(change, scenario.log),
        signals=dataclasses.replace(signals, **states),
    )


def check_compatible(scenarios: Sequence[Scenario]) -> None:
    """Raises a ValueError unless scenarios can share arrays.

    Raises:
      ValueError: There are none, they differ in the number or duration of steps, or only some have routes or goals.
    """
    if not scenarios:
        raise ValueError("no scenarios are given")
    if len({scenario.num_steps for scenario in scenarios}) > 1:
        raise ValueError("scenarios of different numbers of steps cannot share arrays; load them with a window")
    if len({scenario.time_step for scenario in scenarios}) > 1:
        steps = sorted({scenario.time_step for scenario in scenarios})
        raise ValueError(f"scenarios with time steps of {steps} s cannot share arrays; load them with time_step=0.1")
    for name in ("routes", "goals"):
        if len({getattr(scenario, name) is None for scenario in scenarios}) > 1:
            raise ValueError(f"scenarios with {name} and scenarios without cannot share arrays")


def stack_scenarios(scenarios: Sequence[Scenario]) -> Scenario:
    """Pads scenarios to their common lengths and stacks them along a leading batch axis B.

    Raises:
      ValueError: There are none, they differ in the number of steps, or only some have routes or goals.
    """
    check_compatible(scenarios)
    buffer = BatchBuffer(scenarios, common_lengths(scenarios), len(scenarios))
    for row, scenario in enumerate(scenarios):
        buffer.write(row, scenario)
    return buffer.batch


class BatchBuffer:
    """Host memory for a batch of scenarios, which are padded as they are written; see `aligned_host_arrays`.

    Args:
      examples: Scenarios that determine the optional parts and the dtypes of the batch.
      lengths: Lengths of the padded axes, by name; an axis that is absent has its minimum length.
      count: Number of rows B.

    Attributes:
      batch: The scenarios, along a leading axis B. The content of rows that have not been written is undefined.
    """

    batch: Scenario

    def __init__(self, examples: Sequence[Scenario], lengths: Mapping[str, int], count: int):
        leaves, self._structure = jax.tree.flatten(examples[0])
        dtypes = [
            np.result_type(*(leaf.dtype for leaf in alike))
            for alike in zip(*map(jax.tree.leaves, examples), strict=True)
        ]
        self._lengths, self._num_steps = lengths, examples[0].num_steps
        shapes = []
        for leaf, padding in zip(leaves, _leaf_padding(self._structure), strict=True):
            named = zip(padding.axes, leaf.shape, strict=False)
            leading = [length if axis is None else lengths.get(axis, min_length(axis)) for axis, length in named]
            shapes.append((count, *leading, *leaf.shape[len(leading) :]))
        self._arrays = aligned_host_arrays(shapes, dtypes)
        self.batch = jax.tree.unflatten(self._structure, self._arrays)

    def fits(self, scenario: Scenario) -> bool:
        """Whether `write` can take a scenario: same optional parts and steps, no longer axis, no wider dtype."""
        leaves, structure = jax.tree.flatten(scenario)
        return (
            structure == self._structure
            and scenario.num_steps == self._num_steps
            and not axes_too_large(scenario, self._lengths)
            and all(leaf.dtype <= array.dtype for leaf, array in zip(leaves, self._arrays, strict=True))
        )

    def write(self, row: int, scenario: Scenario) -> None:
        """Writes a scenario that `fits` to a row, padded."""
        leaves = jax.tree.leaves(scenario)
        for array, leaf, padding in zip(self._arrays, leaves, _leaf_padding(self._structure), strict=True):
            if leaf.shape == array.shape[1:]:
                array[row] = leaf
            else:
                array[row] = padding.fill
                array[(row, *map(slice, leaf.shape))] = leaf
