import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import oracle
from waymax_sim.datasets.synthetic.curves import (
    arc,
    arc_length,
    bezier_curve,
    curve_from_curvature,
    fillet,
    line_through,
    parallel_curve,
    rotate,
    subcurve,
    unit_vector,
    yaw_along,
)

angles = st.floats(-3.0, 3.0)


def point(x: float, y: float, z: float = 0.0) -> np.ndarray:
    return np.array([x, y, z])


@given(angles, angles, st.floats(5.0, 40.0))
def test_bezier_curves_have_the_given_ends_and_tangents(leave, turn, distance):
    end = point(*(distance * unit_vector(leave + turn / 3)), 2.0)
    curve = bezier_curve(point(0, 0), unit_vector(leave), end, unit_vector(leave + turn / 2))
    np.testing.assert_allclose(curve[[0, -1]], [point(0, 0), end], atol=1e-9)
    for got, want in (
        (curve[1] - curve[0], unit_vector(leave)),
        (curve[-1] - curve[-2], unit_vector(leave + turn / 2)),
    ):
        assert got[:2] @ want / np.linalg.norm(got[:2]) > 0.95
    assert (np.diff(curve[:, 2]) > 0).all()


def test_a_bezier_curve_over_a_right_angle_is_a_circle():
    curve = bezier_curve(point(0, 0), unit_vector(0.0), point(10, 10), unit_vector(np.pi / 2))
    np.testing.assert_allclose(np.hypot(curve[:, 0], curve[:, 1] - 10), 10.0, atol=0.02)


@pytest.mark.parametrize("end", [(30.0, 10.0), (10.0, 30.0)])
def test_a_fillet_is_straight_except_for_the_largest_arc(end):
    curve = fillet(point(0, 0), unit_vector(0.0), point(*end), unit_vector(np.pi / 2))
    np.testing.assert_allclose(curve[[0, -1]], [point(0, 0), point(*end)], atol=1e-9)
    curvature = np.abs(np.gradient(yaw_along(curve), 0.5))
    assert 0.08 < curvature.max() < 0.12 and (curvature < 1e-3).sum() > 30


@given(angles, st.floats(-4.0, 4.0))
def test_a_parallel_curve_keeps_its_distance(angle, left):
    curve = rotate(curve_from_curvature(60.0, np.array([0.0, 0.01, 0.02])), angle)
    apart = [oracle.project(curve[:, :2], xy)[0] for xy in parallel_curve(curve, left)[::10, :2]]
    np.testing.assert_allclose(apart, abs(left), atol=0.01)


def test_lengths_and_turns_are_right():
    half = arc(np.array([1.0, 2.0]), 10.0, 0.0, np.pi)
    assert abs(arc_length(half)[-1] - 10 * np.pi) < 0.05
    assert abs(yaw_along(half)[-1] - yaw_along(half)[0] - np.pi) < 0.1
    part = subcurve(line_through((0.0, 0.0), (10.0, 0.0)), 2.0, 5.0)
    np.testing.assert_allclose(part[[0, -1], 0], [2.0, 5.0])
    quarter = curve_from_curvature(10 * np.pi / 2, np.full(2, 0.1))
    np.testing.assert_allclose(quarter[-1], [10.0, 10.0, 0.0], atol=0.3)
