"""The car-following bed against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

from behavior_models.offline.car_following_bed import (
    LOGGED_STARTS,
    CarFollowingState,
    drive,
    epsilon_idm,
    evaluate,
    idm_action,
    observe,
    reset,
    step,
)

ACCELERATIONS = np.array([-6.0, -3.0, -1.5, 0.0, 1.0, 2.0, 3.0])


def random_states(count=500, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(0.0, 60.0, count), rng.uniform(0.0, 20.0, count), rng.uniform(0.0, 20.0, count)


def to_state(gap, speed, lead):
    return CarFollowingState(*(jnp.asarray(value, jnp.float32) for value in (gap, speed, lead)))


def test_a_step_equals_the_formulas():
    gap, speed, lead = random_states()
    gap[:50] = 0.5
    rng = np.random.default_rng(1)
    action, noise = rng.integers(0, 7, gap.size), rng.normal(size=gap.size)
    following, reward, crashed = jax.jit(step)(
        to_state(gap, speed, lead), jnp.asarray(action, jnp.int32), jnp.asarray(noise, jnp.float32)
    )
    chosen = ACCELERATIONS[action]
    next_speed = np.clip(speed + 0.5 * chosen, 0, 20)
    next_lead = np.clip(lead + 1.5 * noise * 0.5 + 0.05 * (10 - lead), 0, 20)
    next_gap = gap + 0.5 * (lead + next_lead - speed - next_speed) / 2
    np.testing.assert_allclose(following.gap, np.minimum(next_gap, 60), atol=1e-4)
    np.testing.assert_allclose(following.speed, next_speed, atol=1e-5)
    np.testing.assert_allclose(following.lead_speed, next_lead, atol=1e-5)
    clear = np.abs(next_gap) > 1e-3
    np.testing.assert_array_equal(np.asarray(crashed)[clear], (next_gap < 0)[clear])
    expected = next_speed / 20 - 0.02 * (chosen / 3) ** 2 - 5 * (next_gap < 0)
    np.testing.assert_allclose(np.asarray(reward)[clear], expected[clear], atol=1e-4)
    assert 20 < crashed.sum() < 200


def test_the_driver_takes_the_nearest_acceleration():
    gap, speed, lead = random_states()
    desired_gap = 2 + np.maximum(0, 1.5 * speed + speed * (speed - lead) / (2 * np.sqrt(6)))
    desired = 2 * (1 - (speed / 15) ** 4 - (desired_gap / np.maximum(gap, 0.1)) ** 2)
    distance = np.abs(desired[:, None] - ACCELERATIONS)
    found = np.asarray(jax.jit(lambda state: idm_action(observe(state)))(to_state(gap, speed, lead)))
    # Rounding decides between two equally near ones.
    np.testing.assert_allclose(distance[np.arange(500), found], distance.min(axis=-1), rtol=1e-3, atol=1e-3)


def test_crashed_vehicles_are_inactive():
    driven = jax.jit(lambda key: drive(epsilon_idm(1.0), reset(key, 64, LOGGED_STARTS), key, 40))(jax.random.key(0))
    active, ended = np.asarray(driven.active), np.asarray(driven.ended)
    assert active[0].all() and 0.1 < ended.sum() / 64 <= 1.0
    np.testing.assert_array_equal(active[1:], active[:-1] & ~ended[:-1])
    assert not np.asarray(driven.reward)[~active].any() and not (ended & ~active).any()


def test_noise_makes_the_driver_worse():
    key = jax.random.key(3)
    returns, crashed = jax.jit(lambda key: evaluate(epsilon_idm(0.0), key))(key)
    noisy_returns, noisy_crashed = jax.jit(lambda key: evaluate(epsilon_idm(0.6), key))(key)
    assert returns.mean() > noisy_returns.mean() + 5.0
    assert crashed.mean() < 0.01 < noisy_crashed.mean()
