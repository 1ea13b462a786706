"""Synthetic traffic in small worlds of known outcome."""

import dataclasses
import itertools

import numpy as np
import pytest

from waymax_sim.datasets.synthetic.curves import line_through
from waymax_sim.datasets.synthetic.drivers import idm_acceleration
from waymax_sim.datasets.synthetic.freeway import freeway
from waymax_sim.datasets.synthetic.layouts import LAYOUTS, crossing, road, roundabout_layout, stop_signs
from waymax_sim.datasets.synthetic.paths import conflicting_rules, find_paths, rules_over_crosswalks
from waymax_sim.datasets.synthetic.pedestrians import draw_pedestrians
from waymax_sim.datasets.synthetic.right_of_way import RightOfWay
from waymax_sim.datasets.synthetic.sensors import is_occluded, simulate_tracks
from waymax_sim.datasets.synthetic.traffic import TrafficLog, simulate
from waymax_sim.datasets.synthetic.world import NUM_LIGHT_STEPS, NUM_STEPS, RightOfWayRule, World
from waymax_sim.datatypes import roadmap
from waymax_sim.datatypes.agents import PEDESTRIAN, VEHICLE
from waymax_sim.datatypes.signals import GO, STOP

FAR = np.inf


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def crossing_lanes(*, priorities=(1, 1), stop_signs=(False, False), lights=()) -> World:
    """Two lanes that cross at (0, 0), each with a rule that begins 10 m before."""
    world = World(light_states=[np.full(NUM_LIGHT_STEPS, state) for state in lights])
    for number, (x, y) in enumerate([(1.0, 0.0), (0.0, 1.0)]):
        at = [(s * x, s * y) for s in (-100.0, -10.0, 10.0, 100.0)]
        rows = [world.add(roadmap.LANE_SURFACE_STREET, line_through(*pair), 12.0) for pair in itertools.pairwise(at)]
        world.add_successors(*rows)
        world.rules.append(RightOfWayRule(rows[1], priorities[number], stop_signs[number], number if lights else -1, 0))
    return world


def step_once(world: World, arcs, speeds, gaps=(FAR, FAR)) -> tuple[np.ndarray, RightOfWay]:
    """Stop distances of agents on the two lanes of `crossing_lanes`."""
    paths = find_paths(world, rng())
    order = np.argsort(paths.rule_begin[:, 0])
    right_of_way = RightOfWay(world, paths, 2)
    length, leader_speed = np.full(2, 5.0), np.zeros(2)
    arguments = (np.array(arcs), np.array(speeds), length, np.array(gaps), leader_speed, np.zeros(0, bool))
    return right_of_way.step(0, order, *arguments), right_of_way


def test_one_of_two_agents_on_crossing_lanes_yields():
    stop, _ = step_once(crossing_lanes(), (80.0, 78.0), (5.0, 5.0))
    np.testing.assert_allclose(stop, [FAR, 90.0 - 80.5])


def test_higher_priority_is_granted_at_a_larger_distance():
    stop, _ = step_once(crossing_lanes(priorities=(1, 4)), (84.0, 70.0), (5.0, 10.0))
    np.testing.assert_allclose(stop, [3.5, FAR])


def test_agents_do_not_yield_to_distant_agents():
    stop, _ = step_once(crossing_lanes(priorities=(1, 4)), (84.0, 10.0), (5.0, 5.0))
    assert stop[0] == FAR


def test_red_stops_and_green_does_not():
    stop, _ = step_once(crossing_lanes(lights=(STOP, GO)), (60.0, 60.0), (10.0, 10.0))
    np.testing.assert_allclose(stop, [27.5, FAR])


def test_agents_stop_at_a_stop_sign_before_they_enter():
    stop, right_of_way = step_once(crossing_lanes(stop_signs=(True, False)), (86.0, -100.0), (3.0, 0.0))
    assert stop[0] == 1.5
    path = np.flatnonzero(np.isfinite(right_of_way.paths.rule_begin[:, 0]))[0]
    both = np.array([path, 1 - path])
    rest = (np.full(2, 5.0), np.full(2, FAR), np.zeros(2), np.zeros(0, bool))
    assert right_of_way.step(1, both, np.array([86.5, -100.0]), np.zeros(2), *rest)[0] == FAR


def test_agents_do_not_enter_without_room_behind_the_junction():
    stop, _ = step_once(crossing_lanes(), (84.0, -100.0), (5.0, 0.0), gaps=(15.0, FAR))
    assert stop[0] == 3.5


def test_a_rule_is_revoked_behind_the_junction():
    world = crossing_lanes()
    _, right_of_way = step_once(world, (84.0, -100.0), (5.0, 0.0))
    assert right_of_way.is_granted.sum() == 1
    path = np.array([np.argmin(right_of_way.paths.rule_begin[:, 0]), np.argmax(right_of_way.paths.rule_begin[:, 0])])
    rest = (np.full(2, 5.0), np.full(2, FAR), np.zeros(2), np.zeros(0, bool))
    right_of_way.step(1, path, np.array([113.0, -100.0]), np.full(2, 5.0), *rest)
    assert not right_of_way.is_granted.any()


