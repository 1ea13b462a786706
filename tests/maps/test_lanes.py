import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data import recorded
from tests.maps.lane_maps import arc, fork, lane_map, length, random_lines, straight
from waymax_sim.datasets.loader import load
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.datasets.synthetic import synthetic_scene
from waymax_sim.datatypes.roadmap import (
    CONTROLS,
    LANE_BIKE,
    LANE_FREEWAY,
    LANE_SURFACE_STREET,
    LANE_TYPES,
    LANE_UNDEFINED,
    LEFT_NEIGHBOR,
    RIGHT_NEIGHBOR,
    ROAD_EDGE_BOUNDARY,
    SUCCESSOR,
)
from waymax_sim.maps.lanes import DEFAULT_SPEED_LIMITS, MAX_LINKS, build_lane_graph
from waymax_sim.maps.segments import build_segments


def linked_lanes(row: np.ndarray) -> list[int]:
    """The lanes in a row of successors or predecessors; padding comes last."""
    lanes_in_row = [int(lane) for lane in row if lane >= 0]
    assert (row[len(lanes_in_row) :] == -1).all()
    return lanes_in_row


def test_a_lane_is_a_contiguous_range_in_segments():
    lines = [straight((0, 0), (3, 4), spacing=1), [(9, 9, 0)], straight((0, 5), (35, 5), spacing=35)]
    _, lanes, graph, _ = lane_map(*lines, types=[2, 2, 2])
    assert graph.num_segments.tolist() == [5, 0, 4]
    np.testing.assert_allclose(graph.length, [5, 0, 35], rtol=1e-6)
    for lane in (0, 2):
        run = slice(graph.first_segment[lane], graph.first_segment[lane] + graph.num_segments[lane])
        assert (lanes.feature.reshape(-1)[run] == lane).all() and lanes.valid.reshape(-1)[run].all()
    np.testing.assert_allclose(graph.arc_length.reshape(-1)[graph.first_segment[2] :][:4], [0, 8.75, 17.5, 26.25])


def test_features_may_come_in_any_order():
    built = lane_map(*fork(), signs=[(20, -3, 2)])
    order = np.array([3, 4, 1, 0, 2])
    roadmap = dataclasses.replace(
        built.roadmap,
        feature=order.astype(np.int32)[built.roadmap.feature],
        feature_type=built.roadmap.feature_type[np.argsort(order)],
    )
    lanes = build_segments(roadmap.xyz, roadmap.feature, roadmap.feature_type, LANE_TYPES)
    graph = build_lane_graph(roadmap, lanes, built.signals)
    for name in ("first_segment", "num_segments", "length", "stop_sign", "stop"):
        np.testing.assert_array_equal(getattr(graph, name)[order], getattr(built.graph, name))
    renamed = np.append(order, -1)[built.graph.successors]
    np.testing.assert_array_equal(np.sort(graph.successors[order], axis=1), np.sort(renamed, axis=1))


@pytest.mark.parametrize("spacing", [0.5, 3.0])
@pytest.mark.parametrize("radius", [8.0, 40.0])
def test_curvature_equals_the_inverse_radius(radius, spacing):
    turns = lane_map(arc((5, 5), radius, 20, 110, spacing), arc((5, 5), radius, 110, 20, spacing))
    curvature, lane = turns.graph.curvature[turns.lanes.valid], turns.lanes.feature[turns.lanes.valid]
    np.testing.assert_allclose(curvature, np.where(lane == 0, 1, -1) / radius, rtol=0.02)


def test_curvature_where_lanes_are_short_or_straight():
    graph = lane_map(straight((0, 0), (1, 0)), straight((0, 5), (50, 5)), arc((0, 0), 4, 0, 20)).graph
    np.testing.assert_allclose(graph.curvature[:-1].sum(), 0, atol=1e-5)
    np.testing.assert_allclose(graph.curvature[-1][: graph.num_segments[2]], 0.25, rtol=0.02)


def test_a_jagged_line_has_no_wild_curvature():
    line = straight((0, 0), (60, 0))
    line[:, 1] = np.random.default_rng(0).normal(0, 0.01, len(line))
    assert np.abs(lane_map(line).graph.curvature).max() < 0.03


