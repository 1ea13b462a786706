"""Records of testing splits: they end with the current step, in every format."""

import dataclasses
import json
import pickle

import numpy as np
import pytest

from tests.datasets.encode import example, features_of, message, scenario_of
from tests.datasets.encode_argoverse2 import archive, rows, table_bytes
from tests.datasets.encode_files import gpudrive_of, scenarionet_of
from tests.scenes import raw_scene
from waymax_sim.datasets.encoding import tfrecord
from waymax_sim.datasets.formats.write import write_scenes
from waymax_sim.datasets.loader import load
from waymax_sim.datasets.testing_split import NO_FUTURE, add_task_steps

NOW = 10


def known_scene(**changes):
    """Three agents over 11 steps, the last of which is the current one; numbers are exact in float32."""
    scene = raw_scene(num_steps=NOW + 1, current_step=NOW, timestamps=np.arange(NOW + 1) / 10)
    return dataclasses.replace(scene, **changes)


def as_examples(folder):
    """tf.Examples with a future that is absent, and with one that is not valid."""
    features = features_of(known_scene(), samples=1000)
    absent = {key: values for key, values in features.items() if "/future/" not in key}
    widths = {"state": 4, "traffic_light_state": 3}
    invalid = dict(absent)
    for key, values in features.items():
        if "/current/" in key:
            group = key.split("/")[0]
            shape = (4, 80) if group == "state" else (80, widths[group])
            value = 0 if key.endswith("/valid") else -1
            invalid[key.replace("current", "future")] = np.full(shape, value, values.dtype)
    for name, record in (("absent", absent), ("invalid", invalid)):
        path = folder / f"{name}.tfrecord"
        path.write_bytes(tfrecord.encode_record(example(record)))
        yield path


def as_files(folder):
    """The scene in each format that has a current step."""
    scene = known_scene()
    yield from as_examples(folder)
    path = folder / "proto.tfrecord"
    path.write_bytes(tfrecord.encode_record(message(scenario_of(scene))))
    yield path
    path = folder / "scene.json"
    path.write_text(json.dumps(gpudrive_of(scene)))
    yield path
    path = folder / "scene.pkl"
    path.write_bytes(pickle.dumps(scenarionet_of(scene), 4))
    yield path


def test_every_format_gives_steps_to_simulate(tmp_path):
    scene = known_scene()
    for path in as_files(tmp_path):
        raw = load(path).read(0)
        assert (len(raw.timestamps), raw.current_step) == (91, NOW), path
        np.testing.assert_allclose(raw.timestamps, np.arange(91) / 10, atol=1e-6)
        np.testing.assert_allclose(raw.xyz[: NOW + 1], scene.xyz, atol=1e-4)
        assert raw.valid[: NOW + 1].all() and not raw.valid[NOW + 1 :].any()
        assert not raw.signal_valid[NOW + 1 :].any()
        assert raw.missing_fields[-1] == NO_FUTURE
        assert load(path)[0].num_steps == 91


@pytest.mark.parametrize("format", ["tf_example", "scenario_proto"])
def test_testing_records_are_written_and_read_again(tmp_path, format):
    raw = add_task_steps(known_scene())
    write_scenes(tmp_path / "a.tfrecord", [raw], format)
    again = load(tmp_path / "a.tfrecord").read(0)
    assert again.current_step == NOW and NO_FUTURE in again.missing_fields
    np.testing.assert_array_equal(again.valid, raw.valid)
    np.testing.assert_allclose(again.timestamps, raw.timestamps, atol=1e-6)


def test_the_testing_split_of_argoverse_has_60_steps_to_simulate(tmp_path):
    (tmp_path / "log_map_archive_abc.json").write_text(json.dumps(archive()))
    for count in (50, 110):
        records = [row | {"observed": True, "num_timestamps": count} for row in rows("AV", steps=range(50))]
        (tmp_path / "scenario_abc.parquet").write_bytes(table_bytes(records))
        raw = load(tmp_path / "scenario_abc.parquet").read(0)
        assert (len(raw.timestamps), raw.current_step) == (110, 49)
        assert raw.valid[:50].all() and not raw.valid[50:].any() and NO_FUTURE in raw.missing_fields


@pytest.mark.parametrize(
    "scene",
    [
        raw_scene(num_steps=12, current_step=11),  # another length
        raw_scene(num_steps=11, current_step=9),  # a future of one step
        raw_scene(num_steps=11, current_step=10, timestamps=0.5 * np.arange(11)),  # another time step
        raw_scene(num_steps=11, current_step=10, timestamps=np.full(11, np.nan)),
    ],
)
def test_other_records_stay_as_they_are(scene):
    assert add_task_steps(scene) is scene


def test_agents_that_are_never_valid_are_dropped_except_for_the_sdc():
    valid = np.ones((NOW + 1, 3), bool)
    valid[:, 1:] = False
    raw = add_task_steps(known_scene(valid=valid, sdc_index=2))
    assert raw.agent_id.tolist() == [100, 102] and raw.sdc_index == 1
