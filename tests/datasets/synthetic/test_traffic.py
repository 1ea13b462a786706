"""Traffic in small places whose outcome is known."""

import dataclasses
import itertools

import numpy as np
import pytest

from waymax_sim.datasets.synthetic.curves import line
from waymax_sim.datasets.synthetic.drivers import intelligent_driver
from waymax_sim.datasets.synthetic.freeway import freeway
from waymax_sim.datasets.synthetic.layouts import LAYOUTS, circle, crossing, road, stop_signs
from waymax_sim.datasets.synthetic.paths import crossing_gates, find_paths, gates_over_crosswalks
from waymax_sim.datasets.synthetic.right_of_way import RightOfWay
from waymax_sim.datasets.synthetic.sensors import hidden, observe
from waymax_sim.datasets.synthetic.traffic import Log, simulate
from waymax_sim.datasets.synthetic.walkers import draw_walkers
from waymax_sim.datasets.synthetic.world import GO, LIGHT_STEPS, NUM_STEPS, STOP, Gate, World
from waymax_sim.datatypes import roadmap
from waymax_sim.datatypes.agents import PEDESTRIAN, VEHICLE

FAR = np.inf


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def cross_roads(*, ranks=(1, 1), stops=(False, False), lights=()) -> World:
    """Two one-way lanes that cross at (0, 0), each with a gate 10 m before."""
    world = World(light_states=[np.full(LIGHT_STEPS, state) for state in lights])
    for number, (x, y) in enumerate([(1.0, 0.0), (0.0, 1.0)]):
        at = [(s * x, s * y) for s in (-100.0, -10.0, 10.0, 100.0)]
        rows = [world.add(roadmap.LANE_SURFACE_STREET, line(*pair), 12.0) for pair in itertools.pairwise(at)]
        world.follow(*rows)
        world.gates.append(Gate(rows[1], ranks[number], stops[number], number if lights else -1, 0))
    return world


def asked(world: World, arcs, speeds, gaps=(FAR, FAR)) -> tuple[np.ndarray, RightOfWay]:
    """Where agents on the two roads of `cross_roads` have to stop."""
    paths = find_paths(world, rng())
    order = np.argsort(paths.gate[:, 0])
    right_of_way = RightOfWay(world, paths, 2)
    length, leader = np.full(2, 5.0), np.zeros(2)
    arguments = (np.array(arcs), np.array(speeds), length, np.array(gaps), leader, np.zeros(0, bool))
    return right_of_way.step(0, order, *arguments), right_of_way


def test_of_two_on_ways_that_cross_one_goes():
    stop, _ = asked(cross_roads(), (80.0, 78.0), (5.0, 5.0))
    np.testing.assert_allclose(stop, [FAR, 90.0 - 80.5])


def test_the_higher_rank_goes_though_it_is_further_away():
    stop, _ = asked(cross_roads(ranks=(1, 4)), (84.0, 70.0), (5.0, 10.0))
    np.testing.assert_allclose(stop, [3.5, FAR])


def test_nobody_waits_for_whom_is_far_away():
    stop, _ = asked(cross_roads(ranks=(1, 4)), (84.0, 10.0), (5.0, 5.0))
    assert stop[0] == FAR


def test_red_stops_and_green_does_not():
    stop, _ = asked(cross_roads(lights=(STOP, GO)), (60.0, 60.0), (10.0, 10.0))
    np.testing.assert_allclose(stop, [27.5, FAR])


def test_at_a_stop_sign_one_stands_before_one_goes():
    stop, right_of_way = asked(cross_roads(stops=(True, False)), (86.0, -100.0), (3.0, 0.0))
    assert stop[0] == 1.5
    path = np.flatnonzero(np.isfinite(right_of_way.paths.gate[:, 0]))[0]
    both = np.array([path, 1 - path])
    rest = (np.full(2, 5.0), np.full(2, FAR), np.zeros(2), np.zeros(0, bool))
    assert right_of_way.step(1, both, np.array([86.5, -100.0]), np.zeros(2), *rest)[0] == FAR


def test_nobody_enters_without_room_behind():
    stop, _ = asked(cross_roads(), (84.0, -100.0), (5.0, 0.0), gaps=(15.0, FAR))
    assert stop[0] == 3.5


def test_a_gate_is_given_back():
    world = cross_roads()
    _, right_of_way = asked(world, (84.0, -100.0), (5.0, 0.0))
    assert right_of_way.held.sum() == 1
    path = np.array([np.argmin(right_of_way.paths.gate[:, 0]), np.argmax(right_of_way.paths.gate[:, 0])])
    rest = (np.full(2, 5.0), np.full(2, FAR), np.zeros(2), np.zeros(0, bool))
    right_of_way.step(1, path, np.array([113.0, -100.0]), np.full(2, 5.0), *rest)
    assert not right_of_way.held.any()


