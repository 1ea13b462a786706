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
# Alignment of arrays that XLA uses without a copy, bytes.
ALIGNMENT_BYTES = 64


def static(**options: Any) -> Any:
    """A field of a `pytree` record that is structure and not data: hashable, equal by value, never traced.

    Args:
      options: Those of `dataclasses.field`, such as `default`.
    """
    return dataclasses.field(**options, metadata={"static": True})


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field, static))
def pytree(cls: type[T]) -> type[T]:
    """Makes `cls` a frozen dataclass whose fields are the children of a JAX pytree; `static` fields are structure.

    Records of equal static fields share compiled programs. `repr` states types and shapes of arrays, and the values of
    scalars on the host. Unflattening does not run `__init__`: JAX fills records
    with tracers and placeholders inside `vmap` and `scan`, and those would fail the shape checks meant for users.
    """
    if "__repr__" not in cls.__dict__:
        cls.__repr__ = lambda self: describe(self)
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


def describe(record: Any) -> str:
    """Text of a record in which arrays are their types and shapes."""
    fields = [(field.name, getattr(record, field.name, None)) for field in dataclasses.fields(record)]
    return f"{type(record).__name__}({', '.join(f'{name}={_short(value)}' for name, value in fields)})"


def _short(value: Any) -> str:
    """`describe` for any value: arrays as types and shapes, containers by their items."""
    if isinstance(value, np.ndarray | np.generic) and value.ndim == 0:
        return repr(value.item())
    if isinstance(value, np.ndarray | jax.Array):
        return f"{value.dtype}[{','.join(map(str, value.shape))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {_short(item)}" for key, item in value.items()) + "}"
    if type(value) is tuple:
        return f"({', '.join(map(_short, value))})"
    return repr(value)


@dataclass_transform(frozen_default=True)
def static_record(cls: type[T]) -> type[T]:
    """Makes `cls` a frozen dataclass that is a pytree without leaves: all of it is structure.

    It is a legal argument of `jit`; records that are equal share compiled programs.
    """
    return jax.tree_util.register_static(dataclasses.dataclass(frozen=True)(cls))


def tree_index(record: T, index: Any) -> T:
    """Indexes every array of a record with `index` (an int, slice, array or tuple of them)."""
    return jax.tree.map(lambda leaf: leaf[index], record, is_leaf=_is_array)


def _is_array(item: Any) -> bool:
    """Whether an item is indexed as a whole: an array, or a lazy row of a bank (`ops.bank`)."""
    return hasattr(item, "__getitem__") and hasattr(item, "shape")


def to_device(record: T) -> T:
    """Moves the host arrays of a record to the device; device arrays and tracers are unchanged.

    Uses `device_put`, since `jnp.asarray` outside of `jit` compiles a program for every new shape.
    """
    return jax.tree.map(lambda leaf: jax.device_put(leaf) if isinstance(leaf, np.ndarray) else leaf, record)


def stack(records: list[T]) -> T:
    """Stacks records of equal shapes along a new leading axis, on the host."""
    rows = [[np.asarray(leaf) for leaf in jax.tree.leaves(record)] for record in records]
    dtypes = [np.result_type(*leaves) for leaves in zip(*rows, strict=True)]
    stacked = aligned_host_arrays([(len(rows), *leaf.shape) for leaf in rows[0]], dtypes)
    for array, *leaves in zip(stacked, *rows, strict=True):
        np.stack(leaves, out=array)
    return jax.tree.unflatten(jax.tree.structure(records[0]), stacked)


def aligned_host_arrays(shapes: Sequence[tuple[int, ...]], dtypes: Sequence[np.dtype]) -> list[np.ndarray]:
    """Uninitialized host arrays in one aligned block of memory.

    One large block is allocated in large pages, four times as fast as many small ones. `jax.device_put` uses aligned
    arrays on a CPU without a copy.
    """
    lengths = [dtype.itemsize * math.prod(shape) for shape, dtype in zip(shapes, dtypes, strict=True)]
    *offsets, end = itertools.accumulate(
        (-(-length // ALIGNMENT_BYTES) * ALIGNMENT_BYTES for length in lengths), initial=0
    )
    memory = np.empty(end + ALIGNMENT_BYTES, np.uint8)
    first = -memory.ctypes.data % ALIGNMENT_BYTES
    return [
        np.ndarray(shape, dtype, memory, first + offset)
        for shape, dtype, offset in zip(shapes, dtypes, offsets, strict=True)
    ]
