import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from tests import oracle
from tests.scenes import agent_state
from tests.strategies import N, floats
from waymax_sim.datatypes.agents import AgentState
from waymax_sim.dynamics import Bicycle
from waymax_sim.pytree import tree_index

DT = 0.1
CAR = Bicycle()
REVERSING = Bicycle(allow_reverse=True)
NORMALIZED = Bicycle(normalized=True)


step = jax.jit(lambda model, agents, value: model.apply(agents, value, DT), static_argnums=0)
invert = jax.jit(lambda model, before, after: model.invert(before, after, DT), static_argnums=0)


def moving(speed, yaw=0.0, xy=None) -> AgentState:
    speed, yaw = np.broadcast_arrays(np.asarray(speed, float), np.asarray(yaw, float))
    xy = np.zeros((*speed.shape, 2)) if xy is None else xy
    return agent_state(xy, yaw, speed[..., None] * np.stack([np.cos(yaw), np.sin(yaw)], axis=-1))


def action(acceleration, curvature=0.0) -> jax.Array:
    return jnp.asarray(np.stack(np.broadcast_arrays(acceleration, curvature), axis=-1), jnp.float32)


def pose(agents: AgentState) -> np.ndarray:
    return np.concatenate([agents.xyz[:, :2], agents.yaw[:, None], agents.velocity], axis=-1)


def test_from_rest():
    after = step(CAR, moving([0.0]), action([0.6], 0.03))
    np.testing.assert_allclose(pose(after), [[0.003, 0, 9e-5, 0.06, 5.4e-6]], rtol=1e-5, atol=1e-9)


def test_in_a_bend_and_back():
    before = moving([10.0], 0.5, [(100.0, 50.0)])
    after = step(CAR, before, action([2.0], 0.1))
    np.testing.assert_allclose(pose(after), [[100.886358, 50.484220, 0.601, 8.412660, 5.767769]], rtol=1e-6)
    np.testing.assert_allclose(invert(CAR, before, after).value, [[2.0, 0.1]], atol=1e-3)


def test_below_the_dead_band_nothing_turns():
    before, after = moving([0.5]), moving([0.59], 0.4, [(0.0545, 0.0)])
    np.testing.assert_allclose(invert(CAR, before, after).value, [[0.9, 0.0]], atol=1e-4)


def test_braking_ends_at_rest_within_the_step():
    after = step(CAR, moving([0.3]), action([-6.0], 0.3))
    np.testing.assert_allclose(pose(after), [[0.0075, 0, 0.0075 * 0.3, 0, 0]], rtol=1e-5)
    backwards = step(REVERSING, moving([0.3]), action([-6.0]))
    np.testing.assert_allclose(pose(backwards), [[0, 0, 0, -0.3, 0]], atol=1e-7)


@pytest.mark.parametrize("model", [CAR, REVERSING])
@given(speed=floats(-30, 30), yaw=floats(-3, 3), acceleration=floats(-6, 6), curvature=floats(-0.3, 0.3))
def test_equals_the_oracle(model, speed, yaw, acceleration, curvature):
    before = moving(speed, yaw)
    after = pose(step(model, before, action(acceleration, curvature)))
    expected = [
        oracle.bicycle(
            0, 0, yaw[i], *before.velocity[i].tolist(), acceleration[i], curvature[i], DT, model.allow_reverse
        )
        for i in range(N)
    ]
    turned = after[:, 2] - np.array(expected)[:, 2]
    # At rest and at -pi either sign is right.
    np.testing.assert_allclose((turned + np.pi) % (2 * np.pi) - np.pi, 0, atol=2e-6)
    np.testing.assert_allclose(np.delete(after, 2, axis=1), np.delete(expected, 2, axis=1), atol=3e-5)


