"""Notebooks run from top to bottom and are stored with the outputs of this version."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.notebook_outputs import IMAGE, NOTEBOOKS, TEXT, execute, read

pytestmark = [pytest.mark.compile_heavy, pytest.mark.max_programs(300)]

# The others take minutes; the slow tests run them.
QUICK = {"quickstart"}
NUMBER = r"-?\d+(?:\.\d+)?(?:e[-+]\d+)?"
MAX_BYTES = 400_000
# Differences between CPUs, and between programs that are optimized and those of the tests.
TOLERANCE = dict(rtol=0.02, atol=0.02)
# Mean absolute difference of two images, of 255: the fonts of machines differ.
MAX_IMAGE_DIFFERENCE = 6.0


def slow_marks(path: Path) -> list:
    return [] if path.stem in QUICK else [pytest.mark.slow]


def assert_equal_text(stored: str, now: str) -> None:
    """Equal words, and numbers that agree. Arrays are printed with other spaces when a digit differs."""
    words = [re.sub(rf"({NUMBER})\.?", " # ", text).split() for text in (stored, now)]
    assert words[0] == words[1]
    numbers = [[float(each) for each in re.findall(NUMBER, text)] for text in (stored, now)]
    np.testing.assert_allclose(*numbers, **TOLERANCE)


def assert_equal_image(stored: str, now: str) -> None:
    first, second = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("L"), float) for text in (stored, now)
    )
    assert first.shape == second.shape and abs(first - second).mean() < MAX_IMAGE_DIFFERENCE


def assert_equal_output(stored: dict, now: dict) -> None:
    assert stored["output_type"] == now["output_type"]
    if stored["output_type"] == "stream":
        assert_equal_text("".join(stored["text"]), "".join(now["text"]))
    elif IMAGE in now["data"]:
        assert_equal_image(stored["data"][IMAGE], now["data"][IMAGE])
    else:
        assert_equal_text("".join(stored["data"][TEXT]), "".join(now["data"][TEXT]))


@pytest.mark.parametrize("path", [pytest.param(path, marks=slow_marks(path), id=path.stem) for path in NOTEBOOKS])
def test_the_stored_outputs_are_those_of_this_version(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    notebook = read(path)
    for cell, outputs in zip(notebook["cells"], execute(notebook), strict=True):
        for stored, now in zip(cell.get("outputs", []), outputs, strict=True):
            assert_equal_output(stored, now)


def test_the_documented_notebooks_exist():
    documented = {"quickstart", "look_at_scenes", "evaluate_a_planner", "your_own", "realism", "counterfactuals"}
    assert {path.stem for path in NOTEBOOKS} == documented


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_executed_and_small(path):
    cells = read(path)["cells"]
    assert cells[0]["cell_type"] == "markdown" and path.stat().st_size < MAX_BYTES
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert any(cell["outputs"] for cell in code)


def test_other_outputs_are_noticed():
    stream = {"output_type": "stream", "name": "stdout", "text": ["a 1.00\n"]}
    assert_equal_output(stream, stream | {"text": ["a 1.01\n"]})
    for changed in ("a 1.10\n", "b 1.00\n", "a 1.00 2\n"):
        with pytest.raises(AssertionError):
            assert_equal_output(stream, stream | {"text": [changed]})
