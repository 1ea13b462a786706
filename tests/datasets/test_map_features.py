"""Map features and heights, compared with slow versions."""

import numpy as np
import pytest

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.formats import map_features as features
from waymax_sim.datasets.formats.map_features import (
    MapFeature,
    ground_height,
    map_fields,
    relative_arc_length,
    resample,
)


def test_features_become_rows_and_ids_of_links_too():
    line = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    items = [MapFeature(30, 2, line, 9.5), MapFeature(10, 18, line[:0]), MapFeature(20, 1, line[:1])]
    links = [(20, 30, 0), (30, 20, 1), (20, 30, 0), (20, 40, 0), (40, 20, 0)]
    found = map_fields(items, links)
    assert found["point_feature"].tolist() == [0, 0, 2] and found["point_xyz"].shape == (3, 3)
    assert found["feature_id"].tolist() == [30, 10, 20] and found["feature_type"].tolist() == [2, 18, 1]
    assert found["speed_limit"].tolist() == [9.5, 0, 0]
    assert found["links"].tolist() == [[0, 2, 1], [2, 0, 0]]
    assert {name: len(values) for name, values in map_fields([], []).items()} == dict.fromkeys(found, 0)


@pytest.mark.parametrize("number", [2**31, -(2**31) - 1, 10**400])
def test_ids_beyond_32_bits_are_refused(number):
    with pytest.raises(DataError, match="32 bits"):
        map_fields([MapFeature(number, 2, np.zeros((1, 3)))], [])


def test_shares_are_of_the_length_in_the_plane():
    line = np.array([[0.0, 0.0, 5.0], [3.0, 4.0, 99.0], [3.0, 19.0, 7.0]])
    np.testing.assert_allclose(relative_arc_length(line), [0, 0.25, 1])
    np.testing.assert_allclose(resample(line, np.array([0.0, 0.125, 1.0])), [[0, 0, 5], [1.5, 2, 52], [3, 19, 7]])
    np.testing.assert_array_equal(relative_arc_length(line[[0, 0]]), [0, 0])
    np.testing.assert_array_equal(resample(line[:1], np.array([0.0, 1.0])), line[[0, 0]])


@pytest.mark.parametrize("at_once", [7, 10**6])
def test_the_ground_is_at_the_nearest_point(monkeypatch, at_once):
    monkeypatch.setattr(features, "PAIRS_PER_BATCH", at_once)
    rng = np.random.default_rng(0)
    points, xy = rng.normal(0.0, 50.0, (40, 3)), rng.normal(0.0, 60.0, (25, 2))
    far = np.array([1e6, -3e6])
    points[:, :2] += far
    expected = [points[np.argmin([np.hypot(*(point[:2] - query)) for point in points]), 2] for query in xy + far]
    np.testing.assert_array_equal(ground_height(points, xy + far), expected)


def test_the_ground_is_at_0_without_points_and_bounded_with_many(monkeypatch):
    assert ground_height(np.zeros((0, 3)), np.ones((3, 2))).tolist() == [0, 0, 0]
    assert ground_height(np.ones((3, 3)), np.ones((0, 2))).shape == (0,)
    monkeypatch.setattr(features, "MAX_PAIRS", 5)
    with pytest.raises(DataError, match="too many"):
        ground_height(np.ones((3, 3)), np.ones((2, 2)))
