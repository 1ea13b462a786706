import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.metrics.realism import oracle
from waymax_sim.metrics.realism import CONFIGS, Bernoulli, Histogram
from waymax_sim.metrics.realism.estimators import (
    bernoulli_log_likelihood,
    bin_edges,
    bin_membership,
    histogram_log_likelihood,
)

SPEED = Histogram(0.0, 25.0, 10)
TURN = Histogram(-0.628, 0.628, 11)
LOG_SHAPE, SIM_SHAPE = (6, 3), (4, 6, 3)
everyone = np.ones(3, bool)


@functools.partial(jax.jit, static_argnames=("histogram", "pool_agents", "parity", "soft"))
def likelihood(histogram, log, sim, present=everyone, **how):
    return histogram_log_likelihood(histogram, log, sim, present, **how)


def values(seed, shape, nan=True):
    rng = np.random.default_rng(seed)
    found = rng.normal(0, 0.5, shape).astype(np.float32)
    return np.where(rng.random(shape) < 0.1, np.float32(np.nan), found) if nan else found


def test_bins_are_closed_on_the_left_and_the_last_on_both_sides():
    ends = bin_edges(SPEED)
    assert ends.dtype == np.float32 and ends[-1] == 25
    at_ends = np.asarray(bin_membership(SPEED, jnp.asarray(ends))).argmax(axis=-1)
    np.testing.assert_array_equal(at_ends, [*range(10), 9])
    just_below = np.nextafter(ends, np.float32(-np.inf))
    below = np.asarray(bin_membership(SPEED, jnp.asarray(just_below))).argmax(axis=-1)
    np.testing.assert_array_equal(below, [0, *range(10)])
    outside = np.asarray(bin_membership(SPEED, jnp.asarray([-1e10, 1e10, -1.0])))
    np.testing.assert_array_equal(outside.argmax(axis=-1), [0, 9, 0])


def test_edges_are_those_of_float32():
    low, high = np.float32(-0.628), np.float32(0.628)
    width = np.float32(high - low) / np.float32(11)
    expected = [low + np.float32(i) * width for i in range(11)]
    np.testing.assert_array_equal(bin_edges(TURN), np.float32([*expected, high]))


@pytest.mark.parametrize("seed", range(3))
def test_one_distribution_per_agent_equals_the_oracle(seed):
    log, sim = values(seed, LOG_SHAPE), values(seed + 9, SIM_SHAPE)
    found = likelihood(TURN, log, sim)
    for e in range(3):
        expected = oracle.histogram(log[:, e], sim[:, :, e], -0.628, 0.628, 11, 0.1)
        np.testing.assert_allclose(found[:, e], expected, rtol=1e-5)


def test_one_distribution_per_step_equals_the_oracle():
    log, sim = values(0, LOG_SHAPE), values(9, SIM_SHAPE)
    found = likelihood(Histogram(-0.628, 0.628, 11, per_step=True), log, sim)
    for t in range(6):
        for e in range(3):
            expected = oracle.histogram(log[t, e], sim[:, t, e], -0.628, 0.628, 11, 0.1)
            np.testing.assert_allclose(found[t, e], expected[0], rtol=1e-5)


@pytest.mark.parametrize("per_step", [False, True])
def test_one_distribution_per_scene_equals_the_oracle(per_step):
    log, sim = values(0, LOG_SHAPE), values(9, SIM_SHAPE)
    present = np.array([True, False, True])
    how = Histogram(-0.628, 0.628, 11, per_step=per_step)
    found = likelihood(how, log, sim, present, pool_agents=True)
    for t in range(6):
        pool = sim[:, t, present] if per_step else sim[:, :, present]
        expected = oracle.histogram(log[t], pool, -0.628, 0.628, 11, 0.1)
        np.testing.assert_allclose(found[t], expected, rtol=1e-5)


def test_a3_unknown_values_count_in_the_last_bin_for_parity_only():
    sim = np.zeros((32, 80, 1), np.float32)
    sim[:, -1] = np.nan
    log, one = np.full((80, 1), 24.9, np.float32), np.ones(1, bool)
    np.testing.assert_allclose(likelihood(SPEED, log, sim, one), np.log(32.1 / 2561), rtol=1e-5)
    np.testing.assert_allclose(likelihood(SPEED, log, sim, one, parity=False), np.log(0.1 / 2529), rtol=1e-5)


def test_events_by_hand():
    sim = np.zeros((32, 3), np.float32)
    sim[:8, 1] = 1
    found = np.exp(bernoulli_log_likelihood(Bernoulli(), np.array([False, True, True]), sim, everyone))
    np.testing.assert_allclose(found, [32.001 / 32.002, 8.001 / 32.002, 0.001 / 32.002], rtol=1e-5)
    pooled = bernoulli_log_likelihood(Bernoulli(), np.array([True] * 3), sim, everyone, pool_agents=True)
    np.testing.assert_allclose(np.exp(pooled), 8.001 / 96.002, rtol=1e-5)
    two = np.array([True, True, False])
    pooled = bernoulli_log_likelihood(Bernoulli(), np.array([True] * 3), sim, two, pool_agents=True)
    np.testing.assert_allclose(np.exp(pooled)[:2], 8.001 / 64.002, rtol=1e-5)


def test_soft_shares_agree_at_the_middle_of_bins_and_have_gradients():
    ends = bin_edges(SPEED)
    middle = jnp.asarray((ends[1:] + ends[:-1]) / 2)
    np.testing.assert_allclose(bin_membership(SPEED, middle, soft=True), np.eye(10), atol=1e-6)
    anywhere = jnp.linspace(-3, 30, 50)
    np.testing.assert_allclose(bin_membership(SPEED, anywhere, soft=True).sum(axis=-1), 1, atol=1e-6)

    def total(sim):
        return jnp.sum(histogram_log_likelihood(SPEED, jnp.full((6, 3), 5.0), sim, everyone, soft=True))

    sim = jnp.full(SIM_SHAPE, 8.0).at[0, 0, 0].set(jnp.nan)
    gradient = jax.jit(jax.grad(total))(sim)
    assert np.isfinite(gradient).all()
    # The logged speed is lower: slower rollouts are more probable.
    assert (np.asarray(gradient)[1:] < 0).all() and gradient[0, 0, 0] == 0


def test_configurations_have_the_official_weights():
    for name, total in (("2023", 0.99), ("2024", 1.0), ("2025", 1.0)):
        config = CONFIGS[name]
        assert config.name == name and len(config.features) == 10
        assert sum(feature.weight for feature in config.features) == pytest.approx(total)
    by_name = {feature.name: feature for feature in CONFIGS["2025"].features}
    assert by_name["traffic_light_violation"].weight == by_name["distance_to_road_edge"].weight == 0.05
    assert CONFIGS["2025_scenario_generation"].pool_agents
    assert {feature.estimator.pseudocount for feature in CONFIGS["2024"].features} == {0.1, 0.001}
