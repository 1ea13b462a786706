import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import oracle
from tests.scenes import agent_state, measure, scene
from waymax_sim.datatypes.agents import forward_speed
from waymax_sim.dynamics import Bicycle
from waymax_sim.dynamics.bicycle import estimate_controls
from waymax_sim.metrics.kinematics import kinematic_infeasibility

DT = 0.1


def evaluate(previous, agents, types=1) -> tuple[np.ndarray, np.ndarray]:
    count = len(agents.yaw)
    scenario = scene(num_agents=count, agent_type=np.broadcast_to(types, count).astype(int))
    result = measure(kinematic_infeasibility, scenario, agents, previous)
    return np.asarray(result.value), np.asarray(result.valid)


def driving(speed, course=0.0, yaw=None, valid=True, xy=0.0):
    speed, course = np.broadcast_arrays(np.asarray(speed, float), course)
    velocity = speed[:, None] * np.stack([np.cos(course), np.sin(course)], axis=-1)
    positions = np.broadcast_to(xy, (len(speed), 2))
    return agent_state(positions, course if yaw is None else yaw, velocity, valid)


def driven(before, speed, course=0.0, **changes):
    """The agents `before` a step later, displaced by their mean speed in their mean direction."""
    after = driving(speed, course, **changes)
    turn = np.asarray(after.yaw) - np.asarray(before.yaw)
    distance = DT * (np.asarray(forward_speed(before)) + np.asarray(forward_speed(after))) / 2
    middle = np.asarray(before.yaw) + turn / 2
    xy = np.asarray(before.xyz)[:, :2] + distance[:, None] * np.stack([np.cos(middle), np.sin(middle)], axis=-1)
    return driving(speed, course, **changes, xy=xy)


def test_limits_of_acceleration():
    before = driving([10.0] * 5)
    value, valid = evaluate(before, driven(before, 10 + np.array([1.04, -1.04, 1.04005, 1.042, -1.042])))
    np.testing.assert_array_equal(value, [0, 0, 0, 1, 1])
    assert valid.all()


def test_limits_of_curvature():
    # At 10 m/s a step is 1 m.
    before = driving([10.0] * 4)
    value, _ = evaluate(before, driven(before, [10.0] * 4, [0.3, -0.3, 0.302, -0.302]))
    np.testing.assert_array_equal(value, [0, 0, 1, 1])


def test_the_center_of_a_turning_box_slips():
    # 2 m/s on a radius of 4 m, measured 1.4 m ahead of the rear axle: the course deviates from the heading by 0.34.
    yaw, rear_speed = np.array([0.05]), 2.0
    slip = np.arctan(1.4 / 4)
    speed = np.array([rear_speed / np.cos(slip)])
    angles = np.array([0.0, 0.05])
    cos, sin = np.cos(angles), np.sin(angles)
    center = np.stack([4 * sin + 1.4 * cos, 4 * (1 - cos) + 1.4 * sin], axis=-1)
    before = driving(speed, slip, yaw=0.0, xy=center[:1])
    assert evaluate(before, driving(speed, slip + 0.05, yaw=yaw, xy=center[1:]))[0] == 0


@pytest.mark.parametrize(("ahead", "aside", "infeasible"), [
    (1.0, 0.0, 0),
    (1.15, 0.0, 0), (0.85, 0.0, 0), (1.16, 0.0, 1), (0.84, 0.0, 1),  # 0.1 m and 0.052 m
    (1.0, 0.09, 0), (1.0, -0.11, 1), (1.0, 0.11, 1),
    (-1.0, 0.0, 1), (50.0, 0.0, 1), (np.nan, 0.0, 1),
])  # fmt: skip
def test_a_position_missed_by_the_bicycle_is_infeasible(ahead, aside, infeasible):
    before = driving([10.0])
    assert evaluate(before, driving([10.0], xy=(ahead, aside)))[0] == infeasible


def test_a_car_that_slides_sideways_is_infeasible():
    """A car at rest that moves sideways by 0.3 m, or has such a velocity; and one that drives along its course."""
    rest = driving([0.0])
    assert evaluate(rest, driving([0.0], xy=(0.0, 0.3)))[0] == 1
    assert evaluate(rest, driving([1.1], np.pi / 2, yaw=0.0))[0] == 1
    assert evaluate(rest, driving([0.9], np.pi / 2, yaw=0.0))[0] == 0
    sliding = driving([8.0], 0.3, yaw=0.0)
    assert evaluate(sliding, driving([8.0], 0.3, yaw=0.0, xy=0.8 * np.array([np.cos(0.3), np.sin(0.3)])))[0] == 1


