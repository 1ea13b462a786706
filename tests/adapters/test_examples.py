"""The examples of training run, and their advantages are those of the definition."""

import jax
import numpy as np

import waymax_sim as ws
from examples import functional_training, ppo_gymnasium
from tests.adapters.roads import place, roads
from waymax_sim.adapters.functional import FunctionalEnv

# Episodes of 6 steps on a straight road.
SHORT = dict(num_envs=4, num_steps=12, seed=1)


def test_ppo_runs_through_gymnasium():
    settings = ppo_gymnasium.Settings(**SHORT, updates=2, epochs=2, minibatches=2, width=8)
    params, returns = ppo_gymnasium.train(roads(4), settings, observe=place)
    assert len(returns) == 2 and np.isfinite(returns).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


def test_advantages_are_those_of_the_definition():
    """Two environments, three steps; the first ends at the second step."""
    settings = ppo_gymnasium.Settings(discount=0.5, trace=0.5)
    reward, value = np.array([[1.0, 0], [2, 0], [4, 8]]), np.array([[0.0, 0], [1, 0], [2, 4]])
    done = np.array([[False, False], [True, False], [False, False]])
    nothing = np.zeros((3, 2))
    _, _, _, gain, target = ppo_gymnasium.advantages(
        settings, nothing, nothing, nothing, value, reward, done, np.array([2.0, 4.0])
    )
    # First: 4 + 1 - 2 = 3 | 2 - 1 = 1 | 1 + 0.5 - 0 + 0.25 * 1. Second: 8 + 2 - 4 = 6 | 2 + 1.5 | 0 + 0.25 * 3.5.
    expected = np.array([[1.75, 0.875], [1.0, 3.5], [3.0, 6.0]])
    np.testing.assert_allclose(gain.reshape(3, 2), expected)
    np.testing.assert_allclose(target.reshape(3, 2), expected + value)


def test_training_in_the_graph_runs():
    scenarios = ws.stack_scenarios(roads(2))
    settings = functional_training.Settings(**SHORT, updates=3, width=8)
    params, rewards = functional_training.train(FunctionalEnv(observe=place), settings, scenarios)
    assert rewards.shape == (3,) and np.isfinite(rewards).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
