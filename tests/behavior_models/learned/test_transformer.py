"""The transformer: published parameter counts, a NumPy oracle, symmetries, caches, and the tied embedding."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from behavior_models.networks.attention import PREFIX_STEP, causal_index, prefix_index, staircase_index
from behavior_models.networks.generation import generate, prefill
from behavior_models.networks.transformer import TransformerModel
from behavior_models.networks.transformer_config import (
    BASE,
    BASE_MOE,
    GEMMA_2B,
    GEMMA_7B,
    NANO,
    SMALL,
    TransformerConfig,
)
from tests.behavior_models.learned import transformer_oracle

# Embedding and other parameters of Gemma (table 2 of the report).
PUBLISHED = [(GEMMA_2B, 524_550_144, 1_981_884_416), (GEMMA_7B, 786_825_216, 7_751_248_896)]
SIZES = [(NANO, 102_720, 102_720), (SMALL, 1_213_568, 1_213_568), (BASE, 8_524_032, 8_524_032)]
TINY = TransformerConfig(12, 2, 20, 4, 6, 2, 11, positions="rope")
VALID = np.array([[0, 0, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1, 1]], bool)


def count(config: TransformerConfig) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(TransformerModel(config).shapes))


def wrong_variants(config: TransformerConfig) -> dict[str, int]:
    """Parameters besides the embedding of architectures that are not Gemma."""
    own = config.num_parameters - config.num_embedding_parameters
    depth, width, size = config.num_layers, config.width, config.head_size
    attention = config.num_heads * size
    return {
        "output layer of its own": own + config.num_embedding_parameters,
        "biases of the projections": own + depth * (attention + 2 * config.num_kv_heads * size + width),
        "no last norm": own - width,
        "no norm before the feed-forward layer": own - depth * width,
        "stated hidden dimensions used for gate and input each": own + depth * 3 * width * config.hidden,
        "square output projection": own - depth * (attention * width - width * width),
        "feed-forward layer without a gate": own - depth * width * config.hidden,
    }


def diagnose(config: TransformerConfig, expected: int, found: int) -> str:
    names = {difference: name for name, difference in wrong_variants(config).items()}
    return "equal" if found == expected else names.get(found, f"{found - expected:+d} parameters")


@pytest.mark.parametrize(("config", "embedding", "others"), PUBLISHED)
def test_published_counts(config, embedding, others):
    shapes = TransformerModel(config).shapes
    assert shapes["embedding"].size == embedding == config.num_embedding_parameters
    assert diagnose(config, others, count(config) - embedding) == "equal"
    assert config.num_parameters == embedding + others
    # Each wrong variant is told from the published one; the output projection of 2B is square.
    same = {name for name, found in wrong_variants(config).items() if found == others}
    assert same == ({"square output projection"} if config is GEMMA_2B else set())
    wider = dataclasses.replace(config, hidden=2 * config.hidden)
    name = diagnose(config, others, count(wider) - embedding)
    assert name == "stated hidden dimensions used for gate and input each"


def test_counts_of_small_sizes():
    for config, total, active in [*SIZES, (BASE_MOE, 52_580_608, 14_831_872)]:
        assert (count(config), config.num_active_parameters) == (total, active)
        assert config.num_parameters == total


@functools.cache
def random_params(config: TransformerConfig, seed: int = 0):
    """Parameters with norms that are not neutral, as NumPy arrays."""
    params = jax.device_get(jax.jit(TransformerModel(config).init)(jax.random.key(seed)))
    rng = np.random.default_rng(seed)

    def shake(path, leaf):
        return rng.normal(size=leaf.shape).astype(np.float32) * 0.3 if path[-2].key == "scale" else leaf

    return jax.tree_util.tree_map_with_path(shake, params)


@functools.partial(jax.jit, static_argnums=0)
def run(model, params, tokens, index):
    return model.network(params)(tokens, index)


def to_oracle(params):
    """Layers of the oracle, embedding and last norm, float64."""
    plain = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)

    def layer(own):
        attention, feed_forward = own["attention"], own["feed_forward"]
        names = {"query": attention, "key_value": attention, "output": attention}
        names |= {"gate_up": feed_forward, "down": feed_forward}
        norms = {name: own[name]["scale"][...] for name in ("attention_norm", "feed_forward_norm")}
        return {name: group[name][...] for name, group in names.items()} | norms

    layers = [layer(plain["blocks"][index]) for index in range(len(plain["blocks"]))]
    return plain["embedding"][...], layers, plain["norm"]["scale"][...]


@pytest.mark.parametrize(("num_kv", "positions", "share"), [(1, "rope", 1.0), (2, "half", 0.5), (4, "none", 0.0)])
def test_against_numpy(num_kv, positions, share):
    config = dataclasses.replace(TINY, num_kv_heads=num_kv, positions=positions)
    params, tokens = random_params(config), np.random.default_rng(1).integers(11, size=(2, 8)).astype(np.int32)
    logits = np.asarray(run(TransformerModel(config), params, tokens, causal_index(jnp.asarray(VALID))))
    for row, valid, found in zip(tokens, VALID, logits, strict=True):
        positions_, mask = np.cumsum(valid) - 1, np.tril(np.ones((8, 8), bool)) & valid
        expected = transformer_oracle.transformer(row, *to_oracle(params), positions_, mask, share)
        np.testing.assert_allclose(found[valid], expected[valid], atol=1e-5)


def test_symmetries():
    model, params = TransformerModel(TINY), random_params(TINY)
    tokens, index = np.arange(16, dtype=np.int32).reshape(2, 8) % 11, causal_index(jnp.asarray(VALID))
    logits = np.asarray(run(model, params, tokens, index))

    # Groups of heads and their keys in another order.
    def permute(path, leaf):
        name = path[-2].key
        if name == "key_value":
            return leaf[:, ::-1]
        return leaf[[2, 3, 0, 1]] if name in ("query", "output") else leaf

    other = jax.tree_util.tree_map_with_path(permute, params)
    np.testing.assert_allclose(run(model, other, tokens, index), logits, atol=1e-5)
    shifted = dataclasses.replace(index, position=index.position + 37)
    np.testing.assert_allclose(run(model, params, tokens, shifted)[VALID], logits[VALID], atol=1e-4)
    stretched = dataclasses.replace(index, position=index.position * 2)
    assert np.abs(run(model, params, tokens, stretched)[VALID] - logits[VALID]).max() > 1e-2
    # Tokens that are not valid have no effect.
    changed = np.where(VALID, tokens, 5).astype(np.int32)
    np.testing.assert_array_equal(run(model, params, changed, index)[VALID], logits[VALID])


def test_norm_is_neutral_at_first():
    params = jax.jit(TransformerModel(TINY).init)(jax.random.key(0))
    norms = [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params) if path[-2].key == "scale"]
    assert len(norms) == 5 and not any(np.any(leaf) for leaf in norms)
    values = np.random.default_rng(0).normal(size=12)
    assert np.mean(transformer_oracle.norm(values, 0.0) ** 2) == pytest.approx(1.0, rel=1e-5)


def indices(valid):
    step = np.array([PREFIX_STEP, PREFIX_STEP, 0, 0, 1, 1, 1, 2, 2, 2], np.int32)
    return {
        "causal": causal_index(valid),
        "prefix": prefix_index(valid, 3),
        "staircase": staircase_index(jnp.broadcast_to(step, valid.shape), valid),
    }


@functools.partial(jax.jit, static_argnums=(0, 4))
def run_cached(model, params, tokens, index, calls):
    """Logits of tokens that are written in several calls."""
    network, cache = model.network(params), model.config.cache(tokens.shape[:-1], tokens.shape[-1])
    features, begin = [], 0
    for end in calls:
        own = jax.tree.map(lambda leaf, part=slice(begin, end): leaf[..., part], index)
        values, cache = network.step(network.embed(tokens[..., begin:end]), own, cache)
        features.append(values)
        begin = end
    return network.logits(jnp.concatenate(features, axis=-2))


@pytest.mark.parametrize("kind", ["causal", "prefix", "staircase"])
@pytest.mark.parametrize("calls", [(4, 7, 10), (7, 10)])
def test_cache_equals_all_tokens(kind, calls):
    model, params = TransformerModel(TINY), random_params(TINY)
    tokens = np.random.default_rng(2).integers(11, size=(2, 10)).astype(np.int32)
    valid = np.ones((2, 10), bool)
    valid[0, [0, 5]] = False
    index = indices(jnp.asarray(valid))[kind]
    whole = np.asarray(run(model, params, tokens, index))
    np.testing.assert_allclose(run_cached(model, params, tokens, index, calls)[valid], whole[valid], atol=1e-4)


def test_ring_with_a_window_equals_all_tokens():
    config = dataclasses.replace(TINY, window=4)
    model, params = TransformerModel(config), random_params(TINY)
    tokens = np.random.default_rng(3).integers(11, size=(1, 23)).astype(np.int32)
    index = causal_index(jnp.ones((1, 23), bool))
    whole = np.asarray(run(model, params, tokens, index))

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def last(size, chunk):
        network = model.network(params)
        features, cache = prefill(network, network.embed(tokens), index, config.cache((1,), size), chunk)
        return network.logits(features), cache.num_written

    # The window and a call of 3 tokens: 4 + 3 - 1.
    logits, num_written = last(6, 3)
    assert num_written == 24
    np.testing.assert_allclose(logits, whole[:, -3:], atol=1e-4)
    assert np.abs(last(5, 3)[0] - whole[:, -3:]).max() > 1e-3
    with pytest.raises(ValueError, match="7 tokens do not fit into a cache of 6"):
        last(6, 7)


def test_prefix_is_shared_by_rollouts():
    model, params = TransformerModel(TINY), random_params(TINY)
    tokens = np.random.default_rng(4).integers(11, size=(3, 6)).astype(np.int32)
    tokens[:, :4] = tokens[0, :4]
    index = causal_index(jnp.ones((3, 6), bool))
    whole = np.asarray(run(model, params, tokens, index))
    network = model.network(jax.tree.map(jnp.asarray, params))

    def part(own, first, last):
        return jax.tree.map(lambda leaf: leaf[own, first:last], index)

    @jax.jit
    def rollouts(tokens):
        _, prefix = network.step(network.embed(tokens[0, :4]), part(0, 0, 4), TINY.cache((), 4))

        def one(last):
            features, _ = network.step(network.embed(last), part(0, 4, 6), TINY.cache((), 2), prefix=prefix)
            return network.logits(features)

        return jax.vmap(one)(tokens[:, 4:])

    np.testing.assert_allclose(rollouts(tokens), whole[:, 4:], atol=1e-4)


def test_generation_is_one_loop():
    model, params = TransformerModel(TINY), random_params(TINY)
    prompt, valid = np.array([[0, 3, 1, 4], [1, 5, 9, 2]], np.int32), np.array([[0, 1, 1, 1], [1, 1, 1, 1]], bool)
    new = jax.jit(functools.partial(generate, num_tokens=5), static_argnums=0)
    tokens = np.asarray(new(model, params, prompt, valid, jax.random.key(0)))
    # Greedy tokens are the most likely ones of the whole sequence.
    joined = np.concatenate([prompt, tokens], axis=1)
    full = np.concatenate([valid, np.ones((2, 5), bool)], axis=1)
    logits = np.asarray(run(model, params, joined, causal_index(jnp.asarray(full))))
    np.testing.assert_array_equal(tokens, logits[:, 3:-1].argmax(axis=-1))
    text = str(
        jax.make_jaxpr(functools.partial(generate, num_tokens=5), static_argnums=0)(
            model, params, prompt, valid, jax.random.key(0)
        )
    )
    assert "callback" not in text and text.count("scan[") == 1


def test_embedding_is_tied():
    params = random_params(TINY)
    model, index = TransformerModel(TINY), causal_index(jnp.ones((1, 6), bool))
    tokens = np.array([[3, 1, 4, 1, 5, 9]], np.int32)

    def loss(into, out, scale):
        network = model.network(params)
        features = network.encode(into[tokens] * scale, index).features
        logits = jnp.einsum("...d,vd->...v", features, out)[:, :-1]
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[:, 1:, None], -1))

    def tied(params):
        logits = model.network(params)(tokens, index)[:, :-1]
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[:, 1:, None], -1))

    table = params["embedding"][...]
    value, gradient = jax.jit(jax.value_and_grad(tied))(params)
    into, out = jax.jit(jax.grad(loss, argnums=(0, 1)))(table, table, 1.0)
    np.testing.assert_allclose(gradient["embedding"][...], into + out, atol=1e-5)
    assert np.abs(into).max() > 1e-3 and np.abs(out).max() > 1e-3
    # Without the root of the width.
    assert abs(jax.jit(loss)(table, table, 12**-0.5) - value) > 1e-2
