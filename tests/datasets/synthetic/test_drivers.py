import dataclasses

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from waymax_sim.datasets.synthetic.drivers import (
    MAX_DECELERATION,
    DriverObservation,
    DriverParams,
    draw_driver_params,
    idm_acceleration,
)

PARAMS = DriverParams(*(np.array([value]) for value in (1.0, 1.5, 2.0, 1.0, 2.0)))


def observe(speed=10.0, allowed_speed=15.0, gap=np.inf, leader_speed=0.0, stop_distance=np.inf) -> DriverObservation:
    return DriverObservation(
        *(np.array([float(value)]) for value in (speed, allowed_speed, gap, leader_speed, stop_distance))
    )


def acceleration(**arguments) -> float:
    return float(idm_acceleration(observe(**arguments), PARAMS)[0])


def test_the_formula_by_hand():
    # Desired gap 2 + 10 * 1.5 + 10 * 2 / (2 sqrt(2)) = 24.0711.
    want = 1.0 * (1 - (10 / 15) ** 4 - (24.0711 / 40) ** 2)
    np.testing.assert_allclose(acceleration(gap=40.0, leader_speed=8.0), want, atol=1e-5)


@given(st.floats(0.0, 14.0))
def test_the_equilibrium_gap_gives_no_acceleration(speed):
    gap = (2.0 + 1.5 * speed) / np.sqrt(1 - (speed / 15) ** 4)
    assert abs(acceleration(speed=speed, gap=gap, leader_speed=speed)) < 1e-9


@given(st.floats(0.0, 30.0), st.floats(0.2, 100.0), st.floats(0.0, 30.0), st.floats(0.2, 100.0))
def test_accelerations_are_bounded_and_increase_with_the_gap(speed, gap, leader_speed, stop_distance):
    free = acceleration(speed=speed)
    result = acceleration(speed=speed, gap=gap, leader_speed=leader_speed, stop_distance=stop_distance)
    assert -MAX_DECELERATION <= result <= free <= 1.0
    assert result <= acceleration(speed=speed, gap=2 * gap, leader_speed=leader_speed, stop_distance=stop_distance)


def test_a_vehicle_stops_before_a_line():
    speed, arc = 12.0, 0.0
    for _ in range(300):
        after = max(0.0, speed + 0.1 * acceleration(speed=speed, stop_distance=60.0 - arc))
        speed, arc = after, arc + 0.1 * (speed + after) / 2
    assert speed < 0.05 and 57.0 < arc < 60.0


def test_driver_params_vary_within_limits():
    params = draw_driver_params(500, np.random.default_rng(0))
    for field in dataclasses.fields(params):
        values = getattr(params, field.name)
        assert values.min() > 0.5 and np.std(values) > 0.03 * np.mean(values), field.name
    # Aggressive drivers drive faster at a shorter headway.
    assert np.corrcoef(params.speed_factor, params.time_headway)[0, 1] < -0.3
    some = params.select(np.array([3, 5]))
    np.testing.assert_array_equal(some.speed_factor, params.speed_factor[[3, 5]])
