"""How questions about maps are batched."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Int

from waymax_sim.pytree import Array

T = TypeVar("T")


def scene_by_scene(ask: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a function of (map, *arrays) answer for one map after another on CPUs when it is batched over maps.

    A CPU reads one map at a time from its cache; the steps of a whole batch, each over all maps, leave it. Elsewhere,
    all maps are asked at once. Where only the arrays are batched, they are asked of the one map as longer arrays, so
    the axes that `ask` works along must be their last ones. Not differentiable.
    """
    batched = jax.custom_batching.custom_vmap(ask)

    @batched.def_vmap
    def _(size: int, in_batched: Any, road: Any, *arrays: Any) -> tuple[Any, Any]:
        leaves, structure = jax.tree.flatten((road, *arrays))
        is_batched = jax.tree.leaves(in_batched)

        def one(answer: Callable[..., Any], parts: list[Any]) -> Any:
            part = iter(parts)
            whole = [next(part) if mapped else leaf for leaf, mapped in zip(leaves, is_batched, strict=True)]
            return answer(*jax.tree.unflatten(structure, whole))

        if any(jax.tree.leaves(in_batched[0])):
            mapped = [leaf for leaf, mapped in zip(leaves, is_batched, strict=True) if mapped]
            answers = jax.lax.platform_dependent(
                mapped,
                cpu=functools.partial(jax.lax.map, functools.partial(one, batched)),
                default=jax.vmap(functools.partial(one, ask)),
            )
        else:
            longer = [
                array if mapped else jnp.broadcast_to(array, (size, *array.shape))
                for array, mapped in zip(arrays, in_batched[1:], strict=True)
            ]
            answers = batched(road, *longer)
        return answers, jax.tree.map(lambda _: True, answers)

    return batched


def work_off(answers: T, left: Bool[Array, " Q"], batch: int, find: Callable[[Int[Array, " batch"]], T]) -> T:
    """Replaces the answers of the items that are `left`, `batch` at a time; costs next to nothing where none is.

    Answers are any record of arrays over items. `find` gets indices of items and returns their answers. Not
    differentiable in reverse.
    """
    size = left.shape[0]

    def body(loop):
        answers, left = loop
        which = jnp.nonzero(left, size=min(batch, size), fill_value=size)[0]
        found = find(jnp.minimum(which, size - 1))
        put = jax.tree.map(lambda all_, new: all_.at[which].set(new, mode="drop"), answers, found)
        return put, left.at[which].set(False, mode="drop")

    return jax.lax.while_loop(lambda loop: jnp.any(loop[1]), body, (answers, left))[0]
