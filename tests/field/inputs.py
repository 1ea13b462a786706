"""Inputs of field reports, which are kept outside of the repository."""

import os
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("WAYMAX_SIM_FIELD") or Path(__file__).parents[3] / "shared" / "field")


def field_file(name: str) -> Path:
    """The path of an input; skips the test where it is absent."""
    path = FOLDER / name
    if not path.exists():
        pytest.skip(f"{name} is not in {FOLDER}; set WAYMAX_SIM_FIELD to the folder of field reports")
    return path
