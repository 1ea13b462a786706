"""Ridge regressions of classes of columns against NumPy."""

import numpy as np
import pytest

from behavior_models.model_selection.linear import (
    factorize,
    gram_matrix,
    inverse_cholesky,
    nested_masks,
    solve,
    widths,
)

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(50, 6)).astype(np.float32)
TARGETS = RNG.normal(size=(2, 50)).astype(np.float32)
MASKS = nested_masks((2, 3, 6), 6)
PENALTY = np.full(6, 0.5, np.float32)


def test_inverse_cholesky_matches_numpy():
    gram = FEATURES.T @ FEATURES
    expected = np.linalg.inv(np.linalg.cholesky(gram.astype(float)))
    np.testing.assert_allclose(inverse_cholesky(gram, np.arange(6)), expected, atol=1e-5)


def test_columns_of_classes_may_have_any_order():
    order = np.array([4, 0, 5, 2, 1, 3])
    inverse = np.empty(6, int)
    inverse[order] = np.arange(6)
    ridge, other = (
        factorize(gram_matrix(x), m, PENALTY) for x, m in ((FEATURES, MASKS), (FEATURES[:, order], MASKS[:, order]))
    )
    weights = solve(other, TARGETS @ FEATURES[:, order])
    np.testing.assert_allclose(np.asarray(weights)[..., inverse], solve(ridge, TARGETS @ FEATURES), atol=1e-5)


def test_weights_and_widths_match_the_closed_form():
    ridge = factorize(gram_matrix(FEATURES), MASKS, PENALTY)
    weights, norms = np.asarray(solve(ridge, TARGETS @ FEATURES)), np.asarray(widths(ridge, FEATURES))
    for index, size in enumerate((2, 3, 6)):
        rows = FEATURES[:, :size].astype(float)
        inverse = np.linalg.inv(rows.T @ rows + 0.5 * np.eye(size))
        np.testing.assert_allclose(weights[:, index, :size], TARGETS @ rows @ inverse, atol=1e-4)
        np.testing.assert_array_equal(weights[:, index, size:], 0.0)
        np.testing.assert_allclose(norms[index], np.sqrt(np.einsum("ni,ij,nj->n", rows, inverse, rows)), atol=1e-4)


def test_widths_grow_with_the_class():
    norms = np.asarray(widths(factorize(gram_matrix(FEATURES), MASKS, PENALTY), FEATURES))
    assert np.all(np.diff(norms, axis=0) >= -1e-6)


def test_nested_masks():
    with pytest.raises(ValueError, match="not nested"):
        factorize(gram_matrix(FEATURES), MASKS[::-1], PENALTY)
    with pytest.raises(ValueError, match="must ascend"):
        nested_masks((3, 3), 6)
    with pytest.raises(ValueError, match="must ascend"):
        nested_masks((3, 7), 6)
