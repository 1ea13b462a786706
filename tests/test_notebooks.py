"""Notebooks run from top to bottom and are stored without outputs."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.compile_heavy, pytest.mark.max_programs(300)]

FOLDER = Path(__file__).parents[1] / "examples" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
# The others take minutes; the slow tests run them.
QUICK = {"quickstart"}


def cells(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def run_cell(source: str, name: str, scope: dict[str, Any]) -> Any:
    """Runs a cell; its value is that of the last line, if it is an expression."""
    tree = ast.parse(source, name)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, name, "exec"), scope)
    return None if last is None else eval(compile(ast.Expression(last.value), name, "eval"), scope)


def show(value: Any) -> None:
    """Renders a value as a notebook does."""
    for method in ("_repr_html_", "_repr_png_"):
        if hasattr(value, method):
            assert getattr(value, method)()


def slow_marks(path: Path) -> list:
    return [] if path.stem in QUICK else [pytest.mark.slow]


@pytest.mark.parametrize("path", [pytest.param(path, marks=slow_marks(path), id=path.stem) for path in NOTEBOOKS])
def test_a_notebook_runs(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {"__name__": "notebook"}
    for index, cell in enumerate(cells(path)):
        if cell["cell_type"] == "code":
            show(run_cell("".join(cell["source"]), f"{path.name}, cell {index}", scope))


def test_the_documented_notebooks_exist():
    documented = {"quickstart", "look_at_scenes", "evaluate_a_planner", "your_own", "realism", "counterfactuals"}
    assert {path.stem for path in NOTEBOOKS} == documented


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_no_outputs(path):
    assert cells(path)[0]["cell_type"] == "markdown"
    for cell in cells(path):
        assert "outputs" not in cell or (cell["outputs"] == [] and cell["execution_count"] is None)
