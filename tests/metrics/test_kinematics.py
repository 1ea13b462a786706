import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from tests import oracle
from tests.scenes import agent_state, measure, scene
from waymax_sim.dynamics import Bicycle
from waymax_sim.dynamics.bicycle import estimate_controls
from waymax_sim.metrics.kinematics import kinematic_infeasibility

DT = 0.1


def evaluate(previous, agents, types=1) -> tuple[np.ndarray, np.ndarray]:
    count = len(agents.yaw)
    scenario = scene(num_agents=count, agent_type=np.broadcast_to(types, count).astype(int))
    result = measure(kinematic_infeasibility, scenario, agents, previous)
    return np.asarray(result.value), np.asarray(result.valid)


def driving(speed, course=0.0, yaw=None, valid=True):
    speed, course = np.broadcast_arrays(np.asarray(speed, float), course)
    velocity = speed[:, None] * np.stack([np.cos(course), np.sin(course)], axis=-1)
    return agent_state(np.zeros((len(speed), 2)), course if yaw is None else yaw, velocity, valid)


def test_limits_of_acceleration():
    speed = 10 + np.array([1.04, -1.04, 1.04005, 1.042, -1.042])
    value, valid = evaluate(driving([10.0] * 5), driving(speed))
    np.testing.assert_array_equal(value, [0, 0, 0, 1, 1])
    assert valid.all()


def test_limits_of_curvature():
    # At 10 m/s a step is 1 m.
    value, _ = evaluate(driving([10.0] * 4), driving([10.0] * 4, [0.3, -0.3, 0.302, -0.302]))
    np.testing.assert_array_equal(value, [0, 0, 1, 1])


def test_slow_agents_may_rotate():
    value, _ = evaluate(driving([0.5, 0.7]), driving([0.55, 0.75], 2.0))
    np.testing.assert_array_equal(value, [0, 1])


def test_reversing_is_feasible():
    back = driving([-3.0])
    np.testing.assert_array_equal(evaluate(back, driving([-3.2], 0.05))[0], 0)


def test_only_vehicles_and_cyclists_valid_in_both_steps_have_values():
    previous = driving([5.0] * 7, valid=np.arange(7) != 5)
    agents = driving([50.0] * 7, valid=np.arange(7) != 6)
    value, valid = evaluate(previous, agents, [0, 1, 2, 3, 4, 1, 1])
    np.testing.assert_array_equal(valid, [0, 1, 0, 1, 0, 0, 0])
    np.testing.assert_array_equal(value, valid)


def test_random_motion_equals_the_oracle():
    rng = np.random.default_rng(0)
    velocities = rng.normal(0, 4, (2, 300, 2)) * (rng.random((2, 300, 1)) < 0.9)
    states = [agent_state(np.zeros((300, 2)), rng.uniform(-3.1, 3.1, 300), velocity) for velocity in velocities]
    rows = [np.column_stack([state.yaw, state.velocity]).astype(float) for state in states]
    expected = np.array([oracle.bicycle_inverse(a, b, DT) for a, b in zip(*rows, strict=True)])
    found = np.asarray(jax.jit(lambda a, b: estimate_controls(a, b, DT))(*states))
    np.testing.assert_allclose(found[:, 0], expected[:, 0], atol=1e-4)
    # Where the agent reverses within the step the distance is near zero and curvature is ill-conditioned.
    np.testing.assert_allclose(found[:, 1], expected[:, 1], rtol=2e-3, atol=1e-4)
    limits = np.array([10.4, 0.3]) + 1e-3
    np.testing.assert_array_equal(evaluate(*states)[0], (np.abs(expected) > limits).any(axis=-1))


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
