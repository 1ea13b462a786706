"""Stored policies: exact, refused for another observation, loaded by the command line."""

import json

import jax
import numpy as np
import pytest
from flax import nnx

from behavior_models.encoders.raster import Raster
from behavior_models.networks.actor_critic import ActorCritic
from behavior_models.networks.checkpoint import CheckpointError, load_policy, save_policy
from behavior_models.networks.model import ActorCriticModel, QModel
from behavior_models.networks.policy import NetworkPolicy
from behavior_models.networks.q_network import QHeadConfig
from behavior_models.networks.resnet import ResNetConfig
from behavior_models.networks.scene_encoder import NetworkConfig
from behavior_models.networks.value_heads import ValueSupport
from tests.scenes import scene
from waymax_sim.dynamics import Bicycle, Discrete
from waymax_sim.env import rollout
from waymax_sim.env.flat_view import FlatView
from waymax_sim.evaluation.evaluate import EvaluationConfig
from waymax_sim.plugins import resolve_policy

NETWORK = NetworkConfig(width=8, trunk=8)
ACTIONS = Discrete(Bicycle(), levels=((-2.0, 0.0, 2.0), (-0.1, 0.0, 0.1)))


@pytest.fixture
def policy():
    encoder = FlatView("controlled", num_agents=4, num_polylines=6)
    graph, params = nnx.split(ActorCritic(encoder.spec(), ACTIONS.num_actions, NETWORK, rngs=nnx.Rngs(3)))
    return NetworkPolicy(params, graph, encoder, ACTIONS, "sample", 2)


def test_a_stored_policy_is_exact(tmp_path, policy):
    save_policy(tmp_path / "a", policy, NETWORK, {"algorithm": "test"})
    for loaded in (load_policy(tmp_path / "a"), resolve_policy(str(tmp_path / "a"))):
        # Equal structure: both share compiled programs.
        assert jax.tree.structure(loaded) == jax.tree.structure(policy)
        for found, expected in zip(jax.tree.leaves(loaded), jax.tree.leaves(policy), strict=True):
            np.testing.assert_array_equal(found, expected)
        assert (loaded.dynamics, loaded.mode, loaded.interval) == (ACTIONS, "sample", 2)


@pytest.mark.parametrize("head", [QHeadConfig(), QHeadConfig(False, ValueSupport(-1.0, 2.0, 5))])
def test_a_stored_network_of_action_values_is_exact(tmp_path, policy, head):
    model = QModel(policy.encoder, ACTIONS, NETWORK, head)
    greedy = model.policy(jax.jit(model.init)(jax.random.key(0)), "mode", 2)
    save_policy(tmp_path, greedy, NETWORK, {"algorithm": "test"}, head)
    loaded = load_policy(tmp_path)
    assert jax.tree.structure(loaded) == jax.tree.structure(greedy)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, greedy.params)


def test_a_policy_with_a_raster_is_evaluated(tmp_path):
    """Stored, loaded by the command line, and driven with the history that its images need."""
    raster, network = Raster(size=16, behind=4.0), NetworkConfig(trunk=8, resnet=ResNetConfig((1,), (8,)))
    model = ActorCriticModel(raster, ACTIONS, network)
    stored = model.policy(jax.jit(model.init)(jax.random.key(0)), "mode", 2)
    save_policy(tmp_path, stored, network, {"algorithm": "test"})
    loaded = resolve_policy(str(tmp_path))
    assert jax.tree.structure(loaded) == jax.tree.structure(stored) and loaded.encoder == raster
    config = EvaluationConfig({"a": loaded}, {"log": None}, ("overlap",))
    env = config.env("log")
    assert env.config.num_history_steps == raster.num_history_steps == 11
    made = scene(num_steps=16, current_step=11)
    run = jax.jit(lambda policy: rollout(env, policy, env.prepare(made), jax.random.key(0), 3, record=("actions",)))
    actions, expected = (np.asarray(run(policy).actions[0].value) for policy in (loaded, stored))
    np.testing.assert_array_equal(actions, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda stored: stored.update(kind="tree"), "unknown kind of network 'tree'"),
        (lambda stored: stored["observation"].update(version=1), "another observation: version is 2, stored is 1"),
        (lambda stored: stored.update(version=99), "has version 99"),
        (lambda stored: stored["observation"].update(encoder="radar"), "unknown encoder 'radar'"),
        (lambda stored: stored["network"].update(width=16), "which are not those of its network"),
        (lambda stored: stored["dynamics"]["dynamics"].update(name="Rocket"), "unknown dynamics 'Rocket'"),
    ],
)
def test_policies_of_another_kind_are_refused(tmp_path, policy, change, message):
    save_policy(tmp_path, policy, NETWORK, {})
    file = tmp_path / "policy.json"
    stored = json.loads(file.read_text())
    change(stored)
    file.write_text(json.dumps(stored))
    with pytest.raises(CheckpointError, match=message):
        load_policy(tmp_path)


def test_weights_that_are_not_finite_are_refused(tmp_path, policy):
    broken = jax.tree.map(lambda leaf: np.full(leaf.shape, np.nan, np.float32), policy.params)
    save_policy(tmp_path, NetworkPolicy(broken, policy.graph, policy.encoder, ACTIONS), NETWORK, {})
    with pytest.raises(CheckpointError, match="not finite"):
        load_policy(tmp_path)
