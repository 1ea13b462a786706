"""Conversion: content of a store, skipped scenes, and resumption after a kill."""

import json
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from behavior_models import LogReplay
from tests.data import recorded
from tests.datasets.encode import message, scenario_of, small_scene
from tests.datasets.store.test_codec import assert_identical, leaves
from tests.datasets.test_loader import flip
from waymax_sim.cli import main
from waymax_sim.datasets import convert as module
from waymax_sim.datasets.convert import convert
from waymax_sim.datasets.encoding import tfrecord
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.loader import load, load_all
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.datasets.store.codec import MAGIC
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.env import Env, EnvConfig, rollout

pytest.importorskip("array_record", reason="array_record is not installed: stores can be read, but not written")
ROOT = Path(__file__).parents[2]


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def small_file(path: Path, names: str = "abcdef") -> Path:
    """A file of small scenes that differ in their ids."""
    fields = scenario_of(small_scene())
    tfrecord.write_records(path, [message(fields | {5: name}) for name in names])
    return path


def ids(scenarios) -> list[str]:
    return [scenario.scenario_id for scenario in scenarios]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return small_file(tmp_path_factory.mktemp("source") / "scenes.tfrecord")


def test_a_store_has_the_scenes_of_its_source_in_order(source, tmp_path):
    manifest = convert(load_all([source, "synthetic:0:1"]), tmp_path / "store", shard_size=3)
    assert manifest is not None and manifest["num_scenes"] == 7 and manifest["num_problems"] == 0
    assert [shard["scenes"] for shard in manifest["shards"]] == [3, 3, 1]
    for path in (tmp_path / "store", tmp_path / "store" / "manifest.json"):
        store = load(path)
        assert ids(store) == [*"abcdef", "synthetic-0-0"]
        assert store.source(4) == (str(tmp_path / "store" / "waymax_sim-scenes.array_record-00001-of-00003"), 1)


@pytest.fixture(scope="module")
def crossing(tmp_path_factory) -> tuple[Scenario, Scenario]:
    """A synthetic crossing with lights, and the same from a store."""
    scenarios, folder = load("synthetic:0:2")[1:], tmp_path_factory.mktemp("crossing")
    convert(scenarios, folder)
    return scenarios[0], load(folder)[0]


def test_scenes_of_a_store_equal_those_of_the_source(crossing):
    original, stored = crossing
    assert_identical(stored, original)


def test_a_raw_scene_of_a_store_gives_the_same_scenario(source, tmp_path):
    convert(load(source), tmp_path)
    raw = load(tmp_path).read(0)
    assert raw.scenario_id == "a" and raw.missing_fields == load(source).read(0).missing_fields
    again, stored = leaves(to_scenario(raw)), leaves(load(tmp_path)[0])
    for name, values in stored.items():
        np.testing.assert_allclose(again[name], values, atol=1e-6, err_msg=name)


def test_facts_are_known_without_decoding(source, tmp_path):
    convert(load(source), tmp_path)
    assert load(tmp_path).info(1) == load(source).info(1)
    info = load(tmp_path).info(1)
    assert (info.num_agents, info.num_vehicles, info.num_pedestrians, info.num_lights) == (3, 2, 1, 2)
    assert info.has_sdc and info.has_routes


def test_padding_is_optional(source, tmp_path):
    convert(load(source), tmp_path)
    assert load(tmp_path)[0].num_agents == 8
    assert load(tmp_path, pad_to_bucket=False)[0].num_agents == 3


def test_invalid_records_are_skipped_and_listed(source, tmp_path):
    broken = small_file(tmp_path / "broken.tfrecord")
    flip(broken, 40)
    manifest = convert(load_all([broken, source]), tmp_path / "store", shard_size=4)
    assert manifest is not None and manifest["num_scenes"] == 11
    (problem,) = manifest["problems"]
    assert (problem["file"], problem["record"], problem["field"]) == (str(broken), 0, "data checksum")
    assert ids(load(tmp_path / "store")) == [*"bcdef", *"abcdef"]


def test_truncated_files_are_listed(tmp_path):
    path = small_file(tmp_path / "cut.tfrecord")
    path.write_bytes(path.read_bytes()[:-20])
    manifest = convert(load(path), tmp_path / "store")
    assert manifest is not None and manifest["num_scenes"] == 5
    assert [problem["file"] for problem in manifest["problems"]] == [str(path)]


def test_errors_of_readers_do_not_stop_a_conversion(source, tmp_path, monkeypatch):
    record_features = module.record_features

    def fails(raw, *options):
        if raw.scenario_id == "c":
            raise IndexError("boom")
        return record_features(raw, *options)

    monkeypatch.setattr(module, "record_features", fails)
    manifest = convert(load(source), tmp_path)
    assert manifest is not None and manifest["num_scenes"] == 5
    assert manifest["problems"][0]["record"] == 2 and "boom" in manifest["problems"][0]["problem"]


def test_a_source_without_valid_records(tmp_path):
    path = tmp_path / "bad.tfrecord"
    tfrecord.write_records(path, [b"\x08\x01"])
    manifest = convert(load(path), tmp_path / "store")
    assert manifest is not None and manifest["num_scenes"] == 0 and manifest["num_problems"] == 1
    with pytest.raises(DataError, match="holds no scenes"):
        load(tmp_path / "store")


