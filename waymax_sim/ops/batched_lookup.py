"""How questions about maps are batched."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Int

from waymax_sim.ops.bank import is_bank_row
from waymax_sim.pytree import Array

T = TypeVar("T")


def batch_over_maps(ask: Callable[..., Any]) -> Callable[..., Any]:
    """Makes `ask`, which answers questions about many maps, a function of one map that is batched without loss.

    Batching neither takes maps out of their batch nor goes through them one by one: it makes one longer row of
    questions, each with the number of its map. Not differentiable.

    Args:
      ask: From M stacked maps, the map that each of Q questions is about and any arrays over questions to any arrays
        over questions.

    Returns:
      The same for one map: a function of it and of the arrays over questions.
    """
    batched = jax.custom_batching.custom_vmap(ask)

    @batched.def_vmap
    def _(size: int, in_batched: Any, maps: Any, which: Any, *arrays: Any) -> tuple[Any, Any]:
        def whole(leaf: Array, mapped: bool) -> Array:
            return leaf if mapped else jnp.broadcast_to(leaf, (size, *leaf.shape))

        def joined(leaf: Array) -> Array:
            return leaf.reshape(leaf.shape[0] * leaf.shape[1], *leaf.shape[2:])

        which = whole(which, in_batched[1])
        if any(jax.tree.leaves(in_batched[0])):
            count = jax.tree.leaves(jax.tree.map(lambda leaf, mapped: leaf.shape[mapped], maps, in_batched[0]))[0]
            maps = jax.tree.map(lambda leaf, mapped: joined(whole(leaf, mapped)), maps, in_batched[0])
            which = which + count * jnp.arange(size, dtype=which.dtype)[:, None]
        longer = [joined(whole(array, mapped)) for array, mapped in zip(arrays, in_batched[2:], strict=True)]
        answers = batched(maps, joined(which), *longer)
        answers = jax.tree.map(lambda leaf: leaf.reshape(size, leaf.shape[0] // size, *leaf.shape[1:]), answers)
        return answers, jax.tree.map(lambda _: True, answers)

    def of_one(road: Any, *arrays: Any) -> Any:
        leaves, structure = jax.tree.flatten(road, is_leaf=is_bank_row)
        rows = [leaf for leaf in leaves if is_bank_row(leaf)]
        # A map of a bank stays there: queries take its index.
        index = rows[0].index if rows else jnp.int32(0)
        maps = [leaf.bank if is_bank_row(leaf) else leaf[None] for leaf in leaves]
        which = jnp.broadcast_to(index, arrays[0].shape[:1])
        return batched(jax.tree.unflatten(structure, maps), which, *arrays)

    return of_one


def update_masked(answers: T, left: Bool[Array, " Q"], batch: int, find: Callable[[Int[Array, " batch"]], T]) -> T:
    """Replaces the answers of the items that are `left`, `batch` at a time; costs next to nothing where none is.

    Answers are any record of arrays over items. `find` gets indices of items and returns their answers. Not
    differentiable in reverse.
    """
    size = left.shape[0]
    batch = min(batch, size)
    items, count = nonzero_padded(left, size + batch)

    def body(loop):
        begin, answers = loop
        which = jax.lax.dynamic_slice(items, (begin,), (batch,))
        found = find(jnp.minimum(which, size - 1))
        return begin + batch, jax.tree.map(lambda all_, new: all_.at[which].set(new, mode="drop"), answers, found)

    return jax.lax.while_loop(lambda loop: loop[0] < count, body, (jnp.int32(0), answers))[1]


def map_masked(answers: T, asked: Bool[Array, " Q"], batch: int, find: Callable[[Int[Array, " b"]], T]) -> T:
    """Works off what is asked: on a CPU, whose caches hold `batch` items, so many at a time; elsewhere all at once."""
    size = asked.shape[0]

    def at_once(answers, asked):
        def put(old, new):
            return jnp.where(asked.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        return jax.tree.map(put, answers, find(jnp.arange(size, dtype=jnp.int32)))

    def few_at_a_time(answers, asked):
        return update_masked(answers, asked, batch, find)

    return jax.lax.platform_dependent(answers, asked, cpu=few_at_a_time, default=at_once)


def nonzero_padded(left: Bool[Array, " Q"], length: int) -> tuple[Int[Array, " L"], Int[Array, ""]]:
    """Indices of the items that are left, then the number of items again and again; and how many are left."""
    size = left.shape[0]

    # The obvious loop: XLA makes one program of it, four times as fast on a CPU as its sums and scatters are.
    def one_by_one(left):
        def look(item, found):
            items, count = found
            return items.at[count].set(item), count + left[item].astype(jnp.int32)

        items, count = jax.lax.fori_loop(0, size, look, (jnp.full(length, size, jnp.int32), jnp.int32(0)))
        return items.at[count].set(size), count

    def at_once(left):
        items = jnp.nonzero(left, size=length, fill_value=size)[0].astype(jnp.int32)
        return items, jnp.sum(left, dtype=jnp.int32)

    cpu = jax.custom_batching.sequential_vmap(one_by_one)
    return jax.lax.platform_dependent(left, cpu=cpu, default=at_once)
