"""Automatic resets: the next scenario of an environment, and resets of only those environments that have ended."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Key

from waymax_sim.env.bank import ScenarioBank
from waymax_sim.env.interaction import EpisodeState
from waymax_sim.ops.batched_lookup import update_masked
from waymax_sim.pytree import Array, pytree, take

# Environments that are reset together: a share of all, so that many resets take few turns.
RESET_SHARE = 32


@pytree
class AutoResetState:
    """The state of an environment across episodes.

    Attributes:
      episode: The present episode.
      scene: Index of its scenario in the bank.
      version: Version of that scenario when the episode began.
      count: Number of episodes before it.
      position: Entry of `ScenarioBank.order` that it plays, counted on beyond the end.
      stride: Entries from one episode to the next.
      returns: Sum of rewards of each controlled agent in its present episode, [K].
      lengths: Number of steps of each controlled agent in its present episode, [K].
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
    """Index of a random scenario other than the current one, by the weights of the bank.

    Args:
      bank: The scenarios.
      key: Random key.
      current: Index of the scenario that is left, -1 for none.
    """
    others = jnp.arange(len(bank), dtype=jnp.int32) != current
    weights = jnp.where(others, bank.weights, 0.0)
    # Where no other scenario has a weight, the same one follows.
    weights = jnp.where(jnp.any(weights > 0), weights, bank.weights)
    total = jnp.cumsum(weights)
    threshold = jax.random.uniform(key, (), minval=0.0, maxval=1.0) * total[-1]
    index = jnp.searchsorted(total, threshold, side="right").astype(jnp.int32)
    # Rounding may exceed the last scenario with a weight.
    last = jnp.max(jnp.where(weights > 0, jnp.arange(len(bank), dtype=jnp.int32), 0))
    return jnp.minimum(index, last)


def reset_where(start: Callable[[Any, Any], Any], shared: Any, own: Any, done: Bool[Array, ""], current: Any) -> Any:
    """`start(shared, own)` where `done`, and `current` elsewhere; pure, for one environment.

    Batched by `vmap`, it starts only the environments that are done, a few at a time, instead of starting all and
    discarding most. No gradient flows into a start.

    Args:
      start: Makes a new value of the structure of `current`.
      shared: Arguments that all environments share, not batched.
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
        def whole(leaf: Array, is_batched: bool) -> Array:
            return leaf if is_batched else jnp.broadcast_to(leaf, (size, *leaf.shape))

        own, done, current = jax.tree.map(whole, (own, done, current), tuple(in_batched[1:]))
        axes = jax.tree.map(lambda is_batched: 0 if is_batched else None, in_batched[0])

        def begin(items: Int[Array, " b"]) -> Any:
            some = jax.tree.map(lambda leaf, is_batched: leaf[items] if is_batched else leaf, shared, in_batched[0])
            return jax.vmap(start, in_axes=(axes, 0))(some, take(own, items))

        started = update_masked(current, done, max(1, size // RESET_SHARE), begin)
        return started, jax.tree.map(lambda _: True, started)

    return masked_start
