"""Paths, sequences, and damaged files."""

import dataclasses
import pickle

import numpy as np
import pytest

from tests.datasets.encode import example, features_of, message, scenario_of, small_scene
from waymax_sim.datasets.encoding import tfrecord
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.loader import load
from waymax_sim.datatypes.scenario import Scenario


def proto(scenario_id):
    return message(scenario_of(dataclasses.replace(small_scene(), scenario_id=scenario_id)))


def tf_example(scenario_id):
    return example(features_of(dataclasses.replace(small_scene(), scenario_id=scenario_id)))


def ids(scenarios):
    return [scenario.scenario_id for scenario in scenarios]


@pytest.fixture
def folder(tmp_path):
    """Two shards of two and one scenes, both formats in the first."""
    tfrecord.write_records(tmp_path / "scenes-00000-of-00002", [proto("a"), tf_example("b")])
    tfrecord.write_records(tmp_path / "scenes-00001-of-00002", [proto("c")])
    return tmp_path


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 0x10
    path.write_bytes(content)


def test_one_file_may_hold_both_formats(folder):
    assert ids(load(folder / "scenes-00000-of-00002")) == ["a", "b"]


def test_shards_and_patterns_are_sorted(folder):
    assert ids(load(f"{folder}/scenes@2")) == ids(load(f"{folder}/scenes-*")) == ["a", "b", "c"]
    (folder / "scenes-folder").mkdir()
    assert len(load(f"{folder}/scenes-*")) == 3


def test_a_file_whose_name_looks_like_a_pattern(folder):
    (folder / "scenes-00001-of-00002").rename(folder / "odd[1]@3")
    assert ids(load(folder / "odd[1]@3")) == ["c"]


def test_scenarios_are_a_sequence(folder):
    scenarios = load(f"{folder}/scenes@2")
    assert len(scenarios) == 3
    assert isinstance(scenarios[0], Scenario)
    assert scenarios[-1].scenario_id == scenarios[2].scenario_id == "c"
    assert ids(scenarios[1:]) == ["b", "c"]
    assert ids(scenarios[::-1][:2]) == ["c", "b"]
    assert len(scenarios[3:]) == 0
    with pytest.raises(IndexError):
        scenarios[3]
    with pytest.raises(IndexError):
        scenarios[1:][2]


def test_sources_and_raw_scenes(folder):
    scenarios = load(f"{folder}/scenes@2")
    assert scenarios.source(1) == (f"{folder}/scenes-00000-of-00002", 1)
    assert scenarios[1:].source(-1) == (f"{folder}/scenes-00001-of-00002", 0)
    raw = scenarios.read(2)
    assert raw.scenario_id == "c"
    np.testing.assert_array_equal(raw.point_xyz, small_scene().point_xyz)


def test_padding_is_optional(folder):
    assert load(f"{folder}/scenes@2")[0].num_agents == 8
    assert load(f"{folder}/scenes@2", pad_to_bucket=False)[1:][0].num_agents == 3


def test_scenarios_can_be_sent_to_other_processes(folder):
    scenarios = load(f"{folder}/scenes@2")
    assert ids(pickle.loads(pickle.dumps(scenarios))) == ids(scenarios)


def test_a_bad_record_is_named_and_can_be_skipped(folder):
    path = folder / "scenes-00000-of-00002"
    flip(path, 40)
    scenarios = load(f"{folder}/scenes@2")
    assert len(scenarios) == 3 and scenarios.problems == []
    with pytest.raises(DataError) as caught:
        scenarios[0]
    assert (caught.value.file, caught.value.record) == (str(path), 0)
    outcomes = list(scenarios.iter_results())
    assert [source for source, _ in outcomes] == [
        (str(path), 0),
        (str(path), 1),
        (f"{folder}/scenes-00001-of-00002", 0),
    ]
    assert isinstance(outcomes[0][1], DataError)
    assert ids(scenario for _, scenario in outcomes[1:]) == ["b", "c"]


def test_invalid_values_are_named_with_their_location(tmp_path):
    fields = scenario_of(small_scene())
    fields[2][0][3][2][2] = float("nan")
    tfrecord.write_records(tmp_path / "scene", [message(fields)])
    scenarios = load(tmp_path / "scene")
    with pytest.raises(DataError, match="scene, record 0, field xyz: 1 values are not finite"):
        scenarios[0]


def test_broken_framing_loses_only_later_records(folder):
    path = folder / "scenes-00000-of-00002"
    flip(path, 12 + len(proto("a")) + 4)
    scenarios = load(f"{folder}/scenes@2")
    assert ids(scenarios) == ["a", "c"]
    (problem,) = scenarios.problems
    assert (problem.file, problem.record, problem.field) == (str(path), 1, "length checksum")


def test_a_bad_file_among_good_ones_is_a_problem(folder):
    (folder / "scenes-a").touch()
    (folder / "scenes-b").write_bytes(b"\xff\xd8\xff\xe0\0\x10JFIF" * 9)
    scenarios = load(f"{folder}/scenes-*")
    assert ids(scenarios) == ["a", "b", "c"]
    assert [problem.file for problem in scenarios.problems] == [f"{folder}/scenes-a", f"{folder}/scenes-b"]


@pytest.mark.parametrize("data", [b"", b"\x08\x01", message({1: [1.0, 2.0]}), message({9: "x"})])
def test_other_records_are_refused(tmp_path, data):
    tfrecord.write_records(tmp_path / "other", [data])
    with pytest.raises(DataError, match=r"neither a tf\.Example nor a Scenario proto"):
        load(tmp_path / "other")[0]


def test_missing_or_empty_files_are_refused_with_a_remedy(tmp_path, folder):
    (tmp_path / "empty").touch()
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0\0\x10JFIF" * 9)
    for name in ("absent", "absent-*", "empty", "photo.jpg", "scenes@3", "scenes@0", "scenes@99999", ""):
        path = tmp_path / name if name else tmp_path
        with pytest.raises(DataError) as caught:
            load(path)
        assert caught.value.remedy and caught.value.file.startswith(str(tmp_path))


def test_missing_shards_are_counted(folder):
    with pytest.raises(DataError, match=r"scenes-00000-of-00003: 3 of 3 shards are missing"):
        load(f"{folder}/scenes@3")
    (folder / "scenes-00001-of-00002").unlink()
    with pytest.raises(DataError, match=r"scenes-00001-of-00002: 1 of 2 shards are missing"):
        load(f"{folder}/scenes@2")


def test_synthetic_scenes_are_the_same_each_time():
    scenarios = load("synthetic:3:2")
    assert len(scenarios) == 2
    assert scenarios.source(1) == ("synthetic:3:2", 1)
    again = load("synthetic:3:5")[1]
    np.testing.assert_array_equal(scenarios[1].log.xyz, again.log.xyz)
    assert scenarios[0].scenario_id != again.scenario_id


@pytest.mark.parametrize("path", ["synthetic:", "synthetic:1", "synthetic:1:0", "synthetic:a:3", "synthetic:-1:3"])
def test_synthetic_needs_a_seed_and_a_count(path):
    with pytest.raises(DataError, match="SEED:COUNT"):
        load(path)
