"""Recorded scenes of GPUDrive, Nocturne and ScenarioNet, and the same scenes read from two formats."""

import collections
import dataclasses
import functools

import numpy as np
import pytest

from tests.data import recorded
from waymax_sim.datasets.loader import load
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.datatypes.agents import AGENT_TYPE_NAMES
from waymax_sim.datatypes.roadmap import (
    LANE_TYPES,
    LEFT_NEIGHBOR,
    RIGHT_NEIGHBOR,
    ROAD_EDGE_TYPES,
    SUCCESSOR,
    kind_name,
)

# Numbers of an independent reader.
FACTS = {
    "gpudrive/1c365f15b70ebdbf.json": {
        "agents": {"vehicle": 23, "pedestrian": 2},
        "valid_now": 16,
        "steps": (91, 10),
        "sdc_index": 24,
        "points": 10201,
        "kinds": {"road_edge": 18, "road_line": 8, "lane": 39, "speed_bump": 3, "stop_sign": 2, "driveway": 48},
        "lights": 0,
    },
    "gpudrive/db4edc9bd0c9d18c.json": {
        "agents": {"vehicle": 68, "pedestrian": 12, "cyclist": 1},
        "valid_now": 57,
        "steps": (91, 10),
        "sdc_index": 80,
        "points": 5388,
        "kinds": {"road_edge": 18, "road_line": 7, "lane": 37, "crosswalk": 5, "stop_sign": 5, "driveway": 30},
        "lights": 0,
    },
    "gpudrive/2a173b334be3d32c_lights.json": {
        "agents": {"vehicle": 12, "pedestrian": 3},
        "valid_now": 11,
        "steps": (91, 10),
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
    },
    "nocturne/example_scenario.json": {
        "agents": {"pedestrian": 20, "vehicle": 25},
        "valid_now": 31,
        "steps": (91, 10),
        "sdc_index": -1,
        "points": 11877,
        "kinds": {"road_edge": 38, "road_line": 8, "lane": 74, "speed_bump": 8, "stop_sign": 6},
        "lights": 0,
    },
    "scenarionet/sd_2a1e44d405a6833f.pkl": {
        "agents": {"vehicle": 184, "pedestrian": 25, "cyclist": 2},
        "valid_now": 66,
        "steps": (91, 10),
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
    },
    "scenarionet/sd_waymo_v1.2_eb4b91b10ca94ff2.pkl": {
        "agents": {"vehicle": 45},
        "valid_now": 25,
        "steps": (199, 0),
        "sdc_index": 44,
        "points": 27598,
        "kinds": {
            "road_edge": 33,
            "road_line": 53,
            "lane": 107,
            "crosswalk": 5,
            "speed_bump": 1,
            "stop_sign": 1,
            "driveway": 9,
        },
        "lights": 14,
    },
    # 25 agents are valid at step 0, the current step, and 26 from step 10 on.
    "scenarionet/sd_nuscenes_v1.0-mini_scene-1100.pkl": {
        "agents": {"vehicle": 19, "pedestrian": 11, "cyclist": 3},
        "valid_now": 25,
        "steps": (196, 0),
        "sdc_index": 6,
        "points": 12017,
        # 44 of the 80 lines are outlines of the drivable area.
        "kinds": {"road_line": 36, "road_edge": 44, "lane": 153},
        "lights": 0,
    },
}

# The same scene in two formats; the second is the reference. Fields that the first lacks, and tolerances: GPUDrive
# wraps headings, and the rebuilt proto has no lane neighbors.
PAIRS = {
    "scenarionet/sd_2a1e44d405a6833f.pkl": {
        "reference": "womd/scenario_2a1e44d405a6833f.tfrecord",
        "lacking": {"links", "missing_fields"},
        "apart": {},
    },
    "gpudrive/2a173b334be3d32c_lights.json": {
        "reference": "womd/scenario_2a173b334be3d32c.tfrecord",
        "lacking": {"links", "missing_fields"},
        "apart": {"yaw": 1e-7},
    },
}


@functools.cache
def read(name):
    return load(recorded(name)).read(0)


@pytest.mark.parametrize("name", FACTS)
def test_numbers_of_recorded_scenes(name):
    raw = read(name)
    found = {
        "agents": dict(collections.Counter(AGENT_TYPE_NAMES[kind] for kind in raw.agent_type)),
        "valid_now": raw.valid[raw.current_step].sum(),
        "steps": (len(raw.timestamps), raw.current_step),
        "sdc_index": raw.sdc_index,
        "points": len(raw.point_xyz),
        "kinds": dict(collections.Counter(kind_name(kind) for kind in raw.feature_type.tolist())),
        "lights": len(raw.signal_lane_id),
    }
    assert found == FACTS[name]


@pytest.mark.parametrize("name", FACTS)
def test_recorded_scenes_become_scenarios(name):
    raw, scenario = read(name), to_scenario(read(name))
    num_agents = len(raw.agent_id)
    world = scenario.log.xyz[:, :num_agents].astype(np.float64) + scenario.origin
    np.testing.assert_allclose(world[raw.valid], raw.xyz[raw.valid], rtol=0, atol=1e-4)
    np.testing.assert_allclose(np.diff(scenario.timestamps), 0.1, atol=0.005)