@pytest.mark.parametrize("model", [CAR, NORMALIZED])
@given(
    speed=floats(1.5, 40),
    yaw=floats(-3.1, 3.1),
    x=floats(-20, 20),
    accelerate=floats(-0.95, 0.95),
    turn=floats(-0.95, 0.95),
)
def test_the_inverse_recovers_actions(model, speed, yaw, x, accelerate, turn):
    scale = [1.0, 1.0] if model.normalized else [6.0, 0.3]
    value = np.stack([accelerate, turn], axis=-1) * np.float32(scale)
    before = moving(speed, yaw, np.stack([x, -x], axis=-1))
    result = invert(model, before, step(model, before, jnp.asarray(value)))
    assert np.asarray(result.valid).all()
    np.testing.assert_allclose(np.asarray(result.value) / scale, value / scale, atol=1e-3)


@given(speed=floats(-40, -1.5), yaw=floats(-3.1, 3.1), acceleration=floats(-5.7, 5.7), curvature=floats(-0.29, 0.29))
def test_the_inverse_recovers_reversing(speed, yaw, acceleration, curvature):
    before, value = moving(speed, yaw), action(acceleration, curvature)
    result = invert(REVERSING, before, step(REVERSING, before, value)).value
    np.testing.assert_allclose(np.asarray(result) / [6.0, 0.3], np.asarray(value) / [6.0, 0.3], atol=1e-3)


def test_limits_hold_in_apply_and_invert():
    before = moving([10.0, 10.0], [0.0, 3.0])
    wild = step(CAR, before, action([50.0, -50.0], [-9.0, 9.0]))
    jax.tree.map(np.testing.assert_array_equal, wild, step(CAR, before, action([6.0, -6.0], [-0.3, 0.3])))
    jax.tree.map(np.testing.assert_array_equal, wild, step(NORMALIZED, before, action([1.0, -1.0], [-1.0, 1.0])))
    jax.tree.map(np.testing.assert_array_equal, wild, step(NORMALIZED, before, action([7.0, -7.0], [-7.0, 7.0])))
    impossible = moving([20.0, 0.0], [2.0, -3.0], [(5.0, 5.0), (-50.0, 0.0)])
    for model, limit in ((CAR, (6.0, 0.3)), (NORMALIZED, (1.0, 1.0))):
        result = np.abs(invert(model, before, impossible).value)
        assert (result <= np.float32(limit)).all() and result[:, 0] == pytest.approx(limit[0])
        np.testing.assert_array_equal(model.bounds, np.float32([np.negative(limit), limit]))


@given(speed=floats(0, 40), yaw=floats(-3.1, 3.1), brake=floats(-6, 0, N, count=30))
def test_braking_never_moves_backwards(speed, yaw, brake):
    before = moving(speed, yaw)
    forward = np.stack([np.cos(yaw), np.sin(yaw)], axis=-1)
    _, positions = jax.lax.scan(_brake, before, jnp.asarray(np.stack([brake, 0 * brake], axis=-1)))
    along = np.sum(np.asarray(positions) * forward, axis=-1)
    assert (np.diff(along, axis=0) >= -1e-5).all() and (along >= 0).all()


@jax.jit
def _brake(agents, value):
    agents = CAR.apply(agents, value, DT)
    return agents, agents.xyz[:, :2]


@pytest.mark.parametrize("deceleration", [1.0, 3.7, 6.0])
def test_total_braking_distance(deceleration):
    speed = np.linspace(0.05, 20, N)
    braking = jnp.broadcast_to(jnp.asarray([-deceleration, 0.0]), (220, N, 2))
    after, _ = jax.lax.scan(_brake, moving(speed), braking)
    np.testing.assert_allclose(after.xyz[:, 0], speed**2 / (2 * deceleration), rtol=2e-5)
    np.testing.assert_array_equal(after.velocity, 0)


