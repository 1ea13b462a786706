"""Lane changes: incentive and neighbors by hand, and trajectories on two lanes."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from behavior_models import MOBIL
from behavior_models.traffic.car_following import FAR
from behavior_models.traffic.lane_neighbors import LaneNeighbors, lane_neighbors
from behavior_models.traffic.mobil import incentive, is_alongside, lane_change_path
from tests.behavior_models.streets import AGENTS, STEPS, Agent, boxes_overlap, road, straight, street
from tests.behavior_models.test_car_following import by_hand, driver
from tests.maps.lane_maps import arc, fork, lane_map
from tests.scenes import agent_state
from waymax_sim.env import Env, EnvConfig, rollout
from waymax_sim.maps.paths import lane_path

pytestmark = pytest.mark.compile_heavy

ENV = Env(config=EnvConfig(controlled="none", metrics=(), rewards=()))


def neighbors(leader, leader_gap, follower, follower_gap, leader_speed_factor=1.0) -> LaneNeighbors:
    """The same for all agents."""
    index, value = (lambda i: jnp.full(4, i, jnp.int32)), (lambda x: jnp.full(4, x, jnp.float32))
    leader_fields = index(leader), value(leader_gap), value(leader_speed_factor)
    return LaneNeighbors(*leader_fields, index(follower), value(follower_gap))


@pytest.mark.parametrize("politeness", [0.0, 0.5])
def test_incentive_by_hand(politeness):
    """c (0) at 10 m/s, 12 m behind 1 at 6 m/s, 20 m ahead of 2 at 10 m/s; on the other lane 3 at 13 m/s 9 m behind."""
    speed = jnp.asarray([10.0, 6.0, 10.0, 13.0])
    drivers = jax.tree.map(lambda value: jnp.full(4, value), driver())
    current, new = neighbors(1, 12.0, 2, 20.0), neighbors(0, FAR, 3, 9.0)
    gain, braking = incentive(speed, jnp.full(4, 15.0), jnp.full(4, 4.5), drivers, current, new, politeness)
    own_gain = by_hand(10, 15, 1e9, 10) - by_hand(10, 15, 12, 6)
    new_follower = by_hand(13, 15, 9, 10)
    new_gain = new_follower - by_hand(13, 15, 1e9, 13)
    old_gain = by_hand(10, 15, 20 + 4.5 + 12, 6) - by_hand(10, 15, 20, 10)
    assert float(gain[0]) == pytest.approx(own_gain + politeness * (new_gain + old_gain), rel=1e-4, abs=1e-3)
    assert float(braking[0]) == pytest.approx(-new_follower, rel=1e-4)
    # 13 m/s with 9 m: s* = 2 + 26 + 13 * 3 / 5.657 = 34.9 m, so about -2 * (34.9 / 9)^2 = -30 m/s^2: not safe.
    assert float(braking[0]) > 25


def test_end_of_a_lane_counts_as_a_stationary_vehicle():
    speed, drivers = jnp.full(4, 10.0), jax.tree.map(lambda value: jnp.full(4, value), driver())
    current, new = neighbors(1, 30.0, 2, FAR, leader_speed_factor=0.0), neighbors(1, FAR, 2, FAR)
    gain, braking = incentive(speed, jnp.full(4, 15.0), jnp.full(4, 4.5), drivers, current, new, 0.2)
    assert float(gain[0]) == pytest.approx(by_hand(10, 15, 1e9, 10) - by_hand(10, 15, 30, 0), rel=1e-4)
    assert not braking.any()


def test_neighbors_by_hand():
    """Lane 2 of 20 m is the straight successor of lane 0 of 20 m."""
    graph = jax.device_put(lane_map(*fork()).graph)
    lane, arc = jnp.asarray([0, 0, 2, 0, -1], jnp.int32), jnp.asarray([10.0, 18.0, 6.0, 2.0, 10.0])
    length = jnp.asarray([4.0, 4.0, 5.0, 4.0, 4.0])
    result = lane_neighbors(graph, (lane, arc), jnp.maximum(lane, 0), arc, length)
    assert result.leader[:2].tolist() == [1, 2] and result.follower[:3].tolist() == [3, 0, 1]
    np.testing.assert_allclose(result.leader_gap[:2], [8 - 4, 2 + 6 - 4.5], atol=1e-4)
    np.testing.assert_allclose(result.follower_gap[:3], [8 - 4, 8 - 4, 8 - 4.5], atol=1e-4)
    # The last agent has the end of the lane ahead and no leader; the first one has no follower.
    assert not result.leader_speed_factor[2] and float(result.leader_gap[2]) == pytest.approx(20 - 6 - 2.5, abs=1e-4)
    assert result.leader_speed_factor[:2].all() and result.follower_gap[3] == FAR


def test_agents_alongside():
    """The first agent faces along y: one agent is on its left, at (-3, 1); another on its right is too far behind."""
    agents = agent_state([(0, 0), (-3, 1), (3, -8), (0, 12)], yaw=[np.pi / 2] * 4)
    left, right = is_alongside(agents, jnp.full(4, 4.0))
    assert left.tolist() == [True, False, False, False] and right.tolist() == [False, True, False, False]


def test_lane_change_paths_end_on_the_new_lane():
    built = lane_map(straight((0, 0), (200, 0), 2.0))
    arrays = jax.device_put((built.lanes, built.graph))

    @jax.jit
    def path_points(lanes, graph):
        segment, zero = jnp.zeros(1, jnp.int32), jnp.zeros(1)
        path = lane_path(lanes, graph, segment, zero, jnp.zeros((1, 2), jnp.int32), 41, 2.5)
        return lane_change_path(path, jnp.full(1, -3.5), jnp.full(1, 40.0)).xyz[0]

    xyz = np.asarray(path_points(*arrays))
    np.testing.assert_allclose(xyz[[0, 8, 16, 40], 1], [-3.5, -1.75, 0, 0], atol=1e-5)
    np.testing.assert_allclose(xyz[:, 0], 2.5 * np.arange(41), atol=1e-4)
    assert (np.diff(xyz[:, 1]) >= -1e-6).all()


@pytest.fixture(scope="module")
def simulate():
    @jax.jit
    def run(scenario, key, driven):
        return rollout(ENV, [(MOBIL(), driven)], scenario, key, STEPS, record=("agents",)).agents

    def checked(scenario, driven=(True,) * AGENTS):
        driven = np.array([*driven, *[False] * (AGENTS - len(driven))])
        agents = jax.device_get(run(scenario, jax.random.key(0), driven))
        pairs = itertools.combinations(np.flatnonzero(scenario.agents.exists), 2)
        assert not any(boxes_overlap(agents, scenario.agents.size, i, j).any() for i, j in pairs)
        speed = np.hypot(*np.moveaxis(agents.velocity, -1, 0))
        assert np.abs(np.diff(speed, axis=0)).max() < 0.81
        return dataclasses.replace(agents, xyz=agents.xyz + scenario.origin)

    return checked


ROADS = [road(), road(y=3.5)]
SLOW = Agent(30, 0, 0, 5)


def test_a_slow_car_is_overtaken(simulate):
    agents = simulate(street(ROADS, [Agent(0, 0, 0, 12), SLOW]), driven=(True, False))
    assert agents.xyz[-1, 0, 1] == pytest.approx(3.5, abs=0.3)
    assert agents.xyz[-1, 0, 0] > agents.xyz[-1, 1, 0] + 4
    # The yaw rate is that of a lateral motion of 3.5 m within four seconds.
    assert np.abs(np.diff(agents.yaw[:, 0]) / 0.1 * 12).max() < 3.0


def test_no_change_into_a_car_alongside_or_in_front_of_a_fast_one(simulate):
    blocked = simulate(street(ROADS, [Agent(0, 0, 0, 12), SLOW, Agent(1, 3.5, 0, 12)]), driven=(True, False, False))
    early = blocked.xyz[:15, 0, 1]
    assert np.abs(early).max() < 0.5
    fast = simulate(street(ROADS, [Agent(0, 0, 0, 8), SLOW, Agent(-30, 3.5, 0, 16)]), driven=(True, False, False))
    passed = np.argmax(fast.xyz[:, 2, 0] > fast.xyz[:, 0, 0])
    assert passed > 0 and np.abs(fast.xyz[:passed, 0, 1]).max() < 0.5


def test_no_change_into_a_lane_that_turns_off(simulate):
    turning = np.concatenate([straight((-60, 3.5), (42, 3.5), 2.0), arc((42, 18.5), 15.0, -90, 0, 1.0)])
    agents = simulate(street([road(), turning], [Agent(0, 0, 0, 12), SLOW]), driven=(True, False))
    assert np.abs(agents.xyz[:, 0, 1]).max() < 0.5


def test_no_change_without_incentive(simulate):
    agents = simulate(street(ROADS, [Agent(0, 0, 0, 12), Agent(60, 0, 0, 13)]))
    assert np.abs(agents.xyz[:, :2, 1]).max() < 0.2
