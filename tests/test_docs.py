"""The documents build without warnings, and the code in them runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import behavior_models
from waymax_sim import cli
from waymax_sim.metrics import METRICS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)]
# Pages whose programs take longest to compile.
SLOW = {"docs/adapters.md", "docs/batches.md", "docs/evaluation.md", "docs/lanes.md", "docs/metrics.md"}
SLOW |= {"docs/realism.md", "docs/training_environments.md", "docs/traffic.md", "docs/decisions/derived-routes.md"}
DECISIONS = [path for path in PAGES if path.parent.name == "decisions" and path.stem != "index"]


def code_of(page: Path) -> str:
    """The Python blocks of a page in order; lines stay where they are, so that errors point into the page."""
    lines, inside = [], False
    for line in page.read_text(encoding="utf-8").splitlines():
        fence = line.startswith("```")
        lines.append(line if inside and not fence else "")
        inside = line == "```python" if fence else inside
    return "\n".join(lines)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def pages_with_code() -> list:
    named = {name_of(page): page for page in PAGES if code_of(page).strip()}
    assert named.keys() >= SLOW
    return [pytest.param(named[name], id=name, marks=[pytest.mark.slow] * (name in SLOW)) for name in named]


@pytest.mark.parametrize("page", pages_with_code())
def test_code_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    exec(compile(code_of(page), str(page), "exec"), {"__name__": "docs"})


@pytest.mark.parametrize("page", DECISIONS, ids=name_of)
def test_a_decision_says_what_why_and_proves_it(page):
    text = page.read_text(encoding="utf-8")
    for part in ("**Context.**", "**Decision.**", "**Consequence.**", "**Check.**"):
        assert text.count(part) == 1
    assert re.search(r"^\s*(assert|with pytest.raises|.*check=True)", code_of(page), re.MULTILINE)


def test_commands_and_options_exist(capsys):
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    rows = re.findall(r"^\| `waymax-sim ([a-z]+)([^`]*)`", text, re.MULTILINE)
    known = {"demo", "info", "evaluate", "compare", "realism", "convert", "generate", "draw", "bench"}
    assert {command for command, _ in rows} == known
    for command, arguments in rows:
        assert cli.main([command, "--help"]) == 0
        helped = capsys.readouterr().out
        assert "PATH" not in arguments or "PATH" in helped
        assert not [option for option in re.findall(r"--[a-z-]+", arguments) if option not in helped]


def test_policies_exist():
    text = (DOCS / "command_line.md").read_text(encoding="utf-8")
    named = dict(re.findall(r"^\| `([a-z_]+)` \|.*\| (yes|no) \|$", text, re.MULTILINE))
    assert named == {name: "yes" if make().privileged else "no" for name, make in behavior_models.POLICIES.items()}


def test_the_table_of_metrics_is_right():
    text = (DOCS / "metrics.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| `([a-z_]+)` \| (\w+) \| (\S+) \| (\w+) \|", text, re.MULTILINE)
    assert table == [(metric.name, metric.per, metric.unit, metric.over_time) for metric in METRICS.values()]


def test_links_of_the_readme_lead_somewhere():
    links = re.findall(r"\]\(([^)]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    assert local and all((ROOT / link.partition("#")[0]).exists() for link in local)


def test_documents_build_without_warnings(tmp_path):
    pytest.importorskip("sphinx", reason="sphinx is not installed; `pip install .[docs]`")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", tmp_path / "doctrees"]
    run = subprocess.run([*command, DOCS, tmp_path / "html"], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stdout + run.stderr