def test_agents_that_stand_with_noise_do_not_drive_off_backwards():
    # A parked car whose recorded velocity points a little backwards, and one that slides sideways.
    before = agent_state([(0, 0), (0, 0)], [0.0, 1.0], [(-0.01, 0.0), (-0.02, 0.012)])
    after, _ = jax.lax.scan(_brake, before, jnp.broadcast_to(jnp.asarray([-6.0, 0.0]), (50, 2, 2)))
    assert (np.linalg.norm(after.xyz, axis=-1) < 0.06).all()
    started = step(CAR, moving([-0.01]), action([1.0]))
    np.testing.assert_allclose(pose(started), [[-5e-5, 0, 0, 0, 0]], atol=1e-9)


def test_reversing_slows_to_rest_and_only_reverse_gear_speeds_it_up():
    after = step(CAR, moving([-2.0, -2.0, -0.2]), action([-3.0, 3.0, 3.0]))
    np.testing.assert_allclose(after.velocity[:, 0], [-2.0, -1.7, 0.0], atol=1e-6)
    np.testing.assert_allclose(after.xyz[:, 0], [-0.2, -0.185, -0.04 / 6], atol=1e-6)
    assert step(REVERSING, moving([-2.0]), action([-3.0])).velocity[0, 0] == pytest.approx(-2.3)


@given(yaw=floats(-20, 20), speed=floats(0, 30), curvature=floats(-0.3, 0.3))
def test_yaw_is_wrapped(yaw, speed, curvature):
    after = np.asarray(step(CAR, moving(speed, yaw), action(0.0 * speed, curvature)).yaw)
    assert (after >= -np.float32(np.pi)).all() and (after < np.float32(np.pi)).all()


def test_invalid_states_give_no_action():
    here = dataclasses.replace(moving([5.0, 5.0, 5.0]), valid=jnp.asarray([True, False, True]))
    valid_mask = dataclasses.replace(moving([9.0, 9.0, 9.0]), valid=jnp.asarray([False, True, True]))
    result = invert(CAR, here, valid_mask)
    np.testing.assert_array_equal(result.valid, [False, False, True])
    np.testing.assert_array_equal(result.value[:2], 0)
    np.testing.assert_array_equal(step(CAR, here, action([1.0] * 3)).valid, here.valid)


def test_heights_stay_and_agents_are_independent():
    before = agent_state([(0, 0, 1.5), (5, 5, -2)], [0.1, 2.0], [(3, 0), (0, 7)])
    value = action([1.0, -1.0], [0.1, -0.1])
    after = step(CAR, before, value)
    np.testing.assert_array_equal(after.xyz[:, 2], before.xyz[:, 2])
    for i in range(2):
        alone = step(CAR, tree_index(before, slice(i, i + 1)), value[i : i + 1])
        np.testing.assert_allclose(pose(alone)[0], pose(after)[i], atol=1e-6)


@pytest.mark.parametrize("model", [CAR, REVERSING, NORMALIZED])
def test_gradients_are_finite(model):
    # At rest, noise, braking to rest exactly and within the step, reversing, at the limits, an absent agent.
    speed = np.array([0, 1e-9, -1e-9, 0.6, 0.3, -1, -0.1, 10, 0])
    before = moving(speed, np.array([0, 1, 2, np.pi / 2, -np.pi, np.pi, 0, 0.3, 0]))
    before = dataclasses.replace(before, valid=jnp.arange(9) < 8)
    values = [action(np.full(9, a), k) for a, k in ((0, 0), (-6, 0.3), (6, -0.3), (-100, 9))]
    rest = moving(np.zeros(9))

    def total(agents, value):
        after = model.apply(agents, value, DT)
        result = [model.invert(agents, other, DT).value for other in (after, agents, rest)]
        return sum(jnp.sum(leaf) for leaf in (after.xyz, after.yaw, after.velocity, *result))

    gradient = jax.jit(jax.value_and_grad(total, argnums=(0, 1), allow_int=True))
    for value in values:
        number, (by_agents, by_value) = gradient(before, value)
        leaves = (number, by_agents.xyz, by_agents.yaw, by_agents.velocity, by_value)
        assert all(np.isfinite(leaf).all() for leaf in leaves)
