import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import oracle
from tests.data import recorded
from tests.maps.lane_maps import arc, fork, lane_map, random_lines, straight
from waymax_sim.datasets.loader import load
from waymax_sim.datatypes.roadmap import LANE_BIKE, SUCCESSOR
from waymax_sim.maps.centerlines import MAX_NEIGHBOR_PAIRS, extract_centerlines, pairs_within_radius
from waymax_sim.maps.lane_topology import MAX_JOINT_ANGLE, MAX_JOINT_GAP, crossed_lanes, infer_successors


def neighbor_lanes(built, lane: int, side: str) -> list[int]:
    """The neighboring lane of each segment of a lane, -1 for none."""
    first, count = built.graph.first_segment[lane], built.graph.num_segments[lane]
    other = getattr(built.graph, side).reshape(-1)[first : first + count]
    return [int(built.lanes.feature.reshape(-1)[one]) if one >= 0 else -1 for one in other]


@given(seed=st.integers(0, 2**20), radius=st.floats(0.1, 20))
def test_pairs_within_a_radius_equal_brute_force(seed, radius):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(0, 20, (rng.integers(0, 30), 2)), rng.normal(5, 10, (rng.integers(0, 30), 2))
    expected = {(i, j) for i in range(len(a)) for j in range(len(b)) if math.dist(a[i], b[j]) <= radius}
    first, second = pairs_within_radius(a, b, radius)
    assert len(first) == len(expected) and set(zip(first.tolist(), second.tolist(), strict=True)) == expected


def test_too_many_pairs_are_not_listed():
    number = math.isqrt(MAX_NEIGHBOR_PAIRS) + 1
    assert not len(pairs_within_radius(np.zeros((number, 2)), np.zeros((number, 2)), 1.0)[0])


@given(seed=st.integers(0, 2**20))
def test_successors_begin_where_a_lane_ends(seed):
    lines = random_lines(np.random.default_rng(seed))
    expected = set()
    for i, a in enumerate(lines):
        for j, b in enumerate(lines):
            ahead, on = a[-1] - a[-2], b[1] - b[0]
            turn = abs(oracle.wrap(math.atan2(on[1], on[0]) - math.atan2(ahead[1], ahead[0])))
            if (
                i != j
                and math.dist(a[-1][:2], b[0][:2]) <= MAX_JOINT_GAP
                and abs(a[-1][2] - b[0][2]) < 2
                and turn <= MAX_JOINT_ANGLE
            ):
                expected.add((i, j, SUCCESSOR))
    built = lane_map(*lines)
    inferred = infer_successors(built.lines, built.graph.is_bike)
    assert {tuple(link) for link in inferred.tolist()} == expected and len(inferred) == len(expected)


def test_lanes_without_successors():
    lines = [
        straight((0, 0), (20, 0)),
        straight((20.6, 0), (40, 0)),  # too far away
        straight((20, 0), (20, 20)),  # too sharp
        straight((20, 0, 6), (40, 0, 6)),  # on a bridge
        straight((40, 0.1), (20, 0.1)),  # towards it
        straight((20, 0), (40, 1)),  # a bike lane
        straight((20.3, 0), (40, -1)),
    ]
    graph = lane_map(*lines, types=[2, 2, 2, 2, 2, LANE_BIKE, 2]).graph
    assert [lane for lane in graph.successors[0] if lane >= 0] == [6]


def test_lanes_side_by_side():
    lines = [
        straight((0, 0), (40, 0)),
        straight((0, 3.5), (40, 3.5), spacing=2.5),
        straight((10, 7), (30, 7)),
        straight((40, 10.5), (0, 10.5)),  # oncoming
        straight((0, 3.5, 6), (40, 3.5, 6)),  # on a bridge
        straight((0, -3.5), (40, -3.5)),  # for bikes
    ]
    built = lane_map(*lines, types=[2, 2, 2, 2, 2, LANE_BIKE])
    assert set(neighbor_lanes(built, 0, "left")) == {1} and set(neighbor_lanes(built, 0, "right")) == {-1}
    assert set(neighbor_lanes(built, 1, "right")) == {0} and set(neighbor_lanes(built, 2, "right")) == {1}
    positions = built.lanes.start[built.graph.first_segment[1] + np.arange(16), 0] + 1.25
    for x, lane in zip(positions, neighbor_lanes(built, 1, "left"), strict=True):
        assert lane == (2 if 10 <= x <= 30 else -1) or min(abs(x - 10), abs(x - 30)) < 1.5
    for lane in (3, 4, 5):
        assert set(neighbor_lanes(built, lane, "left") + neighbor_lanes(built, lane, "right")) == {-1}


def test_neighbors_have_no_longitudinal_offset():
    built = lane_map(straight((0, 0), (40, 0), spacing=0.7), straight((-3, 3.5), (44, 3.5)), arc((0, 60), 60, -90, -30))
    middle = (built.lanes.start + built.lanes.end) / 2
    first, count = built.graph.first_segment[0], built.graph.num_segments[0]
    here = np.arange(first, first + count)
    across = built.graph.left.reshape(-1)[here]
    np.testing.assert_allclose(middle[across, 0], middle[here, 0], atol=0.3)


def test_lanes_that_fork_are_not_side_by_side_at_first():
    built = lane_map(*fork())
    for lane in range(4):
        assert set(neighbor_lanes(built, lane, "left") + neighbor_lanes(built, lane, "right")) == {-1}


def two_way_crossing() -> list[np.ndarray]:
    """A lane along x and one along y, each in three parts, the middle ones over the junction; and a right turn."""
    along_x = [straight(a, b) for a, b in (((-40, 0), (-10, 0)), ((-10, 0), (10, 0)), ((10, 0), (40, 0)))]
    along_y = [straight(a, b) for a, b in (((0, 40), (0, 10)), ((0, 10), (0, -10)), ((0, -10), (0, -40)))]
    return [*along_x, *along_y, arc((-10, -10), 10, 90, 0)]


def test_lanes_over_a_junction_cross_another_or_fork_from_or_merge_with_one_that_does():
    built = lane_map(*two_way_crossing())
    # The right turn (6) crosses no lane; it forks from lane 1 and merges with lane 4.
    assert np.flatnonzero(crossed_lanes(built.lines)).tolist() == [1, 4]
    assert np.flatnonzero(built.graph.is_junction).tolist() == [1, 4, 6]
    above = [straight((-10, 0, 6), (10, 0, 6)), *two_way_crossing()[3:6]]
    assert not lane_map(*above).graph.is_junction.any()
    assert not lane_map(*fork()).graph.is_junction.any()


@pytest.mark.parametrize("file", ["scenario_637f20cafde22ff8", "scenario_2a1e44d405a6833f"])
def test_inferred_successors_are_the_given_ones(file):
    scenario = load(recorded(f"womd/{file}.tfrecord"), pad_to_bucket=False)[0]
    roadmap, graph = scenario.roadmap, scenario.graph
    lines = extract_centerlines(scenario.lanes, len(roadmap.feature_type))
    inferred = {tuple(link) for link in infer_successors(lines, graph.is_bike).tolist()}
    stated = {tuple(link) for link in roadmap.links.tolist() if link[2] == SUCCESSOR}
    assert len(inferred & stated) >= 0.99 * max(len(inferred), len(stated))
