"""Diagnostics of features against NumPy."""

import jax
import numpy as np

from behavior_models.offline.diagnostics import effective_rank, end_mass, feature_scalars
from behavior_models.offline.dr3 import dr3

find_rank = jax.jit(effective_rank)


def test_effective_rank():
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(200, 16)) * 0.6 ** np.arange(16)).astype(np.float32)
    values = np.linalg.svd(features, compute_uv=False)
    expected = int(np.argmax(np.cumsum(values) >= 0.99 * values.sum())) + 1
    assert 2 < expected < 16 and find_rank(features) == expected
    assert find_rank(np.ones((200, 16), np.float32)) == 1
    assert find_rank(np.zeros((200, 16), np.float32)) == 0
    features[3, 2] = np.nan
    assert np.isnan(find_rank(features))


def test_scalars_of_features():
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=(2, 50, 8)).astype(np.float32)
    found = jax.jit(feature_scalars)(first, second)
    product, norms = (first * second).sum(axis=-1), [np.linalg.norm(each, axis=-1) for each in (first, second)]
    np.testing.assert_allclose(found["feature_dot"], product.mean(), rtol=1e-4)
    np.testing.assert_allclose(found["feature_norm"], norms[0].mean(), rtol=1e-5)
    np.testing.assert_allclose(found["feature_cosine"], (product / norms[0] / norms[1]).mean(), rtol=1e-4)
    np.testing.assert_allclose(dr3(first, second, absolute=True), np.abs(product), rtol=1e-4, atol=1e-5)


def test_gradients_of_dr3_reach_both_arguments():
    rng = np.random.default_rng(2)
    first, second = rng.normal(size=(2, 5, 8)).astype(np.float32)
    slopes = jax.grad(lambda *each: dr3(*each).sum(), argnums=(0, 1))(first, second)
    np.testing.assert_allclose(slopes[0], second)
    np.testing.assert_allclose(slopes[1], first)


def test_mass_of_the_end_atoms():
    np.testing.assert_allclose(end_mass(np.float32([[0.1, 0.6, 0.3], [0.0, 1.0, 0.0]])), [0.4, 0.0], atol=1e-6)
