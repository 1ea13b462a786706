"""Losses of value learners as programs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from behavior_models.offline.car_following_bed import BED
from behavior_models.program_search.domains.perceptron import apply_perceptron
from behavior_models.program_search.domains.rl_loss import (
    LOSS_SPACE,
    LoggedTransitions,
    LossTrainingParams,
    ValueBatch,
    dqn_program,
    dqn_reg_program,
    log_transitions,
    program_loss,
    return_range,
    rl_loss_domain,
    score_loss,
    train_values,
)
from behavior_models.program_search.export import to_formula

pytestmark = pytest.mark.compile_heavy

SMALL = LossTrainingParams(
    num_logged=20,
    num_logged_decisions=12,
    hidden=(16,),
    num_steps=60,
    batch_size=16,
    num_seeds=1,
    num_vehicles=20,
    num_decisions=20,
    hurdle=0.0,
)
NUM_BATCHES = 1000
SIZES = (4, 7)


def _random_batches():
    rng = np.random.default_rng(0)
    shape = NUM_BATCHES, 8
    return {
        "weight": rng.normal(size=(NUM_BATCHES, *SIZES)),
        "bias": rng.normal(size=(NUM_BATCHES, SIZES[1])),
        "observation": rng.normal(size=(*shape, SIZES[0])),
        "q_target": rng.normal(0.0, 3.0, (*shape, SIZES[1])),
        "reward": rng.normal(size=shape),
        "discount": rng.choice([0.0, 0.95], shape),
        "action": rng.integers(0, SIZES[1], shape).astype(np.int32),
    }


@pytest.mark.parametrize(("program", "linear"), [(dqn_program, 0.0), (dqn_reg_program, 0.1)], ids=["dqn", "dqn_reg"])
def test_program_equals_hand_written_loss_and_gradient(program, linear):
    """Mean losses of 1,000 batches and their gradients with respect to a linear network, in float64 NumPy."""
    batches = _random_batches()

    def mean_loss(network, item):
        q = apply_perceptron([network], item["observation"])
        batch = ValueBatch(q, item["q_target"], item["reward"], item["discount"], item["action"])
        return jnp.mean(program_loss(program())(batch))

    with jax.enable_x64():
        networks = jnp.asarray(batches["weight"]), jnp.asarray(batches["bias"])
        run = jax.jit(jax.vmap(jax.value_and_grad(mean_loss)))
        losses, gradients = jax.device_get(run(networks, jax.tree.map(jnp.asarray, batches)))
    q = batches["observation"] @ batches["weight"] + batches["bias"][:, None]
    one_hot = np.eye(SIZES[1])[batches["action"]]
    chosen = np.sum(q * one_hot, axis=-1)
    error = chosen - batches["reward"] - batches["discount"] * batches["q_target"].max(axis=-1)
    np.testing.assert_allclose(losses, np.mean(0.5 * error**2 + linear * chosen, axis=1), atol=1e-6)
    slope = (error + linear)[..., None] * one_hot / error.shape[1]
    np.testing.assert_allclose(gradients[0], np.swapaxes(batches["observation"], 1, 2) @ slope, atol=1e-6)
    np.testing.assert_allclose(gradients[1], slope.sum(axis=1), atol=1e-6)


def test_formula_of_the_loss():
    formula = "half_square(sum_a q action - (reward + (discount * max_a q_target)))"
    assert to_formula(LOSS_SPACE, dqn_program()) == formula


def test_logged_transitions_follow_the_process():
    params = dataclasses.replace(SMALL, num_logged=100)
    data = jax.device_get(log_transitions(jax.random.key(0), BED, params))
    count = int(data.count)
    assert 0 < count < len(data.reward)
    assert data.ended[:count].any()
    # A crash costs at least 5 - 1.
    np.testing.assert_array_equal(data.ended[:count], data.reward[:count] < -4.0)
    speeds = 10.0 * (data.observation[:count, 1] + 1.0)
    expected = np.clip(speeds + 0.5 * np.array(BED.accelerations)[data.action[:count]], 0.0, 20.0)
    going_on = ~data.ended[:count]
    np.testing.assert_allclose(10.0 * (data.following[:count, 1] + 1.0)[going_on], expected[going_on], atol=1e-4)


def test_values_are_the_mean_rewards_of_a_bandit():
    """Episodes of one decision, with the reward of arm 2 in one state and of arm 0 in the other."""
    rng = np.random.default_rng(1)
    state, action = rng.integers(0, 2, 200), rng.integers(0, 3, 200)
    table = np.array([[0.0, 0.5, 1.0], [1.0, 0.0, -1.0]], np.float32)
    observation = np.repeat(np.eye(2, dtype=np.float32)[state], 2, axis=1)
    ended = np.ones(200, bool)
    rewards = table[state, action]
    data = LoggedTransitions(observation, action.astype(np.int32), rewards, ended, observation, np.array(200, np.int32))
    params = dataclasses.replace(SMALL, num_steps=400, learning_rate=1e-2)

    @jax.jit
    def train(program):
        return train_values(program_loss(program), jax.tree.map(jnp.asarray, data), jax.random.key(0), 3, params)

    network, is_usable = train(dqn_program())
    assert is_usable
    states = jnp.repeat(jnp.eye(2), 2, axis=1)
    np.testing.assert_allclose(apply_perceptron(network, states), table, atol=0.05)
    # The linear term of DQNReg lowers each value by 0.1.
    np.testing.assert_allclose(apply_perceptron(train(dqn_reg_program())[0], states), table - 0.1, atol=0.05)


@pytest.mark.slow
def test_unusable_losses_have_no_fitness():
    """A loss without a gradient trains nothing; the hurdle adds the second environment to the first."""
    domain = rl_loss_domain(params=SMALL)
    node = LOSS_SPACE.node
    constant, pinned = LOSS_SPACE.build([node("add", 2, 3)]), LOSS_SPACE.build([node("largest", 1)])
    programs = [jax.tree.map(jnp.asarray, item) for item in (dqn_program(), constant, pinned)]
    fitness = jax.jit(domain.evaluate)(jax.tree.map(lambda *leaves: jnp.stack(leaves), *programs))
    assert np.isfinite(fitness).all()
    assert fitness[1:].tolist() == [0.0, 0.0]
    beds = BED, dataclasses.replace(BED, lead_speed=6.0, lead_noise=2.5)
    keys = jax.random.split(jax.random.key(0), 1)
    loss = program_loss(dqn_program())
    limits = [return_range(bed, SMALL) for bed in beds]
    pairs = list(zip(beds, limits, strict=True))
    scores = jax.jit(lambda: [score_loss(loss, bed, keys, limit, SMALL).score[0] for bed, limit in pairs])
    assert float(fitness[0]) == pytest.approx(sum(map(float, scores())), abs=0.02)
