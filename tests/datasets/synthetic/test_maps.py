"""Maps of synthetic scenes: lanes are linked, edges have the road on their left, bridges are elevated."""

import itertools

import numpy as np
import pytest

from tests.datasets.synthetic.quality import EVERY_LAYOUT, RED, cross, edge_distance, features, on_wheels, scene
from waymax_sim.datasets.scene import RawScene
from waymax_sim.datatypes import roadmap

OVERPASS = 2
YELLOW = (9, 11, 12)
POLYGONS = (roadmap.STOP_SIGN, roadmap.CROSSWALK, roadmap.SPEED_BUMP, roadmap.DRIVEWAY)


@pytest.fixture(params=EVERY_LAYOUT)
def raw(request) -> RawScene:
    return scene(3, request.param)


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def nearest(points: np.ndarray, at: np.ndarray) -> int:
    """Index of the point nearest to a position, with heights weighted by three."""
    return int(np.argmin(np.sum(((points - at) * [1.0, 1.0, 3.0]) ** 2, axis=-1)))


def test_map_is_complete(raw):
    assert {roadmap.ROAD_EDGE_BOUNDARY, *YELLOW} & set(raw.feature_type)
    assert np.isin(raw.feature_type, roadmap.LANE_TYPES).sum() >= 2
    assert np.isin(raw.feature_type, roadmap.ROAD_EDGE_TYPES).sum() >= 3
    assert len(np.unique(raw.feature_id)) == len(raw.feature_id)
    assert (raw.feature_id > 2**24).any() and raw.feature_id.max() < 2**31
    assert np.all(np.diff(raw.point_feature) >= 0)
    is_lane = np.isin(raw.feature_type, roadmap.LANE_TYPES)
    assert (raw.speed_limit[is_lane] > 4.0).all() and (raw.speed_limit[~is_lane] == 0.0).all()
    assert 2000 <= len(raw.point_xyz) <= 20_000
    assert np.linalg.norm(raw.point_xyz[:, :2], axis=-1).min() > 5000.0


def test_all_kinds_of_features_occur():
    kinds = {int(kind) for index in EVERY_LAYOUT for kind in scene(3, index).feature_type}
    assert kinds >= {1, 2, 3, 6, 7, 11, 12, 15, 16, 17, 18, 19, 20}


def test_points_have_the_spacing_of_recorded_maps(raw):
    for xyz in features(raw, *set(range(17)) - set(POLYGONS)):
        step = np.linalg.norm(np.diff(xyz[:, :2], axis=0), axis=-1)
        assert step.min() > 0.3 and step.max() < 0.65
        assert abs(np.median(step) - 0.5) < 0.1


def test_road_is_to_the_left_of_edges(raw):
    lanes = np.concatenate(features(raw, *roadmap.LANE_TYPES))
    for edge in features(raw, *roadmap.ROAD_EDGE_TYPES):
        for start, end in list(itertools.pairwise(edge))[3:-3:8]:
            left = np.array([start[1] - end[1], end[0] - start[0], 0.0]) / np.linalg.norm((end - start)[:2])
            middle = (start + end) / 2
            near = lanes[np.abs(lanes[:, 2] - middle[2]) < 3.0]
            inward, outward = (np.linalg.norm(near - middle - s * 0.5 * left, axis=-1).min() for s in (1, -1))
            # A narrow island has lanes on both sides.
            assert inward < outward or (raw.feature_type[raw.point_feature].max() and inward < 3.5)


def test_lanes_are_on_the_road(raw):
    lanes = np.concatenate(features(raw, *roadmap.LANE_TYPES))[::9]
    assert edge_distance(raw, lanes).max() < 0.0


def test_islands_are_closed_clockwise_loops():
    islands = [xyz for index in EVERY_LAYOUT for xyz in features(scene(3, index), roadmap.ROAD_EDGE_MEDIAN)]
    assert islands
    for xyz in islands:
        np.testing.assert_allclose(xyz[0], xyz[-1], atol=1e-5)
        local = xyz - xyz[0]
        assert np.sum(cross(local[:-1, :2], local[1:, :2])) / 2 < -1.0


