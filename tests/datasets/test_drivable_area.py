"""Closed outlines: orientation, areas and centroids."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from waymax_sim.datasets.formats import drivable_area
from waymax_sim.datasets.formats.drivable_area import centroid, is_ring, orient_rings, signed_area


def square(x, y, half, clockwise=False):
    corners = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0], [-1, -1, 0.0]]) * half + [x, y, 7]
    return corners[::-1] if clockwise else corners


@given(flips=st.lists(st.booleans(), min_size=4, max_size=4), order=st.permutations(range(4)))
def test_roads_are_on_the_left_of_nested_rings(flips, order):
    """A road around a block, with another road inside the block, and a road elsewhere."""
    squares = [(0, 0, 20), (1, 2, 10), (0, 0, 4), (50, 0, 10)]
    rings = [square(*squares[row], clockwise=flips[row]) for row in order]
    areas = dict(zip(order, map(signed_area, orient_rings(rings)), strict=True))
    assert areas == {0: 1600, 1: -400, 2: 64, 3: 400}


def test_too_many_rings_are_not_oriented(monkeypatch):
    monkeypatch.setattr(drivable_area, "MAX_PAIRS", 9)
    assert orient_rings([square(0, 0, 1)]) is not None
    assert orient_rings([square(0, 0, 1)] * 2) is None
    assert orient_rings([]) == []


def test_rings_are_closed():
    assert is_ring(square(0, 0, 1)) and not is_ring(square(0, 0, 1)[:-1])
    assert not is_ring(np.zeros((0, 3))) and not is_ring(np.zeros((3, 3)))


def test_centroids():
    assert centroid(np.array([[100.0, 0], [103, 0], [100, 3]])).tolist() == pytest.approx([101, 1])
    # An L of three unit squares, whose points have another mean.
    corners = np.array([[0.0, 0], [2, 0], [2, 1], [1, 1], [1, 2], [0, 2]])
    assert centroid(corners).tolist() == pytest.approx([5 / 6, 5 / 6])
    assert centroid(np.array([[1.0, 1], [3, 3]])).tolist() == [2, 2]
