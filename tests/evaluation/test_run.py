import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.evaluation.small import SmallSource, evaluate_into, read_rows, read_tables, small_config, small_scenes
from waymax_sim import results_dir
from waymax_sim.datasets.scenarios import Scenarios
from waymax_sim.datasets.scene import RawScene
from waymax_sim.evaluation import Evaluation, EvaluationConfig

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
    assert list(rows[0])[8:] == ["kinematic_infeasibility", "log_divergence", "difficulty"]


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


def test_lines_that_are_no_rows_count_as_missing(tmp_path):
    directory = results_dir.ResultsDir(tmp_path, key=("name",), part=(0, 1))
    directory.open({"seed": 0})
    lines = [
        b'{"name": "a"}',
        b'{"name": "b", "val',
        b"\xff\x00",
        b"[1]",
        b'{"other": 1}',
        b"[" * 10**5,
        b'{"name": "c"}',
    ]
    directory.rows_file.write_bytes(b"\n".join(lines) + b"\n")
    assert [*directory.rows()] == [("a",), ("c",)]
    with pytest.raises(ValueError, match=r"line 2 of .* is damaged"):
        results_dir.read_rows(directory.rows_file)
    with directory.lock():
        directory.append([{"name": "b"}])
    assert [*directory.rows()] == [("a",), ("c",), ("b",)]
    assert [row.get("name") for row in results_dir.read_rows(directory.rows_file)] == ["a", None, "c", "b"]


def test_damaged_descriptions_are_named(tmp_path):
    (tmp_path / "conditions.json").write_text('{"seed"')
    with pytest.raises(ValueError, match=r"conditions\.json is damaged"):
        results_dir.ResultsDir(tmp_path, key=("name",)).open({"seed": 0})


def test_a_file_that_cannot_be_written_leaves_no_part(tmp_path):
    with pytest.raises(UnicodeEncodeError):
        results_dir.write_text(tmp_path / "a.html", "\ud800")
    assert not list(tmp_path.iterdir())


def test_rows_of_changed_inputs_are_removed(tmp_path):
    directory = results_dir.ResultsDir(tmp_path, key=("name",), part=(0, 2))
    directory.open({"seed": 0})
    directory.append([{"name": "a"}, {"name": "b"}])
    seen = []

    def stale(changed, rows):
        seen.append((changed, len(rows)))
        return lambda row: row["name"] in changed

    assert directory.refresh({"a": [[1, 2, 3]], "b": []}, stale)
    assert seen == [({"a", "b"}, 2)] and not directory.rows()
    directory.append([{"name": "a"}, {"name": "b"}])
    assert not directory.refresh({"a": [[1, 2, 3]], "b": []}, stale)
    other = results_dir.ResultsDir(tmp_path, key=("name",), part=(1, 2))
    with directory.lock(), pytest.raises(BlockingIOError):
        other.refresh({"a": [[1, 2, 4]], "b": []}, stale)
    # The refused call is repeated with the same result.
    assert other.refresh({"a": [[1, 2, 4]], "b": []}, stale)
    assert [*directory.rows()] == [("b",)]


@dataclasses.dataclass(frozen=True)
class FileSource(SmallSource):
    """Scenes whose heights are in a file, one per line."""

    def __len__(self) -> int:
        return len(Path(self.name).read_text().split())

    def read(self, record: int) -> RawScene:
        scene, height = super().read(record), float(Path(self.name).read_text().split()[record])
        return dataclasses.replace(scene, xyz=scene.xyz + [0.0, 0.0, height])


def evaluate_files(out: Path, config: EvaluationConfig, *files: Path) -> list[dict]:
    evaluate_into(out, Evaluation(Scenarios([FileSource(9, name=str(file)) for file in files]), config))
    return read_rows(out)


def test_rows_belong_to_file_record_and_content(evaluation, tmp_path):
    config, a, b, out = evaluation.config, tmp_path / "a", tmp_path / "b", tmp_path / "out"
    a.write_text("0 0")
    b.write_text("0 1")
    first = evaluate_files(out, config, a, b)
    assert [(row["file"], row["record"]) for row in first[::2]] == [(str(a), 0), (str(a), 1), (str(b), 0), (str(b), 1)]
    # Reordered and with a new file before them.
    (tmp_path / "0").write_text("5")
    second = evaluate_files(out, config, tmp_path / "0", b, a)
    assert [row["index"] for row in second[::2]] == [0, 1, 2, 3, 4]
    without_index = [{key: row[key] for key in row if key != "index"} for row in first]
    assert [{key: row[key] for key in row if key != "index"} for row in second[2:]] == without_index[
        4:
    ] + without_index[:4]
    # The second scene of one file has changed, the first one is as before; of the other file a scene is gone.
    b.write_text("0 2")
    a.write_text("0")
    third = evaluate_files(out, config, b, a)
    assert [(row["file"], row["record"]) for row in third[::2]] == [(str(b), 0), (str(b), 1), (str(a), 0)]
    assert third[0]["digest"] == first[4]["digest"] and third[2]["digest"] != first[6]["digest"]
    assert evaluate_files(tmp_path / "fresh", config, b, a) == third


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
