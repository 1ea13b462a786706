"""Messages of `validate` about a scene."""

import dataclasses

import numpy as np
import pytest

from tests.datasets.encode import PAST, small_scene
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.datatypes.validate import validate


@pytest.fixture
def raw():
    raw = small_scene()
    # Two points for the second lane, 0.1 s steps: a scene with nothing to report.
    feature = np.insert(raw.point_feature, 5, 1)
    xyz = np.insert(raw.point_xyz, 5, [8005.0, -3000.0, 12.0], axis=0)
    return dataclasses.replace(raw, timestamps=np.arange(5) * 0.1, point_feature=feature, point_xyz=xyz)


def changed(raw, field, index, value):
    values = getattr(raw, field).copy()
    values[index] = value
    return dataclasses.replace(raw, **{field: values})


@pytest.mark.parametrize("pad_to_bucket", [True, False])
def test_a_sound_scene_has_no_problems(raw, pad_to_bucket):
    assert validate(to_scenario(raw, pad_to_bucket=pad_to_bucket)) == []


CASES = {
    "no agent is marked as the sdc": lambda raw: dataclasses.replace(raw, sdc_index=-1),
    "the sdc is not valid at the current step 2": lambda raw: changed(raw, "valid", (PAST, 0), False),
    "1 agents are never valid": lambda raw: changed(raw, "valid", (slice(None), 2), False),
    "no agent is valid at the current step 2": lambda raw: changed(raw, "valid", PAST, False),
    "1 agents have no length or width": lambda raw: changed(raw, "size", (slice(None), 2, 1), 0.0),
    "1 agent ids are used twice": lambda raw: changed(raw, "agent_id", 1, 3),
    "vehicle 7 moves at 100 m/s": lambda raw: changed(raw, "velocity", (3, 1), (60.0, 80.0)),
    "1 agents jump by more than 7.5 m in one step": lambda raw: changed(raw, "xyz", (3, 1, 1), -2900.0),
    "there are no vehicles": lambda raw: changed(raw, "agent_type", slice(None), 2),
    "the map has no lanes": lambda raw: changed(raw, "feature_type", slice(0, 2), 18),
    "the map has no road edges": lambda raw: changed(raw, "feature_type", 2, 18),
    "1 traffic lights control lanes that are not in the map": lambda raw: changed(raw, "signal_lane_id", 0, 404),
    "steps are 0.100 to 0.130 s apart, but simulated as 0.1075 s": lambda raw: changed(raw, "timestamps", 4, 0.43),
}


@pytest.mark.parametrize("problem", CASES)
def test_problems_are_reported(raw, problem):
    assert any(line.startswith(problem) for line in validate(to_scenario(CASES[problem](raw))))


def test_timestamps_of_an_edited_scenario_are_checked(raw):
    edited = changed(to_scenario(raw), "timestamps", 3, 0.1)
    assert "timestamps do not increase" in validate(edited)


def test_a_lane_of_one_point_is_reported():
    assert "1 lanes, lines or edges have a single point" in validate(to_scenario(small_scene()))


def test_a_truncated_map_is_reported(raw):
    points = np.tile(raw.point_xyz[:1], (20_000, 1)) + np.arange(20_000)[:, None] * 0.5
    cut = dataclasses.replace(raw, point_xyz=points, point_feature=np.arange(20_000) * 5 // 20_000)
    assert "the map has exactly 20000 points: the source cut it there" in validate(to_scenario(cut))


def test_a_missing_map_is_reported(raw):
    bare = dataclasses.replace(
        raw,
        point_xyz=np.zeros((0, 3)),
        point_feature=np.zeros(0, int),
        feature_id=np.zeros(0, int),
        feature_type=np.zeros(0, int),
        speed_limit=np.zeros(0),
        links=np.zeros((0, 3), int),
    )
    assert validate(to_scenario(bare)) == ["there is no map"]
