"""Scaled Q-learning and cloning from logged transitions: formulas by hand, and a road that random data solve."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from behavior_models.networks.multi_task_q import NO_ACTION, MLPEncoder, MultiTaskQModel, ObservationNetwork
from behavior_models.networks.task_outputs import read_outputs, take_row
from behavior_models.networks.value_heads import ValueSupport
from behavior_models.offline.behavior_cloning import LoggedCloning, LoggedCloningConfig, decaying_rate
from behavior_models.offline.scaled_q_learning import (
    LossWeights,
    ScaledQConfig,
    ScaledQLearning,
    with_new_heads,
)
from behavior_models.offline.transitions import OfflineSample, Transitions, find_starts
from tests.behavior_models.learned.problems import (
    DISCOUNT,
    NETWORK,
    ROAD_LENGTH,
    SIZE,
    VIEW,
    encode,
    random_drives,
    road_values,
)

SUPPORT = ValueSupport(-1.0, 1.5, 26)
# Two tasks; the second one has the first six actions only.
MASKS = ((True,) * 9, (True,) * 6 + (False,) * 3)
MODEL = MultiTaskQModel(MLPEncoder(SIZE, (32,)), MASKS, SUPPORT, num_features=16)
SCALAR = dataclasses.replace(MODEL, is_distributional=False)
ROAD = dataclasses.replace(MODEL, masks=MASKS[:1])
CONFIG = ScaledQConfig(
    num_gradient_steps=600, discount=DISCOUNT, target_period=20, learning_rate=3e-3, cql_weight=0.02, rank_samples=64
)


def road_transitions() -> Transitions:
    """Random drives on the road as logged transitions."""
    rows = random_drives(64, 32)
    zeros = np.zeros(rows.ended.shape, bool)
    return Transitions(
        observation=rows.observation,
        action=rows.action[..., 0],
        reward=rows.reward,
        ended=rows.ended,
        truncated=zeros,
        active=~zeros,
        task=np.zeros(32, np.int32),
        return_to_go=np.zeros(rows.reward.shape, np.float32),
    )


def random_batch(size: int = 64) -> OfflineSample:
    rng = np.random.default_rng(0)
    task = np.repeat(np.arange(2, dtype=np.int32), size // 2)
    rows = [np.asarray(encode(rng.integers(0, 9, size))) for _ in range(2)]
    return OfflineSample(
        observation=rows[0],
        action=rng.integers(0, 6, size).astype(np.int32),
        reward=rng.normal(size=size).astype(np.float32),
        discount=np.where(rng.random(size) < 0.3, 0.0, DISCOUNT).astype(np.float32),
        next_observation=rows[1],
        next_action=rng.integers(0, 6, size).astype(np.int32),
        has_next_action=rng.random(size) < 0.5,
        return_to_go=rng.normal(size=size).astype(np.float32),
        task=task,
    )


@functools.cache
def outputs(model: MultiTaskQModel):
    """Features, raw outputs of one task and values as one program."""

    def find(params, rows, task):
        network = model.network(params)
        features = network.features(rows)
        raw = network.raw(features)
        return features, raw, network.action_values(network.values(raw, task), task)

    return jax.jit(find)


def large_params(model: MultiTaskQModel, seed: int):
    """Random parameters whose outputs differ clearly between actions."""
    keys = jax.random.split(jax.random.key(seed), 2)
    return jax.tree.map(lambda leaf: leaf + 0.3 * jax.random.normal(keys[1], leaf.shape), model.init(keys[0]))


train_step = jax.jit(ScaledQLearning.train_step, static_argnums=0)


def test_random_data_solve_a_road_and_their_clone_does_not():
    data, rows = road_transitions(), encode(np.arange(ROAD_LENGTH))
    learner = ScaledQLearning(ROAD, CONFIG)
    state, scalars = train_step(learner, learner.init(jax.random.key(0)), data)
    values = np.asarray(ROAD.network(state.params)(rows)[0])
    np.testing.assert_array_equal(values.argmax(axis=-1) // 3, 2)
    assert np.abs(values - road_values()).mean() < 0.12
    assert all(np.isfinite(value) for value in scalars.values()) and scalars["feature_dot"] <= 1.0
    clone = LoggedCloning(dataclasses.replace(ROAD, is_distributional=False), LoggedCloningConfig(10, 300, 128, 3e-3))
    clone_state, _ = jax.jit(clone.train_step)(clone.init(jax.random.key(0)), data)
    logits = clone.model.network(clone_state.params)(rows)[0]
    forward = np.asarray(jax.nn.softmax(logits)).reshape(ROAD_LENGTH, 3, 3).sum(axis=-1)[:, 2]
    np.testing.assert_allclose(forward, 1 / 3, atol=0.15)


def test_distributions_without_a_future_are_histograms_of_rewards():
    data = road_transitions()
    rng = np.random.default_rng(0)
    values = np.array([-0.5, 0.0, 1.0], np.float32)
    reward = values[rng.choice(3, data.reward.shape, p=[0.2, 0.5, 0.3])]
    data = dataclasses.replace(data, observation=np.ones_like(data.observation), reward=reward)
    learner = ScaledQLearning(ROAD, dataclasses.replace(CONFIG, discount=0.0, cql_weight=0.0))
    state, _ = train_step(learner, learner.init(jax.random.key(0)), data)
    task = jnp.zeros(1, jnp.int32)
    raw = outputs(ROAD)(state.params, jnp.ones((1, SIZE)), task)[1]
    mass = np.asarray(jax.nn.softmax(raw))[0].mean(axis=0)
    shares = [mass[np.abs(np.asarray(SUPPORT.atoms) - value) < 0.06].sum() for value in values]
    np.testing.assert_allclose(shares, [(reward == value).mean() for value in values], atol=0.03)


def test_the_projection_keeps_the_mass_and_the_mean_inside_the_support():
    rng = np.random.default_rng(0)
    mass = rng.dirichlet(np.ones(26), 50).astype(np.float32)
    inside = rng.uniform(-1.0, 1.5, (50, 26)).astype(np.float32)
    project = jax.jit(SUPPORT.project)
    projected = np.asarray(project(mass, inside))
    np.testing.assert_allclose(projected.sum(axis=-1), 1.0, atol=1e-5)
    np.testing.assert_allclose(projected @ np.asarray(SUPPORT.atoms), (mass * inside).sum(axis=-1), atol=1e-5)
    outside = np.where(np.arange(26) < 10, -7.0, 9.0).astype(np.float32)
    projected = np.asarray(project(mass, np.broadcast_to(outside, (50, 26))))
    np.testing.assert_allclose(projected[:, 0], mass[:, :10].sum(axis=-1), atol=1e-5)
    np.testing.assert_allclose(projected[:, -1], mass[:, 10:].sum(axis=-1), atol=1e-5)


def test_masked_actions_and_heads_of_tasks():
    params, batch = large_params(MODEL, 0), random_batch()
    features, _, values = outputs(MODEL)(params, batch.observation, batch.task)
    np.testing.assert_allclose(np.linalg.norm(features, axis=-1), 1.0, atol=1e-5)
    values, second = np.asarray(values), batch.task == 1
    assert (values[second][:, 6:] == NO_ACTION).all() and (values[~second] > -2.0).all()
    assert (values[second].argmax(axis=-1) < 6).all()
    own = MODEL.for_task(1).network(params)(batch.observation)[0]
    np.testing.assert_allclose(np.asarray(own)[second], values[second], atol=1e-5)
    assert np.abs(np.asarray(own)[~second][:, :6] - values[~second][:, :6]).max() > 1e-3
    zero = jax.tree.map(jnp.zeros_like, params)
    gradient = jax.grad(lambda params: MODEL.network(params).features(jnp.ones((2, SIZE))).sum())(zero)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("backup", ["max", "in_sample", "monte_carlo"])
def test_scalar_targets_by_hand(backup):
    learner = ScaledQLearning(SCALAR, dataclasses.replace(CONFIG, loss="mse", backup=backup, double=backup == "max"))
    batch = random_batch()
    state = learner.init(jax.random.key(0), large_params(SCALAR, 1))
    state = dataclasses.replace(state, target_params=large_params(SCALAR, 2))
    target = np.asarray(jax.jit(learner.target)(state, batch))[:, 0]
    own, following = (
        np.asarray(outputs(SCALAR)(params, batch.next_observation, batch.task)[2])
        for params in (state.params, state.target_params)
    )
    action = {"max": own.argmax(axis=-1), "in_sample": batch.next_action}.get(backup, batch.action)
    expected = batch.reward + batch.discount * following[np.arange(64), action]
    expected = batch.return_to_go if backup == "monte_carlo" else expected
    np.testing.assert_allclose(target, np.clip(expected, -1.0, 1.5), atol=1e-5)


@pytest.mark.parametrize("loss", ["c51", "hl_gauss", "two_hot"])
def test_categorical_targets_have_the_mean_of_the_scalar_target(loss):
    learner = ScaledQLearning(MODEL, dataclasses.replace(CONFIG, loss=loss))
    batch = dataclasses.replace(random_batch(), reward=np.full(64, 0.2, np.float32))
    state = learner.init(jax.random.key(0), large_params(MODEL, 1))
    target = np.asarray(jax.jit(learner.target)(state, batch))
    following = np.asarray(outputs(MODEL)(state.params, batch.next_observation, batch.task)[2]).max(axis=-1)
    np.testing.assert_allclose(target.sum(axis=-1), 1.0, atol=1e-5)
    # The distribution of C51 is cut off at the ends of the support.
    tolerance = 0.15 if loss == "c51" else 0.02
    np.testing.assert_allclose(target @ np.asarray(SUPPORT.atoms), 0.2 + batch.discount * following, atol=tolerance)


def test_gradients_of_the_conservative_term_and_of_dr3_by_hand():
    learner = ScaledQLearning(SCALAR, dataclasses.replace(CONFIG, loss="mse"))
    params, batch, target = large_params(SCALAR, 3), random_batch(), np.zeros((64, 1), np.float32)
    find = jax.jit(jax.grad(lambda *inputs: learner.loss(*inputs)[0]))
    zero, one = jnp.zeros(()), jnp.ones(())
    plain, cql, regular = (
        find(params, batch, target, LossWeights(*weights, zero)) for weights in ((zero, zero), (one, zero), (zero, one))
    )
    flat = np.asarray(cql["heads"]["bias"][...] - plain["heads"]["bias"][...])
    found = np.zeros((2, 9), np.float32)
    found[np.array(MASKS)] = flat
    values = outputs(SCALAR)(params, batch.observation, batch.task)[2]
    slope = np.asarray(jax.nn.softmax(values)) - np.eye(9)[batch.action]
    expected = np.stack([slope[batch.task == task].sum(axis=0) for task in (0, 1)]) / 64
    np.testing.assert_allclose(found, expected, atol=1e-5)
    # DR3 by finite differences of both features along the bias of the penultimate layer.
    direction = np.random.default_rng(0).normal(size=16).astype(np.float32)

    def product(scale: float) -> float:
        moved = jax.tree.map(lambda leaf: leaf, params)
        moved["penultimate"]["bias"] = moved["penultimate"]["bias"].replace(
            moved["penultimate"]["bias"][...] + scale * direction
        )
        rows = [outputs(SCALAR)(moved, rows, batch.task)[0] for rows in (batch.observation, batch.next_observation)]
        return float(np.mean(np.sum(np.float64(rows[0]) * np.float64(rows[1]), axis=-1)))

    slope = np.asarray(regular["penultimate"]["bias"][...] - plain["penultimate"]["bias"][...]) @ direction
    assert slope == pytest.approx((product(1e-2) - product(-1e-2)) / 2e-2, rel=0.05)


def test_new_heads_keep_the_encoder_and_a_frozen_one_does_not_change():
    params = large_params(ROAD, 0)
    learner = ScaledQLearning(MODEL, dataclasses.replace(CONFIG, frozen=True))
    start = with_new_heads(MODEL, params, jax.random.key(1))
    state, _ = jax.jit(learner.update)(learner.init(jax.random.key(2), start), random_batch())
    for part, same in (("encoder", True), ("penultimate", True), ("heads", False)):
        pairs = zip(jax.tree.leaves(start[part]), jax.tree.leaves(state.params[part]), strict=True)
        assert all(np.array_equal(before, after) for before, after in pairs) == same
    narrow = dataclasses.replace(MODEL, num_features=8)
    with pytest.raises(ValueError, match="penultimate"):
        with_new_heads(narrow, params, jax.random.key(1))


@pytest.mark.parametrize("model", [MODEL, SCALAR])
def test_outputs_of_ordered_tasks_are_those_of_all_outputs(model):
    batch, params = random_batch(), large_params(model, 4)

    def read(task, action, is_ordered):
        network = model.network(params)
        features = network.features(batch.observation)
        rows = network.row(task, action), None
        return [read_outputs(network, features, task, row, is_ordered=is_ordered) for row in rows]

    find = jax.jit(read, static_argnums=2)
    ordered, whole = (find(batch.task, batch.action, is_ordered) for is_ordered in (True, False))
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), ordered, whole)
    # Rows in another order have no value.
    reverse = find(batch.task[::-1], batch.action, True)
    assert not np.isfinite(reverse[0].value).any() and not np.isfinite(reverse[1].soft_maximum).any()


def test_scaled_rewards_and_learning_rates_by_hand():
    no = np.zeros((2, 3), bool)
    observation = np.zeros((2, 3, SIZE), np.float32)
    reward, ended = np.full((2, 3), 0.25, np.float32), np.broadcast_to([[False], [True]], (2, 3))
    action, task = np.zeros((2, 3), np.int32), np.zeros(3, np.int32)
    data = Transitions(observation, action, reward, ended, no, ~no, task, reward * [[2], [1]], num_tasks=2)
    learner = ScaledQLearning(MODEL, ScaledQConfig(num_steps=2, discount=0.5, reward_scale=4.0))
    batch = learner.sample(data, find_starts(data, 2), jax.random.key(0), 32)
    # The sum of two rewards, or the last one.
    assert set(np.asarray(batch.reward).tolist()) == {1.5, 1.0} and set(np.asarray(batch.return_to_go)) == {2.0, 1.0}
    rate = decaying_rate(1e-3, 0.1, 100)
    assert callable(rate)
    np.testing.assert_allclose(jnp.stack([rate(50), rate(200)]), [5.5e-4, 1e-4], rtol=1e-5)
    assert decaying_rate(1e-3, 1.0, 100) == 1e-3


def test_hidden_layers_follow_the_encoder():
    network = ObservationNetwork(VIEW.spec(), NETWORK, (24, 20))
    model = MultiTaskQModel(network, ((True,) * 9,), SUPPORT, num_features=16)
    shapes = [leaf.shape for leaf in jax.tree.leaves(model.shapes["encoder"]["layers"])]
    assert shapes == [(24,), (48, 24), (20,), (24, 20)]
    values = jax.eval_shape(lambda params: model.network(params)(jnp.zeros((3, SIZE)))[0], model.shapes)
    assert values.shape == (3, 9)


def test_take_row():
    values = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    np.testing.assert_array_equal(take_row(values, jnp.asarray([2, 0])), [[4, 5], [6, 7]])


def test_invalid_models_are_refused():
    with pytest.raises(ValueError, match="differ"):
        ScaledQLearning(MODEL, dataclasses.replace(CONFIG, loss="mse"))
    with pytest.raises(ValueError, match="at least one action"):
        dataclasses.replace(MODEL, masks=((False,) * 9,))
