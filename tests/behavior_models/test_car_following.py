"""The Intelligent Driver Model by hand, and its bounded deceleration."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from behavior_models.traffic.car_following import (
    CAR_RANGES,
    CYCLIST_RANGES,
    IDMParams,
    bounded_interaction_deceleration,
    free_acceleration,
    interaction_deceleration,
    sample_idm_params,
)
from tests.strategies import floats


def driver(a=2.0, b=4.0, headway=2.0, min_gap=2.0) -> IDMParams:
    return IDMParams(*map(jnp.float32, (a, b, headway, min_gap, 2.0, 1.0, 40.0)))


def by_hand(speed, desired, gap, lead, a=2.0, b=4.0, headway=2.0, min_gap=2.0) -> float:
    desired_gap = min_gap + max(0.0, speed * headway + speed * (speed - lead) / (2 * math.sqrt(a * b)))
    return a * (1 - (speed / desired) ** 4 - (desired_gap / max(gap, 0.1)) ** 2)


@pytest.mark.parametrize(
    ("speed", "gap", "lead", "expected"),
    [(10, math.inf, 0, 1.975309), (10, 20, 10, -0.444691), (10, 10, 0, -29.51105), (5, 0, 0, -5.39e4)],
)
def test_acceleration_by_hand(speed, gap, lead, expected):
    speed, gap, lead = (jnp.float32(value) for value in (speed, gap, lead))
    free = free_acceleration(speed, jnp.float32(30.0), driver())
    acceleration = free - interaction_deceleration(speed, gap, speed - lead, driver())
    assert float(acceleration) == pytest.approx(expected, rel=1e-3 if gap == 0 else 1e-6)
    assert by_hand(float(speed), 30.0, float(gap), float(lead)) == pytest.approx(expected, rel=1e-3)


formulas = jax.jit(
    lambda speed, desired, gap, lead: (
        free_acceleration(speed, desired, driver()),
        interaction_deceleration(speed, gap, speed - lead, driver()),
        bounded_interaction_deceleration(speed, gap, speed - lead, driver()),
    )
)


@given(speed=floats(0, 40), desired=floats(5, 40), gap=floats(-5, 200), lead=floats(0, 40))
def test_model_equals_the_formula_and_deceleration_is_comfortable_or_necessary(speed, desired, gap, lead):
    free, plain, bounded = (np.asarray(values) for values in formulas(speed, desired, gap, lead))
    expected = [by_hand(*map(float, values)) for values in zip(speed, desired, gap, lead, strict=True)]
    np.testing.assert_allclose(free - plain, expected, rtol=1e-4, atol=1e-3)
    assert (bounded <= plain * (1 + 1e-6)).all()
    # At least the deceleration that removes the speed difference within the gap, unless the model requires less.
    approach_rate = np.maximum(speed - lead, 0)
    necessary = approach_rate**2 / (2 * np.maximum(gap - 0.5, 0.125))
    assert (bounded >= np.minimum(plain, necessary) * (1 - 1e-4)).all()
    assert (bounded <= 2.0 + np.maximum(4.0, 1.5 * necessary) * (1 + 1e-4)).all()


def test_vehicle_of_equal_speed_that_cuts_in_causes_no_emergency_brake():
    ten, gap, zero = jnp.float32(10.0), jnp.float32(1.0), jnp.float32(0.0)
    assert float(interaction_deceleration(ten, gap, zero, driver())) > 900
    assert float(bounded_interaction_deceleration(ten, gap, zero, driver())) == pytest.approx(6.0)


def test_gradients_are_finite():
    def loss(values):
        speed, gap, lead = values
        deceleration = bounded_interaction_deceleration(speed, gap, speed - lead, driver())
        return deceleration + free_acceleration(speed, jnp.float32(10.0), driver())

    for values in ([0.0, 0.0, 0.0], [10.0, -1.0, 0.0], [10.0, 20.0, 10.0], [5.0, 1e4, 0.0]):
        assert np.isfinite(np.asarray(jax.grad(loss)(jnp.asarray(values, jnp.float32)))).all()


def test_sampled_parameters_are_within_their_ranges_and_independent_of_padding():
    kinds = jnp.asarray([1, 3] * 100, jnp.int32)
    params = sample_idm_params(kinds, jax.random.key(0))
    assert len(jax.tree.leaves(params)) == len(CAR_RANGES) == len(CYCLIST_RANGES)
    for name in CAR_RANGES:
        values = np.asarray(getattr(params, name))
        for ranges, own in ((CAR_RANGES, values[::2]), (CYCLIST_RANGES, values[1::2])):
            low, high = ranges[name]
            assert (own >= low).all() and (own <= high).all()
            # Spread over the range, as uniform draws are.
            assert np.ptp(own) > 0.9 * (high - low) and abs(own.mean() - (low + high) / 2) < 0.1 * (high - low)
    unpadded = sample_idm_params(kinds[:7], jax.random.key(0))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[:7]), unpadded, params)
