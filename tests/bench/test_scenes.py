import itertools

import numpy as np
import pytest

from waymax_sim.bench.scenes import device_batch, open_scenes, resize, sample_steps, states_at
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.loader import load
from waymax_sim.datatypes.roadmap import ROAD_EDGE_TYPES
from waymax_sim.datatypes.validate import validate
from waymax_sim.env import Env

RAW = load("synthetic:0:2").read(1)


@pytest.mark.parametrize(("agents", "points"), [(4, 500), (20, 9167), (50, 3000), (8, 20000), (64, 30000)])
def test_a_scene_has_the_requested_size(agents, points):
    sized = resize(RAW, agents, points)
    scenario = sized.scenario
    assert (sized.agents, sized.points) == (agents, points)
    assert scenario.agents.exists.sum() == agents
    assert scenario.roadmap.valid.sum() == points
    assert scenario.agents.is_sdc.sum() == 1
    assert scenario.edges.valid.any()
    # Cropping causes these messages only.
    cropped = ("the source cut it there", "lanes that are not in the map")
    assert not [problem for problem in validate(scenario) if not problem.endswith(cropped)]


def test_the_size_of_the_source_changes_nothing():
    scenario = resize(RAW, len(RAW.agent_id), len(RAW.point_xyz)).scenario
    np.testing.assert_array_equal(scenario.roadmap.xyz, load("synthetic:0:2")[1].roadmap.xyz)


def test_a_small_map_has_its_share_of_road_edges():
    def share(scenario) -> float:
        kind = scenario.roadmap.feature_type[scenario.roadmap.feature[scenario.roadmap.valid]]
        return np.isin(kind, ROAD_EDGE_TYPES).mean()

    whole = resize(RAW, len(RAW.agent_id), len(RAW.point_xyz)).scenario
    np.testing.assert_allclose(share(resize(RAW, 8, 1000).scenario), share(whole), atol=0.01)


def test_more_map_changes_no_agent():
    small, large = (resize(RAW, 16, points).scenario for points in (9000, 30000))
    np.testing.assert_array_equal(small.log.xyz, large.log.xyz)


def test_copies_do_not_coincide():
    roadmap = resize(RAW, 8, 2 * len(RAW.point_xyz)).scenario.roadmap
    assert len(np.unique(roadmap.xyz, axis=0)) == 2 * len(np.unique(RAW.point_xyz, axis=0))
    assert len(np.unique(roadmap.feature_id)) == 2 * len(RAW.feature_id)


def test_steps_differ_and_are_within_the_log():
    variants = [sample_steps(91, 11, 16, variant) for variant in range(4)]
    assert all(len(set(steps)) == 16 and steps.min() >= 10 and steps.max() <= 89 for steps in variants)
    assert all((a != b).all() for a, b in itertools.pairwise(variants))


def test_states_are_those_of_the_log():
    scenario = resize(RAW, 8, 500).scenario
    steps = sample_steps(scenario.num_steps, 2, 3, 0)
    states = states_at(Env(), scenario, steps)
    np.testing.assert_array_equal(states.history.valid[:, -1], scenario.log.valid[steps])
    np.testing.assert_array_equal(states.history.xyz[:, 0], scenario.log.xyz[steps - 1])
    assert device_batch(scenario, 3).log.xyz.shape == (3, *scenario.log.xyz.shape)


def test_the_scene_is_the_first_record_or_synthetic(tmp_path):
    assert open_scenes(None)[0].source(open_scenes(None)[1])[0].startswith("synthetic:")
    assert open_scenes("synthetic:4:3")[1] == 0
    with pytest.raises(DataError, match="no such file"):
        open_scenes(str(tmp_path / "nothing"))
