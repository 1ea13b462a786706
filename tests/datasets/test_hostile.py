"""Broken and malicious records of every format: each has one known outcome. Damage at random is in `test_fuzz`."""

import dataclasses
import json
import pickle
import tracemalloc

import numpy as np
import pytest

from tests.datasets.encode import example, features_of, message, scenario_of, small_scene
from tests.datasets.encode_files import gpudrive_of, nocturne_of, scenarionet_of
from waymax_sim.datasets.encoding import tfrecord
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.loader import load
from waymax_sim.datatypes.validate import validate

FORMATS = {
    "example.tfrecord": lambda raw: tfrecord.encode_record(example(features_of(raw))),
    "proto.tfrecord": lambda raw: tfrecord.encode_record(message(scenario_of(raw))),
    "gpudrive.json": lambda raw: json.dumps(gpudrive_of(raw)).encode(),
    "nocturne.json": lambda raw: json.dumps(nocturne_of(raw)).encode(),
    "scenarionet.pkl": lambda raw: pickle.dumps(scenarionet_of(raw)),
}
MILLION = 10**6


def changed(field, index, value):
    def change(raw):
        values = getattr(raw, field).copy()
        values[index] = value
        return dataclasses.replace(raw, **{field: values})

    return change


def without_map(raw):
    nothing = np.zeros(0, int)
    return dataclasses.replace(
        raw,
        point_xyz=np.zeros((0, 3)),
        point_feature=nothing,
        feature_id=nothing,
        feature_type=nothing,
        speed_limit=np.zeros(0),
        links=np.zeros((0, 3), int),
    )


REFUSED = {
    "a position that is NaN": (changed("xyz", (3, 0), np.nan), "xyz"),
    "an infinite heading": (changed("yaw", (3, 0), np.inf), "yaw"),
    "a velocity that is NaN": (changed("velocity", (3, 0, 1), np.nan), "velocity"),
    "a map point that is NaN": (changed("point_xyz", 0, np.nan), "point_xyz"),
    "a map point that is too far": (changed("point_xyz", 0, 1e12), "point_xyz"),
}
# Fault -> (change, message of `validate`, formats that can express it).
REPORTED = {
    "an id used twice": (
        changed("agent_id", 1, 3),
        "1 agent ids are used twice",
        {"example.tfrecord", "proto.tfrecord", "gpudrive.json"},
    ),
    "no ego": (
        lambda raw: dataclasses.replace(raw, sdc_index=-1),
        "no agent is marked as the sdc",
        {"example.tfrecord", "proto.tfrecord", "gpudrive.json", "nocturne.json"},
    ),
    "no map": (without_map, "there is no map", set(FORMATS)),
}


def written(folder, name, data):
    (folder / name).write_bytes(data)
    return load(folder / name)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("fault", REFUSED)
def test_invalid_numbers_are_refused(tmp_path, name, fault):
    change, field = REFUSED[fault]
    scenarios = written(tmp_path, name, FORMATS[name](change(small_scene())))
    with pytest.raises(DataError, match="not finite or too large") as caught:
        scenarios[0]
    assert (caught.value.file, caught.value.field) == (str(tmp_path / name), field)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("fault", REPORTED)
def test_odd_scenes_are_reported(tmp_path, name, fault):
    change, line, formats = REPORTED[fault]
    scenario = written(tmp_path, name, FORMATS[name](change(small_scene())))[0]
    assert (line in validate(scenario)) == (name in formats)


# The reader of tf.Examples, which have a clock per agent, takes uniform steps instead.
@pytest.mark.parametrize("name", ["proto.tfrecord", "scenarionet.pkl"])
@pytest.mark.parametrize(("time", "problem"), [(-5.0, "do not increase"), (0.49, "not equal")])
def test_clocks_that_cannot_be_simulated_are_refused(tmp_path, name, time, problem):
    scenarios = written(tmp_path, name, FORMATS[name](changed("timestamps", 3, time)(small_scene())))
    with pytest.raises(DataError, match=problem) as caught:
        scenarios[0]
    assert caught.value.field == "timestamps" and caught.value.remedy


def million_objects(name: str) -> tuple[bytes, str]:
    """A record that declares a million objects, and the expected message."""
    raw = small_scene()
    if name == "example.tfrecord":
        features = features_of(raw) | {"state/id": np.zeros(MILLION, np.float32)}
        return tfrecord.encode_record(example(features)), "not a multiple of 1000000"
    if name == "proto.tfrecord":
        return tfrecord.encode_record(
            message(scenario_of(raw)) + b"\x12\x00" * MILLION
        ), "has 0 states for 5 timestamps"
    if name == "scenarionet.pkl":
        record = scenarionet_of(raw) | {"tracks": {str(index): {} for index in range(MILLION)}}
        return pickle.dumps(record), "more than"
    record = (gpudrive_of if name == "gpudrive.json" else nocturne_of)(raw)
    return json.dumps(record | {"objects": [{}] * MILLION}).encode(), "missing"


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_a_million_objects_are_refused_in_bounded_memory(tmp_path, name):
    data, message = million_objects(name)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=message):
            written(tmp_path, name, data)[0]
        assert tracemalloc.get_traced_memory()[1] < 600 * 2**20
    finally:
        tracemalloc.stop()


def test_a_message_that_announces_more_than_there_is(tmp_path):
    """A length of 2**60 in a file of a few bytes is an error, not memory."""
    huge = b"\x12" + b"\x80" * 8 + b"\x10"
    for record in (huge, b"\x0a" + huge[1:], message(scenario_of(small_scene())) + huge):
        with pytest.raises(DataError):
            written(tmp_path, "scenes.tfrecord", tfrecord.encode_record(record))[0]


class Trick:
    """A pickle that runs a program when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("wrapped", [lambda trick: trick, lambda trick: {"tracks": {"1": trick}}])
def test_pickles_run_nothing(tmp_path, wrapped):
    trap = tmp_path / "trap"
    with pytest.raises(DataError):
        written(tmp_path, "scene.pkl", pickle.dumps(wrapped(Trick(trap)))).read(0)
    assert not trap.exists()
