"""Several devices compute what one computes, up to rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import waymax_sim as ws
from behavior_models.networks.scene_encoder import NetworkConfig
from behavior_models.reinforcement.ppo import PPO, PPOConfig
from behavior_models.trainers.ppo import batch_sizes, distribute_state
from behavior_models.training.devices import device_mesh, map_seeds, put_on_devices
from behavior_models.training.loop import LoopConfig, run_training
from behavior_models.training.presets import GOAL_TASK
from waymax_sim.env.bank import build_bank

CONFIG = PPOConfig(num_envs=4, num_decisions=6, capacity=64, minibatch=32, num_epochs=1)
NETWORK = NetworkConfig(width=8, trunk=8)


def test_devices_divide_the_environments():
    assert device_mesh(4).devices.size == 2 and device_mesh(3) is None and device_mesh(4, 1) is None
    with pytest.raises(ValueError, match="5 items cannot be shared equally by 2 devices"):
        device_mesh(5, 2)


def test_seeds_on_two_devices_equal_those_on_one():
    def step(state, offset):
        return state + offset, {"loss": jnp.sum(state**2)}

    states, offset, mesh = jnp.arange(12.0).reshape(4, 3), jnp.ones(3), device_mesh(4)
    expected = jax.jit(map_seeds(step))(states, offset)
    found = jax.jit(map_seeds(step, mesh))(put_on_devices(states, mesh, False), put_on_devices(offset, mesh, True))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    np.testing.assert_array_equal(expected[0], states + 1.0)


def test_batches_are_in_proportion_to_environments():
    assert batch_sizes(32) == {"num_envs": 32, "minibatch": 640, "capacity": 5120}
    assert batch_sizes(16) == {"num_envs": 16, "minibatch": 320, "capacity": 2560}
    PPOConfig(**batch_sizes(7))


@pytest.fixture(scope="module")
def bank():
    return build_bank(ws.load("synthetic:0:2", pad_to_bucket=False), GOAL_TASK.env)


def first_state(bank, seed: int = 0):
    return jax.jit(PPO(GOAL_TASK, CONFIG, NETWORK).init)(bank, jax.random.key(seed))


@pytest.mark.slow
def test_training_on_two_devices_equals_training_on_one(bank):
    results = []
    for mesh in (None, device_mesh(CONFIG.num_envs)):
        learner = PPO(GOAL_TASK, CONFIG, NETWORK, mesh=mesh)
        state, scenarios = distribute_state(first_state(bank), mesh), put_on_devices(bank, mesh, True)
        step, lines = jax.jit(learner.train_step), []
        for _ in range(2):
            state, scalars = step(state, scenarios)
            lines.append(scalars)
        # States remain on their devices: one program.
        assert step._cache_size() == 1
        results.append((state.params, lines, state.environments.observation))
    assert float(results[0][1][0]["agent_steps"]) > 10
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), results[1], results[0])


@pytest.mark.slow
def test_an_interrupted_training_by_self_play_is_resumed_exactly(bank, tmp_path):
    learner, config = PPO(GOAL_TASK, CONFIG, NETWORK), LoopConfig(num_steps=4, log_every=1, save_every=2)
    compiled, calls = jax.jit(learner.train_step), []

    def step(state):
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return compiled(state, bank)

    whole = run_training(tmp_path / "whole", first_state(bank), step, config)
    with pytest.raises(KeyboardInterrupt):
        run_training(tmp_path / "parts", first_state(bank), step, config)
    resumed = run_training(tmp_path / "parts", first_state(bank), step, config)
    assert len(calls) == 4 + 4 + 2
    for found, expected in zip(jax.tree.leaves(resumed.params), jax.tree.leaves(whole.params), strict=True):
        np.testing.assert_array_equal(found, expected)
