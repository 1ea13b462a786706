"""The examples of training run, and their advantages are those of the definition."""

import jax
import numpy as np
import pytest

import waymax_sim as ws
from examples import functional_training, ppo_gymnasium
from examples.functional_training import Driver
from tests.adapters.roads import ego_position, roads
from waymax_sim.env.flat_view import FlatView

pytestmark = pytest.mark.compile_heavy

# Episodes of 6 steps on a straight road.
SHORT = dict(num_envs=4, num_steps=12, seed=1)


def test_ppo_runs_through_gymnasium():
    settings = ppo_gymnasium.Settings(**SHORT, updates=2, epochs=2, minibatches=2, width=8)
    # Optax mixes whole numbers and floats.
    with jax.numpy_dtype_promotion("standard"):
        params, returns = ppo_gymnasium.train(roads(4), settings, observe=ego_position)
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


def test_training_in_the_graph_runs(monkeypatch, capsys):
    """The whole program at a small size: baselines, the curve, and the trained policy on held-out scenes."""
    view = FlatView(num_agents=3, num_polylines=3)
    monkeypatch.setattr(functional_training, "VIEW", view)
    monkeypatch.setattr(functional_training, "Driver", lambda params: Driver(params, view))
    monkeypatch.setattr(ws, "load", lambda path, pad_to_bucket: roads(4))
    settings = functional_training.Settings(width=8)
    with jax.numpy_dtype_promotion("standard"):
        functional_training.main("train", "test", baselines=("coast",), quick=True, settings=settings)
    coast, *curve, trained = capsys.readouterr().out.splitlines()
    # The logged agents keep their speed: coasting drives the logged path in its six steps.
    assert coast == "test, coast: 1.000 per episode, 0.1667 per step"
    assert len(curve) == 2 and "nan" not in "".join(curve)
    assert trained.startswith("test, trained: ") and float(trained.split()[2]) <= 1.0


@pytest.mark.slow
def test_self_play_is_trained_and_evaluated(monkeypatch, capsys):
    """The whole program at a small size: all weights change, and every controlled agent is counted once."""
    train_ppo = pytest.importorskip("examples.train_ppo", reason="flax or optax is not installed")
    sizes = {"DECISIONS": 3, "NUM_ENVS": 2, "CAPACITY": 16, "MINIBATCH": 8, "EPOCHS": 2}
    for name, value in sizes.items():
        monkeypatch.setattr(train_ppo, name, value)
    monkeypatch.setattr(ws, "load", lambda path, pad_to_bucket: roads(2))
    # The schedules of optax mix whole numbers and floats.
    with jax.numpy_dtype_promotion("standard"):
        train_ppo.main("train", "test", updates=10)
    *progress, ppo, constant, no_goal, untrained = capsys.readouterr().out.splitlines()
    assert len(progress) == 1 and progress[0].startswith("update 10")
    # At 10 m/s all three agents of both scenarios reach the goal, 6 m ahead.
    assert constant == "held out, constant speed: {'goal': 1.0, 'collision': 0.0, 'off-road': 0.0, 'agents': 6.0}"
    for line, kind in ((ppo, "PPO"), (no_goal, "PPO without goal"), (untrained, "untrained")):
        assert line.startswith(f"held out, {kind}: ") and line.endswith("'agents': 6.0}")
