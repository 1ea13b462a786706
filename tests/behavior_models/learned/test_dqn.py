"""DQN on known problems, its targets against formulas, and its training step in the simulator."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import waymax_sim as ws
from behavior_models.networks.q_network import QHeadConfig
from behavior_models.networks.value_heads import ValueSupport
from behavior_models.reinforcement.dqn import DQN, DQNConfig, EpsilonGreedy
from behavior_models.training.presets import DISCRETE_BICYCLE, GOAL_TASK
from behavior_models.training.replay_buffer import ReplayRows, ReplaySample
from tests.behavior_models.learned.problems import (
    ACTIONS,
    DISCOUNT,
    NETWORK,
    ROAD_LENGTH,
    SIZE,
    TASK,
    contexts,
    encode,
    random_drives,
    road_values,
)
from waymax_sim.adapters.functional import FunctionalEnv
from waymax_sim.env.bank import build_bank
from waymax_sim.env.flat_view import FlatView

pytestmark = pytest.mark.compile_heavy
NUM_DECISIONS = 64
NUM_STREAMS = 32
CONFIG = DQNConfig(
    num_updates=10,
    num_decisions=NUM_DECISIONS,
    num_gradient_steps=60,
    minibatch=128,
    buffer_rows=NUM_DECISIONS + 1,
    num_steps=1,
    discount=DISCOUNT,
    target_rate=0.05,
    learning_rate=3e-3,
)
HEADS = {"scalar": QHeadConfig(), "distribution": QHeadConfig(support=ValueSupport(-1.0, 1.5, 26))}
LEARNERS = {name: DQN(TASK, dataclasses.replace(CONFIG, head=head), NETWORK) for name, head in HEADS.items()}


@functools.partial(jax.jit, static_argnums=0)
def fit(dqn: DQN, rows: ReplayRows, key):
    """Gradient steps on one content of the replay buffer; parameters and priorities."""
    first_key, key = jax.random.split(key)
    replay = dqn.buffer.add(dqn.buffer.init(NUM_STREAMS, SIZE, jnp.zeros(1, jnp.int32)), rows)
    learner = dqn.init_learner(first_key)

    def step(carry, key):
        learner, replay, scalars = dqn.fit(*carry, key, 0.4)
        return (learner, replay), scalars

    (learner, replay), scalars = jax.lax.scan(step, (learner, replay), jax.random.split(key, CONFIG.num_updates))
    return learner, replay, scalars


@functools.partial(jax.jit, static_argnums=0)
def _outputs(dqn: DQN, params, rows):
    network = nnx.merge(dqn.model.graph, params)
    return network(rows)[0], network.raw(rows)


def values(dqn: DQN, params, rows):
    return np.asarray(_outputs(dqn, params, rows)[0])


find_target = jax.jit(DQN.target, static_argnums=0)
find_gradient = jax.jit(
    lambda dqn, *inputs: jax.grad(lambda params, *rest: dqn.loss(params, *rest)[0])(*inputs), static_argnums=0
)


def bandit() -> ReplayRows:
    """Random actions in random contexts; the action with the number of the context is rewarded with 1."""
    context, rows = contexts(jax.random.key(0), NUM_DECISIONS * NUM_STREAMS)
    shape = NUM_DECISIONS, NUM_STREAMS
    action = np.random.default_rng(1).integers(0, ACTIONS.num_actions, shape).astype(np.int32)
    reward = (action == np.asarray(context).reshape(shape)).astype(np.float32)
    everything = np.ones(shape, bool)
    return ReplayRows(np.asarray(rows).reshape(*shape, SIZE), action[..., None], reward, everything, everything)


@pytest.mark.parametrize("kind", LEARNERS)
def test_dqn_solves_a_bandit(kind):
    dqn = LEARNERS[kind]
    learner, replay, scalars = fit(dqn, bandit(), jax.random.key(0))
    found = values(dqn, learner.params, encode(np.arange(9)))
    np.testing.assert_array_equal(found.argmax(axis=-1), np.arange(9))
    np.testing.assert_allclose(found, np.eye(9), atol=0.25)
    assert scalars["loss"][-1] < 0.3 * scalars["loss"][0]
    assert np.isfinite(replay.priority).all()


@pytest.mark.parametrize("kind", LEARNERS)
def test_dqn_finds_the_values_of_a_road(kind):
    dqn, rows = LEARNERS[kind], random_drives(NUM_DECISIONS, NUM_STREAMS)
    expected = road_values()
    learner, _, _ = fit(dqn, rows, jax.random.key(1))
    found = values(dqn, learner.params, encode(np.arange(ROAD_LENGTH)))
    np.testing.assert_array_equal(found.argmax(axis=-1) // 3, 2)
    assert np.abs(found - expected).mean() < 0.05
    # Control: rewards of other decisions.
    reward = np.random.default_rng(0).permutation(rows.reward.reshape(-1)).reshape(rows.reward.shape)
    learner, _, _ = fit(dqn, dataclasses.replace(rows, reward=reward), jax.random.key(1))
    found = values(dqn, learner.params, encode(np.arange(ROAD_LENGTH)))
    assert np.abs(found - expected).mean() > 0.2


def random_sample(weight) -> ReplaySample:
    rng, size = np.random.default_rng(0), len(weight)
    _, rows = contexts(jax.random.key(3), size)
    _, following = contexts(jax.random.key(4), size)
    discount = np.where(rng.random(size) < 0.3, 0.0, DISCOUNT).astype(np.float32)
    action = rng.integers(0, 9, (size, 1)).astype(np.int32)
    reward = rng.normal(size=size).astype(np.float32)
    return ReplaySample(rows, action, reward, discount, following, np.asarray(weight), np.zeros((2, size), np.int32))


@functools.partial(jax.jit, static_argnums=0)
def differing_learner(dqn: DQN):
    """Large random values, which differ between the two networks."""
    first, second = (dqn.init_learner(jax.random.key(seed)) for seed in (5, 6))

    def scale(leaf):
        return leaf + 0.3 * jax.random.normal(jax.random.key(leaf.size), leaf.shape)

    return dataclasses.replace(first, params=jax.tree.map(scale, first.params), target_params=second.params)


def test_the_network_selects_and_the_target_network_evaluates():
    dqn, sample = LEARNERS["scalar"], random_sample(np.ones(64, np.float32))
    learner = differing_learner(dqn)
    selecting, evaluating = (
        values(dqn, params, sample.next_observation) for params in (learner.params, learner.target_params)
    )
    action = selecting.argmax(axis=-1)
    assert (action != evaluating.argmax(axis=-1)).mean() > 0.3
    expected = sample.reward + sample.discount * evaluating[np.arange(64), action]
    np.testing.assert_allclose(find_target(dqn, learner, sample)[:, 0], expected, rtol=1e-5, atol=1e-6)


def test_targets_of_distributions_by_hand():
    dqn, sample = LEARNERS["distribution"], random_sample(np.ones(64, np.float32))
    learner = differing_learner(dqn)
    support = dqn.config.head.support
    raw = _outputs(dqn, learner.target_params, sample.next_observation)[1]
    action = values(dqn, learner.params, sample.next_observation).argmax(axis=-1)
    mass = np.asarray(jax.nn.softmax(raw))[np.arange(64), action]
    target = np.asarray(find_target(dqn, learner, sample))
    atoms = np.linspace(support.low, support.high, support.num_atoms)
    shifted = sample.reward[:, None] + sample.discount[:, None] * atoms
    expected = (mass * np.clip(shifted, support.low, support.high)).sum(axis=-1)
    np.testing.assert_allclose(target @ atoms, expected, atol=1e-4)
    np.testing.assert_allclose(target.sum(axis=-1), 1.0, rtol=1e-5)


@pytest.mark.parametrize("kind", LEARNERS)
def test_samples_without_weight_have_no_gradient(kind):
    dqn = LEARNERS[kind]
    weight = np.float32([1.0] * 4 + [0.0] * 4)
    sample = random_sample(weight)
    learner = differing_learner(dqn)
    expected = find_gradient(dqn, learner.params, sample, find_target(dqn, learner, sample))
    mask = weight > 0
    changed = dataclasses.replace(
        sample,
        observation=np.where(mask[:, None], sample.observation, 7.0),
        reward=np.where(mask, sample.reward, 1e6).astype(np.float32),
    )
    found = find_gradient(dqn, learner.params, changed, find_target(dqn, learner, changed))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    nothing = dataclasses.replace(sample, weight=np.zeros(8, np.float32))
    found = find_gradient(dqn, learner.params, nothing, find_target(dqn, learner, nothing))
    assert not any(leaf.any() for leaf in jax.tree.leaves(found))


def test_dr3_adds_the_weighted_dot_product_to_the_loss():
    plain = LEARNERS["scalar"]
    regular = dataclasses.replace(plain, config=dataclasses.replace(plain.config, dr3_weight=0.5))
    sample, learner = random_sample(np.ones(64, np.float32)), differing_learner(plain)
    target = jnp.zeros((64, 1))
    (first, (_, _, scalars)), (second, _) = (
        jax.jit(dqn.loss)(learner.params, sample, target) for dqn in (plain, regular)
    )
    assert scalars["feature_dot"] > 0.1 and 0.0 < scalars["feature_cosine"] <= 1.0
    assert second - first == pytest.approx(0.5 * float(scalars["feature_dot"]), rel=1e-3)


def test_actions_are_random_with_the_probability_epsilon():
    dqn = LEARNERS["scalar"]
    params = differing_learner(dqn).params
    _, rows = contexts(jax.random.key(0), 4000)
    greedy = values(dqn, params, rows).argmax(axis=-1)
    act = jax.jit(lambda actor, key: actor(rows, key)[0][:, 0])
    for epsilon in (0.0, 0.5):
        action = act(EpsilonGreedy(params, jnp.float32(epsilon), dqn.model.graph), jax.random.key(1))
        assert np.mean(action != greedy) == pytest.approx(epsilon * 8 / 9, abs=0.03)
    schedule = np.asarray(jax.vmap(dqn.epsilon)(jnp.arange(10))).tolist()[::3]
    assert schedule == pytest.approx([1.0, 0.02, 0.02, 0.02])


EGO_TASK = FunctionalEnv(ws.Env(DISCRETE_BICYCLE, ws.EnvConfig(steps_per_action=2)), FlatView(num_agents=8))


def test_a_training_step_is_one_traceable_function():
    bank = build_bank(ws.load("synthetic:0:1", pad_to_bucket=False), EGO_TASK.env)
    dqn = DQN(EGO_TASK, DQNConfig(num_updates=2, num_envs=2, num_decisions=4, buffer_rows=8), NETWORK)
    state = jax.eval_shape(dqn.init, bank, jax.random.key(0))
    following, scalars = jax.eval_shape(dqn.train_step, state, bank)
    before, after = ([(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(record)] for record in (state, following))
    assert before == after and jax.tree.structure(state) == jax.tree.structure(following)
    assert {"loss", "value", "return", "episodes"} <= scalars.keys()
    assert state.replay.priority.shape == (8, 2)


@pytest.mark.slow
@pytest.mark.parametrize("task", [GOAL_TASK, EGO_TASK], ids=["self_play", "ego"])
def test_training_steps_in_the_simulator(task):
    bank = build_bank(ws.load("synthetic:0:2", pad_to_bucket=False), task.env)
    dqn = DQN(task, DQNConfig(num_updates=2, num_envs=2, num_decisions=50, buffer_rows=60, minibatch=64), NETWORK)
    state, step = jax.jit(dqn.init)(bank, jax.random.key(0)), jax.jit(dqn.train_step)
    for _ in range(2):
        state, scalars = step(state, bank)
    assert all(np.isfinite(value) for value in scalars.values())
    assert scalars["agent_steps"] > 0 and scalars["episodes"] > 0 and scalars["invalid_actions"] == 0
    rows = jax.device_get(state.replay.rows)
    assert (rows.ended <= rows.active).all() and rows.ended.any()
