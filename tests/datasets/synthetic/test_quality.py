"""Made-up traffic keeps to the road and its rules, and nobody runs into anybody."""

import numpy as np
import pytest

from tests.datasets.synthetic.judge import EVERY_LAYOUT, edge_distance, features, quality, scene, touching
from tests.oracle import signed_distance
from waymax_sim.datatypes import roadmap


def total(pairs) -> dict[str, int]:
    found = [quality(scene(*pair)) for pair in pairs]
    return {name: sum(each[name] for each in found) for name in found[0]}


def good(found: dict[str, int]) -> None:
    assert found["touch at the beginning"] == 0
    assert found["touch"] <= 0.01 * found["agents"]
    assert found["off the road"] <= 0.01 * found["moving"]
    assert found["pass at red"] <= 0.01 * found["pass a light"]
    assert found["pass a light"] > 0 and found["moving"] > 100


def test_a_scene_of_each_layout_is_good():
    good(total((3, index) for index in EVERY_LAYOUT))


def test_nobody_touches_at_the_beginning():
    # In what is drawn first for this scene two have run into each other before the record begins.
    assert not touching(scene(1000, 39), 0)


@pytest.mark.slow
def test_a_thousand_scenes_are_good():
    good(total((1000, index) for index in range(1000)))


def test_the_judge_knows_which_side_is_off_the_road():
    raw = scene(0, 3)
    edges = features(raw, *roadmap.ROAD_EDGE_TYPES)
    rng = np.random.default_rng(0)
    points = raw.point_xyz[rng.integers(len(raw.point_xyz), size=12)] + rng.normal(0.0, 2.0, (12, 3)) * [1, 1, 0]
    np.testing.assert_allclose(edge_distance(raw, points), [signed_distance(edges, point) for point in points])
