import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import oracle
from tests.data import recorded
from tests.maps.lane_maps import LaneMap, arc, fork, lane_map, random_lines, straight
from tests.scenes import measure, scene
from waymax_sim.datasets.loader import load
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.datasets.synthetic import synthetic_scene
from waymax_sim.datatypes.agents import CYCLIST, VEHICLE, AgentInfo, AgentState
from waymax_sim.datatypes.roadmap import LANE_BIKE, LEFT_NEIGHBOR
from waymax_sim.datatypes.route import Routes
from waymax_sim.maps.routes import NUM_POINTS, NUM_ROUTES, build_routes
from waymax_sim.metrics import METRICS
from waymax_sim.pytree import tree_index


def drive(
    built: LaneMap,
    log,
    yaw: float = 0.0,
    speed: float = 0.0,
    kind: int = VEHICLE,
    valid=True,
    height: float = 0.0,
    marked=None,
) -> Routes:
    """Routes of an agent that is at the first position [n, 2] of a log now."""
    positions = np.asarray(log, np.float32).reshape(-1, 2)
    xyz = np.concatenate([positions, np.full((len(positions), 1), 0.75 + height, np.float32)], axis=-1)[:, None]
    shape = xyz.shape[:2]
    state = AgentState(
        xyz=xyz,
        yaw=np.full(shape, yaw, np.float32),
        velocity=np.full((*shape, 2), (speed, 0), np.float32),
        valid=np.broadcast_to(valid, len(positions))[:, None].copy(),
    )
    one = np.ones(1, bool)
    size = np.array([[4.0, 2.0, 1.5]], np.float32)
    number = np.ones(1, np.int32)
    info = AgentInfo(number, kind * number, size, exists=one, is_sdc=one, to_predict=one, of_interest=one)
    mask = None if marked is None else np.isin(np.arange(len(built.graph.num_segments)), marked)
    return build_routes(built.lanes, built.graph, state, info, 0, 0, marked=mask)


def valid_paths(routes: Routes) -> list[np.ndarray]:
    """The valid points of routes, [n, 3] each."""
    assert routes.valid.shape[0] <= NUM_ROUTES and routes.valid.shape[1] <= NUM_POINTS
    exists = routes.valid.any(axis=1)
    assert not routes.on_route[~exists].any() and not routes.xyz[~routes.valid].any()
    for path, arcs in zip(routes.xyz, routes.arc_length, strict=True):
        assert (np.linalg.norm(np.diff(path[: (arcs > 0).sum() + 1, :2], axis=0), axis=-1) < 10).all()
    return [path[valid] for path, valid in zip(routes.xyz[exists], routes.valid[exists], strict=True)]


def ends(routes: Routes) -> set[tuple]:
    """End points of routes, rounded."""
    return {tuple(np.round(path[-1, :2]).tolist()) for path in valid_paths(routes)}


def on_route(routes: Routes) -> list[np.ndarray]:
    """The routes that agree with the log, [n, 2] each."""
    chosen = zip(routes.xyz[routes.on_route], routes.valid[routes.on_route], strict=True)
    return [xyz[valid][:, :2].astype(float) for xyz, valid in chosen]


def test_every_lane_sequence_is_a_route():
    routes = drive(lane_map(*fork()), [(5, 0), (10, 0)])
    assert ends(routes) == {(30, 10), (40, 0), (30, -10)}
    assert [path[0].tolist() for path in valid_paths(routes)] == [[5, 0, 0]] * 3
    lengths = sorted(routes.arc_length.max(axis=1)[:3])
    np.testing.assert_allclose(lengths, [15 + 5 * math.pi] * 2 + [35], atol=0.05)
    # So early all of them agree with the log.
    assert routes.on_route.sum() == 3


@pytest.mark.parametrize(("log", "end"), [((30, 9.5), (30, 10)), ((40, 0), (40, 0)), ((30, -9.5), (30, -10))])
def test_the_log_tells_the_turn(log, end):
    bend = [(20, 0), (25, 0.29 * log[1]), log]
    routes = drive(lane_map(*fork()), [(5, 0), (15, 0), *bend, log])
    assert {tuple(np.round(path[-1])) for path in on_route(routes)} == {end}


