import jax
import jax.numpy as jnp
import numpy as np

from tests.scenes import segments
from waymax_sim.maps.ground import MAX_LANE_DISTANCE, terrain_height_change


@jax.jit
def change(lanes, before, after):
    return terrain_height_change(lanes, before, after, jnp.ones(before.shape[:-1], bool))


def rise(lanes, before, after) -> float:
    return float(change(lanes, jnp.asarray(before, jnp.float32), jnp.asarray(after, jnp.float32)))


RAMP = segments([(0, 0, 0), (50, 0, 5), (100, 0, 0)])


def test_the_ground_rises_along_the_lane_and_falls_back():
    assert np.isclose(rise(RAMP, (10, 1, 1), (12, 1)), 0.2)
    assert np.isclose(rise(RAMP, (12, 1, 1), (10, 1)), -0.2)
    assert np.isclose(rise(RAMP, (80, 1, 2), (82, 1)), -0.2)
    assert rise(RAMP, (10, 1, 1), (10, 4)) == 0


def test_many_small_moves_follow_the_lane_up_and_down():
    def move(position, x):
        z = position[2] + change(RAMP, position, jnp.stack([x, position[1]]))
        return jnp.stack([x, position[1], z]), z

    _, heights = jax.lax.scan(move, jnp.asarray([0.0, 1.0, 0.0]), jnp.arange(1.0, 100.0))
    x = np.arange(1.0, 100.0)
    np.testing.assert_allclose(heights, np.minimum(x, 100 - x) / 10, atol=1e-4)


def test_the_grade_is_taken_from_the_own_level():
    lanes = segments([(0, 0, 0), (100, 0, 0)], [(40, 0, 6), (60, 0, 8)])
    assert rise(lanes, (50, 0, 0), (51, 0)) == 0
    assert np.isclose(rise(lanes, (50, 0, 7), (51, 0)), 0.1)


def test_far_from_lanes_the_ground_is_level():
    assert np.isclose(rise(RAMP, (10, 0, 0), (12, MAX_LANE_DISTANCE - 0.1)), 0.2)
    assert rise(RAMP, (10, 0, 0), (12, MAX_LANE_DISTANCE + 0.1)) == 0
    assert rise(RAMP, (100 + MAX_LANE_DISTANCE, 0, 0), (101 + MAX_LANE_DISTANCE, 0)) == 0


def test_without_lanes_the_ground_is_level():
    empty = segments(np.zeros((0, 2)))
    padding = jax.tree.map(lambda leaf: jnp.zeros_like(leaf), RAMP)
    for lanes in (empty, padding):
        assert rise(lanes, (0, 0, 0), (1, 1)) == 0


def test_gradients_are_finite_and_follow_the_grade():
    gradient = jax.jit(jax.grad(lambda after: change(RAMP, jnp.asarray([10.0, 0.0, 1.0]), after)))
    np.testing.assert_allclose(gradient(jnp.asarray([10.0, 0.0])), [0.1, 0.0], atol=1e-6)
    np.testing.assert_array_equal(gradient(jnp.asarray([500.0, 0.0])), [0.0, 0.0])
