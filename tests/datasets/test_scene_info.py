import dataclasses
import json

import numpy as np

from tests.scenes import raw_scene, scene
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.datasets.scene_info import describe_scene


def test_a_scene_is_counted_without_its_padding():
    raw = raw_scene(agent_type=np.array([1, 2, 1]), feature_type=np.array([2, 17, 15, 15]))
    raw.valid[raw.current_step, 2] = False
    raw.signal_valid[0] = False
    facts = describe_scene(to_scenario(raw, pad_to_bucket=True))
    assert facts["scenario_id"] == "synthetic"
    assert (facts["num_agents"], facts["num_valid_now"], facts["sdc_index"]) == (3, 2, 0)
    assert facts["agents_by_type"] == {"vehicle": 2, "pedestrian": 1}
    assert (facts["num_steps"], facts["current_step"], facts["num_lights"]) == (21, 5, 1)
    assert facts["map_features_by_type"] == {"road_edge": 2, "lane": 1, "stop_sign": 1}
    assert facts["map_points_by_type"] == {"road_edge": 402, "lane": 201, "stop_sign": 201}
    assert facts["num_map_points"] == 804
    assert facts["problems"] == []
    assert facts == describe_scene(to_scenario(raw, pad_to_bucket=False))
    json.dumps(facts, allow_nan=False)


def test_bounds_are_local_and_the_origin_leads_back():
    raw = raw_scene()
    shift = np.array([5000.0, -3000.0, 20.0])
    facts = describe_scene(to_scenario(dataclasses.replace(raw, xyz=raw.xyz + shift, point_xyz=raw.point_xyz + shift)))
    assert facts["origin"] == [5000.0, -3000.0, 21.0]
    assert facts["bounds"] == {"x": [-100.0, 100.0], "y": [-1.75, 5.25], "z": [-1.0, -0.25]}


def test_an_empty_scene_has_a_description():
    empty = {
        "point_xyz": np.zeros((0, 3)),
        "point_feature": np.zeros(0, int),
        "feature_id": np.zeros(0, int),
        "feature_type": np.zeros(0, int),
        "speed_limit": np.zeros(0),
        "signal_lane_id": np.zeros(0, int),
        "signal_state": np.zeros((21, 0), int),
        "signal_stop_point": np.zeros((21, 0, 3)),
        "signal_valid": np.zeros((21, 0), bool),
    }
    facts = describe_scene(scene(**empty, valid=np.zeros((21, 3), bool), sdc_index=-1))
    assert facts["bounds"] is None
    assert facts["sdc_index"] is None
    assert (facts["num_map_points"], facts["num_lights"], facts["num_valid_now"]) == (0, 0, 0)
    assert "there is no map" in facts["problems"]
