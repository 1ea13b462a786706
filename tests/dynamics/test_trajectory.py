"""Trajectories as actions: the tracker against a dense solution, and reference curves of vehicles."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import solve_discrete_are

from tests.scenes import agent_state
from waymax_sim.dynamics import Bicycle, RearAxleBicycle, TrackingParams, Trajectory
from waymax_sim.dynamics.tracking import LinearSystem, optimal_input

DT = 0.1
MODELS = {"center": Trajectory(), "rear axle": Trajectory(vehicle=RearAxleBicycle())}
step = jax.jit(lambda model, agents, value: model.apply(agents, value, DT), static_argnums=0)
controls = jax.jit(lambda model, agents, plan, age: model.controls(agents, plan, age, DT), static_argnums=0)


def moving(speed: float, yaw: float = 0.0, xy=(0.0, 0.0), lateral: float = 0.0):
    direction = np.array([np.cos(yaw), np.sin(yaw)])
    velocity = speed * direction + lateral * np.array([-direction[1], direction[0]])
    return agent_state(np.array([xy]), np.array([yaw]), velocity[None])


def circle(speed: float, curvature: float, times) -> np.ndarray:
    """Poses on a circle from the origin, [T, 3]."""
    turn = curvature * speed * np.asarray(times)
    return np.stack([np.sin(turn) / curvature, (1 - np.cos(turn)) / curvature, turn], axis=-1)


def system(rng: np.random.Generator, num_steps: int) -> LinearSystem:
    shapes = ((num_steps, 2, 2), (num_steps, 2), (num_steps, 2))
    a, b, c = (rng.normal(0, 0.7, shape).astype(np.float32) for shape in shapes)
    return LinearSystem(
        a, b, c, rng.uniform(0, 2, (num_steps, 2)).astype(np.float32), np.full(num_steps, 0.3, np.float32)
    )


def test_the_input_has_the_smallest_cost():
    rng = np.random.default_rng(0)
    linear, state = system(rng, 6), np.array([1.0, -0.5], np.float32)
    # All states are affine in all inputs: least squares of the stacked, weighted residuals.
    rows, targets = [], []
    for k in range(6):
        effect, x = np.zeros((2, 6)), state.astype(float)
        for j in range(k + 1):
            effect, x = linear.a[j] @ effect, linear.a[j] @ x + linear.c[j]
            effect[:, j] += linear.b[j]
        weight = np.sqrt(linear.q[k])[:, None]
        rows.append(weight * effect)
        targets.append(-weight[:, 0] * x)
    rows = np.concatenate([*rows, np.sqrt(0.3) * np.eye(6)])
    targets = np.concatenate([*targets, np.zeros(6)])
    expected = np.linalg.lstsq(rows, targets, rcond=None)[0][0]
    np.testing.assert_allclose(jax.jit(optimal_input)(linear, state), expected, rtol=1e-4)


def test_a_long_horizon_has_the_gain_of_the_riccati_equation():
    a, b = np.array([[1.0, DT], [0.0, 1.0]]), np.array([[0.5 * DT**2], [DT]])
    q, r = np.diag([1.0, 0.1]), np.array([[0.01]])
    p = solve_discrete_are(a, b, q, r)
    gain = np.linalg.solve(r + b.T @ p @ b, b.T @ p @ a)[0]
    repeat = lambda value: np.repeat(np.asarray(value, np.float32)[None], 200, axis=0)  # noqa: E731
    linear = LinearSystem(repeat(a), repeat(b[:, 0]), repeat(np.zeros(2)), repeat(np.diag(q)), repeat(0.01))
    state = np.array([0.7, -0.4], np.float32)
    np.testing.assert_allclose(jax.jit(optimal_input)(linear, state), -gain @ state, rtol=1e-3)


@pytest.mark.parametrize("name", MODELS)
def test_a_line_and_a_circle_are_followed(name):
    model = MODELS[name]
    times = model.pose_interval * np.arange(1, model.num_poses + 1)
    for curvature, tolerance in ((1e-6, 0.01), (0.05, 0.15)):
        # The center of a vehicle moves across its heading in a bend if the rear axle does not.
        lateral = 8.0 * curvature * model.vehicle.axle_distance if name == "rear axle" else 0.0
        agents, poses = moving(8.0, lateral=lateral), circle(8.0, curvature, times)
        plan = np.concatenate([np.zeros((1, 3)), poses])[None].astype(np.float32)
        for index in range(30):
            value = controls(model, agents, plan, jnp.full(1, index * DT, jnp.float32))
            agents = move(model.vehicle, agents, value)
            expected = circle(8.0, curvature, [(index + 1) * DT])[0]
            assert np.hypot(*(np.asarray(agents.xyz)[0, :2] - expected[:2])) < tolerance
        assert abs(float(agents.yaw[0]) - expected[2]) < 0.05


move = jax.jit(lambda vehicle, agents, value: vehicle.apply(agents, value, DT), static_argnums=0)


def test_an_offset_is_corrected_without_overshoot():
    model, agents = MODELS["center"], moving(10.0, xy=(0.0, 1.0))
    plan = np.zeros((1, 9, 3), np.float32)
    plan[0, :, 0] = 5.0 * np.arange(9)
    offsets = []
    for index in range(30):
        agents = move(model.vehicle, agents, controls(model, agents, plan, jnp.full(1, index * DT, jnp.float32)))
        offsets.append(float(agents.xyz[0, 1]))
    assert abs(offsets[-1]) < 0.05 and min(offsets) > -0.1


def test_the_frame_does_not_matter():
    model, rng = MODELS["rear axle"], np.random.default_rng(1)
    value = rng.normal(0, 1, (1, 8, 3)) * [2.0, 0.3, 0.05]
    value[..., 0] += 4.0 * np.arange(1, 9)
    value = value.reshape(1, -1).astype(np.float32)
    first = step(model, moving(8.0), value)
    second = step(model, moving(8.0, 2.0, (50.0, -20.0)), value)
    cos, sin = np.cos(2.0), np.sin(2.0)
    rotated = np.array([[cos, -sin], [sin, cos]]) @ np.asarray(first.xyz[0, :2]) + [50.0, -20.0]
    np.testing.assert_allclose(second.xyz[0, :2], rotated, atol=2e-5)
    np.testing.assert_allclose(second.yaw[0], first.yaw[0] + 2.0, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_the_inverse_joins_both_states(name):
    model = MODELS[name]
    before = moving(6.0)
    after = dataclasses.replace(before, xyz=jnp.asarray([[0.6, 0.01, 0.0]]), yaw=jnp.asarray([0.02]))
    poses = np.asarray(model.invert(before, after, DT).value).reshape(-1, 3)
    pose = np.zeros(3)
    for index in range(1, 41):
        turn, shift = pose[2], np.array([0.6, 0.01])
        pose[:2] += [
            np.cos(turn) * shift[0] - np.sin(turn) * shift[1],
            np.sin(turn) * shift[0] + np.cos(turn) * shift[1],
        ]
        pose[2] += 0.02
        if index % 5 == 0:
            np.testing.assert_allclose(poses[index // 5 - 1], pose, atol=1e-4)


def test_gradients_are_finite_and_descend():
    model = Trajectory(tracking=TrackingParams(horizon=5), num_poses=2)

    def distance(value, speed):
        agents = moving(0.0)
        agents = dataclasses.replace(agents, velocity=jnp.stack([speed, jnp.zeros(1)], axis=-1))
        return jnp.sum((model.apply(agents, value, DT).xyz[:, :2] - jnp.asarray([[1.0, 0.0]])) ** 2)

    gradient = jax.jit(jax.grad(distance))
    ahead = np.array([[3.0, 0.0, 0.0, 6.0, 0.0, 0.0]], np.float32)
    for value, speed in ((np.zeros((1, 6), np.float32), 0.0), (ahead, 6.0), (ahead, 0.0)):
        assert np.isfinite(gradient(value, np.full(1, speed, np.float32))).all()
    # Poses further ahead let the agent get nearer to a point ahead.
    assert gradient(ahead, np.full(1, 6.0, np.float32))[0, 0] < 0


def test_the_rear_axle_has_no_lateral_velocity():
    model, agents = RearAxleBicycle(), moving(8.0)
    value = np.array([[0.5, 0.1]], np.float32)
    after = move(model, agents, value)
    axles = [np.asarray(model.rear_axle(each).xyz[0, :2]) for each in (agents, after)]
    expected = move(Bicycle(), moving(8.0, xy=(-1.35, 0.0)), value)
    np.testing.assert_allclose(axles[1], expected.xyz[0, :2], atol=1e-6)
    turn_rate = float(after.yaw[0]) / DT
    left = np.array([-np.sin(after.yaw[0]), np.cos(after.yaw[0])])
    np.testing.assert_allclose(after.velocity[0] @ left, 1.35 * turn_rate, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(lambda a, b: model.invert(a, b, DT).value)(agents, after), value, atol=2e-2)
