import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import oracle
from tests.maps.lane_maps import LaneMap, arc, fork, lane_map, random_lines, straight
from tests.strategies import floats
from waymax_sim.datatypes.roadmap import LANE_BIKE
from waymax_sim.maps import paths
from waymax_sim.maps.paths import follow_successors, nearest_lane, segment_at, segment_frenet, segment_lane

ahead = jax.jit(paths.lane_path, static_argnums=(5, 6))
project, from_arc_length = jax.jit(paths.to_frenet), jax.jit(paths.from_arc_length)


def query(built: LaneMap, xyz, yaw, may_use_bike_lane=False, max_distance=None):
    """The nearest lane and whether there is one."""
    xyz = np.asarray(xyz, np.float32)
    count = len(xyz)
    yaw, may_use_bike_lane = np.broadcast_to(np.float32(yaw), count), np.broadcast_to(may_use_bike_lane, count)
    segment, exists = nearest_lane(
        built.lanes, built.graph, xyz, yaw, may_use_bike_lane, np.ones(count, bool), max_distance
    )
    return np.asarray(segment_lane(built.lanes, np.asarray(segment))), np.asarray(exists), np.asarray(segment)


def path_from(
    built: LaneMap, lane: int, begin: float = 0.0, turns=(0, 0, 0), num_points: int = 64, spacing: float = 1.0
):
    """The path of one agent on a lane."""
    arrays = jax.device_put((built.lanes, built.graph))
    segment = segment_at(arrays[1], jnp.asarray(lane), jnp.asarray(begin))
    return ahead(*arrays, segment, jnp.asarray(begin), jnp.asarray(turns, jnp.int32), num_points, spacing)


@pytest.mark.parametrize("seed", range(3))
def test_the_nearest_lane_equals_the_oracle(seed):
    rng = np.random.default_rng(seed)
    lines = random_lines(rng)
    is_bike = rng.random(len(lines)) < 0.3
    built = lane_map(*lines, types=np.where(is_bike, LANE_BIKE, 2))
    points = np.float32(rng.uniform((-60, -60, -1), (60, 60, 8), (64, 3)))
    yaw, may_use_bike_lane = np.float32(rng.uniform(-3, 3, 64)), rng.random(64) < 0.5
    lane, exists, _ = query(built, points, yaw, may_use_bike_lane)
    for i in range(64):
        usable = may_use_bike_lane[i] | ~is_bike
        usable_lines = [list(itertools.pairwise(line)) if usable[row] else [] for row, line in enumerate(lines)]
        expected = [oracle.distance_along(pieces, points[i], yaw[i], math.radians(60)) for pieces in usable_lines]
        assert exists[i] == (min(expected) < math.inf)
        if exists[i]:
            assert expected[lane[i]] <= min(expected) + 1e-3


def test_crossing_traffic_is_not_on_the_nearest_lane():
    built = lane_map(straight((-30, 0), (30, 0)), straight((0, -30), (0, 30)), straight((30, 3), (-30, 3)))
    lane, exists, _ = query(built, [(1, 0.1, 0)] * 4, np.radians([0, 80, 180, -90]))
    assert lane[:3].tolist() == [0, 1, 2] and exists.tolist() == [True, True, True, False]


def test_beyond_the_maximal_distance_only_the_nearest_segment_counts():
    built = lane_map(straight((-30, 0), (30, 0)), straight((0, -30), (0, 30)))
    points, yaw = [(9, 5, 2), (9, 5, 2), (9, 5, 2), (9, 5, 2)], np.radians([0, 90, 0, 90])
    lane, exists, _ = query(built, points, yaw, max_distance=np.float32([4.9, 4.9, 5.1, 5.1]))
    assert exists.tolist() == [True, False, True, True] and lane[exists].tolist() == [0, 0, 1]


def test_maps_without_lanes():
    built = lane_map()
    assert not query(built, [(0, 0, 0)], 0.0)[1].any()


def test_frenet_frames_on_lanes():
    built = lane_map(straight((0, 0), (20, 0)), straight((0, 9), (0, 30)))
    _, _, segment = query(built, [(3.2, 1.5, 0), (-2, 12.25, 0)], np.radians([10, 80]))
    xy, yaw = np.array([(3.2, 1.5), (-2, 12.25)], np.float32), np.float32(np.radians([10, 80]))
    frenet = segment_frenet(built.lanes, built.graph, segment, xy, yaw)
    np.testing.assert_allclose(frenet.arc_length, [3.2, 3.25], atol=1e-5)
    np.testing.assert_allclose(frenet.lateral, [1.5, 2.0], atol=1e-5)
    np.testing.assert_allclose(np.degrees(frenet.heading), [10, -10], atol=1e-4)


