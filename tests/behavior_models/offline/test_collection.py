"""Collection of transitions: complete episodes, nearest discrete actions, and the replay of logged actions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import waymax_sim as ws
from behavior_models.baselines.kinematic import Stationary
from behavior_models.baselines.log_expert import LogExpert
from behavior_models.offline.collection import collect_transitions, complete_episodes, max_episode_decisions
from behavior_models.training.presets import ACCELERATIONS, CURVATURES, GOAL_TASK
from waymax_sim.adapters.functional import FunctionalEnv
from waymax_sim.dynamics import Bicycle
from waymax_sim.env import Env
from waymax_sim.env.bank import build_bank
from waymax_sim.env.flat_view import FlatView
from waymax_sim.pytree import pytree

pytestmark = pytest.mark.compile_heavy
CONFIG = dataclasses.replace(GOAL_TASK.env.config, max_controlled=4)
TASK = FunctionalEnv(Env(GOAL_TASK.env.dynamics, CONFIG), FlatView("controlled", num_agents=2, num_polylines=2))
HOLD = ACCELERATIONS.index(0.0) * len(CURVATURES) + CURVATURES.index(0.0)
NUM_DECISIONS, NUM_ENVS = 100, 4


@pytest.fixture(scope="module")
def bank():
    return build_bank(ws.load("synthetic:0:3", pad_to_bucket=False), TASK.env)


@pytree
class CountingPolicy(ws.Policy):
    """The k-th decision of an episode is the action k, so the log shows the recurrent state; or no usable one."""

    is_usable: jax.Array
    dynamics = TASK.env.dynamics

    def init(self, observation, key):
        return jnp.zeros((), jnp.int32)

    def act(self, observation, carry, key):
        num_agents = observation.info.id.shape[0]
        value = jnp.full((num_agents, 1), carry, jnp.int32)
        valid = jnp.broadcast_to(self.is_usable, (num_agents,))
        return ws.Action(value=value, valid=valid), carry + 1


def log(bank, policy, epsilon=0.0, seed=0):
    key = jax.random.key(seed)
    return collect_transitions(TASK, policy, bank, key, NUM_DECISIONS, num_envs=NUM_ENVS, epsilon=epsilon)


def test_complete_episodes_by_hand():
    # Stream 0: episodes 0-1, 2-4 and one that does not end. Stream 1: one after a pause, and one that begins too late.
    active = np.array([[1, 0], [1, 1], [1, 1], [1, 0], [1, 1], [1, 1]], bool)
    ends = np.array([[0, 0], [1, 0], [0, 1], [0, 0], [1, 0], [0, 1]], bool)
    valid, begins = complete_episodes(active, ends, 3)
    np.testing.assert_array_equal(valid.T, [[1, 1, 1, 1, 1, 0], [0, 1, 1, 0, 0, 0]])
    np.testing.assert_array_equal(begins.T, [[1, 0, 1, 0, 0, 0], [0, 1, 0, 0, 0, 0]])


@pytest.mark.slow
def test_episodes_are_complete_and_recurrent_states_restart(bank):
    transitions, returns, num_steps = log(bank, CountingPolicy(jnp.asarray(True)))
    ends = np.logical_or(transitions.ended, transitions.truncated)
    assert 0 < int(transitions.count) <= num_steps / CONFIG.steps_per_action
    assert not (ends & ~transitions.active).any() and not (transitions.ended & transitions.truncated).any()
    episodes = []
    for stream in range(len(transitions.task)):
        rows = np.flatnonzero(transitions.active[:, stream])
        groups = np.split(rows, np.flatnonzero(ends[rows, stream])[:-1] + 1)
        assert ends[[group[-1] for group in groups], stream].all()
        for group in groups:
            # All agents start with the scenario.
            np.testing.assert_array_equal(transitions.action[group, stream], np.arange(len(group)))
            episodes.append(transitions.reward[group, stream].sum())
            assert transitions.return_to_go[group[0], stream] == pytest.approx(episodes[-1], abs=1e-4)
    np.testing.assert_allclose(np.sort(episodes), np.sort(returns), atol=1e-4)
    assert np.isfinite(transitions.observation).all()


def test_unusable_actions_keep_speed_and_heading(bank):
    transitions = log(bank, CountingPolicy(jnp.asarray(False))).transitions
    assert (transitions.action[transitions.active] == HOLD).all()


def test_random_actions(bank):
    transitions = log(bank, CountingPolicy(jnp.asarray(False)), 0.5).transitions
    actions = transitions.action[transitions.active]
    assert np.mean(actions == HOLD) == pytest.approx(0.5, abs=0.1)
    assert len(np.unique(actions)) > 20


@pytest.mark.slow
def test_policies_of_other_models_by_their_nearest_actions(bank):
    constant, expert = log(bank, CountingPolicy(jnp.asarray(False))), log(bank, LogExpert())
    # The logged motion earns more than a constant speed, and its actions are of several levels.
    assert expert.returns.mean() > constant.returns.mean() + 0.1
    assert len(np.unique(expert.transitions.action[expert.transitions.active])) > 5


def test_policies_without_accelerations_by_their_next_state(bank):
    stationary = log(bank, Stationary()).transitions
    level = stationary.action[stationary.active] // len(CURVATURES)
    # Vehicles that must be at rest in the next step brake most, and have no reason to accelerate.
    assert np.mean(level == 0) > 0.1 and (level <= ACCELERATIONS.index(0.0)).all()


def test_refused_arguments(bank):
    policy, key = CountingPolicy(jnp.asarray(True)), jax.random.key(0)
    assert max_episode_decisions(TASK, bank) <= NUM_DECISIONS
    with pytest.raises(ValueError, match="less than an episode"):
        collect_transitions(TASK, policy, bank, key, 1)
    with pytest.raises(ValueError, match="no probability"):
        collect_transitions(TASK, policy, bank, key, NUM_DECISIONS, epsilon=1.5)
    continuous = dataclasses.replace(TASK, env=Env(Bicycle(), CONFIG))
    with pytest.raises(ValueError, match="Discrete"):
        collect_transitions(continuous, policy, bank, key, NUM_DECISIONS)
