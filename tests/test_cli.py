import dataclasses
import json
import shutil
import signal
from pathlib import Path

import pytest

import waymax_sim
from tests.datasets.encode import message, scenario_of, small_scene
from waymax_sim import demo, results_dir
from waymax_sim.cli import data, main
from waymax_sim.datasets.encoding.tfrecord import write_records
from waymax_sim.datasets.loader import load
from waymax_sim.evaluation import evaluate as evaluate_module

pytestmark = [pytest.mark.compile_heavy, pytest.mark.max_programs(300)]

INFO_KEYS = {
    "scenario_id",
    "num_agents",
    "num_valid_now",
    "agents_by_type",
    "num_steps",
    "current_step",
    "sdc_index",
    "num_map_points",
    "map_features_by_type",
    "num_lights",
    "lacks",
    "problems",
}


@pytest.fixture
def valid_file(tmp_path) -> Path:
    """A file of three scenes: a, b and c."""
    names = ("a", "b", "c")
    records = [message(scenario_of(dataclasses.replace(small_scene(), scenario_id=name))) for name in names]
    write_records(tmp_path / "valid.tfrecord", records)
    return tmp_path / "valid.tfrecord"


@pytest.fixture
def damaged_file(valid_file) -> Path:
    """The same with one byte of the second record flipped."""
    data = bytearray(valid_file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    valid_file.with_name("damaged.tfrecord").write_bytes(data)
    return valid_file.with_name("damaged.tfrecord")


def evaluate(path, out: Path, *options: str, policy: str = "constant_velocity") -> int:
    """Evaluates one metric by default, which compiles quickly."""
    arguments = ["--metrics", "log_divergence", *options]
    return main(["evaluate", str(path), "--policy", policy, "--out", str(out), "--agents", "vehicle", *arguments])


def read_rows(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]


def read_summary(out: Path) -> dict:
    def refuse(constant):
        raise AssertionError(f"{constant} is not strict JSON")

    return json.loads((out / "summary.json").read_text(), parse_constant=refuse)


def test_info_prints_text(valid_file, capsys):
    assert main(["info", str(valid_file)]) == 0
    out, err = capsys.readouterr()
    assert f"b  ({valid_file}, record 1)" in out
    assert "agents    3 (vehicle 2, pedestrian 1)" in out
    assert err == ""


def test_info_prints_json(capsys):
    assert main(["info", "synthetic:0:2", "--json"]) == 0
    descriptions = json.loads(capsys.readouterr().out)
    scenarios = load("synthetic:0:2")
    assert [item["scenario_id"] for item in descriptions] == [scenario.scenario_id for scenario in scenarios]
    for index, item in enumerate(descriptions):
        raw = scenarios.read(index)
        assert item.keys() >= INFO_KEYS
        assert (item["file"], item["record"]) == ("synthetic:0:2", index)
        assert (item["num_agents"], item["sdc_index"]) == (len(raw.agent_id), raw.sdc_index)
        assert item["num_map_points"] == len(raw.point_xyz) == sum(item["map_points_by_type"].values())
        assert sum(item["map_features_by_type"].values()) == len(raw.feature_id)
        assert sum(item["agents_by_type"].values()) == item["num_agents"]
        assert item["num_valid_now"] == raw.valid[raw.current_step].sum()


def test_info_skips_and_counts_a_damaged_record(damaged_file, capsys):
    assert main(["info", str(damaged_file), "--json"]) == 0
    out, err = capsys.readouterr()
    assert [item["record"] for item in json.loads(out)] == [0, 2]
    assert f"{damaged_file}, record 1, field data" in err
    assert "1 could not be used" in err


@pytest.mark.parametrize("command", ["info", "draw", "evaluate"])
def test_unusable_data_gives_exit_code_1(command, tmp_path, capsys):
    (tmp_path / "picture.tfrecord").write_bytes(b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(100))
    (tmp_path / "empty.tfrecord").touch()
    (tmp_path / "folder").mkdir()
    write_records(tmp_path / "noise.tfrecord", [b"\xff" * 40])
    out = ["--out", str(tmp_path / "x.png")]
    options = {"info": [], "draw": out, "evaluate": ["--policy", "random", *out]}[command]
    for name in ("picture.tfrecord", "empty.tfrecord", "folder", "noise.tfrecord", "absent.tfrecord", "absent@2"):
        assert main([command, str(tmp_path / name), *options]) == 1
        err = capsys.readouterr().err
        assert name.partition("@")[0] in err
        assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "subcommand"),
        (["fly"], "fly"),
        (["info"], "PATH"),
        (["info", "synthetic:0:1", "--fast"], "--fast"),
        (["info", "synthetic:zero"], "synthetic:SEED:COUNT"),
        (["evaluate", "synthetic:0:1", "--out", "OUT"], "--policy"),
        (["evaluate", "synthetic:0:1", "--out", "OUT", "--policy", "hope"], "unknown policy 'hope'; known are"),
        (["evaluate", "synthetic:0:1", "--out", "OUT", "--policy", "mppi:samples=3"], "no option 'samples'"),
        (["evaluate", "synthetic:0:1", "--out", "OUT", "--policy", "random", "--agents", "ghosts"], "ghosts"),
        (["evaluate", "synthetic:0:1", "--out", "OUT", "--policy", "random", "--metrics", "beauty"], "beauty"),
        (["evaluate", "synthetic:0:1", "--out", "OUT", "--policy", "random", "--metrics"], "no metrics"),
        (["evaluate", "synthetic:0:1", "--out", "OUT", "--policy", "random", "--steps", "0"], "max_steps=0"),
        (["evaluate", "synthetic:0:1", "--out", "FILE", "--policy", "random"], "File exists"),
        (
            ["evaluate", "synthetic:0:1", "--out", "OUT", "--policy", "random", "--traffic", "imd"],
            "did you mean idm?",
        ),
        (["evaluate", "synthetic:0:1", "--out", "OUT", "--policy", "random", "--seeds", "0"], "--seeds 0"),
        (["evaluate", "synthetic:0:1", "--out", "OUT", "--policy", "random", "--shard", "2/2"], "--shard 2/2"),
        (["evaluate", "synthetic:0:1", "--out", "OUT", "--policy", "random", "--memory-budget", "0"], "above 0"),
        (["draw", "synthetic:0:1", "--out", "OUT.txt"], "use one of .png"),
        (["draw", "synthetic:0:1", "--out", "OUT.png", "--index", "1"], "--index 1"),
        (["demo", "--out", "FILE"], "File exists"),
    ],
)
def test_a_usage_error_gives_exit_code_2(arguments, reason, tmp_path, capsys):
    (tmp_path / "file").touch()
    paths = {"OUT": "out", "OUT.txt": "out.txt", "OUT.png": "out.png", "FILE": "file"}
    assert main([str(tmp_path / paths[item]) if item in paths else item for item in arguments]) == 2
    err = capsys.readouterr().err
    assert reason in " ".join(err.split())
    assert "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_version_is_printed(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"waymax-sim {waymax_sim.__version__}\n"