@given(seed=st.integers(0, 2**20))
def test_segments_are_found_by_arc_length(seed):
    rng = np.random.default_rng(seed)
    built = lane_map(*random_lines(rng, 4))
    lane = rng.integers(0, 4, 20)
    where = np.float32(rng.uniform(-0.2, 1.2, 20) * built.graph.length[lane])
    exists = np.asarray(segment_at(built.graph, lane, where))
    arcs = built.graph.arc_length.reshape(-1)
    for i, (row, at) in enumerate(zip(lane, where, strict=True)):
        first, count = built.graph.first_segment[row], built.graph.num_segments[row]
        inside = np.searchsorted(arcs[first : first + count], at, side="right") - 1
        assert exists[i] == first + max(inside, 0)


def test_successors_follow_the_turns():
    graph = lane_map(*fork(), straight((40, 0), (60, 0))).graph
    lanes, continues = follow_successors(
        graph, jnp.asarray([0, 0, 0, 0, 4, -1]), jnp.asarray([[n, 7] for n in (0, 1, 2, 3, 0, 0)])
    )
    turned = {tuple(row) for row in np.asarray(lanes[1:3]).tolist()}
    assert turned == {(0, 1, -1), (0, 3, -1)}
    assert np.asarray(lanes)[[0, 3, 4, 5]].tolist() == [[0, 2, 4], [0, 2, 4], [4, -1, -1], [-1, -1, -1]]
    assert not np.asarray(continues).any()
    assert np.asarray(follow_successors(graph, jnp.asarray([0, 4]), jnp.asarray([[0], [0]]))[1]).tolist() == [
        True,
        False,
    ]


@functools.cache
def bent_road() -> tuple[LaneMap, np.ndarray]:
    """Lanes straight on, then left, then straight on; and all of it as one line."""
    lines = [straight((0, 0), (20, 0)), arc((20, 10), 10, -90, 0), straight((30, 10), (30, 30), spacing=4.0)]
    return lane_map(*lines, limits=[10, 5, 20]), np.concatenate([lines[0], lines[1][1:], lines[2][1:]])


@functools.cache
def long_path():
    return jax.tree.map(np.asarray, path_from(bent_road()[0], 0, num_points=40))


def test_a_path_follows_the_lanes():
    built, line = bent_road()
    path = path_from(built, 0, begin=7.5, num_points=40)
    along = np.append(0, np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=-1)))
    at = 7.5 + np.arange(40.0)
    np.testing.assert_allclose(path.xyz[:, 0], np.interp(at, along, line[:, 0]), atol=1e-4)
    np.testing.assert_allclose(path.xyz[:, 1], np.interp(at, along, line[:, 1]), atol=1e-4)
    turn, bent = along[-1] - 40, (at > 21) & (at < along[-1] - 21)
    np.testing.assert_allclose(path.lane_start[:3], [-7.5, 12.5, 12.5 + turn], atol=1e-3)
    np.testing.assert_allclose(path.curvature[bent], 0.1, rtol=0.02)
    np.testing.assert_allclose(path.yaw[np.r_[:12, 30:40]], np.pi / 2 * (np.r_[:12, 30:40] > 20), atol=1e-5)
    np.testing.assert_allclose(path.speed_limit, np.where(at < 20, 10, np.where(at < along[-1] - 20, 5, 20)))
    np.testing.assert_allclose(path.length, along[-1] - 7.5, atol=1e-3)
    assert path.lanes.tolist() == [0, 1, 2, -1] and not path.continues


def test_a_path_continues_straight_where_the_lanes_end():
    path = path_from(lane_map(straight((0, 0, 1), (9, 12, 1))), 0, begin=5.0, num_points=40)
    at = 5 + np.arange(40)
    np.testing.assert_allclose(path.xyz, np.stack([0.6 * at, 0.8 * at, 1 + 0 * at], axis=-1), atol=1e-4)
    assert path.length == 10 and not path.continues


def test_a_truncated_path_continues():
    built, _ = bent_road()
    path = path_from(built, 0, turns=[0])
    assert path.continues and path.lanes.tolist() == [0, 1]
    np.testing.assert_allclose(path.length, built.graph.length[:2].sum(), atol=1e-4)


def test_a_path_repeats_a_ring():
    ring = [arc((0, 0), 10, begin, begin + 120) for begin in (0, 120, 240)]
    path = path_from(lane_map(*ring), 0, turns=[0] * 7, num_points=120)
    assert path.lanes.tolist() == [0, 1, 2] * 2 + [0, 1] and path.continues
    np.testing.assert_allclose(np.linalg.norm(path.xyz, axis=-1), 10, atol=0.01)


