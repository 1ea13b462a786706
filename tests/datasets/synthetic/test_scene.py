"""The made-up scenes are reproducible, whole and physically sane; checked by slow, obvious means."""

import dataclasses
import functools
import itertools

import jax
import numpy as np
import pytest

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.scene import RawScene, to_scenario
from waymax_sim.datasets.synthetic import synthetic_scene
from waymax_sim.datatypes import roadmap
from waymax_sim.datatypes.agents import CYCLIST, PEDESTRIAN, VEHICLE
from waymax_sim.datatypes.validate import validate

STOP, CAUTION, GO = 4, 5, 6
DOUBLE_YELLOW = 12
CROSSING, BRIDGE = 1, 2
SCENES = [(seed, index) for seed in range(4) for index in range(3)]

scene = functools.cache(synthetic_scene)


@pytest.fixture(params=SCENES, ids=lambda pair: f"{pair[0]}-{pair[1]}")
def raw(request) -> RawScene:
    return scene(*request.param)


@pytest.fixture(params=range(10))
def crossing(request) -> RawScene:
    return scene(request.param, CROSSING)


@pytest.fixture(params=range(4))
def bridge(request) -> RawScene:
    return scene(request.param, BRIDGE)


def features(raw: RawScene, *types: int) -> list[np.ndarray]:
    """Points of every feature of some types."""
    rows = np.flatnonzero(np.isin(raw.feature_type, types))
    return [raw.point_xyz[raw.point_feature == row] for row in rows]


