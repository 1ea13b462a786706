"""Frozen records that JAX can trace, map over and batch."""

import dataclasses
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


@dataclass_transform(frozen_default=True)
def pytree(cls: type[T]) -> type[T]:
    """Makes `cls` a frozen dataclass whose fields are the children of a JAX pytree.

    Unflattening does not run `__init__`: JAX fills records with tracers and placeholders on its way
    through `vmap` and `scan`, and those would fail the shape checks meant for users.
    """
    record: Any = dataclasses.dataclass(frozen=True, eq=False)(cls)
    names = tuple(field.name for field in dataclasses.fields(record))
    keys = tuple(jax.tree_util.GetAttrKey(name) for name in names)

    def flatten(item):
        return tuple(getattr(item, name) for name in names), None

    def flatten_with_keys(item):
        return tuple((key, getattr(item, key.name)) for key in keys), None

    def unflatten(_, children):
        item = object.__new__(record)
        for name, child in zip(names, children, strict=True):
            object.__setattr__(item, name, child)
        return item

    jax.tree_util.register_pytree_with_keys(record, flatten_with_keys, unflatten, flatten)
    return record


def take(record: T, index: Any) -> T:
    """Indexes every array of a record with `index` (an int, slice, array or tuple of them)."""
    return jax.tree.map(lambda leaf: leaf[index], record)


def stack(records: list[T]) -> T:
    """Stacks records of equal shapes along a new leading axis, on the host."""
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *records)
