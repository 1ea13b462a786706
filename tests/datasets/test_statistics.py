"""Statistics of scenes with known numbers."""

import dataclasses
import math

import numpy as np

from tests.data import recorded
from tests.scenes import raw_scene
from waymax_sim.datasets.loader import load
from waymax_sim.datasets.statistics import statistics, table
from waymax_sim.datatypes.agents import PEDESTRIAN


def test_nothing_gives_nothing():
    assert statistics([]) == {}


def test_a_row_of_cars_by_hand():
    found = statistics([raw_scene(num_agents=4)] * 2)
    assert set(found["speed of a moving vehicle, m/s"].values()) == {10.0}
    assert set(found["acceleration of a moving vehicle, m/s²"].values()) == {0.0}
    assert set(found["distance to the nearest agent now, m"].values()) == {20.0}
    assert set(found["agents per scene"].values()) == {4.0}
    assert set(found["valid steps of an agent"].values()) == {21.0}
    assert found["share of vehicles"]["50 %"] == 1.0
    assert math.isnan(found["speed of a moving pedestrian, m/s"]["50 %"])


def test_only_valid_states_count():
    raw = raw_scene(num_agents=4)
    valid = raw.valid.copy()
    valid[3:8, 1] = False
    broken = np.where(valid[..., None], raw.velocity, np.nan)
    found = statistics([dataclasses.replace(raw, valid=valid, velocity=broken)])
    assert set(found["speed of a moving vehicle, m/s"].values()) == {10.0}
    assert set(found["acceleration of a moving vehicle, m/s²"].values()) == {0.0}
    assert found["distance to the nearest agent now, m"]["99 %"] > 20.0
    assert found["valid steps of an agent"]["1 %"] < 17.0


def test_kinds_and_turns_by_hand():
    raw = raw_scene(num_agents=4)
    turning = np.tile(np.mod(0.05 * np.arange(21.0)[:, None] + 3.0, 2 * np.pi), 4)
    found = statistics([dataclasses.replace(raw, agent_type=np.array([1, 1, 2, PEDESTRIAN]), yaw=turning)])
    assert found["share of pedestrians"]["50 %"] == 0.5
    np.testing.assert_allclose(found["absolute yaw rate of a vehicle above 2 m/s, rad/s"]["90 %"], 0.5)


def test_the_table_has_a_column_per_source():
    one = statistics([raw_scene(num_agents=4)])
    lines = table({"ours": one, "theirs": one}).splitlines()
    assert lines[:2] == ["| | ours | theirs |", "|---|---|---|"]
    assert "| agents per scene | 4 / 4 / 4 | 4 / 4 / 4 |" in lines
    assert len(lines) == 2 + len(one)


def test_synthetic_scenes_resemble_a_recorded_one():
    theirs = statistics([load(recorded("womd/scenario_637f20cafde22ff8.tfrecord")).read(0)])
    ours = statistics(load("synthetic:3:10").read(index) for index in range(10))
    for name, factor in (
        ("speed of a moving vehicle, m/s", 2.5),
        ("speed of a moving pedestrian, m/s", 1.5),
        ("distance to the nearest agent now, m", 2.0),
        ("valid steps of an agent", 2.5),
        ("map points per scene", 3.0),
    ):
        ratio = ours[name]["50 %"] / theirs[name]["50 %"]
        assert 1 / factor < ratio < factor, name
    name = "acceleration of a moving vehicle, m/s²"
    assert 0.5 < ours[name]["90 %"] / theirs[name]["90 %"] < 2.0
