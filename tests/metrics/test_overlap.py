import dataclasses

import jax
import numpy as np
import pytest

from tests import oracle
from tests.scenes import agent_state, busy_raw_scene, measure, scene
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.metrics.overlap import gaps, overlap
from waymax_sim.pytree import take


@jax.jit
def pairs(agents, size):
    return (gaps(agents, size, agents, size) < 0) & ~np.eye(len(size), dtype=bool)


CAR = np.float32([4, 2, 1.5])


def hit(places, yaw=0.0, size=CAR, valid=True) -> np.ndarray:
    agents = agent_state(places, yaw, valid=valid)
    return np.asarray(pairs(agents, np.broadcast_to(np.asarray(size, np.float32), (len(places), 3))))


def test_nobody_overlaps_itself_and_touching_is_not_enough():
    np.testing.assert_array_equal(hit([(0, 0), (4, 0), (0, 2)]), np.zeros((3, 3), bool))
    np.testing.assert_array_equal(hit([(0, 0), (3.99, 0), (0, 1.99)]), [[0, 1, 1], [1, 0, 1], [1, 1, 0]])


def test_a_car_on_a_bridge_does_not_hit_the_one_below():
    np.testing.assert_array_equal(hit([(0, 0, 0), (1, 0, 6), (1, 0, 1.4)]), [[0, 0, 1], [0, 0, 0], [1, 0, 0]])
    # Scenes without heights are flat: outlines decide.
    assert hit([(0, 0), (1, 0)], size=[4, 2, 0])[0, 1]


def test_absent_agents_and_boxes_without_area_hit_nothing():
    assert not hit([(0, 0), (1, 0)], valid=[True, False]).any()
    assert not hit([(0, 0), (0, 0)], size=[(4, 2, 1), (0, 2, 1)]).any()


def test_padding_hides_no_hit_of_agents_that_face_along_an_axis():
    agents = agent_state([(0, 0, 0.75), (1, 0, 0.75), (0, 0, 0)], valid=[True, True, False])
    padded = dataclasses.replace(scene().agents, size=np.float32([(4, 2, 1.5), (4, 2, 1.5), (0, 0, 0)]))
    result = measure(overlap, dataclasses.replace(scene(), agents=padded), agents)
    np.testing.assert_array_equal(result.value, [1, 1, 0])


@pytest.mark.parametrize("seed", range(5))
def test_random_agents_equal_the_oracle(seed):
    scenario = to_scenario(busy_raw_scene(seed, num_agents=40), bucketed=False)
    agents, size = take(scenario.log, 7), scenario.agents.size
    hits = np.asarray(pairs(agents, size))
    expected = oracle.overlaps(*(np.asarray(leaf, float) for leaf in (agents.xyz, agents.yaw, size)), agents.valid)
    assert expected.any()
    np.testing.assert_array_equal(hits, expected)
    np.testing.assert_array_equal(hits, hits.T)


def test_the_metric_says_who_is_hit():
    agents = agent_state([(0, 0, 0.75), (3, 0, 0.75), (50, 0, 0.75)], valid=[True, True, False])
    result = measure(overlap, scene(), agents)
    np.testing.assert_array_equal(result.value, [1, 1, 0])
    np.testing.assert_array_equal(result.valid, [True, True, False])
