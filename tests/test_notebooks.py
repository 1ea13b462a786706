"""Notebooks run from top to bottom, and hold no outputs in git."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "examples" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
# The others take minutes together; the slow tests run them.
QUICK = {"quickstart"}


def cells(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def run_cell(source: str, name: str, scope: dict[str, Any]) -> Any:
    """Runs a cell as a notebook does: the value is that of its last line, if that is an expression."""
    tree = ast.parse(source, name)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, name, "exec"), scope)
    return None if last is None else eval(compile(ast.Expression(last.value), name, "eval"), scope)


def show(value: Any) -> None:
    """Asks a value for what a notebook would show of it."""
    for form in ("_repr_html_", "_repr_png_"):
        if hasattr(value, form):
            assert getattr(value, form)()


def marks_of(path: Path) -> list:
    return [] if path.stem in QUICK else [pytest.mark.slow]


@pytest.mark.parametrize("path", [pytest.param(path, marks=marks_of(path), id=path.stem) for path in NOTEBOOKS])
def test_it_runs(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {"__name__": "notebook"}
    for index, cell in enumerate(cells(path)):
        if cell["cell_type"] == "code":
            show(run_cell("".join(cell["source"]), f"{path.name}, cell {index}", scope))


def test_all_that_are_promised_are_there():
    promised = {"quickstart", "look_at_scenes", "evaluate_a_planner", "your_own", "realism", "counterfactuals"}
    assert {path.stem for path in NOTEBOOKS} == promised


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_stripped(path):
    assert cells(path)[0]["cell_type"] == "markdown"
    for cell in cells(path):
        assert "outputs" not in cell or (cell["outputs"] == [] and cell["execution_count"] is None)