@pytest.mark.parametrize("lane", [1, 2, 3])
def test_marked_lanes_are_the_route_even_against_the_log(lane):
    """The fork is lane 0 and its three successors; the log goes straight on."""
    log = [(5, 0), (15, 0), (20, 0), (30, 0), (40, 0), (40, 0)]
    built, end = lane_map(*fork()), tuple(np.round(fork()[lane][-1, :2]))
    routes = drive(built, log, marked=[0, lane])
    assert {tuple(np.round(path[-1])) for path in on_route(routes)} == {end}
    # Marks of lanes on which the agent is not are useless.
    unmarked, elsewhere = drive(built, log), drive(built, log, marked=[lane])
    np.testing.assert_array_equal(elsewhere.on_route, unmarked.on_route)
    assert routes.on_route.sum() == 1 and routes.on_route.size == unmarked.on_route.size


def test_parallel_marked_lanes_are_on_the_route():
    lines = [straight((0, y), (40, y)) for y in (0, 3.5, 7)]
    built = lane_map(*lines, links=[(0, 1, LEFT_NEIGHBOR), (1, 2, LEFT_NEIGHBOR)])
    routes = drive(built, [(5, 0), (30, 0)], marked=[0, 1])
    assert sorted(path[-1, 1] for path in on_route(routes)) == [0, 3.5]


def all_sequences(graph, lane: int, left: float, visited=()) -> list[tuple]:
    """Every sequence of lanes from the beginning of one on, until nothing is left of the horizon (m)."""
    left -= graph.length[lane]
    following = [int(other) for other in graph.successors[lane] if other >= 0 and other not in (*visited, lane)]
    if left <= 0 or not following:
        return [(*visited, lane)]
    return [sequence for other in following for sequence in all_sequences(graph, other, left, (*visited, lane))]


@settings(max_examples=30)
@given(seed=st.integers(0, 2**20))
def test_routes_equal_brute_force(seed):
    rng = np.random.default_rng(seed)
    lines = random_lines(rng)
    built = lane_map(*lines)
    lane = int(rng.integers(len(lines)))
    start, along = lines[lane][0], lines[lane][1] - lines[lane][0]
    routes = drive(built, start[:2], yaw=math.atan2(along[1], along[0]), height=start[2])
    expected = []
    for sequence in all_sequences(built.graph, lane, 100.0):
        points = np.concatenate([lines[other] for other in sequence])
        points = points[np.append(True, np.any(np.diff(points[:, :2], axis=0), axis=1))]
        along = np.append(0, np.cumsum(np.linalg.norm(np.diff(points[:, :2], axis=0), axis=-1)))
        end = min(along[-1], 100.0)
        expected.append((end, *(np.interp(end, along, points[:, axis]) for axis in range(2))))
    # Other lanes may be near as well; these are the routes that begin on this one.
    derived_ends = [
        (arcs.max(), *path[-1, :2])
        for path, arcs in zip(valid_paths(routes), routes.arc_length, strict=False)
        if np.linalg.norm(path[0] - start) < 1e-3
    ]
    assert np.count_nonzero(routes.valid.any(axis=1)) < NUM_ROUTES - 1
    for one in expected:
        if one[0] >= 2:
            assert np.min(np.abs(np.array(derived_ends) - one).max(axis=1)) < 0.02


def test_routes_begin_on_neighboring_lanes_too():
    lines = [straight((0, y), (150, y)) for y in (0, 3.5, 7)]
    oncoming, crossing = straight((150, 10.5), (0, 10.5)), straight((20, -30), (20, 30))
    built = lane_map(*lines, oncoming, crossing, types=[2, 2, LANE_BIKE, 2, 2])
    routes = drive(built, [(20, 0.4), (40, 0.4)])
    assert ends(routes) == {(120, 0), (120, 4)}
    assert routes.on_route.sum() == 2
    parallel = lane_map(*lines)
    assert [path[0, 1] for path in valid_paths(drive(parallel, [(20, 0.4)]))] == [0, 3.5, 7]
    assert ends(drive(parallel, [(20, 0.4)], speed=2.0)) == {(140, 0), (140, 4), (140, 7)}


def test_routes_reach_as_far_as_the_record():
    built = lane_map(straight((0, 0), (600, 0), 5.0))
    log = [(5 + 1.2 * step, 0) for step in range(201)]
    assert ends(drive(built, log, speed=2.0)) == {(5 + 12 * 22, 0)}