def test_links_join_lanes(raw):
    assert len(np.unique(raw.links, axis=0)) == len(raw.links)
    assert np.isin(raw.feature_type[raw.links[:, :2]], roadmap.LANE_TYPES).all()
    ends: dict[int, np.ndarray] = {}
    for a, b, kind in raw.links:
        one, two = (ends.setdefault(row, raw.point_xyz[raw.point_feature == row]) for row in (a, b))
        if kind == roadmap.SUCCESSOR:
            assert np.linalg.norm(one[-1] - two[0]) < 1e-5
            assert np.dot(unit(one[-1] - one[-2]), unit(two[1] - two[0])) > 0.99
        else:
            middle = len(one) // 2
            along = one[middle + 1] - one[middle]
            other = nearest(two[:-1], one[middle])
            assert np.dot(unit(along), unit(two[other + 1] - two[other])) > 0.98
            side = cross(unit(along)[:2], (two[other] - one[middle])[:2])
            assert 3.0 < (side if kind == roadmap.LEFT_NEIGHBOR else -side) < 4.5
            back = (b, a, roadmap.RIGHT_NEIGHBOR + roadmap.LEFT_NEIGHBOR - kind)
            assert (raw.links == back).all(axis=-1).any(), "neighbors are symmetric"


def test_every_lane_leads_on_or_to_the_border(raw):
    """Where a lane ends without a successor nothing follows: there is no lane ahead near by, but for a merge."""
    starts = set(raw.links[raw.links[:, 2] == roadmap.SUCCESSOR, 0].tolist())
    ends = [row for row in np.flatnonzero(np.isin(raw.feature_type, roadmap.LANE_TYPES)) if row not in starts]
    assert 2 <= len(ends) <= 40
    assert len(starts) > 0 or raw.scenario_id.endswith("-0")


def test_traffic_is_right_handed(raw):
    """A yellow line is to the left of the lane nearest to it."""
    lanes = features(raw, roadmap.LANE_SURFACE_STREET, roadmap.LANE_FREEWAY)
    starts, ends = np.concatenate([xyz[:-1] for xyz in lanes]), np.concatenate([xyz[1:] for xyz in lanes])
    for point in np.concatenate(features(raw, *YELLOW))[::15]:
        index = nearest(starts, point)
        assert cross((ends - starts)[index, :2], (point - starts[index])[:2]) > 0


def test_wheels_are_on_the_ground(raw):
    lanes = np.concatenate(features(raw, *roadmap.LANE_TYPES))
    for agent in np.flatnonzero(on_wheels(raw)):
        for step in np.flatnonzero(raw.valid[:, agent])[::20]:
            floor = raw.xyz[step, agent] - [0.0, 0.0, raw.size[step, agent, 2] / 2]
            assert abs(lanes[nearest(lanes, floor), 2] - floor[2]) < 0.15


def test_lights_stand_where_their_lanes_begin():
    lit = 0
    for index in EVERY_LAYOUT:
        raw = scene(3, index)
        for column, lane_id in enumerate(raw.signal_lane_id):
            begin = raw.point_xyz[raw.feature_id[raw.point_feature] == lane_id][0]
            np.testing.assert_allclose(raw.signal_stop_point[:, column], np.broadcast_to(begin, (91, 3)))
            lit += 1
    assert lit > 16


def test_lights_change_in_order_and_are_never_green_on_both_axes():
    for index in (1, 7, 8):
        raw = scene(3, index)
        state = raw.signal_state
        for column in state.T:
            changes = [(a, b) for a, b in itertools.pairwise(column) if a != b and 0 not in (a, b)]
            assert set(changes) <= {(4, 6), (6, 5), (5, 4), (1, 3), (3, 2), (2, 1)}
        lanes = [raw.point_xyz[raw.feature_id[raw.point_feature] == lane_id] for lane_id in raw.signal_lane_id]
        heading = [unit((xyz[1] - xyz[0])[:2]) for xyz in lanes]
        for i, j in itertools.combinations(range(len(lanes)), 2):
            if abs(heading[i] @ heading[j]) < 0.5:
                both_known = (state[:, i] > 0) & (state[:, j] > 0)
                assert (np.isin(state[:, i], RED) | np.isin(state[:, j], RED))[both_known].all()


def test_bridge_is_up_and_not_too_steep():
    raw = scene(3, OVERPASS)
    lines = features(raw, *roadmap.LANE_TYPES, *roadmap.ROAD_EDGE_TYPES)
    rise = [np.abs(np.diff(xyz[:, 2])) / np.linalg.norm(np.diff(xyz[:, :2], axis=0), axis=-1) for xyz in lines]
    assert 0.05 < np.concatenate(rise).max() <= 0.09
    heights = []
    for one, other in itertools.combinations(features(raw, roadmap.ROAD_EDGE_BOUNDARY), 2):
        distance = np.linalg.norm(one[:, None, :2] - other[None, :, :2], axis=-1)
        if distance.min() < 0.5:
            a, b = np.unravel_index(np.argmin(distance), distance.shape)
            heights.append(abs(one[a, 2] - other[b, 2]))
    assert len(heights) == 4, "each edge of one road crosses each of the other"
    assert min(heights) > 5.0
