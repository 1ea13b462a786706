"""The Intelligent Driver Model by hand, and that it is kept within what cars do."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from behavior_models.traffic.car_following import (
    CARS,
    CYCLES,
    Drivers,
    bounded_interaction,
    draw_drivers,
    free_road,
    interaction,
)
from tests.strategies import floats


def driver(acceleration=2.0, braking=4.0, headway=2.0, standstill=2.0) -> Drivers:
    one = jnp.float32
    return Drivers(one(acceleration), one(braking), one(headway), one(standstill), one(2.0), one(1.0), one(40.0))


def by_hand(speed, desired, gap, lead, a=2.0, b=4.0, headway=2.0, standstill=2.0) -> float:
    wanted = standstill + max(0.0, speed * headway + speed * (speed - lead) / (2 * math.sqrt(a * b)))
    return a * (1 - (speed / desired) ** 4 - (wanted / max(gap, 0.1)) ** 2)


@pytest.mark.parametrize(
    ("speed", "gap", "lead", "expected"),
    [(10, math.inf, 0, 1.975309), (10, 20, 10, -0.444691), (10, 10, 0, -29.51105), (5, 0, 0, -5.39e4)],
)
def test_acceleration_by_hand(speed, gap, lead, expected):
    speed, gap, lead = (jnp.float32(value) for value in (speed, gap, lead))
    free = free_road(speed, jnp.float32(30.0), driver())
    found = free - interaction(speed, gap, speed - lead, driver())
    assert float(found) == pytest.approx(expected, rel=1e-3 if gap == 0 else 1e-6)
    assert by_hand(float(speed), 30.0, float(gap), float(lead)) == pytest.approx(expected, rel=1e-3)


formulas = jax.jit(
    lambda speed, desired, gap, lead: (
        free_road(speed, desired, driver()),
        interaction(speed, gap, speed - lead, driver()),
        bounded_interaction(speed, gap, speed - lead, driver()),
    )
)


@given(speed=floats(0, 40), desired=floats(5, 40), gap=floats(-5, 200), lead=floats(0, 40))
def test_it_equals_the_formula_and_brakes_as_is_comfortable_or_needed(speed, desired, gap, lead):
    free, plain, bounded = (np.asarray(values) for values in formulas(speed, desired, gap, lead))
    expected = [by_hand(*map(float, values)) for values in zip(speed, desired, gap, lead, strict=True)]
    np.testing.assert_allclose(free - plain, expected, rtol=1e-4, atol=1e-3)
    assert (bounded <= plain * (1 + 1e-6)).all()
    # Never less than what loses the difference in speed within the gap, where the model itself asks for as much.
    closing = np.maximum(speed - lead, 0)
    needed = closing**2 / (2 * np.maximum(gap - 0.5, 0.125))
    assert (bounded >= np.minimum(plain, needed) * (1 - 1e-4)).all()
    assert (bounded <= 2.0 + np.maximum(4.0, 1.5 * needed) * (1 + 1e-4)).all()


def test_somebody_as_fast_who_cuts_in_is_no_reason_for_an_emergency():
    ten, gap, zero = jnp.float32(10.0), jnp.float32(1.0), jnp.float32(0.0)
    assert float(interaction(ten, gap, zero, driver())) > 900
    assert float(bounded_interaction(ten, gap, zero, driver())) == pytest.approx(6.0)


def test_gradients_are_finite():
    def loss(values):
        speed, gap, lead = values
        return bounded_interaction(speed, gap, speed - lead, driver()) + free_road(speed, jnp.float32(10.0), driver())

    for values in ([0.0, 0.0, 0.0], [10.0, -1.0, 0.0], [10.0, 20.0, 10.0], [5.0, 1e4, 0.0]):
        assert np.isfinite(np.asarray(jax.grad(loss)(jnp.asarray(values, jnp.float32)))).all()


def test_characters_are_within_their_ranges_and_do_not_depend_on_padding():
    kinds = jnp.asarray([1, 3] * 100, jnp.int32)
    drivers = draw_drivers(kinds, jax.random.key(0))
    for field in dataclasses.fields(Drivers):
        values = np.asarray(getattr(drivers, field.name))
        for ranges, own in ((CARS, values[::2]), (CYCLES, values[1::2])):
            low, high = ranges[field.name]
            assert (own >= low).all() and (own <= high).all()
            # Spread over the range, as uniform draws are.
            assert np.ptp(own) > 0.9 * (high - low) and abs(own.mean() - (low + high) / 2) < 0.1 * (high - low)
    few = draw_drivers(kinds[:7], jax.random.key(0))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[:7]), few, drivers)
