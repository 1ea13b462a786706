"""Learners on known problems without the simulator: a contextual bandit, and demonstrations that can be memorized."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from behavior_models.imitation.behavior_cloning import BCConfig, BehaviorCloning
from behavior_models.imitation.demonstrations import Demonstrations, two_hot_actions
from behavior_models.networks.policy import NetworkActor
from behavior_models.reinforcement.ppo import PPO, Batch, PPOConfig
from tests.behavior_models.learned.problems import ACTIONS, NETWORK, TASK, contexts

pytestmark = pytest.mark.compile_heavy
CONFIG = PPOConfig(num_updates=40, capacity=256, minibatch=64, learning_rate=3e-3, entropy_weight=0.0)


def play(ppo: PPO, num_updates: int, anchor=None):
    """Updates of PPO on a bandit that pays 1 for the action with the number of the context."""
    key = jax.random.key(0)
    params = jax.jit(lambda key: _params(ppo, key))(key)
    optimizer = ppo._optimizer.init(params)

    @jax.jit
    def update(params, optimizer, key):
        context_key, action_key, fit_key = jax.random.split(key, 3)
        context, rows = contexts(context_key, CONFIG.capacity)
        action, (log_prob, value) = NetworkActor(params, ppo.model.graph, ACTIONS)(rows, action_key)
        reward = (action[:, 0] == context).astype(jnp.float32)
        advantage = reward - value
        weight = jnp.ones(CONFIG.capacity)
        normalized = (advantage - jnp.mean(advantage)) / (jnp.std(advantage) + 1e-6)
        batch = Batch(rows, action, log_prob, normalized, reward, weight)
        params, optimizer, _ = ppo._fit(params, optimizer, batch, fit_key, anchor)
        return params, optimizer, jnp.mean(reward)

    rewards = []
    for number in range(num_updates):
        params, optimizer, reward = update(params, optimizer, jax.random.fold_in(key, number))
        rewards.append(float(reward))
    return params, rewards


def _params(ppo, key):
    return ppo.model.init(key)


def test_ppo_solves_a_bandit():
    _, rewards = play(PPO(TASK, CONFIG, NETWORK), 40)
    assert rewards[0] < 0.3 and np.mean(rewards[-3:]) > 0.95


def test_padding_has_no_gradient():
    ppo = PPO(TASK, CONFIG, NETWORK)
    params = _params(ppo, jax.random.key(1))
    context, rows = contexts(jax.random.key(2), 8)
    weight = jnp.asarray([1.0] * 4 + [0.0] * 4)
    fields = (rows, context[:, None], jnp.zeros(8), jnp.ones(8), jnp.ones(8), weight)
    gradient = jax.jit(jax.grad(lambda params, batch: ppo.loss(params, batch)[0]))
    expected = gradient(params, Batch(*fields))
    padded = [jnp.where(weight.reshape(-1, *(1 for _ in field.shape[1:])) > 0, field, 7) for field in fields[:-1]]
    found = gradient(params, Batch(*padded, weight))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_an_anchor_holds_the_policy_near_it():
    free = PPO(TASK, CONFIG, NETWORK)
    anchor = _params(free, jax.random.key(5))
    distances = []
    for weight in (0.02, 10.0):
        ppo = PPO(TASK, dataclasses.replace(CONFIG, anchor_weight=weight), NETWORK, free.model.graph)
        params, _ = play(ppo, 10, anchor)
        _, rows = contexts(jax.random.key(9), 64)
        log_probs = [jax.nn.log_softmax(_outputs(ppo, weights, rows)) for weights in (anchor, params)]
        distances.append(float(jnp.mean(jnp.sum(jnp.exp(log_probs[0]) * (log_probs[0] - log_probs[1]), axis=-1))))
    assert distances[1] < 0.2 * distances[0]


def test_an_anchor_of_weight_0_changes_no_bit():
    free = PPO(TASK, CONFIG, NETWORK)
    anchored = PPO(TASK, dataclasses.replace(CONFIG, anchor_weight=0.0), NETWORK, free.model.graph)
    (plain, rewards), (params, own_rewards) = play(free, 3), play(anchored, 3, _params(free, jax.random.key(5)))
    jax.tree.map(np.testing.assert_array_equal, params, plain)
    assert own_rewards == rewards


def _outputs(ppo, params, rows):
    return nnx.merge(ppo.model.graph, params)(rows)[0]


@pytest.mark.parametrize("labels", ["soft", "hard"])
def test_behavior_cloning_memorizes_demonstrations(labels):
    context, rows = contexts(jax.random.key(0), 512)
    value = ACTIONS.decode(context[:, None])
    data = Demonstrations(rows.astype(jnp.float16), two_hot_actions(ACTIONS, value), value)
    learner = BehaviorCloning(TASK, 512, BCConfig(labels, num_epochs=30, minibatch=64, learning_rate=3e-3), NETWORK)
    state, step = learner.init(jax.random.key(1)), jax.jit(learner.train_step)
    losses = []
    for _ in range(30):
        state, scalars = step(state, data)
        losses.append(float(scalars["loss"]))
    assert losses[-1] < 0.1 * losses[0]
    assert float(jax.jit(learner.accuracy)(state.params, data)) > 0.95


def test_two_hot_labels_keep_the_mean():
    rng = np.random.default_rng(0)
    value = rng.uniform((-2.0, -0.1), (2.0, 0.1), (20, 2)).astype(np.float32)
    label = two_hot_actions(ACTIONS, jnp.asarray(value))
    grid = ACTIONS.decode(jnp.arange(ACTIONS.num_actions, dtype=jnp.int32)[:, None])
    np.testing.assert_allclose(label @ grid, value, atol=1e-5)
    np.testing.assert_allclose(label.sum(axis=-1), 1.0, rtol=1e-6)
