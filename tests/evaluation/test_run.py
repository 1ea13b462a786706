import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.evaluation.small import evaluate_into, read_rows, read_tables, small_config, small_scenes
from waymax_sim import results_dir
from waymax_sim.evaluation import Evaluation

ROOT = Path(__file__).parents[2]
TABLES = {"conditions.json", "rows.jsonl", "rows.parquet", "summary.json"}
# An evaluation in a process of its own, which dies in the middle of a line after a given number of appended pieces.
SCRIPT = """
import os, signal, sys
from pathlib import Path
from tests import conftest
from tests.evaluation.small import evaluate_into, small_config, small_scenes
from waymax_sim import results_dir
from waymax_sim.evaluation import Evaluation

append, lives = results_dir.append_rows, int(sys.argv[2])

def append_or_die(path, rows):
    global lives
    append(path, rows)
    print("written", flush=True)
    lives -= 1
    if lives == 0:
        path.open("a").write('{"index": 1, "fi')
        os.kill(os.getpid(), signal.SIGKILL)

results_dir.append_rows = append_or_die
evaluate_into(Path(sys.argv[1]), Evaluation(small_scenes(11, 3), small_config()))
"""


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    """Its programs are shared by the tests here."""
    return Evaluation(small_scenes(11, 3), small_config())


@pytest.fixture(scope="module")
def whole(evaluation, tmp_path_factory) -> Path:
    """The results of an uninterrupted evaluation."""
    out = tmp_path_factory.mktemp("whole")
    evaluate_into(out, evaluation)
    return out


def start(out: Path, lives: int = 0) -> subprocess.Popen:
    command = [sys.executable, "-c", SCRIPT, str(out), str(lives)]
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE)


def test_rows_are_in_order_and_name_their_scenes(evaluation, whole):
    rows, runs = read_rows(whole), evaluation.config.runs
    keys = [(row["index"], (row["policy"], row["traffic"], row["seed"])) for row in rows]
    assert keys == [(index, each) for index in range(11) if index != 3 for each in runs]
    assert list(rows[0])[:5] == ["index", "file", "record", "scenario_id", "digest"]
    assert list(rows[0])[8:] == ["kinematic_infeasibility", "log_divergence"]


def test_columns_are_the_same_in_parquet(whole):
    parquet = pytest.importorskip("pyarrow.parquet")
    assert parquet.read_table(whole / "rows.parquet").to_pylist() == read_rows(whole)


def test_the_summary_counts_and_averages(whole):
    summary, rows = json.loads((whole / "summary.json").read_text()), read_rows(whole)
    assert (summary["num_scenes"], summary["num_failed"]) == (10, 1)
    (failure,) = summary["failures"]
    assert (failure["file"], failure["record"], failure["field"]) == ("small", 3, "data")
    assert (failure["error"], failure["remedy"], failure["policy"]) == ("is broken", "copy it again", None)
    for result in summary["results"]:
        values = [row["log_divergence"] for row in rows if row["policy"] == result["policy"]]
        item = result["metrics"]["log_divergence"]
        assert len(values) == 20
        assert item["value"] == pytest.approx(np.mean(values))
        assert item["low"] <= item["value"] <= item["high"]
        assert (item["num_valid_scenes"], item["unit"], item["better"]) == (10, "m", "lower")
    assert summary["conditions"].keys() >= {"path", "policies", "traffic", "seeds", "versions", "device", "data_hash"}


