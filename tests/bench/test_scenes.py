import itertools

import numpy as np
import pytest

from waymax_sim.bench.scenes import batched, moments, sized, source, states_at
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.loader import load
from waymax_sim.datatypes.roadmap import ROAD_EDGE_TYPES
from waymax_sim.datatypes.validate import validate
from waymax_sim.env import Env

RAW = load("synthetic:0:2").read(1)


@pytest.mark.parametrize(("agents", "points"), [(4, 500), (20, 9167), (50, 3000), (8, 20000), (64, 30000)])
def test_a_scene_has_the_size_asked_for(agents, points):
    workload = sized(RAW, agents, points)
    scenario = workload.scenario
    assert (workload.agents, workload.points) == (agents, points)
    assert scenario.agents.exists.sum() == agents
    assert scenario.roadmap.valid.sum() == points
    assert scenario.agents.is_sdc.sum() == 1
    assert scenario.edges.valid.any()
    # What cropping leaves behind, and nothing else.
    cropped = ("the source cut it there", "lanes that are not in the map")
    assert not [problem for problem in validate(scenario) if not problem.endswith(cropped)]


def test_the_size_of_the_source_changes_nothing():
    scenario = sized(RAW, len(RAW.agent_id), len(RAW.point_xyz)).scenario
    np.testing.assert_array_equal(scenario.roadmap.xyz, load("synthetic:0:2")[1].roadmap.xyz)


def test_a_small_map_has_its_share_of_road_edges():
    def share(scenario) -> float:
        kind = scenario.roadmap.feature_type[scenario.roadmap.feature[scenario.roadmap.valid]]
        return np.isin(kind, ROAD_EDGE_TYPES).mean()

    whole = sized(RAW, len(RAW.agent_id), len(RAW.point_xyz)).scenario
    np.testing.assert_allclose(share(sized(RAW, 8, 1000).scenario), share(whole), atol=0.01)


def test_more_map_changes_no_agent():
    small, large = (sized(RAW, 16, points).scenario for points in (9000, 30000))
    np.testing.assert_array_equal(small.log.xyz, large.log.xyz)


def test_copies_do_not_share_a_place():
    roadmap = sized(RAW, 8, 2 * len(RAW.point_xyz)).scenario.roadmap
    assert len(np.unique(roadmap.xyz, axis=0)) == 2 * len(np.unique(RAW.point_xyz, axis=0))
    assert len(np.unique(roadmap.feature_id)) == 2 * len(RAW.feature_id)


def test_moments_differ_and_fit():
    found = [moments(91, 11, 16, variant) for variant in range(4)]
    assert all(len(set(steps)) == 16 and steps.min() >= 10 and steps.max() <= 89 for steps in found)
    assert all((a != b).all() for a, b in itertools.pairwise(found))


def test_states_are_those_of_the_log():
    scenario = sized(RAW, 8, 500).scenario
    steps = moments(scenario.num_steps, 2, 3, 0)
    states = states_at(Env(), scenario, steps)
    np.testing.assert_array_equal(states.history.valid[:, -1], scenario.log.valid[steps])
    np.testing.assert_array_equal(states.history.xyz[:, 0], scenario.log.xyz[steps - 1])
    assert batched(scenario, 3).log.xyz.shape == (3, *scenario.log.xyz.shape)


def test_the_source_is_the_first_record_or_made_up(tmp_path):
    assert source(None)[0].source(source(None)[1])[0].startswith("synthetic:")
    assert source("synthetic:4:3")[1] == 0
    with pytest.raises(DataError, match="no such file"):
        source(str(tmp_path / "nothing"))