def test_help_gives_exit_code_0(capsys):
    for arguments in (["--help"], ["demo", "--help"], ["info", "--help"], ["evaluate", "--help"], ["draw", "--help"]):
        assert main(arguments) == 0
    assert "constant_velocity" in capsys.readouterr().out


def test_evaluate_writes_rows_their_summary_and_a_report(valid_file, tmp_path, capsys):
    assert evaluate(valid_file, tmp_path / "out", "--seeds", "2", policy="replay") == 0
    rows, summary = read_rows(tmp_path / "out"), read_summary(tmp_path / "out")
    assert [(row["record"], row["policy"], row["traffic"], row["seed"]) for row in rows] == [
        (record, "log_replay", "log_replay", seed) for record in range(3) for seed in (0, 1)
    ]
    assert (summary["num_scenes"], summary["num_failed"], summary["failures"]) == (3, 0, [])
    (result,) = summary["results"]
    assert (result["policy"], result["traffic"], result["agents"]) == ("log_replay", "log_replay", "vehicle")
    assert result["privileged"] is True
    item = result["metrics"]["log_divergence"]
    assert (item["value"], item["low"], item["high"], item["num_valid_scenes"]) == (0.0, 0.0, 0.0, 3)
    conditions = summary["conditions"]
    assert (conditions["steps"], conditions["seeds"], conditions["path"]) == (None, [0, 1], str(valid_file))
    assert conditions["policies"]["log_replay"]["privileged"] is True
    assert conditions["traffic"] == {"log_replay": None}
    assert conditions.keys() >= {"versions", "device", "metrics", "data_hash"}
    report_page = (tmp_path / "out" / "report.html").read_text()
    assert report_page.count("<iframe") == 3
    assert "log divergence" in report_page
    out = capsys.readouterr().out
    assert "log_divergence" in out
    assert "* privileged" in out


