"""Field reports on text, rollouts and files: the inputs that failed once, with the outcome that they must have."""

import json
import os
import shutil
import sys
import zipfile
from pathlib import Path

import pytest

from tests.field.inputs import field_file
from waymax_sim.cli import main
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.formats.sim_agents_submission import read_npz, unpack_submission
from waymax_sim.datasets.loader import load, load_all
from waymax_sim.evaluation.html_report import html_report
from waymax_sim.text import printable

SHORT = ("--policy", "constant_velocity", "--metrics", "overlap", "log_divergence", "--steps", "2")


def evaluate(path: str | Path, out: Path, *options: str) -> int:
    return main(["evaluate", str(path), "--out", str(out), *(options or SHORT)])


def json_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# Text.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[/foo] [bold]é ü 日本", "[/foo] [bold]é ü 日本"),
        ("a\nb\tc\x1b[31m\x7f\x00", "a\\nb\\tc\\x1b[31m\\x7f\\x00"),
        ("\ud800 \u202e\u2028\u200b", "\\ud800 \\u202e\\u2028\\u200b"),
        (Path("a b"), "a b"),
    ],
)
def test_text_for_display_is_one_printable_line(text, expected):
    assert printable(text) == expected


def test_errors_are_one_printable_line():
    error = DataError("is '\x1b[2J'", file="a\nb\udcff.json", record=3, field="tl\ud800", remedy="look")
    assert str(error) == "a\\nb\\udcff.json, record 3, field tl\\ud800: is '\\x1b[2J' (look)"
    # A file is a path, which must stay usable.
    assert error.with_location(record=4).file == "a\nb\udcff.json"


def test_markup_in_an_id_is_printed_as_it_is(capsys):
    assert main(["info", str(field_file("reliability/id_markup.tfrecord"))]) == 0
    assert "[/foo] [bold  (" in capsys.readouterr().out


def test_markup_and_control_characters_in_paths(tmp_path, capsys):
    path = tmp_path / "[red]a\x1b[1m\n.json"
    shutil.copy(field_file("reliability/scene.json"), path)
    assert main(["info", str(path)]) == 0
    out = capsys.readouterr().out
    assert "[red]a\\x1b[1m\\n.json" in out and "\x1b" not in out


def test_a_report_shows_surrogates_as_escapes():
    failure = dict.fromkeys(("record", "policy", "traffic", "seed", "remedy")) | {
        "file": "\udcff<b>",
        "field": "\ud800",
        "error": "x",
    }
    summary = {
        "num_scenes": 0,
        "num_failed": 1,
        "failures": [failure],
        "results": [],
        "conditions": {"path": "p\udc80", "policies": {}, "traffic": {}, "metrics": {}},
    }
    page = html_report(summary)
    assert page.encode() and "\\udcff&lt;b&gt;" in page and "\\ud800" in page


@pytest.mark.compile_heavy
def test_a_surrogate_in_a_field_leaves_the_report(tmp_path):
    for name in ("scene.json", "surrogate_field.json"):
        shutil.copy(field_file(f"reliability/{name}"), tmp_path)
    assert evaluate(tmp_path / "s*.json", tmp_path / "out") == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["num_scenes"], summary["num_failed"]) == (1, 1)
    assert "\\ud800" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert not list((tmp_path / "out").glob("*.part"))


def test_a_surrogate_in_an_id_is_replaced_in_a_store(tmp_path, capsys):
    scenes = [str(field_file(f"reliability/{name}")) for name in ("scene.json", "surrogate_id.json")]
    assert main(["convert", *scenes, "--out", str(tmp_path / "store")]) == 0
    ids = [scene.scenario_id for scene in load(tmp_path / "store")]
    assert ids[0] == "0123456789abcdef" and ids[1].startswith("?abc")


@pytest.mark.compile_heavy
@pytest.mark.skipif(sys.platform != "linux", reason="names of files are not bytes")
def test_names_of_files_that_are_no_utf8(tmp_path, capsys):
    scene, path = field_file("reliability/scene.json").read_bytes(), os.fsencode(tmp_path) + b"/a\xff\x1b[1m.json"
    Path(os.fsdecode(path)).write_bytes(scene)
    for _ in range(2):
        assert evaluate(tmp_path / "*.json", tmp_path / "out") == 0
    (row,) = json_lines(tmp_path / "out" / "rows.jsonl")
    assert os.fsencode(row["file"]) == path
    assert main(["convert", os.fsdecode(path), "--out", str(tmp_path / "store")]) == 0
    out = capsys.readouterr()
    assert "\x1b" not in out.out + out.err
    assert load(tmp_path / "store")[0].scenario_id == "0123456789abcdef"