def test_conflicts_of_a_crossing():
    world = crossing(rng())
    conflicts, is_over = conflicting_rules(world), rules_over_crosswalks(world)
    np.testing.assert_array_equal(conflicts, conflicts.T)
    assert not conflicts.diagonal().any() and 0.1 < conflicts.mean() < 0.8
    # Every lane over the junction passes the crosswalks of the arms that it joins.
    np.testing.assert_array_equal(is_over.sum(axis=1), 2)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_paths_are_continuous_and_use_all_entries(layout):
    world = layout(rng())
    paths = find_paths(world, rng())
    for samples, length in zip(paths.samples, paths.length, strict=True):
        used = samples[: round(length / 0.5) + 1]
        step = np.linalg.norm(np.diff(used[:, :2], axis=0), axis=-1)
        assert step.min() > 0.45 and step.max() < 0.51
        assert np.abs(np.diff(used[:, 3])).max() < 0.2
    assert (paths.samples[..., 4] > 1.5).all()
    internal = {b for _, b, kind in world.links if kind == roadmap.SUCCESSOR} | world.internal_lanes
    lanes = [row for row, (kind, _, _) in enumerate(world.features) if kind in roadmap.LANE_TYPES]
    assert {row for row in lanes if row not in internal} == set(paths.lane[:, 0].tolist())


def test_vehicles_leave_a_lane_that_ends():
    merged = 0
    for seed in range(2):
        draw = np.random.default_rng(seed)
        log = simulate(freeway(draw), idm_acceleration, draw)
        ramps = log.paths.is_blocked
        assert ramps.any()
        merged += sum(not ramps[path] for path in log.path[log.path >= 0])
    assert merged > 10


def test_traffic_flows_after_stop_signs_and_in_a_roundabout():
    for layout in (stop_signs, roundabout_layout):
        passed = 0
        for seed in range(3):
            draw = np.random.default_rng(seed)
            log = simulate(layout(draw), idm_acceleration, draw)
            moved = np.linalg.norm(log.xyz[-1] - log.xyz[0], axis=-1)
            passed += ((log.type == VEHICLE) & (moved > 20.0)).sum()
        assert passed >= 6


def test_drivers_yield_to_pedestrians_on_a_crosswalk_and_pedestrians_cross():
    crossed = 0
    for seed in range(5):
        draw = np.random.default_rng(seed)
        world = dataclasses.replace(road(draw), pedestrian_density=4.0)
        log = simulate(world, idm_acceleration, draw)
        start, end = world.crosswalks[0].line[[0, -1], :2]
        ahead = (end - start) / np.linalg.norm(end - start)
        along = (log.xyz[..., :2] - start) @ ahead
        is_near = np.abs((log.xyz[..., :2] - start) @ np.array([-ahead[1], ahead[0]])) < 2.0
        width = np.linalg.norm(end - start)
        is_on_crosswalk = (along > 0) & (along < width) & is_near & log.present
        pedestrians, cars = is_on_crosswalk[:, log.type == PEDESTRIAN], is_on_crosswalk[:, log.type == VEHICLE]
        assert not (pedestrians.any(axis=1) & cars.any(axis=1)).any()
        crossed += pedestrians.any(axis=0).sum()
    assert crossed >= 3


def test_pedestrians_have_initial_distances():
    pedestrians = draw_pedestrians(dataclasses.replace(crossing(rng()), pedestrian_density=5.0), rng())
    positions = pedestrians.poses()[:, :2]
    apart = np.linalg.norm(positions[:, None] - positions, axis=-1) + 1e9 * np.eye(len(positions))
    assert len(positions) > 15 and apart.min() > 1.0


def parked_log(*positions: tuple[float, float], size=(4.5, 2.0, 1.6)) -> TrafficLog:
    """Vehicles at rest, the first one the self-driving car."""
    count = len(positions)
    xyz = np.array([(*position, size[2] / 2) for position in positions])
    still = np.zeros((NUM_STEPS, count))
    return TrafficLog(
        type=np.full(count, VEHICLE),
        size=np.tile(size, (count, 1)),
        xyz=np.broadcast_to(xyz, (NUM_STEPS, count, 3)).copy(),
        yaw=still,
        speed=still,
        present=still == 0,
        paths=find_paths(crossing_lanes(), rng()),
        path=np.zeros(count, int),
    )


def test_cars_occlude_agents_behind_them_unless_they_are_taller():
    log = parked_log((0.0, 0.0), (34.0, 0.0), (40.0, 0.0), (40.0, 15.0))
    np.testing.assert_array_equal(is_occluded(log, 0)[0], [False, False, True, False])
    height = np.array([1.6, 1.6, 3.2, 1.6])
    xyz = np.concatenate([log.xyz[..., :2], np.tile(height / 2, (NUM_STEPS, 1))[..., None]], axis=-1)
    taller = dataclasses.replace(log, size=np.column_stack([log.size[:, :2], height]), xyz=xyz)
    assert not is_occluded(taller, 0).any()


def test_sensors_observe_near_agents_and_add_no_noise_at_rest():
    log = parked_log((0.0, 0.0), (10.0, 12.0), (200.0, 0.0))
    tracks = simulate_tracks(log, 0, rng())
    assert tracks.valid[:, 0].all() and tracks.valid[:, 1].mean() > 0.5 and not tracks.valid[:, 2].any()
    np.testing.assert_array_equal(tracks.velocity, 0.0)
    np.testing.assert_array_equal(tracks.xyz, log.xyz)
