"""Recorded scenes for tests; they are licensed, so none is part of this project."""

import os
from pathlib import Path

import pytest

DEFAULT_FOLDER = Path(__file__).parents[2] / "shared" / "data"


def recorded(relative: str) -> Path:
    """Path of a recorded sample; skips the test where the sample is absent."""
    path = Path(os.environ.get("WAYMAX_SIM_DATA", DEFAULT_FOLDER)) / relative
    if not path.exists():
        pytest.skip(f"no recorded scene at {path}; set WAYMAX_SIM_DATA to a folder that has {relative}")
    return path
