"""The arrays of a scenario in their stored order, with the axes along which they are padded and their exact form."""

import dataclasses
import functools
import typing
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.scene import check_num_steps
from waymax_sim.datatypes.padding import axis_names, fill_value
from waymax_sim.datatypes.roadmap import CHUNK_SIZE
from waymax_sim.datatypes.scenario import ID_BYTES, Scenario
from waymax_sim.maps.index import MAX_LEAF_CAPACITY
from waymax_sim.maps.lanes import MAX_LINKS
from waymax_sim.maps.polylines import NUM_LISTED_GROUPS

Shape = tuple[int, ...]
DTYPES = tuple(np.dtype(dtype) for dtype in ("?", "i1", "u1", "<i2", "<i4", "<f4"))
# Name of the axis of steps, which is never padded.
STEPS = "T"
# Lengths of the axes that are equal in all scenarios, by their letter in the records.
CONSTANT_AXES = {"bytes": ID_BYTES, "D": MAX_LINKS, "W": CHUNK_SIZE}
# Those of arrays whose letter has another meaning.
LIST_LENGTHS = {"lists": MAX_LEAF_CAPACITY, "cell_groups": NUM_LISTED_GROUPS + 1}
# Axes with at least one row.
NONEMPTY_AXES = (STEPS, "edges.C", "lanes.C", "graph.F", "edges.Q", "lanes.Q", "edges.L", "lanes.L")


class ScenarioLayout(NamedTuple):
    """The arrays of all scenarios that have the same optional parts.

    Attributes:
      structure: Tree structure of the scenario.
      names: Path of each array, such as `log.xyz`, in the order of the tree.
      axes: Names of the leading axes of each array, see `datatypes.padding`.
      fill_values: Padding value of each array.
      dims: Name or constant length of every axis of each array.
      dtypes: The dtypes that each array can have.
    """

    structure: Any
    names: tuple[str, ...]
    axes: tuple[tuple[str | None, ...], ...]
    fill_values: tuple[float | int, ...]
    dims: tuple[tuple[str | int, ...], ...]
    dtypes: tuple[frozenset[np.dtype], ...]


@functools.cache
def scenario_layout(has_routes: bool, has_goals: bool) -> ScenarioLayout:
    """The layout of scenarios with or without routes and goals."""
    absent = {name for name, present in (("routes", has_routes), ("goals", has_goals)) if not present}
    skeleton = _skeleton(Scenario, absent)
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(skeleton)]
    names = tuple(".".join(key.name for key in path) for path in paths)
    axes, fill_values = tuple(map(axis_names, names)), tuple(map(fill_value, names))
    annotations = [_annotation(name) for name in names]
    dims = tuple(_dims(name, annotation.dim_str) for name, annotation in zip(names, annotations, strict=True))
    dtypes = tuple(frozenset(d for d in DTYPES if d.name in annotation.dtypes) for annotation in annotations)
    return ScenarioLayout(jax.tree.structure(skeleton), names, axes, fill_values, dims, dtypes)


def _annotation(path: str) -> Any:
    """The annotation of the array at a path in `Scenario`, such as `Float[Array, "T N 3"]`."""
    annotation: Any = Scenario
    for name in path.split("."):
        options = typing.get_args(annotation)
        record = next((option for option in options if dataclasses.is_dataclass(option)), annotation)
        annotation = typing.get_type_hints(record)[name]
    # The annotation is that of host or device arrays.
    return next(iter(typing.get_args(annotation)), annotation)


def _dims(path: str, letters: str) -> tuple[str | int, ...]:
    """Name or constant length of every axis of the array at a path, from the letters of its annotation."""
    axes, tokens = axis_names(path), letters.split()
    is_open = tokens[:1] != [] and tokens[0].startswith("*")
    # A prefix in `PADDED_AXES` may have more axes than one of its arrays.
    axes = axes if is_open else axes[: len(tokens)]
    trailing = [token for token in tokens if token.isdecimal()] if is_open else tokens[len(axes) :]
    field = path.split(".")[-1]
    constants = CONSTANT_AXES | ({"W": LIST_LENGTHS[field]} if field in LIST_LENGTHS else {})
    lengths = [int(token) if token.isdecimal() else constants.get(token, token) for token in trailing]
    return (*(STEPS if axis is None else axis for axis in axes), *lengths)


def _skeleton(record_type: type, absent: set[str]) -> Any:
    """A record with zeros instead of arrays; built without `__init__`, which checks shapes in the tests."""
    hints = typing.get_type_hints(record_type)
    record = object.__new__(record_type)
    for field in dataclasses.fields(record_type):
        if "static" in field.metadata:
            continue  # its default applies
        # An optional part is annotated as a record or None.
        options = typing.get_args(hints[field.name]) or (hints[field.name],)
        part = next((option for option in options if dataclasses.is_dataclass(option)), None)
        value = None if field.name in absent else 0 if part is None else _skeleton(typing.cast(type, part), set())
        object.__setattr__(record, field.name, value)
    return record


def check_arrays(layout: ScenarioLayout, shapes: Sequence[Shape], dtypes: Sequence[np.dtype]) -> dict[str, int]:
    """Lengths of the padded axes by name, after checking shapes and dtypes of all arrays.

    Args:
      layout: The layout of the scenario.
      shapes: Shapes without padding.
      dtypes: Dtypes.

    Raises:
      DataError: An array has another form than in a scenario, or arrays along the same axis differ in length.
    """
    lengths: dict[str, int] = {}
    rows = zip(layout.names, layout.dims, layout.dtypes, shapes, dtypes, strict=True)
    for name, dims, allowed, shape, dtype in rows:
        if len(shape) != len(dims) or dtype not in allowed:
            raise DataError(f"{name} is an array of {dtype.name} with the shape {shape}")
        for axis, length in zip(dims, shape, strict=True):
            expected = axis if isinstance(axis, int) else lengths.setdefault(axis, length)
            if length != expected:
                raise DataError(f"{name} has the length {length} along {axis}, other arrays {expected}")
    check_num_steps(lengths[STEPS])
    empty = [axis for axis in NONEMPTY_AXES if not lengths[axis]]
    if empty:
        raise DataError(f"has no rows along {', '.join(empty)}")
    padded_axes = {axis for axes in layout.axes for axis in axes}
    return {axis: length for axis, length in lengths.items() if axis in padded_axes}


def padded_shapes(layout: ScenarioLayout, shapes: Sequence[Shape], lengths: Mapping[str, int]) -> list[Shape]:
    """Shapes of the arrays after padding.

    Args:
      layout: The layout of the scenario.
      shapes: Shapes without padding.
      lengths: Lengths of the padded axes.
    """
    return [
        (
            *[length if axis is None else lengths[axis] for axis, length in zip(axes, shape, strict=False)],
            *shape[len(axes) :],
        )
        for axes, shape in zip(layout.axes, shapes, strict=True)
    ]
