import dataclasses

import numpy as np
import pytest

from tests import oracle
from tests.scenes import agent_state, busy_raw_scene, measure, scene, segments
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.metrics.wrong_way import wrong_way
from waymax_sim.pytree import tree_index

# Height of box centers on the road: the local origin is an integer, 0.25 m above them.
Z = -0.25


def evaluate(positions, yaw, types=1, lanes=None) -> tuple[np.ndarray, np.ndarray]:
    """Lanes run along x: forward at y = 0, backward at y = 3.5."""
    scenario = scene(num_agents=len(positions), agent_type=np.broadcast_to(types, len(positions)).astype(int))
    if lanes is not None:
        scenario = dataclasses.replace(scenario, lanes=lanes)
    result = measure(wrong_way, scenario, agent_state(positions, yaw))
    return np.asarray(result.value), np.asarray(result.valid)


def test_only_the_own_lane_may_be_followed():
    positions = [(0, y, Z) for y in (0, 3.5, 0, 3.5, 1.7, 1.8, 5.6, -2.1)]
    value, valid = evaluate(positions, [0, 0, np.pi, -np.pi, 0, 0, 0, np.pi])
    np.testing.assert_array_equal(value, [0, 1, 1, 0, 0, 1, 0, 0])
    assert valid.all()


def test_crossing_a_lane_is_not_wrong_way():
    angles = np.radians([90, -90, 119, -119, 121, -121])
    value, _ = evaluate([(0, 0, Z)] * 6, angles)
    np.testing.assert_array_equal(value, [0, 0, 0, 0, 1, 1])


def test_crossing_lanes_that_agree_count_when_they_are_nearer():
    lanes = segments([(-50, 0), (50, 0)], [(50, -1), (-50, 1)])
    value, _ = evaluate([(0, 0.0, 0.75), (30, -0.05, 0.75), (30, -0.55, 0.75)], [0, 0, 0], lanes=lanes)
    np.testing.assert_array_equal(value, [0, 0, 1])


def test_a_lane_on_a_bridge_does_not_affect_the_road_below():
    lanes = segments([(50, 0, 6), (-50, 0, 6)], [(50, 0.5, 0), (49, 0.5, 0)])
    value, _ = evaluate([(0, 0, 0.75), (0, 0, 6.75)], [0, 0], lanes=lanes)
    np.testing.assert_array_equal(value, [0, 1])


def test_only_vehicles_and_cyclists_on_maps_with_lanes_have_values():
    value, valid = evaluate([(0, 3.5, Z)] * 5, [0] * 5, types=np.arange(5))
    np.testing.assert_array_equal(valid, [0, 1, 0, 1, 0])
    np.testing.assert_array_equal(value, valid)
    for result in evaluate([(0, 3.5, Z)], [0], lanes=segments(np.zeros((0, 2)))):
        np.testing.assert_array_equal(result, 0)


@pytest.mark.parametrize("seed", range(3))
def test_random_agents_equal_the_oracle(seed):
    raw = busy_raw_scene(seed, num_agents=40)
    scenario = to_scenario(raw, pad_to_bucket=False)
    agents = tree_index(scenario.log, 7)
    points = np.asarray(scenario.roadmap.xyz, float)
    lanes = [points[raw.point_feature == feature] for feature in np.flatnonzero(raw.feature_type == 2)]
    bottom = np.asarray(agents.xyz, float) - np.asarray(scenario.agents.size, float) * (0, 0, 0.5)
    expected = [oracle.is_wrong_way(lanes, bottom[i], float(agents.yaw[i])) for i in range(40)]
    result = measure(wrong_way, scenario, agents)
    np.testing.assert_array_equal(result.valid, agents.valid & np.isin(raw.agent_type, (1, 3)))
    assert np.asarray(result.value).any()
    np.testing.assert_array_equal(result.value, result.valid & np.array(expected))