def test_slow_agents_may_rotate():
    before = driving([0.5, 0.7])
    value, _ = evaluate(before, driven(before, [0.55, 0.75], 2.0))
    np.testing.assert_array_equal(value, [0, 1])


def test_reversing_is_feasible():
    back = driving([-3.0])
    np.testing.assert_array_equal(evaluate(back, driven(back, [-3.2], 0.05))[0], 0)


def test_only_vehicles_and_cyclists_valid_in_both_steps_have_values():
    previous = driving([5.0] * 7, valid=np.arange(7) != 5)
    agents = driving([50.0] * 7, valid=np.arange(7) != 6)
    value, valid = evaluate(previous, agents, [0, 1, 2, 3, 4, 1, 1])
    np.testing.assert_array_equal(valid, [0, 1, 0, 1, 0, 0, 0])
    np.testing.assert_array_equal(value, valid)


def random_motion(rng, count=300):
    """States of agents at random, many of which nearly follow the bicycle, and a step later."""
    speed, yaw = rng.choice([0.0, 0.7, 5.0, 20.0], count) * rng.choice([1, 1, -1], count), rng.uniform(-3.1, 3.1, count)
    before = driving(speed, yaw, xy=rng.uniform(-9, 9, (count, 2)))
    gain, curvature = rng.uniform(-12, 12, count), rng.uniform(-0.35, 0.35, count)
    exact = driven(before, speed + DT * gain, yaw + curvature * DT * (speed + DT * gain / 2))
    noise = rng.normal(0, 1, (2, count, 2)) * rng.choice([0, 0.05, 0.3], (2, count, 1))
    velocity = np.asarray(exact.velocity) + 5 * noise[1]
    after = agent_state(np.asarray(exact.xyz)[:, :2] + noise[0], exact.yaw, velocity)
    return before, after


@pytest.mark.parametrize("seed", range(3))
def test_random_motion_equals_the_oracle(seed):
    states = random_motion(np.random.default_rng(seed))
    rows = [np.column_stack([state.xyz[:, :2], state.yaw, state.velocity]).astype(float) for state in states]
    expected = [oracle.is_infeasible(a, b, 4.0, DT) for a, b in zip(*rows, strict=True)]
    assert 0.2 < np.mean(expected) < 0.8
    np.testing.assert_array_equal(evaluate(*states)[0], expected)


def test_the_inverse_of_random_motion_equals_the_oracle():
    rng = np.random.default_rng(0)
    velocities = rng.normal(0, 4, (2, 300, 2)) * (rng.random((2, 300, 1)) < 0.9)
    states = [agent_state(np.zeros((300, 2)), rng.uniform(-3.1, 3.1, 300), velocity) for velocity in velocities]
    rows = [np.column_stack([state.yaw, state.velocity]).astype(float) for state in states]
    expected = np.array([oracle.bicycle_inverse(a, b, DT) for a, b in zip(*rows, strict=True)])
    found = np.asarray(jax.jit(lambda a, b: estimate_controls(a, b, DT))(*states))
    np.testing.assert_allclose(found[:, 0], expected[:, 0], atol=1e-4)
    # Where the agent reverses within the step the distance is near zero and curvature is ill-conditioned.
    np.testing.assert_allclose(found[:, 1], expected[:, 1], rtol=2e-3, atol=1e-4)


def test_motion_of_the_bicycle_is_feasible():
    rng = np.random.default_rng(1)
    before = driving(rng.uniform(0, 30, 100), rng.uniform(-3, 3, 100))
    wild = jnp.asarray(rng.uniform((-20, -1), (20, 1), (100, 2)), jnp.float32)
    after = jax.jit(Bicycle(max_acceleration=10.4).apply)(before, wild, DT)
    np.testing.assert_array_equal(evaluate(before, after)[0], 0)


def test_gradients_of_the_explanation_are_finite():
    before = dataclasses.replace(driving([0, 0, 1e-9, 0.6, 5, -5]), valid=jnp.arange(6) < 5)
    gradient = jax.jit(jax.grad(lambda a, b: jnp.sum(estimate_controls(a, b, DT)), argnums=(0, 1), allow_int=True))
    for after in (before, driving([0.0] * 6), driving([0.6, 1e-25, -1e-9, -0.6, 5, 5], 0.3)):
        sides = gradient(before, after)
        assert all(np.isfinite(leaf).all() for side in sides for leaf in (side.yaw, side.velocity))
