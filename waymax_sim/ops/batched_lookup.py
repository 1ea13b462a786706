"""Batching of map queries, and loops over the masked items of an array."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Int

from waymax_sim.ops import backend
from waymax_sim.ops.bank import is_bank_row
from waymax_sim.pytree import Array

T = TypeVar("T")


def batch_over_maps(query: Callable[..., Any]) -> Callable[..., Any]:
    """A function of one map from `query`, a function of many maps; `vmap` of it calls `query` once.

    Under `vmap` the queries of all batch entries form one longer array, each with the index of its map: no map is
    copied, and there is no loop over maps. Not differentiable.

    Args:
      query: From M stacked maps, the map index of each of Q queries and arrays over queries, to arrays over queries.

    Returns:
      The same for one map, as a function of the map and of the arrays over queries.
    """
    batched = jax.custom_batching.custom_vmap(query)

    @batched.def_vmap
    def _(size: int, in_batched: Any, maps: Any, map_index: Any, *arrays: Any) -> tuple[Any, Any]:
        def with_batch_axis(leaf: Array, is_batched: bool) -> Array:
            return leaf if is_batched else jnp.broadcast_to(leaf, (size, *leaf.shape))

        def merge_axes(leaf: Array) -> Array:
            return leaf.reshape(leaf.shape[0] * leaf.shape[1], *leaf.shape[2:])

        map_index = with_batch_axis(map_index, in_batched[1])
        if any(jax.tree.leaves(in_batched[0])):
            counts = jax.tree.map(lambda leaf, is_batched: leaf.shape[is_batched], maps, in_batched[0])
            num_maps = jax.tree.leaves(counts)[0]
            maps = jax.tree.map(
                lambda leaf, is_batched: merge_axes(with_batch_axis(leaf, is_batched)), maps, in_batched[0]
            )
            map_index = map_index + num_maps * jnp.arange(size, dtype=map_index.dtype)[:, None]
        merged = [
            merge_axes(with_batch_axis(array, is_batched))
            for array, is_batched in zip(arrays, in_batched[2:], strict=True)
        ]
        results = batched(maps, merge_axes(map_index), *merged)
        results = jax.tree.map(lambda leaf: leaf.reshape(size, leaf.shape[0] // size, *leaf.shape[1:]), results)
        return results, jax.tree.map(lambda _: True, results)

    def query_one_map(one_map: Any, *arrays: Any) -> Any:
        leaves, structure = jax.tree.flatten(one_map, is_leaf=is_bank_row)
        rows = [leaf for leaf in leaves if is_bank_row(leaf)]
        # Queries of a bank carry the index of the map; its arrays are read in place.
        index = rows[0].index if rows else jnp.int32(0)
        maps = [leaf.bank if is_bank_row(leaf) else leaf[None] for leaf in leaves]
        map_index = jnp.broadcast_to(index, arrays[0].shape[:1])
        return batched(jax.tree.unflatten(structure, maps), map_index, *arrays)

    return query_one_map


def update_masked(
    values: T, query_mask: Bool[Array, " Q"], batch: int, compute: Callable[[Int[Array, " batch"]], T]
) -> T:
    """Replaces the values of masked items, in a loop over batches of them. Not differentiable in reverse.

    Args:
      values: Any record of arrays over Q items.
      query_mask: Items to compute; without any, the loop has no iteration.
      batch: Items per iteration.
      compute: From indices of items to their new values.
    """
    size = query_mask.shape[0]
    batch = min(batch, size)
    items, count = nonzero_padded(query_mask, size + batch)

    def body(loop):
        first, values = loop
        index = jax.lax.dynamic_slice(items, (first,), (batch,))
        computed = compute(jnp.minimum(index, size - 1))
        return first + batch, jax.tree.map(lambda old, new: old.at[index].set(new, mode="drop"), values, computed)

    return jax.lax.while_loop(lambda loop: loop[0] < count, body, (jnp.int32(0), values))[1]


def map_masked(values: T, query_mask: Bool[Array, " Q"], batch: int, compute: Callable[[Int[Array, " b"]], T]) -> T:
    """Replaces the values of masked items: in batches on CPUs, all in parallel on accelerators.

    The batches that fit a CPU cache are shown by the bench rows `evaluate_state` and `observe_all`.

    Args:
      values: Any record of arrays over Q items.
      query_mask: Items to compute.
      batch: Items per iteration on a CPU.
      compute: From indices of items to their new values.
    """
    if backend.on_cpu():
        return update_masked(values, query_mask, batch, compute)

    def select(old, new):
        return jnp.where(query_mask.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return jax.tree.map(select, values, compute(jnp.arange(query_mask.shape[0], dtype=jnp.int32)))


def nonzero_padded(mask: Bool[Array, " Q"], length: int) -> tuple[Int[Array, " L"], Int[Array, ""]]:
    """Indices of the masked items, padded with the number of items Q to a given length, and their count."""
    if backend.on_cpu():
        return jax.custom_batching.sequential_vmap(functools.partial(_nonzero_loop, length=length))(mask)
    size = mask.shape[0]
    items = jnp.nonzero(mask, size=length, fill_value=size)[0].astype(jnp.int32)
    return items, jnp.sum(mask, dtype=jnp.int32)


def _nonzero_loop(mask: Bool[Array, " Q"], length: int) -> tuple[Int[Array, " L"], Int[Array, ""]]:
    """`nonzero_padded` as a scalar loop: on CPUs faster than a prefix sum and a scatter (bench row `observe_all`)."""
    size = mask.shape[0]

    def append(item, state):
        items, count = state
        return items.at[count].set(item), count + mask[item].astype(jnp.int32)

    items, count = jax.lax.fori_loop(0, size, append, (jnp.full(length, size, jnp.int32), jnp.int32(0)))
    return items.at[count].set(size), count
