"""Graded mixtures by hand."""

import numpy as np
import pytest

from behavior_models.offline.expertise import grade_mixture, normalize_returns, select_policies

RETURNS = np.array([0.9, 0.0, 0.4, 0.2, 0.6, 1.0, 0.8, 0.1])


def test_normalized_returns():
    np.testing.assert_allclose(normalize_returns(np.array([-0.5, 0.0, 0.5]), -0.5, 0.5), [0.0, 0.5, 1.0])
    with pytest.raises(ValueError, match="not better than random"):
        normalize_returns(np.array([0.1]), 0.5, 0.5)


def test_equally_spaced_policies_of_the_lowest_fraction():
    # The lowest half, by ascending return: 0, 0.1, 0.2, 0.4.
    mixture = select_policies(RETURNS, 0.5, 2)
    assert list(mixture.policies) == [1, 2] and mixture.mean == pytest.approx(0.2)
    mixture = select_policies(RETURNS, 1.0, 3)
    assert list(RETURNS[mixture.policies]) == [0.0, 0.6, 1.0]
    mixture = select_policies(RETURNS, 0.25, 5, from_top=True)
    assert list(RETURNS[mixture.policies]) == [0.9, 1.0]


def test_graded_mixtures_have_the_target_mean():
    for target, from_top in ((0.5, False), (0.2, False), (0.9, True)):
        mixture = grade_mixture(RETURNS, target, (3, 4), from_top=from_top)
        assert mixture.mean == pytest.approx(target, abs=0.04)
        assert mixture.mean == pytest.approx(RETURNS[mixture.policies].mean())
