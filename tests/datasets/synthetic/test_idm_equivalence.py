"""The driver model of synthetic traffic in NumPy and that of `behavior_models` in JAX give equal accelerations."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from behavior_models.traffic.car_following import (
    GAP_FLOOR,
    IDMParams,
    free_acceleration,
    interaction_deceleration,
)
from waymax_sim.datasets.synthetic.drivers import (
    MIN_GAP_DENOMINATOR,
    DriverObservation,
    DriverParams,
    idm_acceleration,
)

ALLOWED_SPEED = 15.0  # m/s
# Moderate speeds and gaps, for which neither implementation applies the bounds of its own.
TABLE = np.array([*itertools.product((0.0, 3.0, 9.0, 14.0), (12.0, 40.0, 150.0), (0.0, 6.0, 13.0))])
DRIVERS = np.array([(1.0, 1.5, 2.0, 1.0, 2.0), (0.9, 1.0, 1.5, 1.8, 1.6), (1.1, 1.8, 2.5, 1.2, 2.6)])


def test_accelerations_are_equal():
    rows = np.array([*itertools.product(range(len(TABLE)), range(len(DRIVERS)))])
    speed, gap, leader_speed = TABLE[rows[:, 0]].T
    speed_factor, time_headway, min_gap, max_acceleration, comfortable_deceleration = DRIVERS[rows[:, 1]].T
    far = np.full(len(rows), np.inf)
    observation = DriverObservation(speed, np.full(len(rows), ALLOWED_SPEED), gap, leader_speed, far)
    params = DriverParams(speed_factor, time_headway, min_gap, max_acceleration, comfortable_deceleration)
    other = jax.tree.map(
        jnp.asarray,
        IDMParams(
            max_acceleration=max_acceleration,
            comfortable_deceleration=comfortable_deceleration,
            time_headway=time_headway,
            min_gap=min_gap,
            max_lateral_acceleration=far,
            speed_limit_factor=speed_factor,
            max_speed=far,
        ),
    )
    desired_speed = jnp.asarray(speed_factor * ALLOWED_SPEED)
    free = free_acceleration(jnp.asarray(speed), desired_speed, other)
    interaction = interaction_deceleration(
        jnp.asarray(speed), jnp.asarray(gap), jnp.asarray(speed - leader_speed), other
    )
    expected = np.asarray(free - interaction)
    is_unbounded = (np.asarray(free) > -comfortable_deceleration) & (expected > -7.0)
    assert is_unbounded.mean() > 0.8
    actual = idm_acceleration(observation, params)
    np.testing.assert_allclose(actual[is_unbounded], expected[is_unbounded], rtol=1e-5, atol=1e-5)


def test_gaps_have_the_same_lower_bound():
    assert MIN_GAP_DENOMINATOR == GAP_FLOOR