def test_parts_and_processes_make_the_same_store(source, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    convert(load(source), whole, shard_size=2)
    for part in (1, 0):
        assert convert(load(source), parts, shard_size=2, shard=(part, 2)) is None
        with pytest.raises(DataError):
            load(parts)
    convert(load(source), parts, shard_size=2, workers=2)
    assert content(parts) == content(whole)


def test_another_conversion_is_refused(source, tmp_path):
    convert(load(source), tmp_path / "store", shard_size=2)
    other = small_file(tmp_path / "other.tfrecord")
    with pytest.raises(DataError, match="another conversion"):
        convert(load(other), tmp_path / "store", shard_size=2)
    with pytest.raises(DataError, match="another conversion"):
        convert(load(source), tmp_path / "store", shard_size=4)


def test_an_incomplete_store_is_refused(source, tmp_path):
    convert(load(source), tmp_path, shard_size=2)
    (tmp_path / "waymax_sim-scenes.array_record-00001-of-00003").unlink()
    with pytest.raises(DataError, match="1 of 3 shards are missing"):
        load(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"shards": [{"file": "../x", "scenes": 1}]}', '{"shards": [1]}'])
def test_a_damaged_manifest_is_refused(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DataError):
        load(tmp_path)


def test_a_damaged_record_raises_when_it_is_read(source, tmp_path):
    convert(load(source), tmp_path)
    shard = Path(load(tmp_path).source(2)[0])
    # In the third scene, some bytes after its start.
    flip(shard, [match.start() for match in re.finditer(MAGIC, shard.read_bytes())][2] + 100)
    outcomes = [outcome for _, outcome in load(tmp_path).iter_results()]
    assert [isinstance(outcome, DataError) for outcome in outcomes] == [index == 2 for index in range(6)]
    assert all(error.file and error.record is not None for error in outcomes if isinstance(error, DataError))


def test_tfds_reads_a_store(source, tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets", reason="tensorflow-datasets is not installed")
    convert(load(source), tmp_path, shard_size=4)
    scenes = tfds.builder_from_directory(str(tmp_path)).as_data_source("scenes")
    assert [scene["scenario_id"] for scene in scenes] == [name.encode() for name in "abcdef"]
    assert scenes[0]["info"]["num_agents"] == 3 and "tensorflow" not in sys.modules


def test_the_command(source, tmp_path, capsys):
    assert main(["convert", str(source), "--out", str(tmp_path / "store")]) == 0
    assert "6 scenes" in capsys.readouterr().out
    assert main(["convert", str(source), "--out", str(tmp_path / "part"), "--shard", "1/2"]) == 0
    assert "without --shard" in capsys.readouterr().out
    assert main(["convert", str(source), "--out", str(tmp_path / "x"), "--shard", "2/2"]) == 2
    assert main(["convert", str(source), "--out", str(tmp_path / "x"), "--workers", "0"]) == 2
    assert main(["convert", "--out", str(tmp_path / "x")]) == 2
    assert main(["convert", str(tmp_path / "absent"), "--out", str(tmp_path / "x")]) == 1
    assert main(["info", str(tmp_path / "store")]) == 0


CHILD = """
import sys
import time
from waymax_sim.datasets.convert import convert
from waymax_sim.datasets.loader import load
if __name__ == "__main__":
    path, out, workers = sys.argv[1:]
    def progress(*done):
        print(*done, flush=True)
        time.sleep(0.02)
    convert(load(path), out, workers=int(workers), shard_size=2, progress=progress)
"""


def interrupted(path: str, out: Path, script: Path, workers: int, rng: random.Random) -> None:
    """Starts a conversion and kills it some time after it started to write."""
    command = [sys.executable, str(script), path, str(out), str(workers)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert child.stdout is not None
    for _ in range(rng.randint(1, 4)):
        child.stdout.readline()
    time.sleep(rng.uniform(0, 0.3))
    child.kill()
    child.wait()
    child.stdout.close()


def check_kills(tmp_path: Path, path: str, kills: int, workers: int) -> None:
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    convert(load(path), tmp_path / "whole", shard_size=2)
    rng = random.Random(kills)
    for _ in range(kills):
        interrupted(path, tmp_path / "resumed", script, workers, rng)
        assert not (tmp_path / "resumed" / "manifest.json").exists() or json.loads(
            (tmp_path / "resumed" / "manifest.json").read_text()
        )
    convert(load(path), tmp_path / "resumed", shard_size=2)
    assert content(tmp_path / "resumed") == content(tmp_path / "whole")


def test_two_kills_change_nothing(tmp_path):
    path = small_file(tmp_path / "scenes.tfrecord", "abcdefghijklmnop")
    check_kills(tmp_path, str(path), kills=2, workers=1)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_twenty_kills_change_nothing(tmp_path, workers):
    check_kills(tmp_path, "synthetic:0:60", kills=20, workers=workers)


@pytest.mark.slow
def test_recorded_scenes_convert(tmp_path):
    manifest = convert(load(recorded("womd/scenario_637f20cafde22ff8.tfrecord")), tmp_path)
    assert manifest is not None and manifest["num_problems"] == 0


def test_metrics_of_a_stored_scene_equal_those_of_the_original(crossing):
    env = Env(config=EnvConfig(controlled="none", metrics=("overlap", "offroad", "log_divergence"), rewards=()))
    simulate = jax.jit(lambda scenario: rollout(env, LogReplay(), scenario, jax.random.key(0), num_steps=30).metrics)
    original, stored = crossing
    for name, expected in simulate(original).items():
        metric = simulate(stored)[name]
        np.testing.assert_array_equal(metric.valid, expected.valid)
        np.testing.assert_array_equal(metric.value, expected.value, err_msg=name)


BARE = """
import sys
for name in ("array_record", "tree", "tensorflow_datasets"):
    sys.modules[name] = None
from waymax_sim.datasets.loader import load
print(*(scenario.scenario_id for scenario in load(sys.argv[1])))
"""


def test_a_store_is_read_without_the_packages_that_write_it(source, tmp_path):
    convert(load(source), tmp_path)
    command = [sys.executable, "-c", BARE, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.split() == list("abcdef")