def pieces(polylines: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends of all pieces of some polylines."""
    return np.concatenate([xyz[:-1] for xyz in polylines]), np.concatenate([xyz[1:] for xyz in polylines])


def cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def corners(raw: RawScene, step: int, agent: int) -> np.ndarray:
    yaw, (length, width, _) = raw.yaw[step, agent], raw.size[step, agent]
    forward, left = np.array([np.cos(yaw), np.sin(yaw)]), np.array([-np.sin(yaw), np.cos(yaw)])
    signs = [(1, 1), (-1, 1), (-1, -1), (1, -1)]
    return np.array([raw.xyz[step, agent, :2] + a * length / 2 * forward + b * width / 2 * left for a, b in signs])


def polygons_overlap(a: np.ndarray, b: np.ndarray) -> bool:
    """Separating axes: some edge normal of either polygon keeps them apart, or they overlap."""
    for polygon in (a, b):
        for edge in np.roll(polygon, -1, axis=0) - polygon:
            normal = np.array([-edge[1], edge[0]])
            if (a @ normal).max() <= (b @ normal).min() or (b @ normal).max() <= (a @ normal).min():
                return False
    return True


def heights_overlap(raw: RawScene, step: int, a: int, b: int) -> bool:
    apart = abs(raw.xyz[step, a, 2] - raw.xyz[step, b, 2])
    return apart < (raw.size[step, a, 2] + raw.size[step, b, 2]) / 2


def overlaps(raw: RawScene, step: int):
    """Pairs of agents whose boxes overlap in the plane."""
    present = np.flatnonzero(raw.valid[step])
    boxes = {agent: corners(raw, step, agent) for agent in present}
    for i, a in enumerate(present):
        for b in present[i + 1 :]:
            reach = (np.hypot(*raw.size[step, a, :2]) + np.hypot(*raw.size[step, b, :2])) / 2
            near = np.hypot(*(raw.xyz[step, a, :2] - raw.xyz[step, b, :2])) < reach
            if near and polygons_overlap(boxes[a], boxes[b]):
                yield a, b


def nearest(points: np.ndarray, at: np.ndarray) -> int:
    """Index of the point nearest to a place on the ground; heights count three times."""
    return int(np.argmin(np.sum(((points - at) * [1.0, 1.0, 3.0]) ** 2, axis=-1)))


def on_wheels(raw: RawScene, *, moving: bool = False):
    """Every fifth state of every vehicle and cyclist: (step, agent, centre of the floor)."""
    for agent in np.flatnonzero(np.isin(raw.agent_type, (VEHICLE, CYCLIST))):
        steps = np.flatnonzero(raw.valid[:, agent])[::5]
        if moving and not raw.velocity[steps, agent].any():
            continue
        for step in steps:
            yield step, agent, raw.xyz[step, agent] - [0.0, 0.0, raw.size[step, agent, 2] / 2]


def test_same_pair_same_scene():
    for index in range(3):
        one, two = (dataclasses.asdict(synthetic_scene(5, index)) for _ in range(2))
        jax.tree.map(np.testing.assert_array_equal, one, two)


def test_scenes_are_the_same_on_every_machine():
    """Where the sdc is now in the first scenes; changes only when the scenes are meant to change."""
    places = [(8950.698, -2142.526, 25.386), (8542.315, -2502.833, 25.547), (8763.643, -2647.762, 23.105)]
    for index, place in enumerate(places):
        raw = scene(0, index)
        np.testing.assert_allclose(raw.xyz[raw.current_step, raw.sdc_index], place, atol=2e-3)


def test_pairs_differ():
    places = {tuple(scene(seed, index).point_xyz[0]) for seed in range(4) for index in range(6)}
    assert len(places) == 24


@pytest.mark.parametrize("pair", [(-1, 0), (0, -1)])
def test_negative_numbers_are_refused(pair):
    with pytest.raises(DataError, match="must not be negative"):
        synthetic_scene(*pair)


@pytest.mark.parametrize("seed", range(8))
def test_nothing_to_complain_about(seed):
    for index in range(3):
        assert validate(to_scenario(scene(seed, index))) == []


def test_cast(raw):
    types = np.bincount(raw.agent_type, minlength=4)
    assert 8 <= len(raw.agent_id) <= 24
    assert types[VEHICLE] >= 5 and types[PEDESTRIAN] >= 2 and types[CYCLIST] == 1
    assert len(np.unique(raw.agent_id)) == len(raw.agent_id)
    length = np.where(raw.valid, raw.size[..., 0], 0.0).max(axis=0)
    assert (length > 7.0).sum() == 1, "one truck or bus"
    still = np.where(raw.valid[..., None], raw.velocity, 0.0).any(axis=(0, 2))
    assert (~still & (raw.agent_type == VEHICLE)).any(), "a parked car"
    assert raw.sdc_index > 0 and raw.agent_type[raw.sdc_index] == VEHICLE
    assert raw.valid[:, raw.sdc_index].all()
    driven = np.linalg.norm(raw.xyz[-1, raw.sdc_index] - raw.xyz[0, raw.sdc_index])
    assert driven > 20.0
    assert raw.to_predict.any() and not (raw.of_interest & ~raw.to_predict).any()


def test_records_have_the_flaws_of_recorded_ones(raw):
    valid = raw.valid
    assert (~valid[0] & valid[-1]).any(), "somebody appears"
    assert (valid[0] & ~valid[-1]).any(), "somebody vanishes"
    gap = (np.diff(valid.astype(int), axis=0) == -1).any(axis=0) & valid[-1]
    assert gap.any()
    lost = ~valid[:, gap]
    assert (np.abs(raw.xyz[:, gap][lost]) > 1.0).all(), "garbage where nothing was seen"
    assert (np.where(valid, raw.yaw, 0.0) > np.pi).any(), "a heading that is not wrapped"


def test_nobody_touches_anybody(raw):
    for step in range(91):
        touching = [(a, b) for a, b in overlaps(raw, step) if heights_overlap(raw, step, a, b)]
        assert not touching, f"step {step}"


def test_motion_is_smooth(raw):
    both = raw.valid[1:] & raw.valid[:-1]
    moved = np.diff(raw.xyz[..., :2], axis=0) / 0.1
    mean_velocity = (raw.velocity[1:] + raw.velocity[:-1]) / 2
    assert np.abs(moved - mean_velocity)[both].max() < 0.1
    acceleration = np.linalg.norm(np.diff(raw.velocity, axis=0), axis=-1)[both] / 0.1
    assert acceleration.max() <= 4.0
    speed = np.linalg.norm(raw.velocity, axis=-1)
    along = raw.velocity[..., 0] * np.cos(raw.yaw) + raw.velocity[..., 1] * np.sin(raw.yaw)
    np.testing.assert_allclose(along[raw.valid], speed[raw.valid], atol=1e-5)
    turned = np.abs(np.diff(raw.yaw, axis=0))
    turned = np.minimum(turned, np.abs(2 * np.pi - turned))
    distance = np.linalg.norm(moved, axis=-1) * 0.1
    rolling = both & (distance > 0.05)
    assert (turned[rolling] / distance[rolling]).max() <= 0.2


def test_paces_suit_the_kind(raw):
    speed = np.where(raw.valid, np.linalg.norm(raw.velocity, axis=-1), 0.0).max(axis=0)
    assert (speed[raw.agent_type == VEHICLE] < 16.0).all()
    assert (speed[raw.agent_type == CYCLIST] < 7.0).all()
    assert (speed[raw.agent_type == PEDESTRIAN] < 1.7).all()


def test_lanes_are_followed_in_their_direction(raw):
    starts, ends = pieces(features(raw, *roadmap.LANE_TYPES))
    along = (ends - starts)[:, :2] / np.linalg.norm((ends - starts)[:, :2], axis=-1)[:, None]
    for step, agent, floor in on_wheels(raw, moving=True):
        # On a junction lanes cross: some lane has to fit, not only the nearest.
        offset = floor - starts
        across, ahead = cross(along, offset), np.sum(along * offset[:, :2], axis=-1)
        yaw = raw.yaw[step, agent]
        agrees = along @ np.array([np.cos(yaw), np.sin(yaw)]) > 0.98
        close = (np.abs(across) < 0.1) & (np.abs(ahead) < 0.6) & (np.abs(offset[:, 2]) < 0.1)
        assert (agrees & close).any(), (step, agent)


def test_wheels_are_on_the_ground(raw):
    ground = np.concatenate(features(raw, *roadmap.LANE_TYPES, *roadmap.ROAD_EDGE_TYPES))
    for step, agent, floor in on_wheels(raw):
        assert abs(ground[nearest(ground, floor), 2] - floor[2]) < 0.15, (step, agent)


def test_road_is_to_the_left_of_edges(raw):
    lanes = np.concatenate(features(raw, *roadmap.LANE_TYPES))
    for edge in features(raw, *roadmap.ROAD_EDGE_TYPES):
        for start, end in list(itertools.pairwise(edge))[::4]:
            left = np.array([start[1] - end[1], end[0] - start[0], 0.0]) / np.linalg.norm((end - start)[:2])
            middle = (start + end) / 2
            near = lanes[np.abs(lanes[:, 2] - middle[2]) < 3.0]
            inward, outward = (np.linalg.norm(near - middle - s * 0.5 * left, axis=-1).min() for s in (1, -1))
            assert inward < outward


def test_nobody_on_wheels_leaves_the_road(raw):
    """From the nearest point of a lane every corner of a box is reached without crossing a road edge."""
    starts, ends = pieces(features(raw, *roadmap.ROAD_EDGE_TYPES))
    lanes = np.concatenate(features(raw, *roadmap.LANE_TYPES))
    for step, agent, floor in on_wheels(raw):
        inside = lanes[nearest(lanes, floor)]
        level = np.abs(starts[:, 2] - floor[2]) < 3.0
        a, b = starts[level, :2], ends[level, :2]
        for corner in corners(raw, step, agent):
            way = corner - inside[:2]
            apart = cross(way, a - inside[:2]) * cross(way, b - inside[:2]) < 0
            between = cross(b - a, inside[:2] - a) * cross(b - a, corner - a) < 0
            assert not (apart & between).any(), (step, agent)


def test_traffic_is_right_handed(raw):
    """The yellow line is to the left of the lane nearest to it."""
    starts, ends = pieces(features(raw, roadmap.LANE_SURFACE_STREET))
    for point in np.concatenate(features(raw, DOUBLE_YELLOW))[::5]:
        index = nearest(starts, point)
        assert cross((ends - starts)[index], point - starts[index]) > 0


def test_map_is_complete(raw):
    assert {roadmap.STOP_SIGN, roadmap.SPEED_BUMP, roadmap.DRIVEWAY, DOUBLE_YELLOW} <= set(raw.feature_type)
    assert np.isin(raw.feature_type, roadmap.LANE_TYPES).sum() >= 4
    assert np.isin(raw.feature_type, roadmap.ROAD_EDGE_TYPES).sum() >= 3
    assert len(np.unique(raw.feature_id)) == len(raw.feature_id)
    assert (raw.feature_id > 2**24).any() and raw.feature_id.max() < 2**31
    assert np.all(np.diff(raw.point_feature) >= 0)
    is_lane = np.isin(raw.feature_type, roadmap.LANE_TYPES)
    assert (raw.speed_limit[is_lane] > 5.0).all() and (raw.speed_limit[~is_lane] == 0.0).all()
    assert np.linalg.norm(raw.point_xyz[:, :2], axis=-1).min() > 5000.0


def test_points_are_half_a_metre_apart(raw):
    for xyz in features(raw, *range(17)):
        step = np.linalg.norm(np.diff(xyz[:, :2], axis=0), axis=-1)
        assert step.min() > 0.45 and step.max() < 0.55


def test_islands_are_closed_clockwise_loops(raw):
    islands = features(raw, roadmap.ROAD_EDGE_MEDIAN)
    assert islands
    for xyz in islands:
        np.testing.assert_array_equal(xyz[0], xyz[-1])
        local = xyz - xyz[0]
        assert np.sum(cross(local[:-1], local[1:])) / 2 < -5.0


def test_links_join_lanes(raw):
    assert len(np.unique(raw.links, axis=0)) == len(raw.links)
    assert set(raw.links[:, 2]) == {roadmap.SUCCESSOR, roadmap.LEFT_NEIGHBOR, roadmap.RIGHT_NEIGHBOR}
    assert np.isin(raw.feature_type[raw.links[:, :2]], roadmap.LANE_TYPES).all()
    for a, b, kind in raw.links:
        one, two = raw.point_xyz[raw.point_feature == a], raw.point_xyz[raw.point_feature == b]
        if kind == roadmap.SUCCESSOR:
            assert np.linalg.norm(one[-1] - two[0]) < 0.6
            assert np.dot(_unit(one[-1] - one[-2]), _unit(two[1] - two[0])) > 0.98
        else:
            middle = len(one) // 2
            along = one[middle + 1] - one[middle]
            other = nearest(two[:-1], one[middle])
            assert np.dot(_unit(along), _unit(two[other + 1] - two[other])) > 0.98
            side = cross(_unit(along), two[other] - one[middle])
            assert 3.0 < (side if kind == roadmap.LEFT_NEIGHBOR else -side) < 4.5
            back = (b, a, roadmap.RIGHT_NEIGHBOR + roadmap.LEFT_NEIGHBOR - kind)
            assert (raw.links == back).all(axis=-1).any(), "neighbours know each other"


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def test_lights_only_at_the_crossing(raw):
    is_crossing = raw.scenario_id.endswith("-1")
    assert len(raw.signal_lane_id) == (8 if is_crossing else 0)
    assert bool(features(raw, roadmap.CROSSWALK)) == is_crossing


def test_light_phases(crossing):
    state = crossing.signal_state
    programmes = {
        tuple(state[np.flatnonzero(np.diff(column, prepend=-1)), index]) for index, column in enumerate(state.T)
    }
    assert programmes == {(GO, CAUTION, STOP), (STOP, GO)}
    yaw = np.array([_end_yaw(crossing, lane_id) for lane_id in crossing.signal_lane_id])
    for i in range(8):
        for j in range(8):
            parallel = abs(np.cos(yaw[i] - yaw[j])) > 0.5
            if parallel:
                np.testing.assert_array_equal(state[:, i], state[:, j])
            else:
                assert ((state[:, i] == STOP) | (state[:, j] == STOP)).all(), "never both open"


def _end_yaw(raw: RawScene, lane_id: int) -> float:
    xyz = raw.point_xyz[raw.feature_id[raw.point_feature] == lane_id]
    return float(np.arctan2(*(xyz[-1] - xyz[-2])[1::-1]))


def test_stop_points_end_their_lanes(crossing):
    for index, lane_id in enumerate(crossing.signal_lane_id):
        end = crossing.point_xyz[crossing.feature_id[crossing.point_feature] == lane_id][-1]
        np.testing.assert_allclose(crossing.signal_stop_point[:, index], np.broadcast_to(end, (91, 3)))


def test_nobody_runs_a_red_light(crossing):
    """Front bumpers pass a stop point only while its light is not red."""
    passed = 0
    for index, lane_id in enumerate(crossing.signal_lane_id):
        yaw, stop = _end_yaw(crossing, lane_id), crossing.signal_stop_point[0, index]
        forward = np.array([np.cos(yaw), np.sin(yaw)])
        for agent in np.flatnonzero(crossing.agent_type == VEHICLE):
            offset = crossing.xyz[:, agent, :2] - stop[:2]
            along, across = offset @ forward, np.abs(cross(forward, offset))
            along += crossing.size[:, agent, 0] / 2
            passes = (along[:-1] <= 0) & (along[1:] > 0) & (across[1:] < 0.5)
            passes &= crossing.valid[1:, agent] & crossing.valid[:-1, agent]
            assert not (passes & (crossing.signal_state[1:, index] == STOP)).any()
            just_over = crossing.valid[0, agent] and 0 < along[0] < 8.0 and across[0] < 0.5
            assert not (just_over and crossing.signal_state[0, index] == STOP)
            passed += passes.sum()
    assert passed > 0


def test_red_lights_hold_somebody_back():
    waiting = 0
    for seed in range(4):
        raw = scene(seed, CROSSING)
        speed = np.where(raw.valid, np.linalg.norm(raw.velocity, axis=-1), np.nan)
        slowed = (np.nanmin(speed, axis=0) < 1.0) & (np.nanmax(speed, axis=0) > 3.0)
        waiting += np.sum(slowed & (raw.agent_type == VEHICLE))
    assert waiting >= 4


def test_pedestrians_use_crosswalks(crossing):
    """Somebody is on a crosswalk at some time."""
    polygons = [xyz[:, :2] for xyz in features(crossing, roadmap.CROSSWALK)]
    people = np.flatnonzero(crossing.agent_type == PEDESTRIAN)
    points = crossing.xyz[:, people, :2][crossing.valid[:, people]]
    sides = [cross(np.roll(p, -1, axis=0) - p, points[:, None] - p) > 0 for p in polygons]
    assert any((side.all(axis=1) | (~side).all(axis=1)).any() for side in sides)


def test_bridge_traffic_overlaps_only_in_the_plane(bridge):
    sdc = bridge.sdc_index
    above = [pair for step in range(91) for pair in overlaps(bridge, step)]
    assert any(sdc in pair for pair in above)


def test_bridge_is_six_metres_up_and_not_too_steep(bridge):
    starts, ends = pieces(features(bridge, *roadmap.LANE_TYPES, *roadmap.ROAD_EDGE_TYPES))
    rise = np.abs(ends - starts)[:, 2] / np.linalg.norm((ends - starts)[:, :2], axis=-1)
    assert 0.05 < rise.max() <= 0.08
    edges = features(bridge, roadmap.ROAD_EDGE_BOUNDARY)
    heights = []
    for i, one in enumerate(edges):
        for other in edges[i + 1 :]:
            distance = np.linalg.norm(one[:, None, :2] - other[None, :, :2], axis=-1)
            if distance.min() < 0.5:
                a, b = np.unravel_index(np.argmin(distance), distance.shape)
                heights.append(abs(one[a, 2] - other[b, 2]))
    assert len(heights) == 4, "each edge of one road crosses each of the other"
    np.testing.assert_allclose(heights, 6.0, atol=0.1)


def test_routes(raw):
    routes = raw.routes
    assert routes.on_route.sum() == 1
    assert len(routes.on_route) == (2 if raw.scenario_id.endswith("-1") else 1)
    for xyz, arc, valid in zip(routes.xyz, routes.arc_length, routes.valid, strict=True):
        assert arc[0] == 0.0
        step = np.linalg.norm(np.diff(xyz[valid][:, :2], axis=0), axis=-1)
        np.testing.assert_allclose(np.diff(arc[valid]), step, atol=1e-5)
    driven = routes.xyz[routes.on_route][0][routes.valid[routes.on_route][0]]
    for at in raw.xyz[:, raw.sdc_index]:
        assert np.linalg.norm(driven[:, :2] - at[:2], axis=-1).min() < 0.3
