import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from tests import oracle
from tests.metrics.realism.oracle import polygons_apart
from tests.strategies import N, floats
from waymax_sim import geometry

PI = np.float32(np.pi)

wrap = jax.jit(geometry.wrap_angle)


@jax.jit
def overlap(*boxes):
    return geometry.box_separation(geometry.Boxes.from_poses(*boxes[:3]), geometry.Boxes.from_poses(*boxes[3:])) < 0


@jax.jit
def distance(*boxes):
    return geometry.boxes_distance(geometry.Boxes.from_poses(*boxes[:3]), geometry.Boxes.from_poses(*boxes[3:]))


corners = jax.jit(geometry.box_corners)
to_frame, from_frame, norm = jax.jit(geometry.to_frame), jax.jit(geometry.from_frame), jax.jit(geometry.norm)


@given(floats(-20, 20))
def test_wrapped_angles_are_in_range_and_the_same_direction(angle):
    wrapped = np.asarray(wrap(angle))
    assert (wrapped >= -PI).all() and (wrapped < PI).all()
    apart = np.mod(wrapped.astype(float) - angle.astype(float) + np.pi, 2 * np.pi) - np.pi
    np.testing.assert_allclose(apart, 0, atol=4e-6)
    inside = (angle >= -PI) & (angle < PI)
    np.testing.assert_array_equal(wrapped[inside], angle[inside])


def test_wrapping_at_the_boundaries():
    below, above = np.nextafter(PI, np.float32(0)), np.nextafter(PI, np.float32(4))
    angles = np.array([PI, -PI, below, -below, above, -above, 2 * PI, -2 * PI, 3 * PI, -3 * PI, 1e-9], np.float32)
    wrapped = np.asarray(wrap(angles))
    assert (wrapped >= -PI).all() and (wrapped < PI).all()
    np.testing.assert_array_equal(wrapped[:4], [-PI, -PI, below, -below])
    assert wrapped[-1] == np.float32(1e-9)
    np.testing.assert_allclose(np.cos(wrapped), np.cos(angles.astype(float)), atol=1e-6)
    np.testing.assert_array_equal(jax.vmap(jax.grad(geometry.wrap_angle))(angles), np.ones_like(angles))


@given(floats(-100, 100, 2), floats(-100, 100, 2), floats(-4, 4))
def test_frames_are_undone_by_their_inverse(xy, origin, yaw):
    in_frame = to_frame(xy, origin, yaw)
    np.testing.assert_allclose(from_frame(in_frame, origin, yaw), xy, atol=1e-4)
    np.testing.assert_allclose(norm(in_frame), np.linalg.norm(xy - origin, axis=-1), rtol=1e-5, atol=1e-4)


def test_frames_keep_precision_far_from_the_origin():
    # 60 m away at 20 km: all inputs are exact in float32, so only the arithmetic can lose.
    origin, xy, yaw = np.array([20000.0, -16000.0]), np.array([20036.5, -15952.25]), 0.7
    offset = xy - origin
    expected = [
        offset[0] * np.cos(yaw) + offset[1] * np.sin(yaw),
        -offset[0] * np.sin(yaw) + offset[1] * np.cos(yaw),
    ]
    local = to_frame(jnp.float32(xy), jnp.float32(origin), jnp.float32(yaw))
    np.testing.assert_allclose(local, expected, atol=1e-5)


def test_left_is_positive():
    forward, left = geometry.unit_vector(jnp.float32(0.3)), geometry.unit_vector(jnp.float32(0.3 + np.pi / 2))
    assert geometry.cross(forward, left) == pytest.approx(1)
    assert geometry.cross(left, forward) == pytest.approx(-1)
    assert geometry.dot(forward, left) == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(geometry.rotate(forward, jnp.float32(np.pi / 2)), left, atol=1e-6)


def test_heading_without_motion_is_the_fallback():
    vectors = jnp.asarray([[0.0, 0.0], [-0.0, 0.0], [0.0, -2.0], [-1.0, 0.0], [1e-30, 0.0]])
    directions = geometry.heading_angle(vectors, jnp.full(5, 7.0))
    np.testing.assert_allclose(directions, [7, 7, -np.pi / 2, np.pi, 7], atol=1e-6)


def test_corners_turned_left():
    # Front is up: front left, rear left, rear right, front right.
    box = corners(jnp.asarray([1.0, 2.0]), jnp.float32(np.pi / 2), jnp.asarray([4.0, 2.0]))
    np.testing.assert_allclose(box, [(0, 4), (0, 0), (2, 0), (2, 4)], atol=1e-6)