def test_conflicts_of_a_crossing_are_known():
    world = crossing(rng())
    crosses, over = crossing_gates(world), gates_over_crosswalks(world)
    np.testing.assert_array_equal(crosses, crosses.T)
    assert not crosses.diagonal().any() and 0.1 < crosses.mean() < 0.8
    # Every way over the junction passes the crosswalks of the arms that it joins.
    np.testing.assert_array_equal(over.sum(axis=1), 2)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_ways_are_continuous_and_use_all_entries(layout):
    world = layout(rng())
    paths = find_paths(world, rng())
    for samples, length in zip(paths.samples, paths.length, strict=True):
        used = samples[: round(length / 0.5) + 1]
        step = np.linalg.norm(np.diff(used[:, :2], axis=0), axis=-1)
        assert step.min() > 0.45 and step.max() < 0.51
        assert np.abs(np.diff(used[:, 3])).max() < 0.2
    assert (paths.samples[..., 4] > 1.5).all()
    reached = {b for _, b, kind in world.links if kind == roadmap.SUCCESSOR} | world.inner
    lanes = [row for row, (kind, _, _) in enumerate(world.features) if kind in roadmap.LANE_TYPES]
    assert {row for row in lanes if row not in reached} == set(paths.lane[:, 0].tolist())


def test_everybody_leaves_a_lane_that_ends():
    merged = 0
    for seed in range(2):
        draw = np.random.default_rng(seed)
        log = simulate(freeway(draw), intelligent_driver, draw)
        ramps = log.paths.blocked
        assert ramps.any()
        merged += sum(not ramps[path] for path in log.path[log.path >= 0])
    assert merged > 10


def test_traffic_flows_after_stop_signs_and_in_a_roundabout():
    for layout in (stop_signs, circle):
        passed = 0
        for seed in range(3):
            draw = np.random.default_rng(seed)
            log = simulate(layout(draw), intelligent_driver, draw)
            moved = np.linalg.norm(log.xyz[-1] - log.xyz[0], axis=-1)
            passed += ((log.type == VEHICLE) & (moved > 20.0)).sum()
        assert passed >= 6


def test_drivers_stop_for_people_on_a_crosswalk_and_people_get_over():
    crossed = 0
    for seed in range(5):
        draw = np.random.default_rng(seed)
        world = dataclasses.replace(road(draw), people=4.0)
        log = simulate(world, intelligent_driver, draw)
        start, end = world.crosswalks[0].way[[0, -1], :2]
        ahead = (end - start) / np.linalg.norm(end - start)
        along = (log.xyz[..., :2] - start) @ ahead
        beside = np.abs((log.xyz[..., :2] - start) @ np.array([-ahead[1], ahead[0]])) < 2.0
        width = np.linalg.norm(end - start)
        on_it = (along > 0) & (along < width) & beside & log.present
        people, cars = on_it[:, log.type == PEDESTRIAN], on_it[:, log.type == VEHICLE]
        assert not (people.any(axis=1) & cars.any(axis=1)).any()
        crossed += people.any(axis=0).sum()
    assert crossed >= 3


def test_people_begin_apart():
    walkers = draw_walkers(dataclasses.replace(crossing(rng()), people=5.0), rng())
    places = walkers.places()[:, :2]
    apart = np.linalg.norm(places[:, None] - places, axis=-1) + 1e9 * np.eye(len(places))
    assert len(places) > 15 and apart.min() > 1.0


def standing(*places: tuple[float, float], size=(4.5, 2.0, 1.6)) -> Log:
    """Vehicles that stand side by side, the first one the self-driving car."""
    count = len(places)
    xyz = np.array([(*place, size[2] / 2) for place in places])
    still = np.zeros((NUM_STEPS, count))
    return Log(
        type=np.full(count, VEHICLE),
        size=np.tile(size, (count, 1)),
        xyz=np.broadcast_to(xyz, (NUM_STEPS, count, 3)).copy(),
        yaw=still,
        speed=still,
        present=still == 0,
        paths=find_paths(cross_roads(), rng()),
        path=np.zeros(count, int),
    )


def test_cars_hide_what_is_right_behind_them_but_no_taller_things():
    log = standing((0.0, 0.0), (34.0, 0.0), (40.0, 0.0), (40.0, 15.0))
    np.testing.assert_array_equal(hidden(log, 0)[0], [False, False, True, False])
    height = np.array([1.6, 1.6, 3.2, 1.6])
    xyz = np.concatenate([log.xyz[..., :2], np.tile(height / 2, (NUM_STEPS, 1))[..., None]], axis=-1)
    taller = dataclasses.replace(log, size=np.column_stack([log.size[:, :2], height]), xyz=xyz)
    assert not hidden(taller, 0).any()


def test_sensors_see_what_is_near_and_leave_what_stands_still():
    log = standing((0.0, 0.0), (10.0, 12.0), (200.0, 0.0))
    tracks = observe(log, 0, rng())
    assert tracks.valid[:, 0].all() and tracks.valid[:, 1].mean() > 0.5 and not tracks.valid[:, 2].any()
    np.testing.assert_array_equal(tracks.velocity, 0.0)
    np.testing.assert_array_equal(tracks.xyz, log.xyz)
