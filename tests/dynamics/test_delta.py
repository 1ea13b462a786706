import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from tests import oracle
from tests.scenes import agent_state
from tests.strategies import N, floats
from waymax_sim.dynamics import Delta

DT = 0.1
PI = np.float32(np.pi)
MODELS = pytest.mark.parametrize("model", [Delta(), Delta(frame="body")], ids=["world", "body"])


step = jax.jit(lambda model, agents, value: model.apply(agents, value, DT), static_argnums=0)
invert = jax.jit(lambda model, before, after: model.invert(before, after, DT), static_argnums=0)


def angle_between(a, b) -> np.ndarray:
    return (np.asarray(a, float) - np.asarray(b, float) + np.pi) % (2 * np.pi) - np.pi


@MODELS
@given(floats(-50, 50, 2), floats(-3.1, 3.1), floats(-6, 6, 2), floats(-3, 3))
def test_equals_the_oracle_and_is_undone(model, xy, yaw, moved, turn):
    before = agent_state(xy, yaw)
    value = jnp.concatenate([moved, turn[:, None]], axis=-1)
    after = step(model, before, value)
    expected = np.array([oracle.delta(*xy[i], yaw[i], *moved[i], turn[i], DT, model.frame) for i in range(N)])
    np.testing.assert_allclose(after.xyz[:, :2], expected[:, :2], atol=2e-5)
    np.testing.assert_allclose(angle_between(after.yaw, expected[:, 2]), 0, atol=2e-6)
    np.testing.assert_allclose(after.velocity, expected[:, 3:], atol=2e-5)
    np.testing.assert_allclose(invert(model, before, after).value, value, atol=2e-5)


@MODELS
@given(floats(-50, 50, 2), floats(-3.1, 3.1), floats(-4, 4, 2), floats(-20, 20))
def test_the_inverse_reproduces_poses(model, xy, yaw, moved, new_yaw):
    # 4 m along each axis is less than 6 m in any frame.
    before, target = agent_state(xy, yaw), agent_state(xy + moved, new_yaw)
    after = step(model, before, invert(model, before, target).value)
    np.testing.assert_allclose(after.xyz, target.xyz, atol=2e-5)
    np.testing.assert_allclose(angle_between(after.yaw, new_yaw), 0, atol=1e-5)
    assert (np.asarray(after.yaw) >= -PI).all() and (np.asarray(after.yaw) < PI).all()


@MODELS
def test_limits_hold_in_the_action_frame(model):
    yaw = np.pi / 4
    before = agent_state([(0, 0)], yaw)
    after = step(model, before, jnp.asarray([[100.0, 0.0, 9.0]]))
    expected_motion = (6, 0) if model.frame == "world" else (6 * np.cos(yaw), 6 * np.sin(yaw))
    np.testing.assert_allclose(after.xyz[0, :2], expected_motion, atol=1e-6)
    np.testing.assert_allclose(after.yaw, [yaw - np.pi], atol=1e-6)
    # 8 m straight ahead: beyond the limit in the body frame, within it along both axes of the world.
    far = agent_state([(8 * np.cos(yaw), 8 * np.sin(yaw))], yaw)
    result = (8 * np.cos(yaw), 8 * np.sin(yaw), 0) if model.frame == "world" else (6, 0, 0)
    np.testing.assert_allclose(invert(model, before, far).value, [result], atol=1e-6)
    narrow = Delta(frame=model.frame, max_displacement=1.0, max_turn=0.1)
    np.testing.assert_allclose(narrow.bounds[1], [1, 1, 0.1])
    assert np.abs(invert(narrow, before, agent_state([(50, -50)], -1.0)).value).max() <= 1


def test_invalid_states_ask_for_nothing_and_heights_stay():
    before = agent_state([(0, 0, 3), (1, 1, 4), (2, 2, 5)], valid=[True, False, True])
    after = agent_state([(1, 0, 9), (2, 1, 9), (3, 2, 9)], valid=[False, True, True])
    result = invert(Delta(), before, after)
    np.testing.assert_array_equal(result.valid, [False, False, True])
    np.testing.assert_array_equal(result.value, [(0, 0, 0), (0, 0, 0), (1, 0, 0)])
    np.testing.assert_array_equal(step(Delta(), before, result.value).xyz[:, 2], [3, 4, 5])


@MODELS
def test_gradients_are_finite(model):
    before = agent_state([(0, 0), (1, 1), (2, 2)], [0.0, -PI, 20.0], valid=[True, True, False])

    def total(agents, value):
        after = model.apply(agents, value, DT)
        result = model.invert(agents, after, DT).value + model.invert(agents, agents, DT).value
        return sum(jnp.sum(leaf) for leaf in (after.xyz, after.yaw, after.velocity, result))

    gradient = jax.jit(jax.grad(total, argnums=(0, 1), allow_int=True))
    for value in (jnp.zeros((3, 3)), jnp.full((3, 3), 6.0), jnp.full((3, 3), -99.0)):
        by_agents, by_value = gradient(before, value)
        assert all(np.isfinite(leaf).all() for leaf in (by_agents.xyz, by_agents.yaw, by_value))


def test_normalized_actions_are_shares_of_the_limits():
    plain = Delta("body", max_displacement=4.0, max_turn=0.5)
    scaled = Delta("body", max_displacement=4.0, max_turn=0.5, normalized=True)
    value = jnp.asarray([[0.5, -0.25, 0.4], [2.0, 0.0, -3.0]])
    before = agent_state([(1, 2), (3, 4)], 0.3)
    after = step(scaled, before, value)
    expected = step(plain, before, value * jnp.asarray([[4.0, 4.0, 0.5]]))
    np.testing.assert_allclose(after.xyz, expected.xyz, atol=1e-6)
    np.testing.assert_allclose(after.yaw, expected.yaw, atol=1e-6)
    np.testing.assert_allclose(invert(scaled, before, after).value, np.clip(value, -1, 1), atol=1e-5)
    np.testing.assert_array_equal(scaled.bounds[1], [1, 1, 1])