@given(floats(-50, 50, 2), floats(-4, 4), floats(-10, 10, 2))
def test_corners_equal_the_oracle(xy, yaw, size):
    expected = [oracle.corners(*xy[i], yaw[i], *size[i]) for i in range(N)]
    np.testing.assert_allclose(corners(xy, yaw, size), expected, atol=2e-5)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0, 0, 4, 2, 0), (4, 0, 4, 2, 0), False),
        ((0, 0, 4, 2, 0), (3.999, 0, 4, 2, 0), True),
        ((0, 0, 4, 2, 0), (0, 2, 4, 2, 0), False),
        ((0, 0, 4, 2, 0), (3, 1.6, 4, 2, np.pi / 4), True),
        ((0, 0, 4, 2, 0), (0, 0, 0, 2, 0), False),
        ((0, 0, 4, 2, 0), (0, 0, -1, -1, 0), True),
        # Inside, and a plus sign: no corner of either lies in the other.
        ((0, 0, 4, 2, 0), (0.5, 0.1, 1, 0.5, 1.0), True),
        ((0, 0, 10, 1, 0), (0, 0, 10, 1, np.pi / 2), True),
        # Only the axes of the turned box separate these.
        ((0, 0, 4, 2, 0), (3.2, 2.2, 4, 1, 3 * np.pi / 4), False),
    ],
)
def test_two_boxes_overlap(a, b, expected):
    split = [
        (jnp.asarray(box[:2], jnp.float32), jnp.float32(box[4]), jnp.asarray(box[2:4], jnp.float32)) for box in (a, b)
    ]
    assert bool(overlap(*split[0], *split[1])) == expected
    assert bool(overlap(*split[1], *split[0])) == expected


@given(floats(-6, 6, 2), floats(-20, 20), floats(-8, 8, 2), floats(-6, 6, 2), floats(-20, 20), floats(-8, 8, 2))
def test_overlap_equals_the_oracle_and_is_symmetric(xy_a, yaw_a, size_a, xy_b, yaw_b, size_b):
    hits = np.asarray(overlap(xy_a, yaw_a, size_a, xy_b, yaw_b, size_b))
    np.testing.assert_array_equal(hits, overlap(xy_b, yaw_b, size_b, xy_a, yaw_a, size_a))
    for i in range(N):
        boxes = [(*xy[i], yaw[i], *size[i]) for xy, yaw, size in ((xy_a, yaw_a, size_a), (xy_b, yaw_b, size_b))]
        gap = oracle.separation(*boxes)
        # Closer to touching than float32 resolves, either answer is right.
        if abs(gap) > 1e-4:
            assert hits[i] == (gap < 0), boxes


@given(floats(-6, 6, 2), floats(-20, 20), floats(0.5, 5, 2), floats(-20, 20), floats(0.5, 5, 2))
def test_box_distances_equal_the_oracle(xy, yaw_a, size_a, yaw_b, size_b):
    result = np.asarray(distance(np.zeros_like(xy), yaw_a, size_a, xy, yaw_b, size_b))
    for i in range(N):
        a, b = (
            oracle.corners(*center, *size)
            for center, size in (((0, 0, yaw_a[i]), size_a[i]), ((*xy[i], yaw_b[i]), size_b[i]))
        )
        assert abs(result[i] - polygons_apart(a, b)) < 2e-5


def test_leading_axes_broadcast_like_vmap():
    rng = np.random.default_rng(0)
    xy, size = rng.normal(size=(5, 2)).astype(np.float32), rng.uniform(1, 4, (5, 2)).astype(np.float32)
    yaw = rng.uniform(-3, 3, 5).astype(np.float32)
    table = overlap(xy[:, None], yaw[:, None], size[:, None], xy[None], yaw[None], size[None])
    row = jax.vmap(overlap, in_axes=(None, None, None, 0, 0, 0))
    rows = jax.jit(jax.vmap(row, in_axes=(0, 0, 0, None, None, None)))
    np.testing.assert_array_equal(table, rows(xy, yaw, size, xy, yaw, size))
    np.testing.assert_allclose(
        corners(xy, yaw, size), jax.jit(jax.vmap(geometry.box_corners))(xy, yaw, size), atol=1e-6
    )


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-20, 1e-10, 1.0, 1e6])
def test_gradients_are_finite(scale):
    vector, angle = jnp.asarray([[1.0, -2.0], [0.0, 1.0], [-1.0, 0.0]]) * scale, jnp.asarray([0.0, PI, -20.0])

    def total(vector, angle):
        parts = [
            geometry.norm(vector),
            geometry.heading_angle(vector, angle),
            geometry.wrap_angle(angle),
            geometry.unit_vector(angle),
            geometry.to_frame(vector, vector, angle),
            geometry.from_frame(vector, vector, angle),
            geometry.box_corners(vector, angle, vector),
            geometry.cross(vector, vector),
        ]
        return sum(jnp.sum(part) for part in parts)

    value, gradients = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(vector, angle)
    assert np.isfinite(value) and all(np.isfinite(g).all() for g in gradients)
