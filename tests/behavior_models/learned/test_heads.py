"""Distributions over actions against formulas and samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from behavior_models.networks.heads import Categorical, GaussianMixture, TanhGaussian, kl_divergence, two_hot

KEY = jax.random.key(0)
LEVELS = jnp.asarray([-5.0, -1.0, 0.0, 2.0])


def test_categorical_by_hand():
    actions = Categorical(jnp.log(jnp.asarray([[0.5, 0.25, 0.25]])), jnp.asarray([[-1.0], [0.0], [3.0]]))
    np.testing.assert_allclose(actions.log_prob(jnp.asarray([[1]])), np.log(0.25), rtol=1e-6)
    np.testing.assert_allclose(actions.entropy(), 1.5 * np.log(2), rtol=1e-6)
    # The mean is 0.25, nearest to 0; the most likely action is the first.
    assert actions.mean().tolist() == [[1]] and actions.mode().tolist() == [[0]]
    assert actions.sample(KEY).shape == (1, 1)


def test_excluded_actions_are_neither_drawn_nor_counted():
    actions = Categorical(jnp.asarray([0.0, -jnp.inf, 0.0]))
    assert np.isfinite(actions.entropy()) and actions.entropy() == pytest.approx(np.log(2))
    draws = jax.vmap(actions.sample)(jax.random.split(KEY, 200))
    assert set(np.unique(draws)) == {0, 2}


def test_divergence_by_hand():
    a, b = (Categorical(jnp.log(jnp.asarray(values))) for values in ([0.5, 0.5], [0.25, 0.75]))
    assert kl_divergence(a, b) == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(2 / 3), rel=1e-5)
    assert kl_divergence(a, a) == pytest.approx(0.0, abs=1e-7)
    gradient = jax.grad(lambda logits: kl_divergence(a, Categorical(logits)))(a.logits)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-7)


@pytest.mark.parametrize("value", [-7.0, -5.0, -1.5, -1.0, 0.3, 1.99, 2.0, 4.0])
def test_two_hot_weights_keep_the_value(value):
    weights = two_hot(jnp.float32(value), LEVELS)
    assert float(weights.sum()) == pytest.approx(1.0) and np.count_nonzero(np.asarray(weights) > 1e-7) <= 2
    assert float(weights @ LEVELS) == pytest.approx(np.clip(value, -5.0, 2.0), abs=1e-5)


def test_the_density_of_a_squashed_gaussian_integrates_to_one():
    actions = TanhGaussian(jnp.asarray([0.3]), jnp.asarray([-0.5]))
    grid = jnp.linspace(-0.9999, 0.9999, 20001)[:, None]
    density = jnp.exp(jax.vmap(actions.log_prob)(grid))
    assert float(jnp.trapezoid(density, grid[:, 0])) == pytest.approx(1.0, abs=1e-3)
    action, log_prob = actions.sample_and_log_prob(KEY)
    assert float(actions.log_prob(action)) == pytest.approx(float(log_prob), abs=1e-4)
    for bound in (-1.0, 1.0):
        assert np.isfinite(actions.log_prob(jnp.asarray([bound])))


def test_a_mixture_by_hand():
    location = jnp.asarray([[-2.0], [2.0]])
    actions = GaussianMixture(jnp.log(jnp.asarray([0.25, 0.75])), location, jnp.zeros((2, 1)))
    assert actions.mode().tolist() == [2.0] and float(actions.mean()[0]) == pytest.approx(1.0)
    density = 0.25 * np.exp(-0.5) / np.sqrt(2 * np.pi) + 0.75 * np.exp(-4.5) / np.sqrt(2 * np.pi)
    assert float(actions.log_prob(jnp.asarray([-1.0]))) == pytest.approx(np.log(density), rel=1e-5)
    draws = jax.vmap(actions.sample)(jax.random.split(KEY, 4000))
    assert float(jnp.mean(draws > 0)) == pytest.approx(0.75, abs=0.03)
