"""Projection on polylines and interpolation along them, against NumPy in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests import oracle
from tests.strategies import N, floats
from waymax_sim.ops import polyline

NUM_POINTS = 9

interpolate = jax.jit(polyline.interpolate)
interpolation_index = jax.jit(polyline.interpolation_index, static_argnums=1, static_argnames="extrapolate")
segment_projection, ray_projection = jax.jit(polyline.segment_projection), jax.jit(polyline.ray_projection)


@jax.jit
def project(points, xy, valid=None):
    """Projections of points [N, 2] on polylines [N, R, 2]."""
    start, step = points[:, :-1], points[:, 1:] - points[:, :-1]
    return polyline.project(polyline.components(start), polyline.components(step), (xy[:, :1], xy[:, 1:]), valid)


@given(points=floats(-20, 20, NUM_POINTS, 2), xy=floats(-30, 30, 2))
def test_projection_equals_the_oracle(points, xy):
    points = points + np.linspace(0, 1, NUM_POINTS, dtype=np.float32)[:, None]
    nearest = jax.tree.map(np.asarray, project(points, xy))
    for row in range(N):
        expected, _ = oracle.project(points[row].astype(float), xy[row].astype(float))
        np.testing.assert_allclose(np.sqrt(nearest.squared_distance[row]), expected, atol=2e-4)
        start, end = points[row, nearest.index[row] : nearest.index[row] + 2]
        point = start + nearest.fraction[row] * (end - start)
        np.testing.assert_allclose(np.linalg.norm(point - xy[row]), expected, atol=2e-4)
        assert 0 <= nearest.fraction[row] <= 1


@given(points=floats(-20, 20, NUM_POINTS, 2), part=floats(0, 1), index=st.integers(0, NUM_POINTS - 2))
def test_points_on_a_polyline_have_no_distance(points, part, index):
    xy = points[:, index] + part[:, None] * (points[:, index + 1] - points[:, index])
    np.testing.assert_allclose(project(points, xy).squared_distance, 0, atol=1e-8)


@given(points=floats(-20, 20, NUM_POINTS, 2), xy=floats(-30, 30, 2), seed=st.integers(0, 99))
def test_masked_segments_are_ignored(points, xy, seed):
    valid = np.random.default_rng(seed).random((N, NUM_POINTS - 1)) < 0.5
    nearest = jax.tree.map(np.asarray, project(points, xy, valid))
    exists = valid.any(axis=1)
    assert valid[exists, nearest.index[exists]].all()
    assert (nearest.squared_distance[exists] >= project(points, xy).squared_distance[exists]).all()
    assert np.isinf(nearest.squared_distance[~exists]).all()


def test_ties_go_to_the_first_segment():
    points = np.float32([[(0, 1), (4, 1), (4, -1), (0, -1)]])
    assert project(points, np.float32([[1.0, 0.0]])).index == 0
    # A corner belongs to both of its segments.
    assert project(points, np.float32([[5.0, 2.0]])).index == 0


def test_segments_without_length_project_on_their_point():
    points = np.ones((1, 3, 2), np.float32)
    nearest = project(points, np.float32([[4.0, 5.0]]))
    assert nearest.squared_distance == 25 and nearest.fraction == 0


@given(points=floats(-20, 20, NUM_POINTS, 2), xy=floats(-30, 30, 2))
def test_host_and_device_projections_are_equal(points, xy):
    start, step = polyline.components(points[:, :-1]), polyline.components(points[:, 1:] - points[:, :-1])
    host_result = polyline.segment_projection(start, step, (xy[:, :1], xy[:, 1:]), xp=np)
    device_result = segment_projection(start, step, (xy[:, :1], xy[:, 1:]))
    for host, device in zip(host_result, device_result, strict=True):
        np.testing.assert_allclose(host, device, rtol=1e-4, atol=1e-3)


@given(yaw=floats(-3, 3), xy=floats(-30, 30, 2), bounds=floats(-20, 20, 2))
def test_ray_projections_are_segment_projections(yaw, xy, bounds):
    direction, (low, high) = (np.cos(yaw), np.sin(yaw)), np.sort(bounds, axis=1).T
    ray = ray_projection((0 * yaw, 0 * yaw), direction, tuple(xy.T), low, high)
    start, step = [low * part for part in direction], [(high - low) * part for part in direction]
    _, squared_distance = segment_projection(tuple(start), tuple(step), tuple(xy.T))
    np.testing.assert_allclose(ray.squared_distance, squared_distance, rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(ray.lateral, direction[0] * xy[:, 1] - direction[1] * xy[:, 0], atol=1e-5)
    assert ((ray.arc_length >= low) & (ray.arc_length <= high)).all()


@given(values=floats(-10, 10, NUM_POINTS), position=floats(-3, NUM_POINTS + 3))
def test_interpolation_equals_numpy(values, position):
    expected = [np.interp(at, np.arange(NUM_POINTS), row) for at, row in zip(position, values, strict=True)]
    np.testing.assert_allclose(interpolate(values, position), expected, atol=0.03)
    shared = np.interp(position, np.arange(NUM_POINTS), values[0])
    np.testing.assert_allclose(interpolate(values[0], position), shared, atol=0.03)


@given(position=floats(-3, NUM_POINTS + 3))
def test_extrapolation_extends_the_end_segments(position):
    index, fraction = map(np.asarray, interpolation_index(position, NUM_POINTS, extrapolate=True))
    np.testing.assert_allclose(index + fraction, position, atol=1e-5)
    assert ((index >= 0) & (index <= NUM_POINTS - 2)).all()
    is_inside = (position >= 0) & (position < NUM_POINTS - 1)
    assert ((fraction >= 0) & (fraction < 1))[is_inside].all()


def test_gradients_are_finite():
    points = jnp.asarray([[(0.0, 0.0), (0.0, 0.0), (2.0, 0.0), (2.0, 3.0)]])
    for xy in ((0.0, 0.0), (1.0, 0.0), (2.0, 0.0), (3.0, 1.0)):
        slope = jax.grad(lambda xy: project(points, xy[None]).squared_distance[0])(jnp.asarray(xy))
        assert np.isfinite(slope).all()
    slope = jax.grad(lambda at: polyline.interpolate(jnp.arange(4.0) ** 2, at))(jnp.asarray(1.5))
    np.testing.assert_allclose(slope, 3.0)
