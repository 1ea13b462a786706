"""Inputs of field reports; they are kept outside of this project."""

import os
from pathlib import Path

import pytest

DEFAULT_FOLDER = Path(__file__).parents[3] / "shared" / "field"


def field_file(name: str) -> Path:
    """Path of an input of a field report; skips the test where the input is absent."""
    path = Path(os.environ.get("WAYMAX_SIM_FIELD", DEFAULT_FOLDER)) / name
    if not path.exists():
        pytest.skip(f"no field input at {path}; set WAYMAX_SIM_FIELD to a folder that has {name}")
    return path
