"""Synthetic traffic stays on the road, obeys lights and does not collide."""

import numpy as np
import pytest

from tests.datasets.synthetic.quality import EVERY_LAYOUT, edge_distance, features, quality, scene, touching
from tests.oracle import signed_distance
from waymax_sim.datatypes import roadmap


def total(pairs) -> dict[str, int]:
    counts = [quality(scene(*pair)) for pair in pairs]
    return {name: sum(each[name] for each in counts) for name in counts[0]}


def assert_good(counts: dict[str, int]) -> None:
    assert counts["touch at the beginning"] == 0
    assert counts["touch"] <= 0.01 * counts["agents"]
    assert counts["off the road"] <= 0.01 * counts["moving"]
    assert counts["pass at red"] <= 0.01 * counts["pass a light"]
    assert counts["pass a light"] > 0 and counts["moving"] > 100


def test_a_scene_of_each_layout_is_good():
    assert_good(total((3, index) for index in EVERY_LAYOUT))


def test_agents_do_not_overlap_at_the_first_step():
    # The first draw of this scene has a collision before the first step.
    assert not touching(scene(1000, 39), 0)


@pytest.mark.slow
def test_a_thousand_scenes_are_good():
    assert_good(total((1000, index) for index in range(1000)))


def test_edge_distance_is_that_of_the_oracle():
    raw = scene(0, 3)
    edges = features(raw, *roadmap.ROAD_EDGE_TYPES)
    rng = np.random.default_rng(0)
    points = raw.point_xyz[rng.integers(len(raw.point_xyz), size=12)] + rng.normal(0.0, 2.0, (12, 3)) * [1, 1, 0]
    np.testing.assert_allclose(edge_distance(raw, points), [signed_distance(edges, point) for point in points])
