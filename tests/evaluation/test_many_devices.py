"""The example runs in several processes, and they agree with one."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.datasets.encode import message, scenario_of, small_scene
from waymax_sim.datasets.encoding.tfrecord import write_records

pytestmark = pytest.mark.compile_heavy

ROOT = Path(__file__).parents[2]
SECONDS = 400
SMALL = ("--policy", "random", "--metrics", "log_divergence", "--steps", "3")


def start(path: Path, out: Path, *options: str) -> subprocess.Popen:
    script = [sys.executable, ROOT / "examples" / "many_devices.py"]
    # One CPU device each. No shared cache of programs: the processes would write it at the same time.
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))}
    return subprocess.Popen(
        [*script, path, "--out", out, *SMALL, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=plain | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


@pytest.fixture
def processes():
    running: list[subprocess.Popen] = []
    yield running
    for process in running:
        process.kill()
        process.communicate()


def test_two_processes_write_the_same_as_one(tmp_path, processes):
    ids = ["a", "b", "c", "", "d"]
    good = [message(scenario_of(dataclasses.replace(small_scene(), scenario_id=name))) for name in ids]
    write_records(
        tmp_path / "scenes.tfrecord", [data if data and ids[i] else b"\xff" * 40 for i, data in enumerate(good)]
    )

    path, address = tmp_path / "scenes.tfrecord", f"localhost:{free_port()}"
    several = ("--coordinator", address, "--num-processes", "2", "--process-id")
    processes += [start(path, tmp_path / "two", *several, str(index)) for index in range(2)]
    processes.append(start(path, tmp_path / "one"))
    for process in processes:
        said, _ = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, said

    for name in ("rows.jsonl", "summary.json"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    assert len(list((tmp_path / "two" / "parts").iterdir())) == 2
    rows = [json.loads(line) for line in (tmp_path / "two" / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(row["record"], row["scenario_id"]) for row in rows] == [(0, "a"), (1, "b"), (2, "c"), (4, "d")]
    divergence = [row["log_divergence"] for row in rows]
    assert all(value > 0 for value in divergence)
    assert len(set(divergence)) == 4
