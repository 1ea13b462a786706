"""Behavior cloning of continuous actions: heads on demonstrations that can be memorized, and with two modes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from behavior_models.imitation.behavior_cloning import BCConfig, BehaviorCloning
from behavior_models.imitation.demonstrations import Demonstrations
from behavior_models.networks.checkpoint import load_policy, save_policy
from behavior_models.networks.scene_encoder import NetworkConfig
from waymax_sim.adapters.functional import FunctionalEnv
from waymax_sim.dynamics import Bicycle, Delta
from waymax_sim.env import Env
from waymax_sim.env.flat_view import FlatView

pytestmark = pytest.mark.compile_heavy
VIEW = FlatView("controlled", num_agents=2, num_polylines=2)
TASK = FunctionalEnv(Env(Bicycle(normalized=True)), VIEW)
NETWORK = NetworkConfig(width=16, trunk=32)
COUNT = 512


def observations(context):
    """Observations that show a number 0..3 in the frame of the observer."""
    rows = jnp.zeros((len(context), VIEW.spec().size)).at[:, 0].set(1.0)
    return rows.at[jnp.arange(len(context)), 1 + context].set(3.0).astype(jnp.float16)


def fit(head, data: Demonstrations):
    config = BCConfig(num_epochs=60, minibatch=64, learning_rate=5e-3)
    learner = BehaviorCloning(TASK, COUNT, config, dataclasses.replace(NETWORK, head=head))

    @jax.jit
    def train(state):
        return jax.lax.scan(lambda state, _: learner.train_step(state, data), state, length=config.num_epochs)

    state, scalars = train(learner.init(jax.random.key(1)))
    assert scalars["loss"][-1] < scalars["loss"][0]
    return learner, state.params


@pytest.mark.parametrize("head", ["gaussian", "mixture"])
def test_actions_of_two_modes(head):
    """Half of the demonstrations accelerate, half brake: a mixture takes a side, a single Gaussian drives between."""
    key = jax.random.key(0)
    context = jax.random.randint(key, (COUNT,), 0, 4)
    is_unimodal = context < 2
    side = jnp.where(is_unimodal, 1.0, jnp.where(jnp.arange(COUNT) % 2 == 0, 1.0, -1.0))
    curvature = 0.2 * context.astype(jnp.float32) - 0.3
    value = jnp.stack([0.6 * side, curvature], axis=-1) + 0.02 * jax.random.normal(key, (COUNT, 2))
    learner, params = fit(head, Demonstrations(observations(context), jnp.zeros((COUNT, 0)), value))
    actions = learner.model.distribution(params, observations(jnp.arange(4)).astype(jnp.float32))
    mode = np.asarray(actions.mode())
    np.testing.assert_allclose(mode[:2, 0], 0.6, atol=0.1)
    np.testing.assert_allclose(mode[:, 1], 0.2 * np.arange(4) - 0.3, atol=0.1)
    distance = np.abs(np.abs(mode[2:, 0]) - 0.6)
    assert (distance < 0.1).all() if head == "mixture" else (distance > 0.3).all()
    draws = np.asarray(jax.vmap(actions.sample)(jax.random.split(key, 200)))[:, 2:, 0]
    near = np.mean(np.abs(np.abs(draws) - 0.6) < 0.15)
    assert near > 0.85 if head == "mixture" else near < 0.6


@pytest.mark.parametrize(
    ("dynamics", "head"),
    [
        (Bicycle(normalized=True), "gaussian"),
        (Bicycle(normalized=True), "mixture"),
        (Delta("body", normalized=True), "mixture"),
    ],
    ids=["gaussian", "mixture", "delta"],
)
def test_stored_policies_of_continuous_actions_are_exact(tmp_path, dynamics, head):
    env = dataclasses.replace(TASK, env=dataclasses.replace(TASK.env, dynamics=dynamics))
    learner = BehaviorCloning(env, COUNT, network=dataclasses.replace(NETWORK, head=head))
    policy = learner.model.policy(learner.model.init(jax.random.key(2)), "mode", 2)
    save_policy(tmp_path, policy, learner.network, {})
    loaded = load_policy(tmp_path)
    assert jax.tree.structure(loaded) == jax.tree.structure(policy) and loaded.head == head
    jax.tree.map(np.testing.assert_array_equal, loaded, policy)
