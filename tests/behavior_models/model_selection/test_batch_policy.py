"""Selection rules of contextual bandits by hand-computed values, and the regimes that they win and lose."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from behavior_models.model_selection.bandit_beds import (
    NestedParams,
    RegionParams,
    nested_bandit,
    region_bandit,
    run_bandits,
)
from behavior_models.model_selection.batch_policy import (
    BanditParams,
    FittedClasses,
    Predictions,
    complexity_coverage,
    fit_classes,
    hold_out,
    pessimistic_decisions,
    predict,
    slope,
)
from behavior_models.model_selection.linear import Ridge

# Two classes, two contexts, three actions.
MEAN = jnp.array([[[1.0, 2.0, 0.0], [0.5, 0.0, 0.0]], [[1.5, 0.0, 0.0], [0.0, 0.2, 3.0]]])
HALF = jnp.array([[[0.1, 1.5, 0.0], [0.1, 0.0, 0.0]], [[0.2, 0.0, 0.0], [0.0, 0.0, 2.0]]])


def test_each_class_acts_by_its_lower_bound():
    decisions = pessimistic_decisions(Predictions(MEAN, HALF))
    np.testing.assert_array_equal(decisions.action, [[0, 0], [0, 2]])
    np.testing.assert_allclose(decisions.certificate, [[0.9, 0.4], [1.3, 1.0]], atol=1e-6)


def test_complexity_coverage_takes_the_best_bound_of_any_class():
    decisions = complexity_coverage(Predictions(MEAN, HALF))
    np.testing.assert_array_equal(decisions.action, [0, 2])
    np.testing.assert_allclose(decisions.certificate, [1.3, 1.0], atol=1e-6)
    np.testing.assert_array_equal(decisions.chosen_class, [1, 1])


def test_bounds_that_are_not_finite_are_never_chosen():
    decisions = complexity_coverage(Predictions(MEAN.at[1, 0, 0].set(jnp.nan), HALF.at[1, 1, 2].set(jnp.inf)))
    np.testing.assert_array_equal(decisions.action, [0, 0])
    assert np.all(np.isfinite(decisions.certificate))


def test_slope_takes_the_smallest_class_whose_interval_meets_those_of_all_larger_ones():
    masks = jnp.array([[True, False], [True, True]])
    ridge = Ridge(jnp.zeros((2, 2)), masks)
    fits = FittedClasses(ridge, jnp.zeros((2, 2)), jnp.zeros(2), jnp.int32(100))
    # Policy 0 takes action 0 and policy 1 action 1. Class 0 overrates its own action by 1,
    # outside of the interval of class 1; so the estimate of policy 0 is that of class 1, and policy 1 is better.
    mean = jnp.array([[[1.1, 0.25]], [[0.1, 0.3]]])
    predictions = Predictions(mean, jnp.zeros_like(mean))
    assert slope(fits, predictions, BanditParams(slope=1.0)) == 1
    # Wide intervals meet, and the smallest class is believed.
    assert slope(fits, predictions, BanditParams(slope=10.0)) == 0


@pytest.mark.parametrize("shared", [True, False])
def test_predictions_match_numpy(shared: bool):
    bandit = nested_bandit(jax.random.key(0), NestedParams(num_columns=6, true_dimension=3, dimensions=(2, 3, 6)), 40)
    params = BanditParams(noise=0.5, confidence=2.0, complexity=1.0, penalty=2.0)
    rows, contexts = bandit.logged_features, bandit.contexts[:3]
    if not shared:
        rows, contexts = (jnp.broadcast_to(leaf, (3, *leaf.shape)) for leaf in (rows, contexts))
    predictions = predict(fit_classes(rows, bandit.outcome, bandit.masks, params), contexts)
    features, outcome, tested = (
        np.asarray(x, float) for x in (bandit.logged_features, bandit.outcome, bandit.contexts)
    )
    for index, size in enumerate((2, 3, 6)):
        x, test = features[:, :size], tested[:3, :, :size]
        inverse = np.linalg.inv(x.T @ x + 2.0 * np.eye(size))
        np.testing.assert_allclose(predictions.mean[index], test @ inverse @ x.T @ outcome, atol=1e-4)
        width = 0.5 * (np.sqrt(size) + 2.0) * np.sqrt(np.einsum("mad,de,mae->ma", test, inverse, test))
        np.testing.assert_allclose(predictions.half_width[index], width, atol=1e-4)


def test_region_classes_all_contain_the_truth():
    bandit = region_bandit(jax.random.key(0), RegionParams(num_regions=2, num_cells=2, skew=0.0), 400)
    for features in np.asarray(bandit.contexts):
        rows, target = features.reshape(-1, features.shape[-1]), np.asarray(bandit.mean).reshape(-1)
        fit = np.linalg.lstsq(rows, target, rcond=None)[0]
        np.testing.assert_allclose(rows @ fit, target, atol=1e-4)


def test_hold_out_rejects_a_wrong_class_and_refuses_single_rows():
    bandit = nested_bandit(jax.random.key(1), NestedParams(num_columns=6, true_dimension=3, dimensions=(2, 3, 6)), 900)
    chosen, loss = hold_out(bandit.logged_features, bandit.outcome, bandit.masks, BanditParams())
    assert chosen in (1, 2)
    assert loss[0] > 1.1 * loss[1]
    with pytest.raises(ValueError, match="cannot be split"):
        hold_out(bandit.logged_features[:1], bandit.outcome[:1], bandit.masks, BanditParams())


def test_each_rule_wins_one_regime_and_loses_the_other():
    keys = jax.random.split(jax.random.key(3), 4)
    nested = dataclasses.replace(NestedParams(), num_columns=12, true_dimension=4, dimensions=(2, 4, 12))
    good = jax.tree.map(np.mean, run_bandits(keys, nested, 1000))
    assert good.hold_out < 0.2 * good.complexity_coverage
    regions = dataclasses.replace(RegionParams(), num_regions=3, num_cells=6)
    result = run_bandits(keys, regions, 400)
    assert np.all(np.asarray(result.complexity_coverage) < 0.6 * np.min(result.per_class, axis=1))
    assert np.mean(result.hold_out) > 2 * np.mean(result.complexity_coverage)
    assert np.mean(result.upper_bound) > np.mean(result.per_class)
    assert np.mean(result.valid) > 0.9
