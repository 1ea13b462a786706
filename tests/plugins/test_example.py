"""The example of a plug-in is installed as any package is, and found by the command."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INSTALL = ("install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
OPTIONS = {"capture_output": True, "text": True, "timeout": 300}
COMMAND = "import sys; from waymax_sim.cli import main; sys.exit(main())"
USES = """
from waymax_sim.plugins import resolve_policy
policy = resolve_policy("constant_braking:deceleration=2.5")
assert policy == resolve_policy("constant_braking:ConstantBraking:deceleration=2.5")
print(policy)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder with the installed example."""
    folder = tmp_path_factory.mktemp("site")
    source = shutil.copytree(ROOT / "examples" / "plugin", folder / "source")
    run = subprocess.run([sys.executable, "-m", "pip", *INSTALL, "--target", folder / "out", source], **OPTIONS)
    assert run.returncode == 0, run.stderr
    assert (folder / "out" / "waymax_sim_braking-0.1.0.dist-info" / "entry_points.txt").exists()
    return folder / "out"


def python(site: Path, *arguments: str) -> str:
    env = os.environ | {"PYTHONPATH": f"{site}{os.pathsep}{ROOT}"}
    run = subprocess.run([sys.executable, *arguments], env=env, cwd=site.parent, **OPTIONS)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_its_command_is_found(site):
    assert "count-agents" in python(site, "-c", COMMAND, "--help")
    lines = python(site, "-c", COMMAND, "count-agents", "synthetic:0:2").splitlines()
    assert [line.split()[0] for line in lines] == ["synthetic-0-0", "synthetic-0-1"]


def test_its_policy_is_found(site):
    assert python(site, "-c", USES) == "ConstantBraking(deceleration=2.5)\n"


def test_its_policy_is_evaluated(site):
    arguments = ["evaluate", "synthetic:0:1", "--policy", "constant_braking:deceleration=2.5", "--out", "results"]
    python(site, "-c", COMMAND, *arguments, "--metrics", "log_divergence", "--steps", "2")
    assert '"policy": "constant_braking:deceleration=2.5"' in (site.parent / "results" / "rows.jsonl").read_text()
