"""Files of scenes: written atomically, and read again."""

import dataclasses

import numpy as np
import pytest

from tests.datasets.encode import small_scene
from tests.datasets.random_scenes import random_scene
from tests.datasets.same import assert_same
from tests.datasets.test_raw_from_scenario import assert_bits
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.formats.write import unsupported_content, write_scenes
from waymax_sim.datasets.loader import load
from waymax_sim.datasets.raw_from_scenario import to_raw_scene
from waymax_sim.datasets.scene import to_scenario

NOT_IN_EXAMPLES = ("links", "speed_limit")


@pytest.mark.parametrize("format", ["tf_example", "scenario_proto"])
def test_raw_scenes_and_scenarios_are_written(tmp_path, format):
    path = tmp_path / "scenes.tfrecord"
    raw = small_scene()
    scenario = to_scenario(raw)
    assert write_scenes(path, iter([raw, scenario]), format) == 2
    found = load(path)
    ignore = NOT_IN_EXAMPLES if format == "tf_example" else ()
    assert_same(found.read(0), raw, ignore=ignore)
    # Times of a scenario are float32.
    np.testing.assert_array_equal(found.read(1).xyz[raw.valid], to_raw_scene(scenario).xyz[raw.valid])
    if format == "scenario_proto":
        assert_bits(found[1], scenario)
    assert [file.name for file in tmp_path.iterdir()] == ["scenes.tfrecord"]


def test_an_older_file_is_replaced_only_by_a_complete_one(tmp_path):
    path = tmp_path / "scenes.tfrecord"
    write_scenes(path, [small_scene()])
    before = path.read_bytes()
    bad = dataclasses.replace(small_scene(), current_step=99)
    with pytest.raises(DataError, match=r"scenes.tfrecord, record 1, field current_step"):
        write_scenes(path, [small_scene(), bad])
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["scenes.tfrecord"]
    write_scenes(path, [small_scene()] * 3, "scenario_proto")
    assert len(load(path)) == 3


def test_a_source_that_fails_leaves_nothing(tmp_path):
    def scenes():
        yield small_scene()
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_scenes(tmp_path / "scenes.tfrecord", scenes())
    assert not [*tmp_path.iterdir()]


def test_formats_have_names(tmp_path):
    # The annotation is checked too, by the type checks of tests.
    with pytest.raises((ValueError, TypeError)):
        write_scenes(tmp_path / "x", [], "proto")  # pyright: ignore


def test_points_beyond_the_given_slots_are_dropped(tmp_path):
    write_scenes(tmp_path / "x", [small_scene()], num_points=9)
    assert load(tmp_path / "x").read(0).feature_id.tolist() == [10, 2**24 + 11, 14]


def test_unsupported_content_is_listed():
    raw = small_scene()
    assert unsupported_content(raw) == ["4 links", "1 speed limits"]
    assert unsupported_content(raw, num_points=9) == ["7 map points", "4 links", "1 speed limits"]
    assert unsupported_content(raw, "scenario_proto") == []
    dark = dataclasses.replace(raw, signal_valid=raw.signal_valid & [True, False])
    odd = dataclasses.replace(dark, feature_type=np.array([2, 1, -1, 4, 17]))
    assert unsupported_content(odd, "scenario_proto") == [
        "lights that are never observed",
        "2 map features of unknown type",
    ]
    crowd = random_scene(1, steps=2, agents=140, features=0, lights=16, paths=2)
    assert unsupported_content(crowd) == ["12 agents"]
    assert unsupported_content(crowd, "scenario_proto") == ["routes"]
    many = dataclasses.replace(
        raw,
        signal_lane_id=np.arange(18),
        signal_state=np.ones((5, 18), int),
        signal_stop_point=np.zeros((5, 18, 3)),
        signal_valid=np.ones((5, 18), bool),
        links=np.zeros((0, 3), int),
        speed_limit=np.zeros(5),
        point_feature=np.where(raw.point_feature == 1, 0, raw.point_feature),
    )
    assert unsupported_content(many) == ["10 light observations", "1 map features without points"]


def test_all_other_content_is_restored(tmp_path):
    raw = dataclasses.replace(small_scene(), links=np.zeros((0, 3), int), speed_limit=np.zeros(5))
    assert unsupported_content(raw) == []
    write_scenes(tmp_path / "x", [raw])
    assert_same(load(tmp_path / "x").read(0), raw)
