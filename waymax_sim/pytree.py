"""Frozen records that JAX can trace, map over and batch."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar, dataclass_transform

import jax
import numpy as np

if TYPE_CHECKING:
    # Static checkers see neither shapes nor the difference between host and device arrays;
    # beartype checks both in the tests.
    Array = Any
else:
    Array = jax.Array | np.ndarray

T = TypeVar("T")
# Bytes that XLA wants arrays to be aligned to.
ALIGNED = 64


def static(**options: Any) -> Any:
    """A field of a `pytree` record that is structure and not data: hashable, equal by value, never traced.

    Args:
      options: Those of `dataclasses.field`, such as `default`.
    """
    return dataclasses.field(**options, metadata={"static": True})


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field, static))
def pytree(cls: type[T]) -> type[T]:
    """Makes `cls` a frozen dataclass whose fields are the children of a JAX pytree; `static` fields are structure.

    Records of equal static fields share compiled programs. Unflattening does not run `__init__`: JAX fills records
    with tracers and placeholders inside `vmap` and `scan`, and those would fail the shape checks meant for users.
    """
    record: Any = dataclasses.dataclass(frozen=True, eq=False)(cls)
    fields = dataclasses.fields(record)
    names = tuple(field.name for field in fields if "static" not in field.metadata)
    static_names = tuple(field.name for field in fields if "static" in field.metadata)
    keys = tuple(jax.tree_util.GetAttrKey(name) for name in names)

    def flatten(item):
        return tuple(getattr(item, name) for name in names), tuple(getattr(item, name) for name in static_names)

    def flatten_with_keys(item):
        children, structure = flatten(item)
        return tuple(zip(keys, children, strict=True)), structure

    def unflatten(structure, children):
        item = object.__new__(record)
        for name, child in zip((*names, *static_names), (*children, *structure), strict=True):
            object.__setattr__(item, name, child)
        return item

    jax.tree_util.register_pytree_with_keys(record, flatten_with_keys, unflatten, flatten)
    return record


@dataclass_transform(frozen_default=True)
def static_record(cls: type[T]) -> type[T]:
    """Makes `cls` a frozen dataclass that is a pytree without leaves: all of it is structure.

    It is a legal argument of `jit`; records that are equal share compiled programs.
    """
    return jax.tree_util.register_static(dataclasses.dataclass(frozen=True)(cls))


def take(record: T, index: Any) -> T:
    """Indexes every array of a record with `index` (an int, slice, array or tuple of them)."""
    return jax.tree.map(lambda leaf: leaf[index], record, is_leaf=_is_array)


def _is_array(item: Any) -> bool:
    """Whether an item is indexed as a whole, as arrays are, also those that stand for one (`ops.bank`)."""
    return hasattr(item, "__getitem__") and hasattr(item, "shape")


def on_device(record: T) -> T:
    """The record with its host arrays put on the device; what is there already, or traced, stays as it is.

    Not by `jnp.asarray`, which outside of `jit` compiles a program for every shape that it has not seen yet.
    """
    return jax.tree.map(lambda leaf: jax.device_put(leaf) if isinstance(leaf, np.ndarray) else leaf, record)


def stack(records: list[T]) -> T:
    """Stacks records of equal shapes along a new leading axis, on the host."""
    rows = [[np.asarray(leaf) for leaf in jax.tree.leaves(record)] for record in records]
    kinds = [np.result_type(*leaves) for leaves in zip(*rows, strict=True)]
    stacked = host_arrays([(len(rows), *leaf.shape) for leaf in rows[0]], kinds)
    for array, *leaves in zip(stacked, *rows, strict=True):
        np.stack(leaves, out=array)
    return jax.tree.unflatten(jax.tree.structure(records[0]), stacked)


def host_arrays(shapes: Sequence[tuple[int, ...]], kinds: Sequence[np.dtype]) -> list[np.ndarray]:
    """Arrays on the host that are yet to be filled, in one piece of memory, aligned as XLA wants them.

    A large piece comes in large pages, in a quarter of the time that the system takes for many small ones. What is
    aligned is used on a CPU without a copy, see `jax.device_put`.
    """
    lengths = [kind.itemsize * math.prod(shape) for shape, kind in zip(shapes, kinds, strict=True)]
    *begins, end = itertools.accumulate((-(-length // ALIGNED) * ALIGNED for length in lengths), initial=0)
    memory = np.empty(end + ALIGNED, np.uint8)
    first = -memory.ctypes.data % ALIGNED
    return [
        np.ndarray(shape, kind, memory, first + begin) for shape, kind, begin in zip(shapes, kinds, begins, strict=True)
    ]