def test_limits_are_given_or_by_type():
    types = [LANE_UNDEFINED, LANE_FREEWAY, LANE_SURFACE_STREET, LANE_BIKE, LANE_FREEWAY, ROAD_EDGE_BOUNDARY]
    lines = [straight((0, 9 * i), (9, 9 * i)) for i in range(6)]
    graph = lane_map(*lines, types=types, limits=[0, 0, 0, 0, 9.5, 0]).graph
    expected = [*(DEFAULT_SPEED_LIMITS[kind] for kind in types[:4]), 9.5, 0]
    np.testing.assert_allclose(graph.speed_limit, expected, rtol=1e-6)
    assert graph.is_bike.tolist() == [False, False, False, True, False, False]


def test_successors_come_the_straightest_first():
    graph = lane_map(*fork()).graph
    assert linked_lanes(graph.successors[0])[0] == 2 and set(linked_lanes(graph.successors[0])) == {1, 2, 3}
    assert [linked_lanes(graph.predecessors[lane]) for lane in range(4)] == [[], [0], [0], [0]]
    assert graph.inferred.all()


def test_a_bike_lane_is_not_the_straight_successor():
    links = [(0, 1, SUCCESSOR), (0, 2, SUCCESSOR), (0, 3, SUCCESSOR)]
    graph = lane_map(*fork(), types=[2, 2, LANE_BIKE, 2], links=links).graph
    assert linked_lanes(graph.successors[0])[-1] == 2


def test_given_links_are_taken_as_they_are():
    links = [(0, 1, SUCCESSOR), (2, 2, SUCCESSOR), (1, 3, LEFT_NEIGHBOR)]
    graph = lane_map(*fork(), links=links).graph
    assert [linked_lanes(row) for row in graph.successors] == [[1], [], [2], []]
    assert graph.inferred.tolist() == [False, False, False, True]
    # Lanes 1 and 3 are never side by side, and no other pair was named.
    assert (graph.left == -1).all() and (graph.right == -1).all()


def test_lanes_with_one_point_are_bridged():
    lines = [straight((0, 0), (9, 0)), [(9, 0, 0)], [(9, 0, 0)], straight((9, 0), (20, 0)), straight((9, 0), (20, 3))]
    links = [(0, 1, SUCCESSOR), (1, 2, SUCCESSOR), (2, 3, SUCCESSOR), (2, 4, SUCCESSOR), (1, 1, SUCCESSOR)]
    graph = lane_map(*lines, links=links).graph
    assert [linked_lanes(row) for row in graph.successors] == [[3, 4], [], [], [], []]


def test_too_many_successors_are_cut():
    branches = [straight((10, 0), (30, 2.0 * (index - 5))) for index in range(12)]
    graph = lane_map(straight((0, 0), (10, 0)), *branches).graph
    assert len(linked_lanes(graph.successors[0])) == MAX_LINKS and graph.successors[0, 0] == 6
    assert [linked_lanes(row) for row in graph.predecessors[1:]] == [[0]] * 12


def test_lights_stop_where_they_say():
    lights = [(1, (30.0, 2.0, 5.0)), (0, (-3.0, 1.0, 0.0)), (77, (0.0, 0.0, 0.0))]
    graph = lane_map(straight((0, 0), (20, 0)), straight((20, 0), (40, 0)), lights=lights).graph
    assert graph.light.tolist() == [1, 0]
    np.testing.assert_allclose(graph.stop, [0, 10], atol=1e-6)
    assert not graph.stop_sign.any()


def test_stop_signs_stop_the_lanes_they_control():
    lines = [straight((0, 0), (20, 0)), straight((20, 0), (40, 0))]
    signs, link = [(26.0, -4.0, 2.0)], [(2, 1, CONTROLS)]
    graph = lane_map(*lines, signs=signs, links=link).graph
    assert graph.stop_sign.tolist() == [False, True, False] and not graph.inferred[CONTROLS]
    np.testing.assert_allclose(graph.stop, [0, 6, 0], atol=1e-6)
    lit = lane_map(*lines, signs=signs, links=link, lights=[(1, (21, 0, 0))]).graph
    assert lit.stop_sign[1] and lit.light[1] == 0
    np.testing.assert_allclose(lit.stop[1], 1, atol=1e-6)


def test_a_map_without_lanes_has_a_graph_without_lanes():
    for empty in (lane_map(), lane_map([(0, 0, 0)]), lane_map(straight((0, 0), (9, 0)), types=[ROAD_EDGE_BOUNDARY])):
        assert not empty.graph.num_segments.any() and (empty.graph.successors == -1).all()
        assert (empty.graph.left == -1).all()