def test_cyclists_may_use_bike_lanes():
    built = lane_map(straight((0, 0), (50, 0)), straight((0, -1), (50, -1)), types=[2, LANE_BIKE])
    assert ends(drive(built, [(5, -1)])) == {(50, 0)}
    assert ends(drive(built, [(5, -1)], kind=CYCLIST)) == {(50, 0), (50, -1)}


def test_a_bridge_is_not_the_road_below():
    built = lane_map(straight((0, 0, 6), (50, 0, 6)), straight((0, 0.3, 0), (60, 0.3, 0)))
    assert ends(drive(built, [(5, 0)])) == {(60, 0)}


def test_a_ring_is_followed_once():
    ring = [arc((0, 0), 10, begin, begin + 120) for begin in (0, 120, 240)]
    (path,) = valid_paths(drive(lane_map(*ring), [(10, 0)], yaw=math.pi / 2))
    np.testing.assert_allclose(path[-1], path[0], atol=0.05)


def branching(levels: int) -> tuple[list, np.ndarray]:
    """A road that forks again and again, 10 m after 10 m; and the path that keeps to the left."""
    lines, heads, left = [], [((0.0, 0.0), 0.0)], [(0.0, 0.0)]
    for level in range(levels):
        following = []
        for start, yaw in heads:
            end = (start[0] + 10 * math.cos(yaw), start[1] + 10 * math.sin(yaw))
            lines.append(straight(start, end, 5.0))
            following += [(end, yaw + turn * 0.5 / (level + 1)) for turn in (1, -1)]
        heads = following
        left.append(lines[-len(heads) // 2][-1][:2])
    return lines, np.array(left)


def test_too_many_routes_stop_branching_and_follow_the_log():
    lines, left = branching(8)
    at = np.arange(0.1, 8.05, 0.1)
    log = np.stack([np.interp(at, np.arange(9), column) for column in left.T], axis=-1)
    routes = drive(lane_map(*lines), log)
    paths = valid_paths(routes)
    assert len(paths) == NUM_ROUTES - 1
    assert min(np.linalg.norm(path[-1, :2] - left[-1]) for path in paths) < 0.1
    assert routes.on_route.any() and not routes.on_route.all()


def test_without_a_lane_the_logged_path_is_a_route():
    log = [(5 + 3.0 * i, 0.0) for i in range(6)] + [(20, 3.0 * i) for i in range(1, 12)]
    routes = drive(lane_map(straight((0, 0), (50, 0))), log)
    paths = valid_paths(routes)
    assert len(paths) == 2 and routes.on_route[:2].all()
    np.testing.assert_allclose(paths[1][:, :2], log, atol=1e-5)
    np.testing.assert_allclose(routes.arc_length[1, :16], 3 * np.arange(16), atol=1e-5)
    (alone,) = valid_paths(drive(lane_map(), log))
    np.testing.assert_allclose(alone[:, :2], log, atol=1e-5)
    assert (alone[:, 2] == 0).all()


def test_a_long_logged_path_is_thinned():
    log = [(3.0 * i, 0.0) for i in range(300)]
    (path,) = valid_paths(drive(lane_map(), log))
    assert NUM_POINTS / 2 < len(path) <= NUM_POINTS and path[-1, 0] > 3 * 299 - 10


def test_agents_without_routes():
    built = lane_map(straight((0, 0), (50, 0)))
    for nothing in (
        drive(built, [(5, 0), (9, 0)], valid=[False, True]),
        drive(built, [(5, 20), (5, 20)]),
        drive(built, [(5, 0), (5, 0)], yaw=math.pi),
        drive(built, [(49.5, 0)]),
    ):
        assert not nothing.valid.any() and not nothing.on_route.any()


def test_agents_that_vanish_are_evaluated_while_valid():
    routes = drive(lane_map(*fork()), [(5, 0), (9, 0), (12, 0), (0, 90)], valid=[True, True, True, False])
    assert len(valid_paths(routes)) == 3 and routes.on_route.sum() == 3


def test_route_metrics_with_derived_routes():
    scenario = scene()
    for step, share in ((5, 0.0), (10, 1 / 3), (20, 1.0)):
        agents = tree_index(scenario.log, step)
        off = measure(METRICS["off_route"].compute, scenario, agents)
        progress = measure(METRICS["route_progression"].compute, scenario, agents)
        assert off.valid and off.value == 0
        assert progress.valid and progress.value == pytest.approx(share, abs=1e-5)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_routes_do_not_depend_on_where_the_world_is(index):
    raw = dataclasses.replace(synthetic_scene(5, index), routes=None)
    turn, yaw = np.array([[0.6, 0.8, 0], [-0.8, 0.6, 0], [0, 0, 1]]), math.atan2(0.8, 0.6)

    def move(xyz):
        return xyz @ turn + (512.25, -77.5, 3.0)

    moved = dataclasses.replace(
        raw,
        xyz=move(raw.xyz),
        yaw=raw.yaw + yaw,
        velocity=raw.velocity @ turn[:2, :2],
        point_xyz=move(raw.point_xyz),
        signal_stop_point=move(raw.signal_stop_point),
    )
    here, other = to_scenario(raw), to_scenario(moved)
    np.testing.assert_array_equal(here.routes.on_route, other.routes.on_route)
    np.testing.assert_allclose(here.routes.arc_length, other.routes.arc_length, atol=2e-3)
    valid = here.routes.valid & other.routes.valid
    world = (np.asarray(here.routes.xyz, float) + here.origin) @ turn + (512.25, -77.5, 3.0)
    np.testing.assert_allclose(world[valid], (np.asarray(other.routes.xyz, float) + other.origin)[valid], atol=5e-3)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_derived_routes_agree_with_synthetic_ones(seed):
    for index in range(3):
        raw = synthetic_scene(seed, index)
        stated, derived = to_scenario(raw).routes, to_scenario(dataclasses.replace(raw, routes=None)).routes
        (path,) = on_route(stated)
        # It is sampled, and may end one step before the lanes do.
        path = np.vstack([path, 2 * path[-1] - path[-2]])
        assert min(max(oracle.project(path, xy)[0] for xy in one) for one in on_route(derived)) < 0.05


@pytest.mark.parametrize(
    "file",
    [
        "scenario_637f20cafde22ff8",
        "scenario_2a1e44d405a6833f",
        "scenario_2a173b334be3d32c",
        "tf_example_a3bb37c25ce56418",
    ],
)
def test_recorded_logs_follow_their_routes(file):
    scenario = load(recorded(f"womd/{file}.tfrecord"), pad_to_bucket=False)[0]
    now, shares = int(scenario.current_step), []
    moving = (scenario.agents.type == VEHICLE) & scenario.log.valid[now]
    for agent in [*np.flatnonzero(moving)[::4], int(np.argmax(scenario.agents.is_sdc))]:
        positions = scenario.log.xyz[now:, agent][scenario.log.valid[now:, agent]][::10, :2].astype(float)
        if np.linalg.norm(positions[-1] - positions[0]) < 10:
            shares.append(1.0)
            continue
        routes = build_routes(scenario.lanes, scenario.graph, scenario.log, scenario.agents, int(agent), now)
        paths = on_route(routes)
        gaps = [min(oracle.project(path, position)[0] for path in paths) for position in positions]
        shares.append(np.mean(np.array(gaps) <= 2.0))
    assert shares[-1] >= 0.95 and np.mean(np.array(shares) >= 0.95) >= 0.8


@pytest.mark.parametrize(
    "file",
    [
        "gpudrive/1c365f15b70ebdbf.json",
        "gpudrive/2a173b334be3d32c_lights.json",
        "gpudrive/db4edc9bd0c9d18c.json",
        "scenarionet/sd_nuscenes_v1.0-mini_scene-1100.pkl",
        "scenarionet/sd_waymo_v1.2_eb4b91b10ca94ff2.pkl",
        "argoverse2/scenario_0a1e6f0a-1817-4a98-b02e-db8c9327d151.parquet",
    ],
)
def test_ego_routes_contain_the_logged_path_in_every_format(file):
    scenario = load(recorded(file), pad_to_bucket=False)[0]
    now, sdc = int(scenario.current_step), int(np.argmax(scenario.agents.is_sdc))
    positions = scenario.log.xyz[now:, sdc][scenario.log.valid[now:, sdc]][::5, :2].astype(float)
    paths = on_route(scenario.routes)
    gaps = [min(oracle.project(path, position)[0] for path in paths if len(path) > 1) for position in positions]
    assert np.mean(np.array(gaps) <= 2.0) >= 0.95