def test_evaluate_skips_and_counts_a_damaged_record(damaged_file, tmp_path, capsys):
    assert evaluate(damaged_file, tmp_path / "out") == 0
    summary = read_summary(tmp_path / "out")
    assert (summary["num_scenes"], summary["num_failed"]) == (2, 1)
    (failure,) = summary["failures"]
    assert (failure["file"], failure["record"], failure["field"]) == (str(damaged_file), 1, "data checksum")
    assert "1 could not be used" in capsys.readouterr().err
    assert "data checksum" in (tmp_path / "out" / "report.html").read_text()


def test_evaluate_resumes_after_an_interruption(valid_file, tmp_path, monkeypatch, capsys):
    options = ("--seeds", "3")
    assert evaluate(valid_file, tmp_path / "whole", *options, policy="random") == 0
    append, added = results_dir.append_rows, []

    def interrupted(path, rows):
        append(path, rows)
        signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(results_dir, "append_rows", interrupted)
    assert evaluate(valid_file, tmp_path / "out", *options, policy="random") == 130
    assert "interrupted" in capsys.readouterr().err
    assert not (tmp_path / "out" / "summary.json").exists()
    assert signal.getsignal(signal.SIGINT) is before

    monkeypatch.setattr(results_dir, "append_rows", lambda path, rows: added.extend(rows) or append(path, rows))
    assert evaluate(valid_file, tmp_path / "out", *options, policy="random") == 0
    assert {row["seed"] for row in added} == {1, 2}
    assert read_rows(tmp_path / "out") == read_rows(tmp_path / "whole")
    assert read_summary(tmp_path / "out") == read_summary(tmp_path / "whole")


def test_evaluate_does_not_mix_conditions(valid_file, tmp_path, capsys):
    assert evaluate(valid_file, tmp_path / "out") == 0
    before = read_rows(tmp_path / "out")
    assert evaluate(valid_file, tmp_path / "out", "--seed", "1") == 2
    assert "different: seeds" in capsys.readouterr().err
    assert read_rows(tmp_path / "out") == before


def test_shards_report_when_all_are_done_and_runs_are_compared(valid_file, tmp_path, capsys):
    options = ("--seed", "0")
    assert evaluate(valid_file, tmp_path / "a", *options, policy="random") == 0
    assert evaluate(valid_file, tmp_path / "b", *options, "--shard", "1/2", policy="random") == 0
    assert "shard 1/2 is done" in capsys.readouterr().out
    assert not (tmp_path / "b" / "report.html").exists()
    assert evaluate(valid_file, tmp_path / "b", *options, "--shard", "0/2", policy="random") == 0
    for name in ("rows.jsonl", "summary.json", "report.html"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    capsys.readouterr()
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--json"]) == 0
    (difference,) = json.loads(capsys.readouterr().out)
    assert (difference["num_scenes"], difference["metrics"]["log_divergence"]["changed"]) == (3, [])
    assert main(["compare", str(tmp_path / "a"), str(tmp_path)]) == 2
    assert "no finished evaluation" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".png", ".svg", ".gif", ".html"])
