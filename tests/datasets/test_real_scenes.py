"""Recorded scenes: numbers of an independent reader, and logged futures of an official tool."""

import collections

import numpy as np
import pytest

from tests.data import recorded
from waymax_sim.datasets.loader import load
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.datatypes.agents import AGENT_TYPE_NAMES
from waymax_sim.datatypes.padding import stack_scenarios
from waymax_sim.datatypes.roadmap import CONTROLS, LEFT_NEIGHBOR, RIGHT_NEIGHBOR, SUCCESSOR, kind_name

FACTS = {
    "scenario_637f20cafde22ff8": {
        "agents": {"vehicle": 70, "pedestrian": 10, "cyclist": 3},
        "valid_now": 50,
        "sdc_index": 82,
        "points": 19636,
        "kinds": {"road_edge": 28, "road_line": 59, "lane": 199, "crosswalk": 4, "speed_bump": 3, "stop_sign": 8},
        "lights": 12,
        "to_predict": 3,
    },
    "scenario_2a1e44d405a6833f": {
        "agents": {"vehicle": 184, "pedestrian": 25, "cyclist": 2},
        "valid_now": 66,
        "sdc_index": 210,
        "points": 24889,
        "kinds": {
            "road_line": 66,
            "road_edge": 51,
            "lane": 182,
            "crosswalk": 16,
            "speed_bump": 2,
            "stop_sign": 4,
            "driveway": 37,
        },
        "lights": 8,
        "to_predict": 7,
    },
    "scenario_2a173b334be3d32c": {
        "agents": {"vehicle": 12, "pedestrian": 3},
        "valid_now": 11,
        "sdc_index": 14,
        "points": 14648,
        "kinds": {
            "road_edge": 38,
            "road_line": 24,
            "lane": 119,
            "crosswalk": 4,
            "speed_bump": 5,
            "stop_sign": 2,
            "driveway": 21,
        },
        "lights": 12,
        "to_predict": 3,
    },
    # 21 lanes share the 16 light slots of this example over time.
    "tf_example_a3bb37c25ce56418": {
        "agents": {"vehicle": 119, "cyclist": 1, "pedestrian": 8},
        "valid_now": 73,
        "sdc_index": 8,
        "points": 20000,
        "kinds": {"road_line": 78, "road_edge": 45, "lane": 131},
        "lights": 21,
        "to_predict": 8,
    },
}


def scenes(name):
    return load(recorded(f"womd/{name}.tfrecord"))


@pytest.mark.parametrize("name", FACTS)
def test_numbers_of_recorded_scenes(name):
    raw = scenes(name).read(0)
    assert name.endswith(raw.scenario_id)
    assert (len(raw.timestamps), raw.current_step) == (91, 10)
    np.testing.assert_allclose(np.diff(raw.timestamps), 0.1, atol=0.005)
    found = {
        "agents": dict(collections.Counter(AGENT_TYPE_NAMES[kind] for kind in raw.agent_type)),
        "valid_now": raw.valid[10].sum(),
        "sdc_index": raw.sdc_index,
        "points": len(raw.point_xyz),
        "kinds": dict(collections.Counter(kind_name(kind) for kind in raw.feature_type.tolist())),
        "lights": len(raw.signal_lane_id),
        "to_predict": raw.to_predict.sum(),
    }
    assert found == FACTS[name]


@pytest.mark.parametrize("name", FACTS)
def test_recorded_scenes_become_scenarios(name):
    raw, scenario = scenes(name).read(0), scenes(name)[0]
    num_agents = len(raw.agent_id)
    assert scenario.agents.exists.sum() == num_agents
    assert scenario.agents.is_sdc.argmax() == raw.sdc_index
    log = scenario.log
    assert np.abs(log.xyz[10, raw.sdc_index]).max() <= 0.5
    assert ((log.yaw >= -np.pi) & (log.yaw < np.pi)).all()
    world = log.xyz[:, :num_agents].astype(np.float64) + scenario.origin
    np.testing.assert_allclose(world[raw.valid], raw.xyz[raw.valid], rtol=0, atol=1e-4)
    assert scenario.edges.valid.sum() > 1000 and scenario.lanes.valid.sum() > 1000
    assert np.linalg.norm(log.velocity, axis=-1).max() < 50


def test_recorded_traffic_drives_along_lanes():
    """Moving vehicles are aligned with a near lane: positions, headings and map are in one frame."""
    scenario = scenes("scenario_637f20cafde22ff8")[0]
    lanes, now = scenario.lanes, 10
    moving = (np.linalg.norm(scenario.log.velocity[now], axis=-1) > 3) & (scenario.agents.type == 1)
    assert moving.sum() >= 5
    direction = (lanes.end - lanes.start)[..., :2]
    course = np.arctan2(direction[:, 1], direction[:, 0])
    for agent in np.flatnonzero(moving & scenario.log.valid[now]):
        away = np.linalg.norm(lanes.start[:, :2] - scenario.log.xyz[now, agent, :2], axis=-1)
        near = lanes.valid.reshape(-1) & (away < 3)
        turn = course[near] - scenario.log.yaw[now, agent]
        assert np.cos(turn).max(initial=-1) > 0.95


def test_the_logged_future_equals_that_of_the_official_converter():
    raw = scenes("scenario_637f20cafde22ff8").read(0)
    rollout = np.load(recorded("wosac/637f20cafde22ff8/rollouts_log_raw_copy.npz"))
    now = raw.valid[10]
    np.testing.assert_array_equal(raw.agent_id[now], rollout["object_id"])
    valid = raw.valid[11:, now]
    assert valid.sum() > 1000
    for axis, name in enumerate("xyz"):
        expected = rollout[name][0].T[valid]
        np.testing.assert_array_equal(raw.xyz[11:, now, axis][valid].astype(np.float32), expected)
    np.testing.assert_array_equal(raw.yaw[11:, now][valid].astype(np.float32), rollout["heading"][0].T[valid])


def test_lanes_of_recorded_scenes_are_linked():
    """Most successors start at the end of their predecessor."""
    raw = scenes("scenario_637f20cafde22ff8").read(0)
    links = raw.links
    assert {*links[:, 2]} == {SUCCESSOR, LEFT_NEIGHBOR, RIGHT_NEIGHBOR, CONTROLS}
    last = np.searchsorted(raw.point_feature, np.arange(len(raw.feature_id)), side="right") - 1
    first = np.searchsorted(raw.point_feature, np.arange(len(raw.feature_id)))
    follows = links[links[:, 2] == SUCCESSOR]
    gap = np.linalg.norm(raw.point_xyz[last[follows[:, 0]]] - raw.point_xyz[first[follows[:, 1]]], axis=-1)
    assert len(follows) > 100
    assert np.mean(gap < 0.6) > 0.95


def test_invalid_states_of_recorded_scenes_hold_values_that_are_masked():
    raw = scenes("scenario_637f20cafde22ff8").read(0)
    assert raw.xyz[~raw.valid].any()
    log = to_scenario(raw, pad_to_bucket=False).log
    assert not log.xyz[~raw.valid].any()


def test_recorded_scenes_stack():
    loaded = [scenes(name)[0] for name in FACTS]
    batch = stack_scenarios(loaded)
    assert batch.log.xyz.shape[:2] == (4, 91)
    assert batch.agents.exists.sum() == sum(sum(facts["agents"].values()) for facts in FACTS.values())
