"""Masks, terms of pairs, and attention by blocks against attention with all pairs at once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from behavior_models.networks.attention import (
    PREFIX_STEP,
    KeyValues,
    PairTerms,
    TokenIndex,
    attend,
    attend_chunked,
    causal_index,
    prefix_index,
    staircase_index,
    visible,
)


def pattern(index: TokenIndex, window: int | None = None) -> list[str]:
    return ["".join(".x"[int(seen)] for seen in row) for row in np.asarray(visible(index, index, window))]


def test_masks():
    valid = jnp.array([True, False, True, True])
    assert pattern(causal_index(valid)) == ["x...", "x...", "x.x.", "x.xx"]
    assert pattern(prefix_index(valid, 2)) == ["x...", "x...", "x.x.", "x.xx"]
    every = jnp.ones(4, bool)
    assert pattern(prefix_index(every, 2)) == ["xx..", "xx..", "xxx.", "xxxx"]
    assert pattern(causal_index(every), 2) == ["x...", "xx..", ".xx.", "..xx"]
    steps = jnp.array([PREFIX_STEP, 0, 0, 1, 1, 2])
    staircase = staircase_index(steps, jnp.ones(6, bool))
    assert pattern(staircase) == ["x.....", "xxx...", "xxx...", "xxxxx.", "xxxxx.", "xxxxxx"]
    # A window is counted in steps, and the prefix is within every window.
    assert pattern(staircase, 1) == ["x.....", "xxx...", "xxx...", "x..xx.", "x..xx.", "x....x"]
    assert causal_index(valid).position.tolist() == [0, 0, 1, 2]
    assert staircase.position.tolist() == [0, 0, 0, 1, 1, 2]


def draw(num_queries: int, num_keys: int, num_kv: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    shapes = (2, num_queries, 4, 6), (2, num_keys, num_kv, 6), (2, num_keys, num_kv, 6)
    return tuple(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)


def softmax_attention(query, key, value, mask):
    """One query and head at a time, float64; key and value may differ between queries."""
    result = np.zeros(query.shape)
    for b, t, h in np.ndindex(query.shape[:3]):
        keys, values = (each[b, t, :, h] if each.ndim == 5 else each[b, :, h] for each in (key, value))
        seen = np.flatnonzero(mask[b, t])
        if len(seen):
            weights = np.exp(keys[seen] @ query[b, t, h])
            result[b, t, h] = weights @ values[seen] / weights.sum()
    return result


def test_terms_of_pairs():
    rng = np.random.default_rng(1)
    query, key, value = draw(3, 5, 2)
    pairs = PairTerms(*(jnp.asarray(rng.normal(size=(2, 3, 5, 2, 6)), jnp.float32) for _ in range(2)))
    mask = rng.random((2, 3, 5)) < 0.6
    mask[0, 1] = False
    found = np.asarray(attend(query, KeyValues(key, value, jnp.asarray(mask), pairs)))
    keys, values = (
        np.repeat(np.asarray(each)[:, None] + np.asarray(term), 2, axis=3)
        for each, term in ((key, pairs.key), (value, pairs.value))
    )
    np.testing.assert_allclose(found, softmax_attention(np.asarray(query), keys, values, mask), atol=1e-5)
    assert not found[0, 1].any()
    # A bias of zero, and one that removes all keys but the first.
    bias = np.zeros((2, 4, 3, 5), np.float32)
    plain = attend(query, KeyValues(key, value, jnp.ones((2, 3, 5), bool)))
    same = attend(query, KeyValues(key, value, jnp.ones((2, 3, 5), bool), PairTerms(bias=jnp.asarray(bias))))
    np.testing.assert_array_equal(plain, same)
    bias[:, 1, :, 1:] = -1e9
    first = attend(query, KeyValues(key, value, jnp.ones((2, 3, 5), bool), PairTerms(bias=jnp.asarray(bias))))
    np.testing.assert_allclose(first[:, :, 1], np.repeat(np.asarray(value)[:, :1, 0], 3, axis=1), atol=1e-6)
    np.testing.assert_array_equal(first[:, :, [0, 2, 3]], plain[:, :, [0, 2, 3]])


def test_parts_are_one_set():
    query, key, value = draw(3, 5, 1)
    mask = jnp.asarray(np.random.default_rng(2).random((2, 3, 5)) < 0.5)
    parts = [KeyValues(key[:, own], value[:, own], mask[..., own]) for own in (slice(0, 2), slice(2, 5))]
    np.testing.assert_allclose(attend(query, *parts), attend(query, KeyValues(key, value, mask)), atol=1e-6)


@functools.partial(jax.jit, static_argnums=(4, 5))
def both(query, key, value, index, window, chunk):
    """Values and gradients of both kinds of attention."""
    results = []
    for kind in (attend, attend_chunked):

        def total(query, key, value, kind=kind):
            if kind is attend:
                heads = attend(query, KeyValues(key, value, visible(index, index, window)))
            else:
                heads = attend_chunked(query, key, value, index, index, window, chunk)
            return jnp.sum(jnp.sin(heads)), heads

        results.append(jax.grad(total, argnums=(0, 1, 2), has_aux=True)(query, key, value))
    return results


def test_blocks_equal_all_pairs():
    valid = np.random.default_rng(3).random((2, 37)) < 0.8
    steps = np.sort(np.random.default_rng(4).integers(-1, 9, size=(2, 37)), axis=1).astype(np.int32)
    index = staircase_index(jnp.asarray(steps), jnp.asarray(valid))
    for window, chunk, num_kv in ((None, 8, 1), (2, 16, 2)):
        query, key, value = draw(37, 37, num_kv)
        (gradients, heads), (own_gradients, own) = both(query, key, value, index, window, chunk)
        np.testing.assert_allclose(own, heads, atol=1e-5)
        for expected, found in zip(gradients, own_gradients, strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-5)


def memory(attention, length: int) -> int:
    """Temporary memory of the gradient, bytes."""
    shapes = [jax.ShapeDtypeStruct((1, length, heads, 16), jnp.float32) for heads in (4, 1, 1)]

    def total(query, key, value):
        index = causal_index(jnp.ones((1, length), bool))
        return jnp.sum(attention(query, key, value, index))

    compiled = jax.jit(jax.grad(total, argnums=(0, 1, 2))).lower(*shapes).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_memory_of_blocks_is_linear():
    def chunked(query, key, value, index):
        return attend_chunked(query, key, value, index, index, None, 64)

    def all_pairs(query, key, value, index):
        return attend(query, KeyValues(key, value, visible(index, index)))

    small, large = memory(chunked, 2048), memory(chunked, 8192)
    assert large < 4.5 * small
    assert memory(all_pairs, 8192) > 10 * memory(all_pairs, 2048) > 10 * small
