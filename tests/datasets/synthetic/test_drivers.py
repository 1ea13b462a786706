import dataclasses

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from waymax_sim.datasets.synthetic.drivers import HARDEST_BRAKING, Sight, Traits, draw_traits, intelligent_driver

USUAL = Traits(*(np.array([value]) for value in (1.0, 1.5, 2.0, 1.0, 2.0)))


def sight(speed=10.0, allowed=15.0, gap=np.inf, leader=0.0, stop=np.inf) -> Sight:
    return Sight(*(np.array([float(value)]) for value in (speed, allowed, gap, leader, stop)))


def acceleration(**seen) -> float:
    return float(intelligent_driver(sight(**seen), USUAL)[0])


def test_the_formula_by_hand():
    # Wanted gap 2 + 10 * 1.5 + 10 * 2 / (2 sqrt(2)) = 24.0711.
    want = 1.0 * (1 - (10 / 15) ** 4 - (24.0711 / 40) ** 2)
    np.testing.assert_allclose(acceleration(gap=40.0, leader=8.0), want, atol=1e-5)


@given(st.floats(0.0, 14.0))
def test_at_its_equilibrium_gap_one_goes_on_alike(speed):
    gap = (2.0 + 1.5 * speed) / np.sqrt(1 - (speed / 15) ** 4)
    assert abs(acceleration(speed=speed, gap=gap, leader=speed)) < 1e-9


@given(st.floats(0.0, 30.0), st.floats(0.2, 100.0), st.floats(0.0, 30.0), st.floats(0.2, 100.0))
def test_no_sight_makes_anybody_do_the_impossible(speed, gap, leader, stop):
    free = acceleration(speed=speed)
    found = acceleration(speed=speed, gap=gap, leader=leader, stop=stop)
    assert -HARDEST_BRAKING <= found <= free <= 1.0
    assert found <= acceleration(speed=speed, gap=2 * gap, leader=leader, stop=stop)


def test_one_stops_before_a_line():
    speed, arc = 12.0, 0.0
    for _ in range(300):
        after = max(0.0, speed + 0.1 * acceleration(speed=speed, stop=60.0 - arc))
        speed, arc = after, arc + 0.1 * (speed + after) / 2
    assert speed < 0.05 and 57.0 < arc < 60.0


def test_drivers_differ_within_reason():
    traits = draw_traits(500, np.random.default_rng(0))
    for field in dataclasses.fields(traits):
        values = getattr(traits, field.name)
        assert values.min() > 0.5 and np.std(values) > 0.03 * np.mean(values), field.name
    # Who is hasty wants to go faster and keeps less distance.
    assert np.corrcoef(traits.pace, traits.headway)[0, 1] < -0.3
    some = traits.of(np.array([3, 5]))
    np.testing.assert_array_equal(some.pace, traits.pace[[3, 5]])
