"""The cluster examples start one shard per task: run with the variables that SLURM and Kubernetes set."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from waymax_sim.cli.common import parse_shard

FOLDER = Path(__file__).parents[1] / "examples" / "cluster"
# Commands that the scripts call: `srun` starts the tasks of the job, `waymax-sim` prints its arguments.
SRUN = '#!/bin/bash\nfor i in $(seq 0 $((SLURM_NTASKS - 1))); do SLURM_PROCID=$i "$@"; done\n'
PRINT = '#!/bin/bash\necho "$@"\n'


@pytest.fixture
def environment(tmp_path):
    for name, text in (("srun", SRUN), ("waymax-sim", PRINT)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "DATA": "a folder"}


def run(command: list, environment: dict[str, str]) -> list[str]:
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()


def shards(lines: list[str]) -> list[tuple[int, int]]:
    return [parse_shard(re.findall(r"--shard (\S+)", line)[0]) for line in lines]


def kubernetes_command() -> str:
    """The last argument of the container's command."""
    text = (FOLDER / "kubernetes.yaml").read_text()
    return re.findall(r"^ +- (waymax-sim .*)$", text, re.MULTILINE)[0]


def test_slurm_starts_all_shards(environment):
    lines = run(["bash", FOLDER / "slurm.sbatch"], environment | {"SLURM_NTASKS": "2"})
    assert shards(lines) == [(0, 2), (1, 2)]
    assert all(line.startswith("evaluate a folder --policy idm pdm --out results") for line in lines)
    without = {name: value for name, value in environment.items() if name != "DATA"}
    failed = subprocess.run(["bash", FOLDER / "slurm.sbatch"], env=without, capture_output=True, text=True, check=False)
    assert failed.returncode != 0 and "folder of the scenes" in failed.stderr


def test_kubernetes_starts_all_shards(environment):
    text = (FOLDER / "kubernetes.yaml").read_text()
    counts = {int(count) for count in re.findall(r'(?:completions|parallelism|value): "?(\d+)', text)}
    assert counts == {8} and "completionMode: Indexed" in text
    lines = [
        run(["bash", "-c", kubernetes_command()], environment | {"JOB_COMPLETION_INDEX": str(index), "COUNT": "2"})[0]
        for index in range(2)
    ]
    assert shards(lines) == [(0, 2), (1, 2)]


@pytest.mark.slow
def test_two_shards_write_the_rows_of_one_process(tmp_path):
    code = "import sys; from waymax_sim.cli import main; sys.exit(main(sys.argv[1:]))"
    options = ["evaluate", "synthetic:0:3", "--policy", "constant_speed", "--steps", "5", "--metrics", "log_divergence"]
    for out, parts in (("one", ["0/1"]), ("two", ["0/2", "1/2"])):
        for shard in parts:
            subprocess.run(
                [sys.executable, "-c", code, *options, "--out", tmp_path / out, "--shard", shard], check=True
            )
    one, two = (sorted((tmp_path / out / "rows.jsonl").read_text().splitlines()) for out in ("one", "two"))
    assert one == two and len(one) == 3
