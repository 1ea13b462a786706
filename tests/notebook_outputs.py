"""Outputs of the notebooks. `python -m tests.notebook_outputs` executes them and stores what they print and draw."""

import ast
import base64
import contextlib
import io
import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "examples" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
TEXT, IMAGE = "text/plain", "image/png"


def execute(notebook: dict) -> list[list[dict]]:
    """Runs all cells in order and returns the outputs of each.

    Interactive pages have a text here; with their data a notebook would have megabytes.
    """
    scope: dict[str, Any] = {"__name__": "notebook"}
    return [_cell_outputs(cell, f"cell {index}", scope) for index, cell in enumerate(notebook["cells"])]


def _cell_outputs(cell: dict, name: str, scope: dict[str, Any]) -> list[dict]:
    if cell["cell_type"] != "code":
        return []
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        value = run_cell("".join(cell["source"]), name, scope)
    text = printed.getvalue()
    stream = [{"output_type": "stream", "name": "stdout", "text": text.splitlines(keepends=True)}] if text else []
    return (
        stream if value is None else [*stream, {"output_type": "display_data", "data": rendered(value), "metadata": {}}]
    )


def run_cell(source: str, name: str, scope: dict[str, Any]) -> Any:
    """Runs a cell; its value is that of the last line, if it is an expression."""
    tree = ast.parse(source, name)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, name, "exec"), scope)
    return None if last is None else eval(compile(ast.Expression(last.value), name, "eval"), scope)


def rendered(value: Any) -> dict[str, Any]:
    """The image of a value, or its text."""
    if hasattr(value, "_repr_png_"):
        return {
            IMAGE: base64.b64encode(_fewer_colors(value._repr_png_())).decode(),
            TEXT: [f"<{type(value).__name__}>"],
        }
    if hasattr(value, "_repr_html_"):
        assert value._repr_html_()
    return {TEXT: repr(value).splitlines(keepends=True)}


def _fewer_colors(png: bytes) -> bytes:
    """A PNG of 64 colors, a quarter of the size."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(64).save(buffer, "png", optimize=True)
    return buffer.getvalue()


def read(path: Path) -> dict:
    """A notebook."""
    return json.loads(path.read_text(encoding="utf-8"))


def main() -> None:
    """Stores the outputs of all notebooks."""
    for path in NOTEBOOKS:
        notebook, count = read(path), 0
        for cell, outputs in zip(notebook["cells"], execute(notebook), strict=True):
            if cell["cell_type"] == "code":
                count += 1
                cell |= {"outputs": outputs, "execution_count": count}
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
