"""Attention of grouped queries to masked keys: order of tokens, terms of pairs, and a version with linear memory.

Sources: multi-query and grouped-query attention (Shazeer 2019, Ainslie et al. 2023); softmax in one pass over blocks of
keys (Milakov and Gimelshein 2018, Dao et al. 2022).
"""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from waymax_sim.pytree import Array, pytree

# Step of tokens that all tokens see, within any window.
PREFIX_STEP = -1
# Logit of a masked pair, finite.
NO_ATTENTION = -2.38e38
# Keys and queries of a block of `attend_chunked`.
CHUNK = 512


@pytree
class TokenIndex:
    """Order of tokens: a token sees the valid ones of its own step and of earlier steps.

    Steps that ascend from token to token are a causal mask; equal steps at the beginning, that of a prefix; steps of
    time, a staircase.

    Attributes:
      step: Step, `PREFIX_STEP` for tokens that all others see.
      position: Position for rotary embeddings.
      valid: Whether the token exists; otherwise no token sees it.
    """

    step: Int[Array, "*lead T"]
    position: Int[Array, "*lead T"]
    valid: Bool[Array, "*lead T"]


def causal_index(valid: Bool[Array, "*lead T"]) -> TokenIndex:
    """Every token sees itself and the valid tokens before it; positions count valid tokens only."""
    step = jnp.broadcast_to(_arange(valid), valid.shape)
    return TokenIndex(step, _count(valid), valid)


def prefix_index(valid: Bool[Array, "*lead T"], num_prefix: int) -> TokenIndex:
    """The first tokens see each other and are visible to all; the following ones are causal.

    Args:
      valid: Valid tokens.
      num_prefix: Number of tokens of the prefix.
    """
    step = jnp.where(_arange(valid) < num_prefix, PREFIX_STEP, _arange(valid) - num_prefix)
    return TokenIndex(jnp.broadcast_to(step, valid.shape), _count(valid), valid)


def staircase_index(step: Int[Array, "*lead T"], valid: Bool[Array, "*lead T"]) -> TokenIndex:
    """Every token sees all tokens of its own time step and of earlier ones; positions are time steps.

    Args:
      step: Time steps from 0, `PREFIX_STEP` for tokens of the prefix.
      valid: Valid tokens.
    """
    return TokenIndex(step, jnp.maximum(step, 0), valid)


def visible(query: TokenIndex, key: TokenIndex, window: int | None = None) -> Bool[Array, "*lead T S"]:
    """The mask of attention.

    Args:
      query: Order of the queries, T.
      key: Order of the keys, S.
      window: Number of steps, that of the query included, that it sees; None for all.
    """
    step, earlier = query.step[..., :, None], key.step[..., None, :]
    mask = (earlier <= step) & key.valid[..., None, :]
    return mask if window is None else mask & ((earlier > step - window) | (earlier == PREFIX_STEP))


@pytree
class PairTerms:
    """Terms of pairs of tokens, such as embeddings of their relative pose; None for no such term.

    Attributes:
      key: Added to the key, for this query.
      value: Added to the value, for this query.
      bias: Added to the logits.
    """

    key: Float[Array, "*lead T S K G"] | None = None
    value: Float[Array, "*lead T S K G"] | None = None
    bias: Float[Array, "*lead H T S"] | None = None


@pytree
class KeyValues:
    """Keys and values that T queries attend to.

    Attributes:
      key: Keys.
      value: Values.
      mask: Pairs that attend.
      pairs: Terms of pairs.
    """

    key: Float[Array, "*lead S K G"]
    value: Float[Array, "*lead S K G"]
    mask: Bool[Array, "*lead T S"]
    pairs: PairTerms | None = None


def attend(query: Float[Array, "*lead T H G"], *parts: KeyValues) -> Float[Array, "*lead T H G"]:
    """Softmax attention to the union of sets of keys; 0 for a query that sees no key.

    Parts are not joined in memory: under `vmap`, one that is not mapped is not copied.

    Args:
      query: Queries, scaled; head h belongs to the keys of h // (H / K).
      parts: Sets of keys.
    """
    grouped = _group(query, parts[0].key.shape[-2])
    masks = [part.mask[..., None, :, None, :] for part in parts]
    logits = [jnp.where(mask, _logits(grouped, part), NO_ATTENTION) for mask, part in zip(masks, parts, strict=True)]
    largest = functools.reduce(jnp.maximum, [jnp.max(each, axis=-1, keepdims=True) for each in logits])
    largest = jax.lax.stop_gradient(largest)
    weights = [jnp.where(mask, jnp.exp(each - largest), 0.0) for mask, each in zip(masks, logits, strict=True)]
    total = functools.reduce(jnp.add, [jnp.sum(each, axis=-1, keepdims=True) for each in weights])
    values = [_values(each.astype(query.dtype), part) for each, part in zip(weights, parts, strict=True)]
    joined = functools.reduce(jnp.add, values) / _to_tokens(_positive(total)).astype(query.dtype)
    return joined.reshape(query.shape)