@given(seed=st.integers(0, 2**20))
def test_invariants_in_random_graphs(seed):
    rng = np.random.default_rng(seed)
    lines = random_lines(rng)
    built = lane_map(*lines, signs=[(0, 0, 0)])
    graph, lanes = built.graph, built.lanes
    np.testing.assert_allclose(graph.length[:-1], [length(line) for line in lines], rtol=1e-5)
    pairs = {(lane, other) for lane, row in enumerate(graph.successors) for other in linked_lanes(row)}
    assert pairs == {(other, lane) for lane, row in enumerate(graph.predecessors) for other in linked_lanes(row)}
    assert not graph.successors[-1].max() >= 0
    # Right of left is again that lane, or another as near.
    start, end = lanes.start, lanes.end
    for side, sign in ((graph.left, 1), (graph.right, -1)):
        here = np.flatnonzero(side.reshape(-1) >= 0)
        other = side.reshape(-1)[here]
        gap = (start[other] + end[other] - start[here] - end[here])[:, :2] / 2
        along = (end - start)[here, :2] / np.linalg.norm((end - start)[here, :2], axis=-1)[:, None]
        aside = along[:, 0] * gap[:, 1] - along[:, 1] * gap[:, 0]
        assert (sign * aside > 0).all() and (np.abs(aside) < 9).all()


@pytest.mark.parametrize("index", [0, 1, 2])
def test_graphs_do_not_depend_on_where_the_world_is(index):
    raw = synthetic_scene(3, index)
    here = to_scenario(raw, pad_to_bucket=False).graph
    turn = np.array([[0.6, 0.8, 0], [-0.8, 0.6, 0], [0, 0, 1]])

    def move(xyz):
        return xyz @ turn + (512.25, -77.5, 3.0)

    moved = dataclasses.replace(
        raw,
        xyz=move(raw.xyz),
        yaw=raw.yaw - np.arctan2(0.8, -0.6) + np.pi,
        point_xyz=move(raw.point_xyz),
        signal_stop_point=move(raw.signal_stop_point),
    )
    other = to_scenario(moved, pad_to_bucket=False).graph
    for name in ("length", "arc_length", "curvature", "stop"):
        np.testing.assert_allclose(getattr(other, name), getattr(here, name), atol=2e-3)
    for name in ("successors", "light", "num_segments", "first_segment"):
        np.testing.assert_array_equal(getattr(other, name), getattr(here, name))
    assert np.mean(other.left != here.left) < 0.02


def test_synthetic_lights_are_at_lane_starts():
    raw = synthetic_scene(0, 1)
    graph = to_scenario(raw, pad_to_bucket=False).graph
    lit = graph.light >= 0
    assert lit.sum() == len(raw.signal_lane_id)
    np.testing.assert_allclose(graph.stop[lit], 0.0, atol=1e-3)


@pytest.mark.parametrize("file", ["scenario_637f20cafde22ff8", "scenario_2a1e44d405a6833f"])
def test_recorded_lanes_are_linked_as_given(file):
    scenario = load(recorded(f"womd/{file}.tfrecord"), pad_to_bucket=False)[0]
    graph, links = scenario.graph, scenario.roadmap.links
    has_lane = graph.num_segments[links[:, :2]] > 0
    for a, b, _ in links[(links[:, 2] == SUCCESSOR) & has_lane.all(axis=1)]:
        assert b in graph.successors[a] and a in graph.predecessors[b]
    lit = np.isin(scenario.roadmap.feature_id, scenario.signals.lane_id)
    assert ((graph.light >= 0) == lit).all()
    np.testing.assert_allclose(graph.stop[lit], 0, atol=0.1)
    assert graph.stop_sign.sum() == len(np.unique(links[links[:, 2] == CONTROLS, 1]))
    if (links[:, 2] == LEFT_NEIGHBOR).any():
        feature = scenario.lanes.feature.reshape(-1)
        for side, kind in ((graph.left, LEFT_NEIGHBOR), (graph.right, RIGHT_NEIGHBOR)):
            here = np.flatnonzero(side.reshape(-1) >= 0)
            pairs = set(zip(feature[here].tolist(), feature[side.reshape(-1)[here]].tolist(), strict=True))
            given_pairs = {(a, b) for a, b, other in links.tolist() if other == kind}
            assert pairs <= given_pairs and len(pairs) > 0.7 * len(given_pairs)