def test_draw_writes_a_picture(suffix, valid_file, tmp_path, capsys):
    out = tmp_path / "deep" / f"scene{suffix}"
    assert main(["draw", str(valid_file), "--index", "2", "--out", str(out)]) == 0
    start = {".png": b"\x89PNG", ".svg": b"<?xml", ".gif": b"GIF8", ".html": b"<!doctype html>"}[suffix]
    assert out.read_bytes().startswith(start)
    assert str(out) in capsys.readouterr().out


def test_draw_simulates_policies(valid_file, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(data, "DRAWN_METRICS", ("log_divergence",))
    draw = ["draw", str(valid_file), "--agents", "vehicle", "--policy", "constant_velocity"]
    page, image = tmp_path / "scene.html", tmp_path / "scene.png"
    assert main([*draw, "stationary", "--out", str(page)]) == main([*draw, "--out", str(image)]) == 0
    assert page.read_text().startswith("<!doctype html>") and image.read_bytes().startswith(b"\x89PNG")
    assert main([*draw, "stationary", "--out", str(image)]) == 2
    assert "shows one rollout" in capsys.readouterr().err


def test_scenes_are_selected_by_number_and_id(valid_file, tmp_path, capsys):
    assert evaluate(valid_file, tmp_path / "two", "--limit", "2") == 0
    assert evaluate(valid_file, tmp_path / "ids", "--ids", "c", "a") == 0
    names = [[row["scenario_id"] for row in read_rows(tmp_path / name)] for name in ("two", "ids")]
    assert names == [["a", "b"], ["a", "c"]]
    assert evaluate(valid_file, tmp_path / "none", "--ids", "d") != 0
    assert "no scenario has the id d" in capsys.readouterr().err
    assert evaluate(valid_file, tmp_path / "none", "--limit", "0") == 2


def test_draw_without_ffmpeg_names_the_remedy(valid_file, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert main(["draw", str(valid_file), "--out", str(tmp_path / "scene.mp4")]) == 2
    assert "use .gif" in capsys.readouterr().err


def test_demo_evaluates_and_draws(tmp_path, monkeypatch, capsys):
    # Metrics that are not checked here, frames, and scenes that only fill a chunk take most of the time.
    monkeypatch.setattr(demo, "DEMO_METRICS", ("overlap", "road_departure", "log_divergence"))
    monkeypatch.setattr(demo, "FRAMES", slice(None, None, 20))
    monkeypatch.setattr(evaluate_module, "MAX_CHUNK_CPU", 1)
    assert main(["demo", "--out", str(tmp_path / "demo")]) == 0
    out = capsys.readouterr().out
    for name in ("replay*", "constant", "stationary", "idm", "* privileged", "road departure:", "in a browser"):
        assert name in out
    written = {path.name for path in (tmp_path / "demo").iterdir()}
    images = {f"synthetic-0-{index}.png" for index in range(3)}
    assert written == {"summary.json", "synthetic-0-1.gif", "synthetic-0-1.html"} | images
    assert (tmp_path / "demo" / "synthetic-0-1.html").stat().st_size < 150_000
    results = json.loads((tmp_path / "demo" / "summary.json").read_text())["results"]
    by_run = {(item["policy"], item["agents"]): item["metrics"] for item in results}
    assert by_run["log_replay", "all"]["log_divergence"]["value"] == 0.0
    assert by_run["log_replay", "all"]["road_departure"]["value"] < 0.05
    assert by_run["stationary", "sdc"]["log_divergence"]["value"] > 1.0
