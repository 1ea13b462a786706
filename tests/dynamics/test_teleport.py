import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given

from tests.scenes import agent_state
from tests.strategies import N, floats
from waymax_sim.dynamics import Teleport

DT = 0.1
PI = np.float32(np.pi)
MODEL = Teleport()

step = jax.jit(lambda agents, value: MODEL.apply(agents, value, DT))
poses = floats(-1000, 1000, 5)


@given(poses, floats(-20, 20))
def test_poses_are_taken_as_they_are(value, yaw):
    value[:, 2] = yaw
    after = step(agent_state(np.full((N, 3), 7.0), 1.0, (5, 5)), jnp.asarray(value))
    np.testing.assert_array_equal(after.xyz[:, :2], value[:, :2])
    np.testing.assert_array_equal(after.xyz[:, 2], 7)
    np.testing.assert_array_equal(after.velocity, value[:, 3:])
    wrapped = np.asarray(after.yaw)
    assert (wrapped >= -PI).all() and (wrapped < PI).all()
    np.testing.assert_allclose(np.cos(wrapped - yaw.astype(float)), 1, atol=1e-6)
    inside = (yaw >= -PI) & (yaw < PI)
    np.testing.assert_array_equal(wrapped[inside], yaw[inside])


@given(poses)
def test_the_inverse_is_bit_exact(value):
    before = agent_state(np.zeros((N, 2)))
    after = agent_state(value[:, :2], np.clip(value[:, 2] / 400, -3, 3), value[:, 3:])
    again = step(before, MODEL.invert(before, after, DT).value)
    for name in ("yaw", "velocity"):
        np.testing.assert_array_equal(getattr(again, name), getattr(after, name))
    np.testing.assert_array_equal(again.xyz[:, :2], after.xyz[:, :2])


def test_only_the_later_state_must_be_valid():
    before = agent_state([(0, 0), (0, 0)], valid=[False, True])
    result = MODEL.invert(before, agent_state([(4, 5), (6, 7)], valid=[True, False]), DT)
    np.testing.assert_array_equal(result.valid, [True, False])
    np.testing.assert_array_equal(result.value, [(4, 5, 0, 0, 0), (0, 0, 0, 0, 0)])
    assert not np.isfinite(MODEL.bounds).any()


def test_gradients_are_one():
    before = agent_state([(0, 0), (0, 0)])
    value = jnp.asarray([(0, 0, PI, 0, 0), (1, 2, -20, 3, 4)], jnp.float32)
    gradient = jax.grad(lambda v: sum(jnp.sum(leaf) for leaf in jax.tree.leaves(MODEL.apply(before, v, DT))[:3]))(value)
    np.testing.assert_array_equal(gradient, np.ones((2, 5)))