def test_a_path_lists_the_stop_lines_ahead():
    lights, signs = [(0, (4, 0, 0)), (1, (20, 0, 0))], [(24.9, -3, 2)]
    lines = [straight((0, 0), (20, 0)), straight((20, 0), (25, 0)), straight((25, 0), (50, 0))]
    built = lane_map(*lines, lights=lights, signs=signs)
    near, far = (path_from(built, 0, begin=begin) for begin in (1.0, 6.0))
    np.testing.assert_allclose(near.stop, [3, 19, 24, np.inf], atol=1e-5)
    np.testing.assert_allclose(far.stop, [np.inf, 14, 19, np.inf], atol=1e-5)
    assert far.light.tolist() == [0, 1, -1, -1] and far.stop_sign.tolist() == [False, False, True, False]


@given(arc_length=floats(0.5, 39), lateral=floats(-2, 2))
def test_projection_inverts_interpolation(arc_length, lateral):
    many = jax.tree.map(lambda leaf: np.stack([leaf] * len(arc_length)), long_path())
    xyz, yaw = from_arc_length(many, arc_length)
    side = np.stack([-np.sin(yaw), np.cos(yaw)], axis=-1)
    xy = np.asarray(xyz)[:, :2] + lateral[:, None] * side
    frenet = project(many, xy, np.asarray(yaw) + np.float32(0.25))
    # At the corners of a polyline the outside belongs to two segments.
    np.testing.assert_allclose(frenet.arc_length, arc_length, atol=0.25)
    np.testing.assert_allclose(frenet.lateral, lateral, atol=0.05)
    np.testing.assert_allclose(frenet.heading, 0.25, atol=0.15)
    on_it = project(many, np.asarray(xyz)[:, :2], yaw)
    np.testing.assert_allclose(on_it.arc_length, arc_length, atol=1e-3)
    np.testing.assert_allclose(on_it.lateral, 0, atol=1e-4)


@given(seed=st.integers(0, 2**20))
def test_projection_equals_the_oracle(seed):
    rng = np.random.default_rng(seed)
    path = long_path()
    xy = np.float32(rng.uniform(-10, 40, 2))
    frenet = project(path, xy, np.float32(0))
    distance, _ = oracle.project(np.asarray(path.xyz, float)[:, :2], xy.astype(float))
    point, yaw = from_arc_length(path, frenet.arc_length)
    np.testing.assert_allclose(np.linalg.norm(np.asarray(point)[:2] - xy), distance, atol=1e-3)
    if 0 < frenet.arc_length < 39:
        aside = oracle.cross((math.cos(yaw), math.sin(yaw)), xy - np.asarray(point)[:2])
        # The outside of a corner belongs to two segments.
        np.testing.assert_allclose(frenet.lateral, math.copysign(distance, aside), rtol=0.01, atol=1e-3)


def test_gradients_are_finite_and_point_along_and_across():
    path = path_from(bent_road()[0], 0)

    def frenet(xy):
        return jnp.stack(paths.to_frenet(path, xy, jnp.asarray(0.1)))

    slope = jax.jit(jax.vmap(jax.jacrev(frenet)))
    gradient = np.asarray(
        slope(jnp.asarray([(5.5, 1), (5.5, 0), (5, 0), (0, 0), (-4, 2), (26, 3), (20, 10)], jnp.float32))
    )
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(gradient[:2], [np.array([[1, 0], [0, 1], [0, 0]])] * 2, atol=1e-3)
    lanes, graph = jax.device_put(bent_road()[0][1:3])
    at = jax.grad(lambda xy: sum(segment_frenet(lanes, graph, jnp.asarray(3), xy, jnp.asarray(0.1))))
    assert np.isfinite(at(jnp.asarray([1.5, 0.0]))).all()


def test_many_agents_are_many_single_ones():
    built, _ = bent_road()
    lanes, graph = jax.device_put((built.lanes, built.graph))
    segment, begin = jnp.asarray([2, 41, 0]), jnp.asarray([1.2, 0.5, 0.0])
    turns = jnp.zeros((3, 3), jnp.int32)
    together = ahead(lanes, graph, segment, begin, turns, 30, 1.0)
    mapped = jax.jit(jax.vmap(lambda *agent: paths.lane_path(lanes, graph, *agent, 30, 1.0)))(segment, begin, turns)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), together, mapped)
    xy, yaw = jnp.asarray([(3.0, 1.0), (22.0, 0.0), (40.0, 5.0)]), jnp.asarray([0.0, 1.0, 2.0])
    one = [project(jax.tree.map(lambda leaf, i=i: leaf[i], together), xy[i], yaw[i]) for i in range(3)]
    np.testing.assert_allclose(np.stack(project(together, xy, yaw), axis=-1), np.stack(one), atol=1e-5)
