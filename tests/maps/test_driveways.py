import jax
import numpy as np
import pytest

from waymax_sim.datatypes.roadmap import DRIVEWAY, PADDING_COORDINATE
from waymax_sim.maps.driveways import driveway_sides, is_in_driveway

SQUARE = np.array([(0, 0), (4, 0), (4, 4), (0, 4)], float)
# An L without the corner (2..4, 2..4).
BENT = np.array([(0, 0), (4, 0), (4, 2), (2, 2), (2, 4), (0, 4)], float)
find = jax.jit(is_in_driveway, static_argnums=2)


def sides(*polygons: np.ndarray) -> np.ndarray:
    feature = np.repeat(np.arange(len(polygons)), [len(each) for each in polygons])
    points = np.concatenate([*polygons, np.zeros((0, 2))])
    xyz = np.column_stack([points, np.zeros(len(points))]).astype(np.float32)
    return driveway_sides(xyz, feature, np.full(len(polygons), DRIVEWAY))


def is_inside(polygons, points, margin: float = 0.0) -> list[bool]:
    return np.asarray(find(sides(*polygons), np.asarray(points, np.float32), margin)).tolist()


@pytest.mark.parametrize("direction", [1, -1])
def test_points_inside_a_concave_polygon_of_either_direction(direction):
    points = [(1, 1), (3, 1), (1, 3), (3, 3), (5, 1), (-1, 1)]
    assert is_inside([BENT[::direction]], points) == [True, True, True, False, False, False]


def test_overlapping_and_adjacent_polygons_are_united():
    points = [(2, 2), (3.5, 3.5), (6.1, 2), (5.5, 5.5), (1, 5)]
    assert is_inside([SQUARE, SQUARE[::-1] + 2], points) == [True, True, False, True, False]
    assert is_inside([SQUARE, SQUARE + (4, 0)], [(3.9, 1), (4.1, 1), (4, 1)]) == [True, True, True]


def test_the_margin_is_a_distance():
    points = [(2, -0.4), (2, -0.6), (4.3, 4.3), (4.4, 4.4)]
    assert is_inside([SQUARE], points, 0.5) == [True, False, True, False]


def test_maps_without_polygons_contain_nothing():
    assert sides().shape == (0, 4) and is_inside([SQUARE[:2]], [(2, 0)], 0.5) == [False]
    padding = np.full((8, 4), PADDING_COORDINATE, np.float32)
    assert not np.asarray(find(padding, np.zeros((2, 2), np.float32), 0.5)).any()


def test_random_points_equal_even_odd_counting():
    """Star-shaped polygons cross themselves nowhere: a ray from inside crosses their sides an odd number of times."""
    rng = np.random.default_rng(0)
    polygons = []
    for _ in range(12):
        count = rng.integers(4, 9)
        angle = 2 * np.pi / count * (np.arange(count) + rng.uniform(0, 0.8, count))[:: rng.choice([1, -1])]
        center, radius = rng.uniform(-20, 20, 2), rng.uniform(2, 9, (count, 1))
        polygons.append(center + radius * np.stack([np.cos(angle), np.sin(angle)], axis=-1))
    points = rng.uniform(-30, 30, (500, 2))

    def crossings(polygon, x, y):
        count = 0
        for (ax, ay), (bx, by) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
            if (ay > y) != (by > y):
                count += ax + (y - ay) / (by - ay) * (bx - ax) > x
        return count

    expected = [any(crossings(each, *point) % 2 for each in polygons) for point in points]
    assert 0.1 < np.mean(expected) < 0.9
    assert is_inside(polygons, points) == expected
