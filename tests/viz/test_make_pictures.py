"""The pictures of the README: the command that makes them, and their sizes."""

import re
import shutil
import sys
from pathlib import Path

import pytest

import behavior_models
from examples import make_pictures

IMAGES = Path(__file__).parents[2] / "docs" / "images"


@pytest.fixture
def quick(monkeypatch):
    """One program and few metrics."""
    policies = {"constant velocity": behavior_models.ConstantVelocity(), "idm": behavior_models.ConstantVelocity()}
    monkeypatch.setattr(make_pictures, "POLICIES", policies)
    monkeypatch.setattr(make_pictures, "METRICS", ("overlap",))


def test_both_pictures_are_made(quick, tmp_path, monkeypatch, capsys):
    browser = tmp_path / "browser"
    save = "path = next(item[13:] for item in sys.argv if item.startswith('--screenshot='))"
    page = "page = open(sys.argv[-1].removeprefix('file://').split('#')[0]).read()"
    write = "open(path, 'w').write(f'{len(page)} characters of {sys.argv[-1]}')"
    browser.write_text(f"#!{sys.executable}\nimport sys\n{save}\n{page}\n{write}\n")
    browser.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(browser))
    assert make_pictures.main([str(tmp_path / "out"), "--steps", "4"]) == 0
    assert (tmp_path / "out" / "idm.gif").read_bytes().startswith(b"GIF8")
    assert re.fullmatch(r"\d{5,} characters of file:.*#step=4", (tmp_path / "out" / "viewer.png").read_text())
    assert "viewer.png" in capsys.readouterr().out


def test_without_a_browser_the_remedy_is_named(quick, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert make_pictures.main([str(tmp_path), "--steps", "4"]) == 1
    assert "no screenshot: install one of chromium" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"idm.gif", "raster.png"}


def test_the_pictures_of_the_readme_are_small():
    assert 0 < (IMAGES / "idm.gif").stat().st_size < 1_500_000
    assert 0 < (IMAGES / "viewer.png").stat().st_size < 500_000
