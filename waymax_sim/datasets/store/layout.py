"""The arrays of a scenario in their stored order, with the axes along which they are padded."""

import dataclasses
import functools
import typing
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax

from waymax_sim.datasets.errors import DataError
from waymax_sim.datatypes.padding import axis_names, fill_value
from waymax_sim.datatypes.scenario import Scenario

Shape = tuple[int, ...]


class ScenarioLayout(NamedTuple):
    """The arrays of all scenarios that have the same optional parts.

    Attributes:
      structure: Tree structure of the scenario.
      names: Path of each array, such as `log.xyz`, in the order of the tree.
      axes: Names of the leading axes of each array, see `datatypes.padding`.
      fill_values: Padding value of each array.
    """

    structure: Any
    names: tuple[str, ...]
    axes: tuple[tuple[str | None, ...], ...]
    fill_values: tuple[float | int, ...]


@functools.cache
def scenario_layout(has_routes: bool, has_goals: bool) -> ScenarioLayout:
    """The layout of scenarios with or without routes and goals."""
    absent = {name for name, present in (("routes", has_routes), ("goals", has_goals)) if not present}
    skeleton = _skeleton(Scenario, absent)
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(skeleton)]
    names = tuple(".".join(key.name for key in path) for path in paths)
    axes, fill_values = tuple(map(axis_names, names)), tuple(map(fill_value, names))
    return ScenarioLayout(jax.tree.structure(skeleton), names, axes, fill_values)


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


def check_axis_lengths(layout: ScenarioLayout, shapes: Sequence[Shape]) -> dict[str, int]:
    """Lengths of the padded axes, by name.

    Raises:
      DataError: Arrays along the same axis differ in length.
    """
    lengths: dict[str, int] = {}
    for name, axes, shape in zip(layout.names, layout.axes, shapes, strict=True):
        for axis, length in zip(axes, shape, strict=False):
            if axis is not None and lengths.setdefault(axis, length) != length:
                raise DataError(f"{name} has the length {length} along {axis}, other arrays {lengths[axis]}")
    return lengths


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
