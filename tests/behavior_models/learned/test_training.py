"""The training core: advantages, the loop with resumption, and stops at losses that are not finite."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from behavior_models.training.advantages import generalized_advantages
from behavior_models.training.loop import LOG_FILE, LoopConfig, NonFiniteLossError, run_training
from waymax_sim.pytree import pytree


def test_advantages_against_a_loop():
    rng = np.random.default_rng(0)
    value, reward = rng.normal(size=(2, 7, 3)).astype(np.float32)
    ended, last = rng.random((7, 3)) < 0.3, rng.normal(size=3).astype(np.float32)
    found = generalized_advantages(*map(jnp.asarray, (value, reward, ended, last)), discount=0.9, decay=0.8)
    expected = np.zeros_like(value)
    for column in range(3):
        advantage, following = 0.0, last[column]
        for step in reversed(range(7)):
            alive = not ended[step, column]
            error = reward[step, column] + 0.9 * alive * following - value[step, column]
            advantage = error + 0.9 * 0.8 * alive * advantage
            expected[step, column], following = advantage, value[step, column]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytree
class Walk:
    """A random walk, whose position depends on all random draws."""

    position: jax.Array
    key: jax.Array


@jax.jit
def walk(state: Walk):
    key, own = jax.random.split(state.key)
    position = state.position + jax.random.normal(own, (3,))
    return Walk(position, key), {"loss": jnp.sum(position**2)}


def first() -> Walk:
    return Walk(jnp.zeros(3), jax.random.key(1))


def test_an_interrupted_training_ends_like_an_uninterrupted_one(tmp_path):
    config = LoopConfig(num_steps=12, log_every=2, save_every=4)
    whole = run_training(tmp_path / "whole", first(), walk, config)
    calls = []

    def interrupted(state):
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return walk(state)

    with pytest.raises(KeyboardInterrupt):
        run_training(tmp_path / "parts", first(), interrupted, config)
    resumed = run_training(tmp_path / "parts", first(), walk, config)
    np.testing.assert_array_equal(resumed.position, whole.position)
    np.testing.assert_array_equal(jax.random.key_data(resumed.key), jax.random.key_data(whole.key))
    files = (tmp_path / name / LOG_FILE for name in ("whole", "parts"))
    lines = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
    assert [line["step"] for line in lines[1]] == [2, 4, 6, 8, 10, 12]
    assert [line["loss"] for line in lines[1]] == [line["loss"] for line in lines[0]]


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path):
    def diverge(state):
        following, scalars = walk(state)
        return following, scalars | {"policy_loss": jnp.nan}

    with pytest.raises(NonFiniteLossError, match=r"step 2: policy_loss not finite"):
        run_training(tmp_path, first(), diverge, LoopConfig(num_steps=4, log_every=2))
    assert (tmp_path / "diverged").is_dir()