@pytest.mark.parametrize("name", FACTS)
def test_recorded_vehicles_head_where_they_go(name):
    """Headings are in radians, counterclockwise from x, as the velocities show."""
    raw = read(name)
    speed = np.linalg.norm(raw.velocity, axis=-1)
    moving = raw.valid & (speed > 3) & (raw.agent_type == 1)
    assert moving.sum() > 50
    course = np.arctan2(raw.velocity[..., 1], raw.velocity[..., 0])
    assert np.median(np.cos(course - raw.yaw)[moving]) > 0.99


@pytest.mark.parametrize("name", PAIRS)
def test_the_same_scene_in_two_formats(name):
    pair = PAIRS[name]
    raw, reference = (read(path) for path in (name, pair["reference"]))
    for field in dataclasses.fields(raw):
        found, expected = getattr(raw, field.name), getattr(reference, field.name)
        if field.name in pair["lacking"]:
            continue
        if not isinstance(expected, np.ndarray):
            assert found == expected, field.name
            continue
        if field.name in ("xyz", "yaw", "velocity", "size"):
            found, expected = found[reference.valid], expected[reference.valid]
        apart = pair["apart"].get(field.name, 0)
        if field.name == "yaw":
            turns = np.round((found - expected) / (2 * np.pi))
            found = found - 2 * np.pi * turns
        np.testing.assert_allclose(found, expected, rtol=0, atol=apart, err_msg=field.name)


def test_successors_are_the_same_in_both_formats():
    raw, reference = (
        read(path) for path in ("scenarionet/sd_2a1e44d405a6833f.pkl", "womd/scenario_2a1e44d405a6833f.tfrecord")
    )
    successors = [links[links[:, 2] == SUCCESSOR] for links in (raw.links, reference.links)]
    assert len(successors[0]) == 200
    np.testing.assert_array_equal(*successors)


def test_recorded_neighbors_are_on_their_side():
    """At the point where each lane is closest to its neighbor; merging lanes have no side."""
    raw = read("scenarionet/sd_2a1e44d405a6833f.pkl")
    lines = [raw.point_xyz[raw.point_feature == row, :2] for row in range(len(raw.feature_id))]
    for kind, sign in ((LEFT_NEIGHBOR, 1), (RIGHT_NEIGHBOR, -1)):
        sides = []
        for lane, other, _ in raw.links[raw.links[:, 2] == kind]:
            middle = len(lines[lane]) // 2
            ahead = lines[lane][middle] - lines[lane][middle - 1]
            offset = lines[other] - lines[lane][middle]
            nearest = offset[np.argmin(np.linalg.norm(offset, axis=-1))]
            if 2 < np.linalg.norm(nearest) < 5:
                sides.append(sign * (ahead[0] * nearest[1] - ahead[1] * nearest[0]) > 0)
        assert len(sides) > 50 and np.mean(sides) > 0.95


@pytest.mark.parametrize(
    "name",
    [
        "scenarionet/sd_nuscenes_v1.0-mini_scene-1100.pkl",
        "argoverse2/scenario_0a1e6f0a-1817-4a98-b02e-db8c9327d151.parquet",
        "womd/scenario_2a1e44d405a6833f.tfrecord",
    ],
)
def test_recorded_egos_are_at_the_center_of_their_box(name):
    """The sideways velocity over the yaw rate is the distance from the rear axle: about a quarter of the length."""
    raw = read(name)
    yaw, xy = np.unwrap(raw.yaw[:, raw.sdc_index]), raw.xyz[:, raw.sdc_index, :2]
    rate, velocity = np.gradient(yaw, raw.timestamps), np.gradient(xy, raw.timestamps, axis=0)
    turns = np.abs(rate) > 0.03
    sideways = np.cos(yaw) * velocity[:, 1] - np.sin(yaw) * velocity[:, 0]
    assert turns.sum() >= 14 and 0.9 < np.median((sideways / np.where(turns, rate, 1.0))[turns]) < 1.5


def test_recorded_lanes_and_traffic_of_nuscenes_are_inside_the_road_edges():
    """The nearest road edge of a lane point has it on its left."""
    raw = read("scenarionet/sd_nuscenes_v1.0-mini_scene-1100.pkl")
    is_edge = np.isin(raw.feature_type[raw.point_feature], ROAD_EDGE_TYPES)
    start, end = raw.point_xyz[:-1, :2], raw.point_xyz[1:, :2]
    keep = is_edge[:-1] & (raw.point_feature[:-1] == raw.point_feature[1:]) & (start != end).any(axis=-1)
    start, along = start[keep], (end - start)[keep]
    ego = raw.xyz[::10, raw.sdc_index, :2]
    lanes = raw.point_xyz[np.isin(raw.feature_type[raw.point_feature], LANE_TYPES)][::200, :2]
    for point in (*ego, *lanes):
        offset = point - start
        fraction = np.clip((offset * along).sum(axis=-1) / (along**2).sum(axis=-1), 0, 1)
        nearest = np.argmin(np.linalg.norm(offset - fraction[:, None] * along, axis=-1))
        assert along[nearest, 0] * offset[nearest, 1] - along[nearest, 1] * offset[nearest, 0] > 0


def test_the_recorded_ego_of_nuscenes_has_the_size_of_its_car():
    raw = read("scenarionet/sd_nuscenes_v1.0-mini_scene-1100.pkl")
    np.testing.assert_allclose(raw.size[:, raw.sdc_index, :2], [[4.08, 1.73]] * 196)
