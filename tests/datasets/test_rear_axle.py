"""Box centers of vehicles whose source gives the rear axle."""

import numpy as np

from waymax_sim.datasets.formats.rear_axle import EgoVehicleParams, rear_axle_to_center

PARAMS = EgoVehicleParams(length=4.0, width=2.0, height=1.5, rear_axle_to_center=1.25)
RADIUS, RATE = 20.0, 0.4  # m and rad/s of a turn of the rear axle about the origin


def turn(num_steps=21, step=0.05):
    time = step * np.arange(num_steps)
    angle = RATE * time
    xy = RADIUS * np.stack([np.sin(angle), -np.cos(angle)], axis=-1)
    velocity = RADIUS * RATE * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    return time, xy, angle, velocity


def test_the_center_of_a_turning_box():
    """It is on a circle of its own, and its velocity has a part to the side of rate times distance."""
    time, xy, yaw, velocity = turn()
    center, moved = rear_axle_to_center(xy, yaw, velocity, np.ones(21, bool), time, PARAMS)
    np.testing.assert_allclose(np.linalg.norm(center, axis=-1), np.hypot(RADIUS, 1.25))
    sideways = np.cos(yaw) * moved[:, 1] - np.sin(yaw) * moved[:, 0]
    np.testing.assert_allclose(sideways[1:-1], RATE * 1.25, rtol=1e-3)
    np.testing.assert_allclose(moved[1:-1], np.gradient(center, time, axis=0)[1:-1], rtol=1e-3, atol=1e-3)


def test_invalid_states_and_useless_clocks():
    time, xy, yaw, velocity = turn()
    valid = np.arange(21) % 2 == 0
    center, moved = rear_axle_to_center(xy, yaw, velocity, valid, time, PARAMS)
    np.testing.assert_array_equal(center[~valid], xy[~valid])
    np.testing.assert_array_equal(moved[~valid], velocity[~valid])
    np.testing.assert_allclose(np.linalg.norm(center - xy, axis=-1)[valid], 1.25)
    for clock in (np.zeros(21), time[::-1], np.full(21, np.nan)):
        np.testing.assert_array_equal(rear_axle_to_center(xy, yaw, velocity, valid, clock, PARAMS)[1], velocity)
    one = np.arange(21) == 3
    assert np.isfinite(rear_axle_to_center(xy, yaw, velocity, one, time, PARAMS)[1]).all()
