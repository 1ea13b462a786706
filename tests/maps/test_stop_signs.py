import numpy as np
import pytest

from tests.data import recorded
from tests.maps.lane_maps import fork, lane_map, straight
from waymax_sim import load
from waymax_sim.datatypes.roadmap import CONTROLS, STOP_SIGN, SUCCESSOR
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.maps.centerlines import extract_centerlines
from waymax_sim.maps.lane_topology import crossed_lanes, infer_successors
from waymax_sim.maps.stop_signs import infer_controls

STATED = (
    "womd/scenario_637f20cafde22ff8.tfrecord",
    "womd/scenario_2a1e44d405a6833f.tfrecord",
    "scenarionet/sd_waymo_v1.2_eb4b91b10ca94ff2.pkl",
)
# Lanes of a sign whose approach lies outside of the map of 637f20cafde22ff8, which ends 3 m before the sign.
NUM_TRUNCATED = 2


@pytest.mark.parametrize(
    ("sign", "lanes"),
    [
        ((20, -3, 2), {1, 2, 3}),  # where three lanes begin, to the right
        ((15, -3, 2), {1, 2, 3}),
        ((20, -8, 2), {1, 2, 3}),
        ((20, 3, 2), set()),  # on the left
        ((10, -3, 2), set()),  # nothing begins here
        ((20, -10, 2), set()),
        ((20, -3, 9), set()),  # above
    ],
)
def test_stop_signs_control_the_lanes_that_begin_next_to_them(sign, lanes):
    graph = lane_map(*fork(), signs=[sign]).graph
    assert set(np.flatnonzero(graph.stop_sign)) == lanes and graph.inferred[CONTROLS]
    # The right turn bends towards a sign that is far beside it.
    np.testing.assert_allclose(graph.stop, 0, atol=0.3)
    assert graph.has_unassigned_sign == (not lanes)


def approach(*y: float) -> list[np.ndarray]:
    """Parallel lanes along x, each in two parts that meet at x = 20."""
    return [straight(a, b) for each in y for a, b in (((0, each), (20, each)), ((20, each), (40, each)))]


def controlled(lines, *signs, **changes) -> list[int]:
    return np.flatnonzero(lane_map(*lines, signs=signs, **changes).graph.stop_sign).tolist()


def test_a_stop_sign_controls_all_lanes_of_its_approach():
    assert controlled(approach(0, 3.5, 7), (20, -2, 2)) == [1, 3, 5]
    # On an island between two lanes one way; and beside a lane that is not of the carriageway.
    assert controlled(approach(0, 5.5), (20, 2.5, 2)) == [1, 3]
    assert controlled(approach(0, 8), (20, -2, 2)) == [1]


def test_oncoming_staggered_and_bike_lanes_are_of_another_approach():
    oncoming = [straight((40, 3.5), (20, 3.5)), straight((20, 3.5), (0, 3.5))]
    assert controlled([*approach(0), *oncoming], (20, -2, 2)) == [1]
    later = [straight((0, 3.5), (25, 3.5)), straight((25, 3.5), (40, 3.5))]
    assert controlled([*approach(0), *later], (20, -2, 2)) == [1]
    assert controlled(approach(0, 3.5), (20, -2, 2), types=[2, 2, 3, 3]) == [1]


def test_lanes_of_a_junction_precede_lanes_that_merely_begin():
    """Lanes 1 to 3 fork 6 m left of the sign, lane 5 begins nearer. Without the fork the sign must be beside lane 5."""
    beside = [straight((0, -4), (20, -4)), straight((20, -4), (23, -4))]
    assert controlled([*fork(), *beside], (21.5, -6, 2)) == [1, 2, 3]
    assert controlled(beside, (20.5, -6, 2)) == [1] and controlled(beside, (21.5, -6, 2)) == []


def test_lanes_away_from_a_junction_are_not_controlled():
    """Two lanes merge at the sign into one that turns right."""
    lines = [straight((0, 0), (20, 0)), straight((2, -4), (20, 0)), straight((20, 0), (40, 0))]
    assert controlled(lines, (20, -3, 2)) == []


def test_stated_links_are_used_unchanged():
    built = lane_map(*approach(0, 3.5), signs=[(20, -2, 2), (30, 9, 2)], links=[(4, 3, CONTROLS)])
    assert np.flatnonzero(built.graph.stop_sign).tolist() == [3]
    # The source states that the other sign has no lane.
    assert not built.graph.has_unassigned_sign and not built.graph.inferred[CONTROLS]


def inferred_controls(scenario: Scenario, stated_successors: bool) -> set[tuple]:
    """Links of a recorded scene without those that it states."""
    roadmap = scenario.roadmap
    lines = extract_centerlines(scenario.lanes, len(roadmap.feature_type))
    successors = infer_successors(lines, scenario.graph.is_bike)
    if stated_successors:
        successors = roadmap.links[roadmap.links[:, 2] == SUCCESSOR].astype(int)
    signs = np.flatnonzero(roadmap.feature_type == STOP_SIGN)
    xyz = np.array([roadmap.xyz[roadmap.feature == sign][0] for sign in signs], np.float64).reshape(-1, 3)
    links = infer_controls(lines, signs, xyz, scenario.graph.is_bike, successors, crossed_lanes(lines))
    return {tuple(link) for link in links.tolist()}


@pytest.mark.parametrize("stated_successors", [True, False])
def test_inferred_links_of_recorded_scenes_are_the_stated_ones(stated_successors):
    num_stated = num_inferred = num_found = 0
    for file in STATED:
        scenario = load(recorded(file), pad_to_bucket=False)[0]
        stated = {tuple(link) for link in scenario.roadmap.links.tolist() if link[2] == CONTROLS}
        inferred = inferred_controls(scenario, stated_successors)
        num_stated, num_inferred = num_stated + len(stated), num_inferred + len(inferred)
        num_found += len(stated & inferred)
    assert num_stated == 18
    assert num_found >= 0.9 * (num_stated - NUM_TRUNCATED) and num_found >= 0.88 * num_stated
    assert num_found >= 0.9 * num_inferred


def test_scenes_without_stated_links_lose_no_sign_of_a_road():
    """GPUDrive and Nocturne state no lanes: each of the 15 signs of these scenes has some."""
    files = [f"gpudrive/{name}.json" for name in ("1c365f15b70ebdbf", "db4edc9bd0c9d18c", "2a173b334be3d32c_lights")]
    for file in (*files, "nocturne/example_scenario.json"):
        graph = load(recorded(file), pad_to_bucket=False)[0].graph
        assert graph.stop_sign.any() and not graph.has_unassigned_sign
