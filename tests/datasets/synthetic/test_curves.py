import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import oracle
from waymax_sim.datasets.synthetic.curves import (
    arc,
    arc_length,
    bent,
    blend,
    fillet,
    heading,
    line,
    shifted,
    stretch,
    turned,
    yaw_along,
)

angles = st.floats(-3.0, 3.0)


def point(x: float, y: float, z: float = 0.0) -> np.ndarray:
    return np.array([x, y, z])


@given(angles, angles, st.floats(5.0, 40.0))
def test_a_blend_begins_and_ends_as_asked(leave, turn, distance):
    end = point(*(distance * heading(leave + turn / 3)), 2.0)
    found = blend(point(0, 0), heading(leave), end, heading(leave + turn / 2))
    np.testing.assert_allclose(found[[0, -1]], [point(0, 0), end], atol=1e-9)
    for got, want in ((found[1] - found[0], heading(leave)), (found[-1] - found[-2], heading(leave + turn / 2))):
        assert got[:2] @ want / np.linalg.norm(got[:2]) > 0.95
    assert (np.diff(found[:, 2]) > 0).all()


def test_a_blend_over_a_right_angle_is_a_circle():
    found = blend(point(0, 0), heading(0.0), point(10, 10), heading(np.pi / 2))
    np.testing.assert_allclose(np.hypot(found[:, 0], found[:, 1] - 10), 10.0, atol=0.02)


@pytest.mark.parametrize("end", [(30.0, 10.0), (10.0, 30.0)])
def test_a_fillet_is_straight_but_for_the_widest_circle(end):
    found = fillet(point(0, 0), heading(0.0), point(*end), heading(np.pi / 2))
    np.testing.assert_allclose(found[[0, -1]], [point(0, 0), point(*end)], atol=1e-9)
    curvature = np.abs(np.gradient(yaw_along(found), 0.5))
    assert 0.08 < curvature.max() < 0.12 and (curvature < 1e-3).sum() > 30


@given(angles, st.floats(-4.0, 4.0))
def test_a_parallel_curve_keeps_its_distance(angle, left):
    curve = turned(bent(60.0, np.array([0.0, 0.01, 0.02])), angle)
    apart = [oracle.project(curve[:, :2], xy)[0] for xy in shifted(curve, left)[::10, :2]]
    np.testing.assert_allclose(apart, abs(left), atol=0.01)


def test_lengths_and_turns_are_right():
    half = arc(np.array([1.0, 2.0]), 10.0, 0.0, np.pi)
    assert abs(arc_length(half)[-1] - 10 * np.pi) < 0.05
    assert abs(yaw_along(half)[-1] - yaw_along(half)[0] - np.pi) < 0.1
    part = stretch(line((0.0, 0.0), (10.0, 0.0)), 2.0, 5.0)
    np.testing.assert_allclose(part[[0, -1], 0], [2.0, 5.0])
    quarter = bent(10 * np.pi / 2, np.full(2, 0.1))
    np.testing.assert_allclose(quarter[-1], [10.0, 10.0, 0.0], atol=0.3)
