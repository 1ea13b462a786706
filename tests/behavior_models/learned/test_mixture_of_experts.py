"""Mixture of experts: routing by hand, capacity, independence of the batch, losses, and counts."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from behavior_models.networks.mixture_of_experts import (
    ExpertConfig,
    Experts,
    assign_slots,
    router_loss,
    select_experts,
)
from tests.behavior_models.learned.transformer_oracle import gelu

CONFIG = ExpertConfig(num_experts=4)


def experts(config: ExpertConfig = CONFIG, seed: int = 0) -> Experts:
    layer = Experts(6, 5, config, rngs=nnx.Rngs(seed))
    # A router that prefers some experts clearly.
    layer.router[...] = layer.router[...] * 50
    return layer


@nnx.jit(static_argnums=3)
def run(layer, tokens, valid, training):
    return layer(tokens, valid, training)


def by_hand(layer: Experts, row: np.ndarray) -> np.ndarray:
    """Output for one token, float64."""
    router, gate_up, down = (np.asarray(each[...], np.float64) for each in (layer.router, layer.gate_up, layer.down))
    logits = row @ router
    chosen = np.argsort(-logits)[:2]
    weights = np.exp(logits[chosen]) / np.exp(logits[chosen]).sum()
    return sum(
        weight * ((gelu(row @ gate_up[e, 0]) * (row @ gate_up[e, 1])) @ down[e])
        for weight, e in zip(weights, chosen, strict=True)
    )


def test_against_numpy():
    layer, tokens = experts(), np.random.default_rng(0).normal(size=(3, 4, 6)).astype(np.float32)
    valid = np.ones((3, 4), bool)
    expected = np.array([[by_hand(layer, row) for row in rows] for rows in tokens])
    outputs, statistics = run(layer, tokens, valid, False)
    np.testing.assert_allclose(outputs, expected, atol=1e-5)
    assert float(statistics.dropped) == 0
    # With a capacity for all tokens, training computes the same.
    roomy = experts(ExpertConfig(num_experts=4, capacity_factor=2.0))
    np.testing.assert_allclose(run(roomy, tokens, valid, True)[0], expected, atol=1e-5)


def test_result_does_not_depend_on_the_batch():
    layer, rng = experts(), np.random.default_rng(1)
    own, others = (rng.normal(size=(1, 4, 6)).astype(np.float32) for _ in range(2))
    valid = np.ones((2, 4), bool)
    pair = run(layer, np.concatenate([own, others]), valid, False)[0]
    same = run(layer, np.concatenate([own, own]), valid, False)[0]
    np.testing.assert_array_equal(pair[0], same[0])
    # In training it does: the capacity is shared.
    pair = run(layer, np.concatenate([others, own]), valid, True)[0]
    same = run(layer, np.concatenate([own, own]), valid, True)[0]
    assert np.abs(pair[1] - same[1]).max() > 1e-3


def test_slots_by_hand():
    # Three tokens choose expert 0 first, one of which is not valid; second choices come after all first ones.
    expert, valid = jnp.array([[0, 1], [0, 1], [0, 2], [1, 0]]), jnp.array([True, False, True, True])
    slots = assign_slots(expert, valid, num_experts=3, capacity=2)
    none = 6
    assert slots.tolist() == [[0, 3], [none, none], [1, 4], [2, none]]
    assert CONFIG.capacity(100) == 63
    routing = select_experts(jnp.array([[0.1, 0.2, 0.3, 0.4]]), 2)
    assert routing.expert.tolist() == [[3, 2]] and routing.gate.tolist()[0] == pytest.approx([4 / 7, 3 / 7])


def test_dropped_tokens_pass_unchanged():
    layer = experts(ExpertConfig(num_experts=4, capacity_factor=0.5))
    tokens = np.tile(np.random.default_rng(2).normal(size=(1, 6)).astype(np.float32), (8, 1))
    outputs, statistics = run(layer, tokens, np.ones(8, bool), True)
    # Equal tokens choose equal experts, which accept ceil(0.5 * 2 * 8 / 4) = 2 of them.
    assert np.abs(outputs[:2]).max() > 1e-3 and not np.any(outputs[2:])
    assert float(statistics.dropped) == pytest.approx(0.75)


def test_losses():
    layer = experts()
    layer.router[...] = jnp.zeros((6, 4))
    tokens = np.ones((8, 6), np.float32)
    _, equal = run(layer, tokens, np.ones(8, bool), False)
    assert float(equal.balance_loss) == pytest.approx(1.0)
    assert float(equal.z_loss) == pytest.approx(np.log(4) ** 2, rel=1e-5)
    # All tokens prefer the first expert with a probability near 1.
    layer.router[...] = layer.router[...].at[:, 0].set(5.0)
    _, one = run(layer, tokens, np.arange(8) < 6, False)
    assert float(one.balance_loss) == pytest.approx(4.0, rel=1e-4) and float(one.z_loss) > 100
    np.testing.assert_allclose(one.load, [0.5, 0.5, 0, 0], atol=1e-6)
    config = ExpertConfig(balance_weight=0.5, z_weight=0.0)
    assert float(router_loss((one, equal), config)) == pytest.approx(0.25 * 5.0, rel=1e-4)
    assert float(router_loss((), config)) == 0


def test_balance_loss_leads_to_equal_load():
    config = ExpertConfig(num_experts=4, has_bias=True)
    layer = Experts(6, 5, config, rngs=nnx.Rngs(0))
    layer.router_bias[...] = jnp.array([3.0, 3.0, 0.0, 0.0])
    tokens = np.random.default_rng(3).normal(size=(64, 6)).astype(np.float32)

    @nnx.jit
    def descend(layer):
        def loss(layer):
            _, statistics = layer(tokens, np.ones(64, bool))
            return statistics.balance_loss, statistics

        gradient, statistics = nnx.grad(loss, has_aux=True)(layer)
        layer.router_bias[...] -= 0.3 * gradient["router_bias"][...]
        return statistics

    first = descend(layer)
    for _ in range(60):
        last = descend(layer)
    assert np.std(first.load) > 0.24 and np.std(last.load) < 0.12
    assert float(first.balance_loss) > 1.5 > 1.2 > float(last.balance_loss)
