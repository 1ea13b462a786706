"""Distributions over values against the algorithm of C51 and formulas; networks of action values."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from behavior_models.networks.model import QModel
from behavior_models.networks.q_network import QHeadConfig
from behavior_models.networks.value_heads import ValueSupport
from tests.behavior_models.learned.problems import ACTIONS, NETWORK, SIZE, VIEW, contexts

SUPPORT = ValueSupport(-1.0, 2.0, 7)


def project_by_loop(probabilities, values):
    """Algorithm 1 of Bellemare et al. 2017."""
    result = np.zeros_like(probabilities)
    for row in range(len(values)):
        for mass, value in zip(probabilities[row], values[row], strict=True):
            position = (np.clip(value, SUPPORT.low, SUPPORT.high) - SUPPORT.low) / SUPPORT.spacing
            low, high = math.floor(position), math.ceil(position)
            result[row, low] += mass * (high - position if low != high else 1.0)
            result[row, high] += mass * (position - low)
    return result


def test_projection_against_a_loop():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(7), 20).astype(np.float32)
    atoms = np.linspace(-1.0, 2.0, 7)
    values = (rng.normal(0.0, 1.0, (20, 1)) + rng.choice([0.0, 0.5, 0.97], (20, 1)) * atoms).astype(np.float32)
    projected = SUPPORT.project(probabilities, values)
    np.testing.assert_allclose(projected, project_by_loop(probabilities, values), atol=1e-5)
    np.testing.assert_allclose(projected.sum(axis=-1), 1.0, rtol=1e-5)
    # The identity: values that are the atoms.
    same = SUPPORT.project(probabilities, jnp.broadcast_to(SUPPORT.atoms, (20, 7)))
    np.testing.assert_allclose(same, probabilities, atol=1e-6)


def test_labels_keep_the_value():
    value = np.float32([-3.0, -1.0, 0.1, 0.25, 1.9, 5.0])
    clipped = np.clip(value, -1.0, 2.0)
    two_hot, gaussian = SUPPORT.encode(value), SUPPORT.encode_gaussian(value, 0.75 * SUPPORT.spacing)
    np.testing.assert_allclose(two_hot @ SUPPORT.atoms, clipped, atol=1e-5)
    np.testing.assert_allclose(SUPPORT.mean(jnp.log(two_hot + 1e-12)), clipped, atol=1e-5)
    np.testing.assert_allclose(gaussian.sum(axis=-1), 1.0, rtol=1e-5)
    # Far from the ends of the support; at an end half of the Gaussian is cut.
    np.testing.assert_allclose((gaussian @ SUPPORT.atoms)[2:4], clipped[2:4], atol=0.02)
    # By hand: 0.1 is 0.2 spacings above the atom 0, whose interval is +-0.5 spacings.
    cdf = [0.5 * (1 + math.erf(z / 0.75 / math.sqrt(2))) for z in (-0.7, 0.3)]
    assert float(gaussian[2, 2]) == pytest.approx(cdf[1] - cdf[0], abs=2e-3)


def test_a_support_needs_a_range():
    with pytest.raises(ValueError, match="low < high"):
        ValueSupport(1.0, 1.0)


@pytest.mark.parametrize("support", [None, SUPPORT], ids=["scalar", "distribution"])
@pytest.mark.parametrize("dueling", [False, True])
def test_networks_of_action_values(dueling, support):
    model = QModel(VIEW, ACTIONS, NETWORK, QHeadConfig(dueling, support))
    params = jax.jit(model.init)(jax.random.key(0))
    _, rows = contexts(jax.random.key(1), 4)
    network = nnx.merge(model.graph, params)
    raw = network.raw(rows)
    assert rows.shape == (4, SIZE) and raw.shape == (4, 9, 1 if support is None else 7)
    values, largest = network(rows)
    expected = raw[..., 0] if support is None else jax.nn.softmax(raw) @ np.linspace(-1.0, 2.0, 7, dtype=np.float32)
    np.testing.assert_allclose(values, expected, atol=1e-6)
    action, _ = model.actor(params, "mode")(rows, jax.random.key(2))
    np.testing.assert_array_equal(action[:, 0], np.argmax(values, axis=-1))
    np.testing.assert_allclose(largest, np.max(values, axis=-1))
    if dueling:
        # The mean over the actions is the value of the state.
        hidden = nnx.relu(network.second(nnx.relu(network.first(network.encoder(rows)))))
        np.testing.assert_allclose(raw.mean(axis=1), network.value(hidden), atol=1e-6)
