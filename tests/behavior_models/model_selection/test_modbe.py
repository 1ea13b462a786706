"""ModBE against a plain loop in NumPy, and its invariances."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from behavior_models.model_selection.linear import nested_masks
from behavior_models.model_selection.linear_beds import (
    DensityParams,
    FiniteMDP,
    LinearMDPParams,
    density_mdp,
    feature_steps,
    optimal_value,
    policy_value,
    random_linear_mdp,
    run_instances,
    sample_steps,
)
from behavior_models.model_selection.linear_ladders import LinearLadder, TableLadder
from behavior_models.model_selection.modbe import LoggedSteps, fitted_q_iteration, modbe, split_steps
from examples.reproductions.model_selection_loop import fitted_q, host_steps, modbe_loop

BED = LinearMDPParams(num_states=20, num_actions=3, horizon=3, true_dimension=4, dimensions=(2, 4, 6, 8))
MASKS = nested_masks(BED.dimensions, 8)
select = jax.jit(lambda ladder, train, valid: modbe(ladder, train, valid))


@functools.cache
def instance(num_samples: int = 400) -> tuple[FiniteMDP, LoggedSteps]:
    mdp = random_linear_mdp(jax.random.key(0), BED)
    return jax.device_get((mdp, sample_steps(mdp, jax.random.key(1), num_samples, BED.noise)))


def logged() -> LoggedSteps:
    return jax.device_get(feature_steps(*instance()))


def test_the_plain_loop_has_the_same_gaps_and_choice():
    mdp, steps = instance()
    train, valid = split_steps(steps)
    features = np.asarray(mdp.features, np.float64)
    host = host_steps(train), host_steps(valid)
    chosen, gaps = modbe_loop(*host, features, BED.dimensions)
    done = np.isfinite(gaps)
    assert done.sum() > 3
    weights = fitted_q(host[0], features, 4, 1.0)
    linear = LinearLadder(MASKS)
    results = [select(linear, *split_steps(logged())), select(TableLadder(linear, mdp.features), train, valid)]
    for result in results:
        assert result.chosen == chosen == 1
        np.testing.assert_allclose(np.asarray(result.gap)[done], gaps[done], atol=2e-4)
        np.testing.assert_allclose(np.asarray(result.params)[:, 1, :4], np.stack(weights), atol=2e-2)
    np.testing.assert_allclose(results[0].tolerance, results[1].tolerance, atol=1e-5)


def test_a_given_learner_is_equal_to_the_default_one():
    train, valid = split_steps(logged())
    default, given = (modbe(LinearLadder(MASKS), train, valid, base=base) for base in (None, fitted_q_iteration))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), default, given)


def test_scales_of_features_and_orders_of_rows_do_not_matter():
    steps, scale = logged(), np.array([1, 100, 0.01, 3, 1, 10, 1, 0.1], np.float32)
    train, valid = split_steps(steps)
    scaled = [
        dataclasses.replace(p, inputs=p.inputs * scale, next_inputs=p.next_inputs * scale) for p in (train, valid)
    ]
    order = np.random.default_rng(0).permutation(train.reward.shape[1])
    permuted = jax.tree.map(lambda leaf: leaf[:, order], train)
    results = [select(LinearLadder(MASKS), *pair) for pair in ((train, valid), scaled, (permuted, valid))]
    for result in results[1:]:
        assert result.chosen == results[0].chosen
        np.testing.assert_allclose(result.gap, results[0].gap, atol=1e-3)


def test_equal_classes_give_the_smallest():
    result = select(LinearLadder(np.repeat(MASKS[2:3], 4, axis=0)), *split_steps(logged()))
    assert result.chosen == 0
    np.testing.assert_allclose(result.gap, 0.0, atol=1e-5)


def test_values_that_are_not_finite_pass_no_test():
    train, valid = split_steps(logged())
    reward = np.array(train.reward)
    reward[1, 3] = np.nan
    result = select(LinearLadder(MASKS), dataclasses.replace(train, reward=reward), valid)
    assert not np.any(result.passed)
    assert result.chosen == len(BED.dimensions) - 1


def test_any_base_learner_and_any_class():
    @dataclasses.dataclass(frozen=True)
    class Constants:
        """Classes of constants: zero, and the mean of the targets."""

        complexity = jnp.array([1.0, 2.0])

        def prepare(self, inputs):
            return inputs

        def fit(self, prepared, targets):
            return jnp.stack([jnp.zeros(len(targets)), jnp.mean(targets, axis=1)], axis=1)

        def predict(self, params, inputs):
            return params.reshape(*params.shape, *(1,) * (inputs.ndim - 1)) + jnp.zeros(inputs.shape[:-1]).reshape(
                (1,) * params.ndim + inputs.shape[:-1]
            )

    def zeros(ladder, steps, prepared, horizon):
        return jnp.zeros((horizon, 2))

    train, valid = split_steps(logged())
    result = modbe(Constants(), train, valid)  # type: ignore[arg-type]
    assert result.chosen == 1
    mean = np.mean(train.reward[-1])
    np.testing.assert_allclose(result.params[-1], [0.0, mean], atol=1e-5)
    # With a learner that never fits, the mean of the last rewards is better than its value zero.
    result = modbe(Constants(), train, valid, base=zeros)  # type: ignore[arg-type]
    assert not result.passed[0]
    np.testing.assert_array_equal(result.params, 0.0)


def test_stationary_transitions_are_reused_in_all_steps():
    steps = jax.tree.map(lambda leaf: leaf[:1], logged())
    ladder = LinearLadder(MASKS)
    prepared = jax.vmap(ladder.prepare)(steps.inputs)
    copies = jax.tree.map(lambda leaf: np.repeat(leaf, 3, axis=0), steps)
    expected = fitted_q_iteration(ladder, copies, jax.vmap(ladder.prepare)(copies.inputs), 3)
    np.testing.assert_allclose(fitted_q_iteration(ladder, steps, prepared, 3), expected, atol=1e-5)


def test_split_has_rows_on_both_sides():
    with pytest.raises(ValueError, match="cannot be split"):
        split_steps(jax.tree.map(lambda leaf: leaf[:, :1], logged()))


def test_dynamic_programming_matches_hand_computed_values():
    # One state; action 1 is rewarded with 1 in the first and with 2 in the second step.
    reward = jnp.array([[[0.0, 1.0]], [[0.0, 2.0]]])
    mdp = FiniteMDP(jnp.ones((2, 1, 2, 1)), reward, jnp.zeros((1, 2, 1)))
    assert optimal_value(mdp) == 3.0
    assert policy_value(mdp, jnp.array([[1], [0]])) == 1.0


def test_beds_are_processes():
    density = DensityParams(num_levels=3, num_nuisance=2, horizon=2)
    for mdp in (random_linear_mdp(jax.random.key(3), BED), density_mdp(jax.random.key(3), density)):
        np.testing.assert_allclose(np.sum(mdp.transition, axis=-1), 1.0, atol=1e-4)
    # Rewards are linear in the columns of the complete class.
    mdp = density_mdp(jax.random.key(3), density)
    features = np.asarray(mdp.features[..., : density.dimensions[3]]).reshape(-1, density.dimensions[3])
    target = np.asarray(mdp.reward[0]).reshape(-1)
    fit = np.linalg.lstsq(features, target, rcond=None)[0]
    np.testing.assert_allclose(features @ fit, target, atol=1e-5)


def test_the_complete_class_is_chosen_and_the_last_one_if_none_is_complete():
    keys = jax.random.split(jax.random.key(7), 4)
    assert np.all(run_instances(keys, BED, 1500).chosen == 1)
    broken = run_instances(keys, dataclasses.replace(BED, complete=False), 4000)
    assert np.mean(broken.chosen == 3) >= 0.75
