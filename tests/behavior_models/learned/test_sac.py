"""Soft actor-critic and BC-SAC on known problems without the simulator: a bandit and a road, and targets by hand."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from behavior_models.imitation.demonstrations import Demonstrations
from behavior_models.networks.action_value import ActionValue
from behavior_models.networks.scene_encoder import NetworkConfig
from behavior_models.reinforcement.bc_sac import BCSAC
from behavior_models.reinforcement.sac import SAC, SACConfig
from behavior_models.training.presets import GOAL_TASK
from behavior_models.training.replay_buffer import ReplaySample
from waymax_sim.adapters.functional import FunctionalEnv
from waymax_sim.dynamics import Bicycle
from waymax_sim.env import Env
from waymax_sim.env.flat_view import FlatView

pytestmark = pytest.mark.compile_heavy
VIEW = FlatView("controlled", num_agents=2, num_polylines=2)
TASK = FunctionalEnv(Env(Bicycle(normalized=True)), VIEW)
CONFIG = SACConfig(num_updates=1, num_gradient_steps=400, batch=64, actor_delay=0, learning_rate=3e-3, target_rate=0.05)
LEARNER = SAC(TASK, CONFIG, NetworkConfig(width=16, trunk=32))
SIZE = VIEW.spec().size
# Best action of each of four contexts, and of the demonstrations, which are worse.
BEST = jnp.asarray([[0.5, -0.5], [-0.5, 0.5], [0.0, 0.7], [-0.7, -0.2]])
DEMONSTRATED = -BEST
# A road of two sections: an episode ends beyond its end.
ROAD_LENGTH = 2.0


def encode(values):
    """Observations that show up to three values in the frame of the observer."""
    rows = jnp.zeros((len(values), SIZE)).at[:, 0].set(1.0)
    return rows.at[:, 1 : 1 + values.shape[1]].set(values)


def transitions(observation, action, reward, discount=None, following=None, weight=None) -> ReplaySample:
    zeros = jnp.zeros(len(reward))
    return ReplaySample(
        observation=observation,
        action=action,
        reward=reward,
        discount=zeros if discount is None else discount,
        next_observation=observation if following is None else following,
        weight=jnp.ones(len(reward)) if weight is None else weight,
        index=jnp.zeros((2, len(reward)), jnp.int32),
    )


def bandit(key) -> ReplaySample:
    """Random actions in random contexts; the reward is highest for the best action of the context."""
    context_key, action_key = jax.random.split(key)
    context = jax.random.randint(context_key, (CONFIG.batch,), 0, 4)
    action = jax.random.uniform(action_key, (CONFIG.batch, 2), minval=-1.0, maxval=1.0)
    reward = -jnp.sum((action - BEST[context]) ** 2, axis=-1)
    return transitions(encode(3.0 * jax.nn.one_hot(context, 4)), action, reward)


def road(key) -> ReplaySample:
    """Random drives: the first component of the action is the distance driven; each decision costs 1 until the end."""
    position_key, action_key = jax.random.split(key)
    position = jax.random.uniform(position_key, (CONFIG.batch, 1), maxval=ROAD_LENGTH)
    action = jax.random.uniform(action_key, (CONFIG.batch, 2), minval=-1.0, maxval=1.0)
    moved = jnp.maximum(position + action[:, :1], 0.0)
    discount = jnp.where(moved[:, 0] >= ROAD_LENGTH, 0.0, 0.9)
    return transitions(encode(position), action, -jnp.ones(CONFIG.batch), discount, encode(moved))


def train(problem, term=None):
    """Gradient steps on samples of a problem."""

    @jax.jit
    def fit(state, key):
        def step(state, key):
            sample_key, own_key = jax.random.split(key)
            return LEARNER.update(state, problem(sample_key), own_key, term)

        return jax.lax.scan(step, state, jax.random.split(key, CONFIG.num_gradient_steps))

    return fit(jax.jit(LEARNER.init_learner)(jax.random.key(0)), jax.random.key(1))


def modes(state, observation):
    return np.asarray(LEARNER.model.distribution(state.actor, observation).mode())


CONTEXTS = encode(3.0 * jnp.eye(4))


@functools.cache
def solved():
    return train(bandit)


def test_a_bandit_is_solved():
    state, scalars = solved()
    np.testing.assert_allclose(modes(state, CONTEXTS), BEST, atol=0.12)
    # The value of the best action is 0, and the one of an action at the distance 1 is -1.
    best, away = (
        LEARNER.critic_model.values(state.critics, CONTEXTS, BEST + shift) for shift in (0.0, jnp.asarray([[0.6, 0.0]]))
    )
    assert np.abs(best).max() < 0.15 and np.abs(away[:, 1] + 0.36).max() < 0.15
    np.testing.assert_array_equal(scalars["temperature"], np.float32(CONFIG.temperature))


def test_imitation_moves_the_actor_to_the_demonstrations():
    """The weight decides between the best and the demonstrated action; the critics do not change their optimum."""
    data = Demonstrations(CONTEXTS.astype(jnp.float16), jnp.zeros((4, 0)), DEMONSTRATED)
    distances = []
    for weight in (0.0, 10.0):
        state, _ = solved() if weight == 0.0 else train(bandit, BCSAC(LEARNER, weight).imitation_term(data))
        distances.append(float(np.abs(modes(state, CONTEXTS) - DEMONSTRATED).mean()))
    assert distances[1] < 0.1 and distances[0] > 0.6
    values = LEARNER.critic_model.values(state.critics, CONTEXTS, BEST)
    assert np.abs(values).max() < 0.2


def test_a_road_is_driven_at_full_speed():
    state, _ = train(road)
    positions = jnp.asarray([[0.1], [1.5]])
    assert (modes(state, encode(positions))[:, 0] > 0.8).all()
    # The end is reached by one decision from 1.5, and by two from 0.3 at full speed: -1 and -1 - 0.9.
    drive = jnp.asarray([[1.0, 0.0]])
    for position, expected in ((1.5, -1.0), (0.3, -1.9)):
        values = LEARNER.critic_model.values(state.critics, encode(jnp.asarray([[position]])), drive)
        np.testing.assert_allclose(values[:, 0], expected, atol=0.35)


def test_targets_by_hand():
    state = LEARNER.init_learner(jax.random.key(3))
    state = dataclasses.replace(state, targets=LEARNER.critic_model.init(jax.random.key(4)))
    batch = road(jax.random.key(5))
    found = np.asarray(jax.jit(LEARNER.targets)(state, batch, jax.random.key(6)))
    actor = nnx.merge(LEARNER.model.graph, state.actor)
    mean, log_std = np.split(np.asarray(actor(batch.next_observation)[0], np.float64), 2, axis=-1)
    noise = np.asarray(jax.random.normal(jax.random.key(6), mean.shape))
    action = np.tanh(mean + np.exp(log_std) * noise)
    log_prob = -0.5 * noise**2 - log_std - 0.5 * np.log(2 * np.pi) - np.log(1 - action**2)
    graph = nnx.graphdef(ActionValue(VIEW.spec(), 2, LEARNER.network, rngs=nnx.Rngs(0)))
    values = [
        np.asarray(nnx.merge(graph, params)(batch.next_observation, jnp.asarray(action, jnp.float32)))
        for params in state.targets
    ]
    entropy_bonus = -CONFIG.temperature * log_prob.sum(axis=-1)
    expected = np.asarray(batch.reward) + np.asarray(batch.discount) * (np.minimum(*values) + entropy_bonus)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.unique(np.asarray(batch.discount)).size == 2 and np.abs(values[0] - values[1]).max() > 1e-3


def test_one_step_averages_the_targets():
    state = LEARNER.init_learner(jax.random.key(0))
    following, scalars = jax.jit(LEARNER.update)(state, bandit(jax.random.key(1)), jax.random.key(2))
    for new, old, critic in zip(
        *map(jax.tree.leaves, (following.targets, state.targets, following.critics)), strict=True
    ):
        np.testing.assert_allclose(new, old + CONFIG.target_rate * (critic - old), rtol=1e-4, atol=1e-7)
    assert all(np.isfinite(value) for value in scalars.values())
    # Actor and critics share no parameters: the encoders of each move on their own.
    assert sum(leaf.size for leaf in jax.tree.leaves(state.critics)) > sum(
        leaf.size for leaf in jax.tree.leaves(state.actor)
    )


def test_critics_learn_before_the_actor():
    state = LEARNER.init_learner(jax.random.key(0))
    delayed = dataclasses.replace(LEARNER, config=dataclasses.replace(CONFIG, actor_delay=1))
    following, _ = jax.jit(delayed.update)(state, bandit(jax.random.key(1)), jax.random.key(2))
    jax.tree.map(np.testing.assert_array_equal, following.actor, state.actor)
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (following.critics, state.critics)), strict=True))


def test_the_temperature_falls_above_the_target_entropy_and_rises_below_it():
    state = LEARNER.init_learner(jax.random.key(0))
    changes = []
    for target in (-5.0, 5.0):
        learner = dataclasses.replace(LEARNER, config=dataclasses.replace(CONFIG, target_entropy=target))
        temperature, _ = learner._adapt_temperature(state, jnp.float32(0.0))
        changes.append(float(temperature - state.log_temperature))
    assert changes[0] < 0 < changes[1]


def test_transitions_without_weight_have_no_gradient():
    state, batch = LEARNER.init_learner(jax.random.key(0)), road(jax.random.key(1))
    weight = (jnp.arange(CONFIG.batch) % 2).astype(jnp.float32)
    masked = dataclasses.replace(batch, weight=weight)
    other = dataclasses.replace(
        masked,
        observation=jnp.where(weight[:, None] > 0, batch.observation, 7.0),
        action=jnp.where(weight[:, None] > 0, batch.action, 0.3),
        reward=jnp.where(weight > 0, batch.reward, 1e6),
    )

    @jax.jit
    def gradients(batch):
        target = LEARNER.targets(state, batch, jax.random.key(2))
        action = jnp.zeros_like(batch.action)
        critics = jax.grad(lambda params: LEARNER.critic_loss(params, batch, target, action)[0])(state.critics)
        actor = jax.grad(lambda params: LEARNER.actor_loss(params, state, batch, jax.random.key(3))[0])(state.actor)
        return critics, actor

    expected = gradients(masked)
    jax.tree.map(np.testing.assert_array_equal, gradients(other), expected)
    empty = gradients(dataclasses.replace(other, weight=jnp.zeros(CONFIG.batch)))
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(empty))
    assert any((np.asarray(leaf) != 0).any() for leaf in jax.tree.leaves(expected))


def test_a_weight_of_zero_is_soft_actor_critic():
    data = Demonstrations(CONTEXTS.astype(jnp.float16), jnp.zeros((4, 0)), DEMONSTRATED)
    state, batch, key = LEARNER.init_learner(jax.random.key(0)), bandit(jax.random.key(1)), jax.random.key(2)
    plain, _ = jax.jit(LEARNER.update)(state, batch, key)
    # The term itself, with the weight 0: the same program up to rounding.
    term = BCSAC(LEARNER, 0.0).imitation_term(data)
    found, scalars = jax.jit(lambda: LEARNER.update(state, batch, key, term))()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, plain)
    assert np.isfinite(scalars["imitation_loss"])
    weighted, _ = jax.jit(lambda: LEARNER.update(state, batch, key, BCSAC(LEARNER, 1.0).imitation_term(data)))()
    same = [np.allclose(a, b) for a, b in zip(*map(jax.tree.leaves, (weighted.critics, plain.critics)), strict=True)]
    moved = [not np.allclose(a, b) for a, b in zip(*map(jax.tree.leaves, (weighted.actor, plain.actor)), strict=True)]
    assert all(same) and any(moved)


def test_other_actions_and_weights_are_refused():
    with pytest.raises(ValueError, match="actions in"):
        SAC(GOAL_TASK)
    with pytest.raises(ValueError, match="must not be negative"):
        BCSAC(LEARNER, -1.0)
    with pytest.raises(ValueError, match="must not be negative"):
        BCSAC(LEARNER, float("nan"))
