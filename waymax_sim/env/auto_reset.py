"""Automatic resets: choice of the next scenario, and reset of the environments whose episode has ended."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Key

from waymax_sim.env.bank import ScenarioBank
from waymax_sim.env.interaction import EpisodeState
from waymax_sim.ops.batched_lookup import update_masked
from waymax_sim.pytree import Array, pytree, tree_index

# Reset batches per set of environments: one batch holds 1/32 of them.
NUM_RESET_BATCHES = 32


@pytree
class AutoResetState:
    """The state of an environment across episodes.

    Attributes:
      episode: The current episode.
      scene: Index of its scenario in the bank.
      version: Version of that scenario when the episode began.
      count: Number of previous episodes.
      position: Position in `ScenarioBank.order`, modulo its length.
      stride: Increment of the position per episode.
      returns: Sum of rewards of each controlled agent in its current episode, [K].
      lengths: Number of steps of each controlled agent in its current episode, [K].
      key: Random key of all episodes.
    """

    episode: EpisodeState
    scene: Int[Array, ""]
    version: Int[Array, ""]
    count: Int[Array, ""]
    position: Int[Array, ""]
    stride: Int[Array, ""]
    returns: Float[Array, " K"]
    lengths: Int[Array, " K"]
    key: Key[Array, ""]


def draw_scenario(bank: ScenarioBank, key: Key[Array, ""], current: Int[Array, ""]) -> Int[Array, ""]:
    """Index of a random scenario other than the current one, with the weights of the bank.

    Args:
      bank: The scenarios.
      key: Random key.
      current: Index of the current scenario, which is excluded; -1 for none.
    """
    others = jnp.arange(len(bank), dtype=jnp.int32) != current
    weights = jnp.where(others, bank.weights, 0.0)
    # The current scenario is repeated if no other one has a positive weight.
    weights = jnp.where(jnp.any(weights > 0), weights, bank.weights)
    total = jnp.cumsum(weights)
    threshold = jax.random.uniform(key, (), minval=0.0, maxval=1.0) * total[-1]
    index = jnp.searchsorted(total, threshold, side="right").astype(jnp.int32)
    # Rounding may lead beyond the last scenario with a positive weight.
    last = jnp.max(jnp.where(weights > 0, jnp.arange(len(bank), dtype=jnp.int32), 0))
    return jnp.minimum(index, last)


def reset_where(start: Callable[[Any, Any], Any], shared: Any, own: Any, done: Bool[Array, ""], current: Any) -> Any:
    """`start(shared, own)` where `done`, and `current` elsewhere; pure, for one environment.

    Under `vmap`, `start` runs in small batches and only for the environments that are done (`custom_vmap`). No gradient
    flows into a start.

    Args:
      start: Returns a new value of the structure of `current`.
      shared: Arguments common to all environments, not batched.
      own: Arguments of each environment.
      done: Whether to start.
      current: Any pytree of arrays.
    """
    shared, own, held = jax.lax.stop_gradient((shared, own, current))
    fresh = _masked_start(start)(shared, own, done, held)
    return jax.tree.map(lambda new, old: jnp.where(done, new, old), fresh, current)


def _masked_start(start: Callable[[Any, Any], Any]) -> Callable[[Any, Any, Bool[Array, ""], Any], Any]:
    @jax.custom_batching.custom_vmap
    def masked_start(shared: Any, own: Any, done: Bool[Array, ""], current: Any) -> Any:
        return jax.lax.cond(done, lambda: start(shared, own), lambda: current)

    @masked_start.def_vmap
    def _(size: int, in_batched: Any, shared: Any, own: Any, done: Any, current: Any) -> tuple[Any, Any]:
        def batch(leaf: Array, is_batched: bool) -> Array:
            return leaf if is_batched else jnp.broadcast_to(leaf, (size, *leaf.shape))

        own, done, current = jax.tree.map(batch, (own, done, current), tuple(in_batched[1:]))
        axes = jax.tree.map(lambda is_batched: 0 if is_batched else None, in_batched[0])

        def begin(items: Int[Array, " b"]) -> Any:
            some = jax.tree.map(lambda leaf, is_batched: leaf[items] if is_batched else leaf, shared, in_batched[0])
            return jax.vmap(start, in_axes=(axes, 0))(some, tree_index(own, items))

        started = update_masked(current, done, max(1, size // NUM_RESET_BATCHES), begin)
        return started, jax.tree.map(lambda _: True, started)

    return masked_start
