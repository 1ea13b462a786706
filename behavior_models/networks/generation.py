"""Generation of tokens with a cache of keys and values: one program for the prompt and all new tokens."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Key

from behavior_models.networks.attention import TokenIndex, causal_index
from behavior_models.networks.kv_cache import KVCache
from behavior_models.networks.transformer import Transformer, TransformerModel
from waymax_sim.pytree import Array


def prefill(
    network: Transformer, embeddings: Float[Array, "*lead T D"], index: TokenIndex, cache: KVCache, chunk: int
) -> tuple[Float[Array, "*lead C D"], KVCache]:
    """A cache with further tokens, written in calls of C tokens, and the features of the last call.

    The number of tokens is filled up to a multiple of C with tokens before the first one, which are not valid.

    Args:
      network: The transformer.
      embeddings: Sums of embeddings.
      index: Order of the tokens.
      cache: Keys and values before; it needs slots for the tokens of a call and of the window.
      chunk: Tokens of a call C.
    """
    calls = _calls(embeddings, -2, chunk), _split_index_calls(index, chunk)

    def write(cache: KVCache, call: tuple[Array, TokenIndex]):
        features, cache = network.step(*call, cache)
        return cache, features

    cache, features = jax.lax.scan(write, cache, calls)
    return features[-1], cache


def generate(
    model: TransformerModel,
    params: Any,
    prompt: Int[Array, "*lead T"],
    valid: Bool[Array, "*lead T"],
    key: Key[Array, ""],
    *,
    num_tokens: int,
    temperature: float = 0.0,
) -> Int[Array, "*lead N"]:
    """Tokens after a prompt, the most likely ones or samples.

    Args:
      model: The transformer.
      params: Its parameters.
      prompt: Tokens of the prompt, filled at its beginning.
      valid: Valid tokens of the prompt; the last one is.
      key: Random key of the samples.
      num_tokens: Number of new tokens N.
      temperature: Divisor of the logits; 0 for the most likely tokens.
    """
    network, lead, length = model.network(params), prompt.shape[:-1], prompt.shape[-1]
    index = causal_index(valid)
    cache = model.config.cache(lead, length + num_tokens)
    features, cache = network.step(network.embed(prompt), index, cache)
    last = jnp.full((*lead, 1), length - 1, jnp.int32), index.position[..., -1:]

    def choose(features: Array, key: Key[Array, ""]) -> Array:
        logits = network.logits(features[..., -1:, :])
        if temperature == 0.0:
            return jnp.argmax(logits, axis=-1).astype(jnp.int32)
        return jax.random.categorical(key, logits / temperature).astype(jnp.int32)

    def extend(carry: tuple[KVCache, Array, tuple[Array, Array]], key: Key[Array, ""]):
        cache, token, (step, position) = carry
        own = TokenIndex(step + 1, position + 1, jnp.ones_like(step, bool))
        features, cache = network.step(network.embed(token), own, cache)
        return (cache, choose(features, key), (own.step, own.position)), token[..., 0]

    first_key, *keys = jax.random.split(key, 2)
    carry = cache, choose(features, first_key), last
    _, tokens = jax.lax.scan(extend, carry, jax.random.split(keys[0], num_tokens))
    return jnp.moveaxis(tokens, 0, -1)


def _calls(values: Array, axis: int, chunk: int) -> Array:
    """Values of calls along a new first axis; 0 before the first token."""
    axis = values.ndim + axis
    count = math.ceil(values.shape[axis] / chunk)
    widths = [(0, 0)] * values.ndim
    widths[axis] = (count * chunk - values.shape[axis], 0)
    padded = jnp.pad(values, widths)
    return jnp.moveaxis(padded.reshape(*values.shape[:axis], count, chunk, *values.shape[axis + 1 :]), axis, 0)


def _split_index_calls(index: TokenIndex, chunk: int) -> TokenIndex:
    return TokenIndex(*(_calls(each, -1, chunk) for each in (index.step, index.position, index.valid)))
