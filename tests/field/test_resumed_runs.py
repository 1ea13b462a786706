"""Field reports on resumed runs: inputs that change between two runs of one command."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from behavior_models import Random
from tests.field.inputs import field_file
from tests.field.test_reliability import evaluate, json_lines
from waymax_sim.cli import main
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.loader import load
from waymax_sim.datasets.store.files import shard_name
from waymax_sim.evaluation.realism.run import RealismRun, open_run
from waymax_sim.results_dir import ResultsDir


@pytest.mark.compile_heavy
def test_files_that_are_added_or_changed_between_runs(tmp_path):
    scene = field_file("reliability/scene.json").read_text()
    (tmp_path / "a.json").write_text(scene)
    (tmp_path / "b.json").write_text(scene.replace("0123456789abcdef", "b"))
    assert evaluate(tmp_path / "*.json", tmp_path / "out") == 0
    first = json_lines(tmp_path / "out" / "rows.jsonl")
    (tmp_path / "0.json").write_text(scene.replace("0123456789abcdef", "zero"))
    (tmp_path / "a.json").write_text(scene.replace("8002.5", "8003.5"))
    assert evaluate(tmp_path / "*.json", tmp_path / "out") == 0
    rows = json_lines(tmp_path / "out" / "rows.jsonl")
    assert [(row["index"], Path(row["file"]).name) for row in rows] == [(0, "0.json"), (1, "a.json"), (2, "b.json")]
    assert rows[1]["digest"] != first[0]["digest"] and rows[2] == first[1] | {"index": 2}
    (tmp_path / "b.json").unlink()
    assert evaluate(tmp_path / "*.json", tmp_path / "out") == 0
    assert json_lines(tmp_path / "out" / "rows.jsonl") == rows[:2]


def open_realism(out: Path, scene: Path) -> RealismRun:
    options = {"num_rollouts": 2, "config": "2025", "seed": 0, "parity": True, "keeps_rollouts": False}
    return open_run(out, load(scene), path=str(scene), policy=("random", Random()), file=None, **options)


def test_two_processes_score_no_scene_twice(tmp_path, monkeypatch):
    """The second process was started before the first one had written its row."""
    scene = tmp_path / "scene.json"
    shutil.copy(field_file("reliability/scene.json"), scene)
    first, second = open_realism(tmp_path / "out", scene), open_realism(tmp_path / "out", scene)
    assert first.remaining == second.remaining == [0]
    row = {"file": str(scene), "record": 0, "digest": "other", "scenario_id": "a"}
    ResultsDir(tmp_path / "out", ("file", "record")).append([row])
    monkeypatch.setattr(RealismRun, "_evaluate", lambda self: iter(()))
    assert [*second.results()] == [] and second.remaining == [] and second.rows == [row]
    # A row of other content is removed once the file has changed.
    os.utime(scene, ns=(0, 0))
    third = open_realism(tmp_path / "out", scene)
    assert third.rows == [] and third.remaining == [0]


def test_a_changed_submission_is_another_run(tmp_path):
    scene, file = field_file("reliability/scene.json"), tmp_path / "a.npz"
    options = {"num_rollouts": 2, "config": "2025", "seed": 0, "parity": True, "keeps_rollouts": False}
    file.write_bytes(b"1")
    open_run(tmp_path / "out", load(scene), path="x", policy=None, file=file, **options)
    file.write_bytes(b"2")
    with pytest.raises(ValueError, match="different: source_hash"):
        open_run(tmp_path / "out", load(scene), path="x", policy=None, file=file, **options)


def test_a_submission_has_no_scene_twice(tmp_path):
    run = open_realism(tmp_path / "out", field_file("reliability/scene.json"))
    run.rows[:] = [{"scenario_id": name, "file": name, "record": 0} for name in "aba"]
    with pytest.raises(DataError, match="1 scenes have the id of another scene, such as 'a'"):
        run.write_submission(tmp_path / "x.tar.gz", account="", method="")
    assert not (tmp_path / "x.tar.gz").exists()


def test_a_changed_source_is_converted_again(tmp_path):
    scene = field_file("reliability/scene.json").read_text()
    (tmp_path / "a.json").write_text(scene)
    command = ["convert", str(tmp_path / "a.json"), "--out", str(tmp_path / "store")]
    assert main(command) == 0
    before = load(tmp_path / "store")[0].log.xyz
    (tmp_path / "a.json").write_text(scene.replace("8002.5", "8003.5"))
    assert main(command) == 0
    assert (np.asarray(load(tmp_path / "store")[0].log.xyz) != before).any()


def test_a_truncated_file_of_a_store_is_converted_again(tmp_path):
    command = ["convert", str(field_file("reliability/scene.json")), "--out", str(tmp_path)]
    assert main(command) == 0
    shard = tmp_path / shard_name(0, 1)
    content = shard.read_bytes()
    shard.write_bytes(content[:-100])
    with pytest.raises(DataError):
        load(tmp_path)[0]
    assert main(command) == 0
    assert shard.read_bytes() == content