# Rollouts.


@pytest.mark.parametrize("name", ["npz_is_npy.npz", "npz_member_not_npy.npz", "npz_header.npz"])
def test_damaged_arrays_are_refused(name):
    path = field_file(f"reliability/{name}")
    with pytest.raises(DataError) as caught:
        read_npz(path)
    assert caught.value.file == str(path) and caught.value.remedy


@pytest.mark.parametrize(
    "content", [b"", b"\x93NUMPY", b"\x93NUMPY\x01", b"\x93NUMPY\x09\x00", b"\x93NUMPY\x01\x00\xff"]
)
def test_short_arrays_are_refused(tmp_path, content):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", content)
    with pytest.raises(DataError) as caught:
        read_npz(tmp_path / "a.npz")
    assert caught.value.field == "x.npy"


def test_an_array_cannot_announce_more_than_there_is(tmp_path):
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1048576, 1048576), }".ljust(117) + b"\n"
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(64))
    with pytest.raises(DataError, match="another size"):
        read_npz(tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", bytes(2**27))
    with pytest.raises(DataError, match="announces"):
        read_npz(tmp_path / "bomb.npz")


def test_a_sparse_archive_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"GNU\.sparse"):
        unpack_submission(field_file("reliability/tar_pax_sparse.tar.gz"), tmp_path)


def test_a_submission_of_three_rollouts_needs_an_option(tmp_path, capsys):
    scene, submission = field_file("womd_plain.tfrecord"), field_file("submission_three_rollouts.tar.gz")
    command = ["realism", str(scene), "--from-submission", str(submission), "--out", str(tmp_path)]
    assert main(command) == 1
    assert "has 3 rollouts, expected 32" in capsys.readouterr().err
    assert not (tmp_path / "summary.json").exists()


@pytest.mark.slow
def test_a_submission_of_three_rollouts_is_scored_with_an_option(tmp_path):
    scene, submission = field_file("womd_plain.tfrecord"), field_file("submission_three_rollouts.tar.gz")
    command = ["realism", str(scene), "--from-submission", str(submission), "--out", str(tmp_path)]
    assert main([*command, "--any-number-of-rollouts"]) == 0
    assert json_lines(tmp_path / "rows.jsonl")[0]["num_rollouts"] == 3


# Scenes without an ego.


def test_a_scene_without_an_ego_is_a_failure_before_anything_is_compiled(tmp_path, capsys):
    options = ("--policy", "constant_velocity", "--metrics", "overlap", "log_divergence")
    assert evaluate(field_file("commonroad_no_ego.xml"), tmp_path, *options) == 1
    err = capsys.readouterr().err
    assert "has no ego" in err and "--agents vehicle" in err and "compiling" not in err
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["num_scenes"], summary["num_failed"]) == (0, 1)


# Files that are no files.


def test_pipes_folders_and_devices_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    os.mkfifo(tmp_path / "pipe.tfrecord")
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "device.pkl").symlink_to("/dev/zero")
    (tmp_path / "loop.xml").symlink_to(tmp_path / "loop.xml")
    for name in ("pipe.json", "pipe.tfrecord", "folder.json", "device.pkl", "loop.xml"):
        with pytest.raises(DataError) as caught:
            load(tmp_path / name)[0]
        assert caught.value.file == str(tmp_path / name)
    for read in (read_npz, lambda path: unpack_submission(path, tmp_path)):
        with pytest.raises(DataError, match="not a regular file"):
            read(tmp_path / "pipe.npz")


def test_suffixes_in_upper_case_are_read(tmp_path):
    shutil.copy(field_file("reliability/scene.json"), tmp_path / "SCENE.JSON")
    assert load(tmp_path / "SCENE.JSON")[0].scenario_id == "0123456789abcdef"


def test_exhausted_memory_and_nesting_are_errors_of_one_record(tmp_path, monkeypatch):
    from waymax_sim.datasets.files import SceneFile

    good = field_file("reliability/scene.json")
    for name in ("memory.json", "nested.json"):
        shutil.copy(good, tmp_path / name)
    read = SceneFile.read

    def fails(self, record):
        if self.name.endswith("memory.json"):
            raise MemoryError
        if self.name.endswith("nested.json"):
            raise RecursionError
        return read(self, record)

    monkeypatch.setattr(SceneFile, "read", fails)
    scenarios = load_all([tmp_path / "memory.json", good, tmp_path / "nested.json"])
    outcomes = [str(outcome) for _, outcome in scenarios.iter_results()]
    assert "available memory" in outcomes[0] and "nested too deeply" in outcomes[2]
    assert scenarios[1].num_agents == 8
