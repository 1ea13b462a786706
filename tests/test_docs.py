"""The documents build without warnings, and their code runs."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import behavior_models
from behavior_models.checkpoints import RELEASED
from waymax_sim import cli
from waymax_sim.metrics import METRICS

pytestmark = [pytest.mark.compile_heavy, pytest.mark.max_programs(300)]

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)]
# Pages whose programs take longest to compile; the slow tests run them.
SLOW = {"docs/adapters.md", "docs/batches.md", "docs/evaluation.md", "docs/lanes.md", "docs/metrics.md"}
SLOW |= {
    "docs/quickstart.md",
    "docs/tasks_train.md",
    "docs/realism.md",
    "docs/training_environments.md",
    "docs/traffic.md",
    "docs/decisions/derived-routes.md",
}
TASKS = sorted(DOCS.glob("tasks_*.md"))
DECISIONS = [path for path in PAGES if path.parent.name == "decisions" and path.stem != "index"]


def python_code(page: Path) -> str:
    """The Python blocks of a page, with its line numbers, so that errors point to the page."""
    lines, is_python = [], False
    for line in page.read_text(encoding="utf-8").splitlines():
        fence = line.startswith("```")
        lines.append(line if is_python and not fence else "")
        is_python = line == "```python" if fence else is_python
    return "\n".join(lines)


def relative_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def pages_with_code() -> list:
    pages = {relative_name(page): page for page in PAGES if python_code(page).strip()}
    assert pages.keys() >= SLOW
    return [pytest.param(page, id=name, marks=[pytest.mark.slow] * (name in SLOW)) for name, page in pages.items()]


@pytest.mark.parametrize("page", pages_with_code())
def test_code_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    exec(compile(python_code(page), str(page), "exec"), {"__name__": "docs"})


@pytest.mark.parametrize("page", DECISIONS, ids=relative_name)
def test_a_decision_has_all_parts_and_a_check(page):
    text = page.read_text(encoding="utf-8")
    for part in ("**Context.**", "**Decision.**", "**Consequence.**", "**Check.**"):
        assert text.count(part) == 1
    assert re.search(r"^\s*(assert|with pytest.raises|.*check=True)", python_code(page), re.MULTILINE)


def test_commands_and_options_exist(capsys):
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    rows = re.findall(r"^\| `waymax-sim ([a-z]+)([^`]*)`", text, re.MULTILINE)
    known = {"demo", "info", "evaluate", "compare", "realism", "convert", "generate", "draw", "bench"}
    known |= {"train", "study", "search", "log", "select", "attack"}
    assert {command for command, _ in rows} == known
    for command, arguments in rows:
        # The options of a training are those of its algorithm.
        algorithm = re.match(r" ([a-z-]+)", arguments)
        training = [algorithm.group(1) if algorithm else "ppo"] if command == "train" else []
        assert cli.main([command, *training, "--help"]) == 0
        help_text = capsys.readouterr().out
        assert "PATH" not in arguments or "PATH" in help_text
        assert not [option for option in re.findall(r"--[a-z-]+", arguments) if option not in help_text]


def test_policies_exist():
    text = (DOCS / "command_line.md").read_text(encoding="utf-8")
    documented = dict(re.findall(r"^\| `([a-z_-]+)` \|.*\| (yes|no) \|$", text, re.MULTILINE))
    makers = {**behavior_models.POLICIES, **RELEASED}
    assert documented == {name: "yes" if make().privileged else "no" for name, make in makers.items()}


def test_the_table_of_metrics_is_complete():
    text = (DOCS / "metrics.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| `([a-z_]+)` \| (\w+) \| (\S+) \| (\w+) \|", text, re.MULTILINE)
    assert table == [(metric.name, metric.per, metric.unit, metric.over_time) for metric in METRICS.values()]


def task_commands(page: Path) -> list[list[str]]:
    """Words of each command in the bash blocks of a page."""
    blocks = re.findall(r"^```bash\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


@pytest.mark.parametrize("page", TASKS, ids=relative_name)
def test_options_of_task_pages_exist(page, capsys):
    """Also those of the commands that take hours, in indented lines."""
    lines = re.findall(r"^(?: {4})?(waymax-sim .*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    for words in map(shlex.split, lines):
        command = words[1:3] if words[1] == "train" else words[1:2]
        assert cli.main([*command, "--help"]) == 0
        help_text = capsys.readouterr().out
        assert not [word for word in words if word.startswith("--") and word not in help_text]


@pytest.mark.slow
@pytest.mark.parametrize("page", TASKS, ids=relative_name)
def test_commands_of_task_pages_run(page, tmp_path, monkeypatch):
    """The commands in order, in an empty folder that has the planner of the page."""
    planner = re.search(r"^```python\n(# my_planner.py\n.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    if planner:
        (tmp_path / "my_planner.py").write_text(planner[1], encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    programs = {"waymax-sim": [sys.executable, "-m", "waymax_sim.cli"], "python": [sys.executable]}
    for program, *arguments in task_commands(page):
        if program in programs:
            arguments = [str(ROOT / word) if word.startswith("examples/") else word for word in arguments]
            subprocess.run([*programs[program], *arguments], cwd=tmp_path, check=True)


def test_links_of_the_readme_exist():
    links = re.findall(r"\]\(([^)]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    assert local and all((ROOT / link.partition("#")[0]).exists() for link in local)


def test_documents_build_without_warnings(tmp_path):
    pytest.importorskip("sphinx", reason="sphinx is not installed; `pip install .[docs]`")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", tmp_path / "doctrees"]
    run = subprocess.run([*command, DOCS, tmp_path / "html"], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stdout + run.stderr