def test_it_resumes_after_any_cut(evaluation, whole, tmp_path):
    (part,) = (whole / "parts").iterdir()
    text = part.read_bytes()
    for cut in (0, 1, text.index(b"\n"), text.index(b"\n") + 1, len(text) // 2, len(text) - 1):
        out = tmp_path / str(cut)
        (out / "parts").mkdir(parents=True)
        (out / "conditions.json").write_bytes((whole / "conditions.json").read_bytes())
        (out / "parts" / part.name).write_bytes(text[:cut])
        evaluate_into(out, evaluation)
        assert read_tables(out) == read_tables(whole)


def test_killed_twice_it_ends_like_an_uninterrupted_run(evaluation, whole, tmp_path):
    for _ in range(2):
        process = start(tmp_path, lives=2)
        assert process.communicate()[0].count(b"written") == 2
        assert process.returncode == -signal.SIGKILL
        assert not (tmp_path / "rows.jsonl").exists()
    evaluate_into(tmp_path, evaluation)
    assert read_tables(tmp_path) == read_tables(whole)


@pytest.mark.slow
def test_killed_ten_times_it_ends_like_an_uninterrupted_run(evaluation, whole, tmp_path):
    rng = np.random.default_rng(0)
    for _ in range(10):
        process = start(tmp_path)
        if rng.random() < 0.8:
            process.stdout.readline()
        time.sleep(rng.uniform(0.0, 0.02))
        process.kill()
        process.communicate()
    evaluate_into(tmp_path, evaluation)
    assert read_tables(tmp_path) == read_tables(whole)


def test_shards_add_up_to_the_whole(evaluation, whole, tmp_path):
    evaluate_into(tmp_path, evaluation, shard=(1, 2))
    assert not (tmp_path / "rows.jsonl").exists()
    evaluate_into(tmp_path, evaluation, shard=(0, 2))
    assert read_tables(tmp_path) == read_tables(whole)


def test_the_number_of_shards_may_change(evaluation, whole, tmp_path):
    evaluate_into(tmp_path, evaluation, shard=(1, 3), max_count=2)
    run = evaluate_into(tmp_path, evaluation)
    assert read_tables(tmp_path) == read_tables(whole)
    assert next(iter(run.results())) == run.num_runs - len(evaluation.config.runs)


def test_a_broken_record_changes_no_other_row_until_it_is_repaired(evaluation, whole, tmp_path):
    evaluate_into(tmp_path, Evaluation(small_scenes(11, 3, 8), evaluation.config))
    assert read_rows(tmp_path) == [row for row in read_rows(whole) if row["index"] != 8]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [failure["record"] for failure in summary["failures"]] == [3, 8]
    evaluate_into(tmp_path, evaluation)
    assert read_tables(tmp_path) == read_tables(whole)


def test_results_of_other_conditions_are_not_changed(whole):
    before = read_tables(whole)
    with pytest.raises(ValueError, match="different: metrics, seeds"):
        evaluate_into(whole, Evaluation(small_scenes(11, 3), small_config(metrics=("log_divergence",), seeds=(0,))))
    assert read_tables(whole) == before


def test_two_processes_cannot_evaluate_one_shard(evaluation, tmp_path):
    first = evaluate_into(tmp_path, evaluation, max_count=0)
    results = first.results()
    next(results)
    with pytest.raises(BlockingIOError, match="rows-00000-of-00001"):
        evaluate_into(tmp_path, evaluation)
    evaluate_into(tmp_path, evaluation, shard=(1, 2), max_count=0)
    results.close()
    evaluate_into(tmp_path, evaluation, max_count=0)


def test_incomplete_rows_are_removed(tmp_path):
    path = tmp_path / "rows.jsonl"
    assert results_dir.repair_jsonl(path) == []
    results_dir.append_rows(path, [{"a": 1}, {"a": None}])
    text = path.read_text()
    path.write_text(text + '{"a"')
    assert results_dir.repair_jsonl(path) == results_dir.read_rows(path) == [{"a": 1}, {"a": None}]
    assert path.read_text() == text


def test_json_is_strict_and_written_atomically(tmp_path):
    results_dir.write_json(tmp_path / "a.json", {"value": None})
    with pytest.raises(ValueError, match="JSON compliant"):
        results_dir.write_json(tmp_path / "a.json", {"value": float("nan")})
    assert results_dir.read_json(tmp_path / "a.json") == {"value": None}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_of_two_rows_with_one_key_the_last_one_counts(tmp_path):
    directory = results_dir.ResultsDir(tmp_path, key=("name",))
    directory.open({"seed": 0})
    with directory.lock():
        directory.append([{"name": "a", "value": 1}, {"name": "b", "value": 2}])
        directory.append([{"name": "a", "value": 3}])
    assert directory.rows() == {("a",): {"name": "a", "value": 3}, ("b",): {"name": "b", "value": 2}}