def attend_chunked(
    query: Float[Array, "*lead T H G"],
    key: Float[Array, "*lead S K G"],
    value: Float[Array, "*lead S K G"],
    query_index: TokenIndex,
    key_index: TokenIndex,
    window: int | None = None,
    chunk: int = CHUNK,
) -> Float[Array, "*lead T H G"]:
    """Softmax attention by blocks of queries and keys, with memory linear in T and S, also of its gradient.

    Equal to `attend`. Blocks without a visible pair are skipped, so a causal mask takes half of the time.

    Args:
      query: Queries, scaled.
      key: Keys.
      value: Values.
      query_index: Order of the queries.
      key_index: Order of the keys.
      window: See `visible`.
      chunk: Queries and keys of a block.
    """
    num_kv = key.shape[-2]
    queries = (_split(query, -3, chunk), _split_index(query_index, chunk))
    keys = (_split(key, -3, chunk), _split(value, -3, chunk), _split_index(key_index, chunk))

    @jax.checkpoint
    def rows(block: tuple[Array, TokenIndex]) -> Array:
        grouped = _group(block[0], num_kv)

        @jax.checkpoint
        def add(carry: tuple[Array, ...], part: tuple[Array, Array, TokenIndex]):
            mask = visible(block[1], part[2], window)
            own = KeyValues(part[0], part[1], mask)
            return jax.lax.cond(jnp.any(mask), _add_block, lambda carry, *_: carry, carry, grouped, own), None

        (_, total, mean), _ = jax.lax.scan(add, _empty_softmax(grouped), keys)
        return _to_tokens(mean / _positive(total)[..., None]).reshape(block[0].shape).astype(query.dtype)

    joined = jnp.moveaxis(jax.lax.map(rows, queries), 0, query.ndim - 3)
    joined = joined.reshape(*query.shape[:-3], -1, *query.shape[-2:])
    return joined[..., : query.shape[-3], :, :]


def _add_block(carry: tuple[Array, ...], grouped: Array, part: KeyValues) -> tuple[Array, ...]:
    """The maximum, sum and weighted values of a softmax after one more block of keys."""
    before, total, values = carry
    mask = part.mask[..., None, :, None, :]
    logits = jnp.where(mask, _logits(grouped, part), NO_ATTENTION)
    largest = jax.lax.stop_gradient(jnp.maximum(before, jnp.max(logits, axis=-1)))
    weights = jnp.where(mask, jnp.exp(logits - largest[..., None]), 0.0)
    share = jnp.exp(before - largest)
    added = jnp.einsum("...ktrs,...skg->...ktrg", weights.astype(part.value.dtype), part.value)
    values = values * share[..., None] + added.astype(jnp.float32)
    return largest, total * share + jnp.sum(weights, axis=-1), values


def _empty_softmax(grouped: Array) -> tuple[Array, Array, Array]:
    *lead, num_queries, num_kv, repeats, size = grouped.shape
    shape = (*lead, num_kv, num_queries, repeats)
    return jnp.full(shape, NO_ATTENTION), jnp.zeros(shape), jnp.zeros((*shape, size))


def _logits(grouped: Float[Array, "*lead T K R G"], part: KeyValues) -> Float[Array, "*lead K T R S"]:
    logits = jnp.einsum("...tkrg,...skg->...ktrs", grouped, part.key, preferred_element_type=jnp.float32)
    if part.pairs is None:
        return logits
    if part.pairs.key is not None:
        terms = jnp.einsum("...tkrg,...tskg->...ktrs", grouped, part.pairs.key, preferred_element_type=jnp.float32)
        logits = logits + terms
    if part.pairs.bias is not None:
        bias = part.pairs.bias
        grouped_bias = bias.reshape(*bias.shape[:-3], logits.shape[-4], -1, *bias.shape[-2:])
        logits = logits + jnp.swapaxes(grouped_bias, -3, -2).astype(jnp.float32)
    return logits


def _values(weights: Float[Array, "*lead K T R S"], part: KeyValues) -> Float[Array, "*lead T K R G"]:
    values = jnp.einsum("...ktrs,...skg->...tkrg", weights, part.value)
    if part.pairs is not None and part.pairs.value is not None:
        values = values + jnp.einsum("...ktrs,...tskg->...tkrg", weights, part.pairs.value)
    return values


def _group(query: Float[Array, "*lead T H G"], num_kv: int) -> Float[Array, "*lead T K R G"]:
    return query.reshape(*query.shape[:-2], num_kv, -1, query.shape[-1])


def _to_tokens(values: Float[Array, "*lead K T R G"]) -> Float[Array, "*lead T K R G"]:
    return jnp.swapaxes(values, -4, -3)


def _positive(total: Array) -> Array:
    """Sums of weights as divisors: those of queries that see no key are 0, and so are their values."""
    return jnp.where(total > 0, total, 1.0)


def _split(values: Array, axis: int, chunk: int) -> Array:
    """Blocks of tokens along a new first axis; the last one is filled with 0."""
    axis = values.ndim + axis
    count = math.ceil(values.shape[axis] / chunk)
    widths = [(0, 0)] * values.ndim
    widths[axis] = (0, count * chunk - values.shape[axis])
    padded = jnp.pad(values, widths)
    return jnp.moveaxis(padded.reshape(*values.shape[:axis], count, chunk, *values.shape[axis + 1 :]), axis, 0)


def _split_index(index: TokenIndex, chunk: int) -> TokenIndex:
    return TokenIndex(*(_split(each, -1, chunk) for each in (index.step, index.position, index.valid)))


def _arange(valid: Bool[Array, "*lead T"]) -> Int[Array, "*ones T"]:
    return jnp.arange(valid.shape[-1], dtype=jnp.int32).reshape(*(1 for _ in valid.shape[:-1]), -1)


def _count(valid: Bool[Array, "*lead T"]) -> Int[Array, "*lead T"]:
    return jnp.maximum(jnp.cumsum(valid, axis=-1, dtype=jnp.int32) - 1, 0)
