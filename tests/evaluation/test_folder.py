import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.evaluation.plans import made, plan, read_rows, run, tables
from waymax_sim.evaluation import Evaluation, report

ROOT = Path(__file__).parents[2]
TABLES = {"conditions.json", "rows.jsonl", "rows.parquet", "summary.json"}
# An evaluation in a process of its own; it dies in the middle of a line once it has written so many of them.
SCRIPT = """
import os, signal, sys
from pathlib import Path
from tests import conftest
from tests.evaluation.plans import made, plan, run
from waymax_sim.evaluation import Evaluation, report

append, lives = report.append_rows, int(sys.argv[2])

def append_or_die(path, rows):
    global lives
    append(path, rows)
    print("written", flush=True)
    lives -= 1
    if lives == 0:
        path.open("a").write('{"index": 1, "fi')
        os.kill(os.getpid(), signal.SIGKILL)

report.append_rows = append_or_die
run(Path(sys.argv[1]), Evaluation(made(11, 3), plan()))
"""


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    """Its programs are shared by the tests here."""
    return Evaluation(made(11, 3), plan())


@pytest.fixture(scope="module")
def whole(evaluation, tmp_path_factory) -> Path:
    """The results of an evaluation that nothing happened to."""
    out = tmp_path_factory.mktemp("whole")
    run(out, evaluation)
    return out


def start(out: Path, lives: int = 0) -> subprocess.Popen:
    command = [sys.executable, "-c", SCRIPT, str(out), str(lives)]
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE)


def test_rows_are_in_order_and_say_what_they_are_about(evaluation, whole):
    rows, runs = read_rows(whole), evaluation.plan.runs
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
    assert (failure["file"], failure["record"], failure["field"]) == ("made", 3, "data")
    assert (failure["error"], failure["remedy"], failure["policy"]) == ("is broken", "copy it again", None)
    for result in summary["results"]:
        values = [row["log_divergence"] for row in rows if row["policy"] == result["policy"]]
        item = result["metrics"]["log_divergence"]
        assert len(values) == 20
        assert item["value"] == pytest.approx(np.mean(values))
        assert item["low"] <= item["value"] <= item["high"]
        assert (item["num_valid_scenes"], item["unit"], item["better"]) == (10, "m", "lower")
    assert summary["conditions"].keys() >= {"path", "policies", "traffic", "seeds", "versions", "device", "data_hash"}


def test_it_goes_on_after_any_cut(evaluation, whole, tmp_path):
    (part,) = (whole / "parts").iterdir()
    text = part.read_bytes()
    for cut in (0, 1, text.index(b"\n"), text.index(b"\n") + 1, len(text) // 2, len(text) - 1):
        out = tmp_path / str(cut)
        (out / "parts").mkdir(parents=True)
        (out / "conditions.json").write_bytes((whole / "conditions.json").read_bytes())
        (out / "parts" / part.name).write_bytes(text[:cut])
        run(out, evaluation)
        assert tables(out) == tables(whole)


def test_killed_twice_it_ends_as_if_nothing_had_happened(evaluation, whole, tmp_path):
    for _ in range(2):
        process = start(tmp_path, lives=2)
        assert process.communicate()[0].count(b"written") == 2
        assert process.returncode == -signal.SIGKILL
        assert not (tmp_path / "rows.jsonl").exists()
    run(tmp_path, evaluation)
    assert tables(tmp_path) == tables(whole)


@pytest.mark.slow
def test_killed_ten_times_it_ends_as_if_nothing_had_happened(evaluation, whole, tmp_path):
    rng = np.random.default_rng(0)
    for _ in range(10):
        process = start(tmp_path)
        if rng.random() < 0.8:
            process.stdout.readline()
        time.sleep(rng.uniform(0.0, 0.02))
        process.kill()
        process.communicate()
    run(tmp_path, evaluation)
    assert tables(tmp_path) == tables(whole)


def test_shards_add_up_to_the_whole(evaluation, whole, tmp_path):
    run(tmp_path, evaluation, shard=(1, 2))
    assert not (tmp_path / "rows.jsonl").exists()
    run(tmp_path, evaluation, shard=(0, 2))
    assert tables(tmp_path) == tables(whole)


def test_shards_may_change_on_the_way(evaluation, whole, tmp_path):
    run(tmp_path, evaluation, shard=(1, 3), at_most=2)
    folder = run(tmp_path, evaluation)
    assert tables(tmp_path) == tables(whole)
    assert next(iter(folder.results())) == folder.num_runs - len(evaluation.plan.runs)


def test_a_broken_record_changes_nothing_else_until_it_is_mended(evaluation, whole, tmp_path):
    run(tmp_path, Evaluation(made(11, 3, 8), evaluation.plan))
    assert read_rows(tmp_path) == [row for row in read_rows(whole) if row["index"] != 8]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [failure["record"] for failure in summary["failures"]] == [3, 8]
    run(tmp_path, evaluation)
    assert tables(tmp_path) == tables(whole)


def test_results_of_other_conditions_are_left_alone(whole):
    before = tables(whole)
    with pytest.raises(ValueError, match="different: metrics, seeds"):
        run(whole, Evaluation(made(11, 3), plan(metrics=("log_divergence",), seeds=(0,))))
    assert tables(whole) == before


def test_rows_are_mended(tmp_path):
    path = tmp_path / "rows.jsonl"
    assert report.mend(path) == []
    report.append_rows(path, [{"a": 1}, {"a": None}])
    text = path.read_text()
    path.write_text(text + '{"a"')
    assert report.mend(path) == report.read_rows(path) == [{"a": 1}, {"a": None}]
    assert path.read_text() == text


def test_json_is_strict_and_written_whole(tmp_path):
    report.write_json(tmp_path / "a.json", {"value": None})
    with pytest.raises(ValueError, match="JSON compliant"):
        report.write_json(tmp_path / "a.json", {"value": float("nan")})
    assert report.read_json(tmp_path / "a.json") == {"value": None}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
