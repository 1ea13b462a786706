import dataclasses

import jax
import numpy as np
import pytest

from tests import oracle
from tests.scenes import agent_state, busy_raw_scene, measure, scene
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.metrics.overlap import overlap, pairwise_separation
from waymax_sim.pytree import tree_index


@jax.jit
def pairs(agents, size):
    return (pairwise_separation(agents, size, agents, size) < 0) & ~np.eye(len(size), dtype=bool)


CAR = np.float32([4, 2, 1.5])


def overlaps(positions, yaw=0.0, size=CAR, valid=True) -> np.ndarray:
    agents = agent_state(positions, yaw, valid=valid)
    return np.asarray(pairs(agents, np.broadcast_to(np.asarray(size, np.float32), (len(positions), 3))))


def test_no_agent_overlaps_itself_and_touching_is_no_overlap():
    np.testing.assert_array_equal(overlaps([(0, 0), (4, 0), (0, 2)]), np.zeros((3, 3), bool))
    np.testing.assert_array_equal(overlaps([(0, 0), (3.99, 0), (0, 1.99)]), [[0, 1, 1], [1, 0, 1], [1, 1, 0]])


def test_a_car_on_a_bridge_does_not_overlap_the_one_below():
    np.testing.assert_array_equal(overlaps([(0, 0, 0), (1, 0, 6), (1, 0, 1.4)]), [[0, 0, 1], [0, 0, 0], [1, 0, 0]])
    # Without heights the outlines decide.
    assert overlaps([(0, 0), (1, 0)], size=[4, 2, 0])[0, 1]


def test_absent_agents_and_boxes_without_area_do_not_overlap():
    assert not overlaps([(0, 0), (1, 0)], valid=[True, False]).any()
    assert not overlaps([(0, 0), (0, 0)], size=[(4, 2, 1), (0, 2, 1)]).any()


def test_padding_hides_no_overlap_of_agents_that_face_along_an_axis():
    agents = agent_state([(0, 0, 0.75), (1, 0, 0.75), (0, 0, 0)], valid=[True, True, False])
    padded = dataclasses.replace(scene().agents, size=np.float32([(4, 2, 1.5), (4, 2, 1.5), (0, 0, 0)]))
    result = measure(overlap, dataclasses.replace(scene(), agents=padded), agents)
    np.testing.assert_array_equal(result.value, [1, 1, 0])


@pytest.mark.parametrize("seed", range(5))
def test_random_agents_equal_the_oracle(seed):
    scenario = to_scenario(busy_raw_scene(seed, num_agents=40), pad_to_bucket=False)
    agents, size = tree_index(scenario.log, 7), scenario.agents.size
    hits = np.asarray(pairs(agents, size))
    expected = oracle.overlaps(*(np.asarray(leaf, float) for leaf in (agents.xyz, agents.yaw, size)), agents.valid)
    assert expected.any()
    np.testing.assert_array_equal(hits, expected)
    np.testing.assert_array_equal(hits, hits.T)


def test_the_metric_is_one_for_overlapping_agents():
    agents = agent_state([(0, 0, 0.75), (3, 0, 0.75), (50, 0, 0.75)], valid=[True, True, False])
    result = measure(overlap, scene(), agents)
    np.testing.assert_array_equal(result.value, [1, 1, 0])
    np.testing.assert_array_equal(result.valid, [True, True, False])
