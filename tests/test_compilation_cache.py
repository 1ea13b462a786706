"""The cache of compiled programs of the command line, and the notice of long compilations."""

import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from waymax_sim.cli import compilation
from waymax_sim.cli.compilation import announce_compilation, delete_least_recently_used, enable_cache, user_cache_folder

# Runs a command and prints the number of programs that XLA compiled and that were read from the cache.
COUNT = """
import sys
import jax
events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event.rpartition("/")[2]))
from waymax_sim.cli import main
code = main(sys.argv[1:])
requests, hits = (events.count(name) for name in ("compile_requests_use_cache", "cache_hits"))
print("requests", requests, "compiled", requests - hits, file=sys.stderr)
sys.exit(code)
"""


def run_command(cache: Path, *arguments: str) -> str:
    """Runs a command in a new process without the cache of the tests; returns stderr."""
    own = ("JAX_COMPILATION", "JAX_PERSISTENT", "WAYMAX_SIM_CACHE")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    environment |= {"WAYMAX_SIM_CACHE": str(cache), "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-W", "error", "-c", COUNT, *arguments]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr
    assert "persistent" not in run.stderr
    return run.stderr


def num_compiled(stderr: str) -> tuple[int, int]:
    (line,) = [line for line in stderr.splitlines() if line.startswith("requests")]
    _, requests, _, compiled = line.split()
    return int(requests), int(compiled)


def evaluate(out: Path) -> list[str]:
    options = ["--policy", "constant_velocity", "--metrics", "log_divergence", "--steps", "3"]
    return ["evaluate", "synthetic:0:1", *options, "--out", str(out)]


def test_a_second_run_compiles_nothing(tmp_path):
    cache = tmp_path / "cache"
    requests, compiled = num_compiled(run_command(cache, *evaluate(tmp_path / "a")))
    assert 0 < compiled <= requests
    assert num_compiled(run_command(cache, *evaluate(tmp_path / "b"))) == (requests, 0)
    assert {path.suffix for path in cache.rglob("*") if path.is_file()} == {""}


def test_settings_of_jax_take_precedence(tmp_path, monkeypatch):
    monkeypatch.setenv("WAYMAX_SIM_CACHE", str(tmp_path / "cache"))
    assert enable_cache() == Path(jax.config.jax_compilation_cache_dir)
    assert not (tmp_path / "cache").exists()


@pytest.fixture
def no_cache_folder():
    """JAX without the cache folder of the tests."""
    folder = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", folder)


@pytest.mark.parametrize("setting", ["off", "a file"])
def test_without_a_writable_folder_nothing_is_cached(setting, no_cache_folder, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("WAYMAX_SIM_CACHE", "off" if setting == "off" else str(tmp_path / "file"))
    assert enable_cache() is None
    assert jax.config.jax_compilation_cache_dir is None


def test_the_default_folder_is_that_of_the_platform(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache_folder() == tmp_path / "waymax_sim"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert user_cache_folder() == tmp_path / "local" / "waymax_sim"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert user_cache_folder().parts[-3:] == ("Library", "Caches", "waymax_sim")


def test_the_least_recently_used_programs_are_deleted(tmp_path):
    for age, name in enumerate(("new", "old", "oldest")):
        (tmp_path / name).write_bytes(bytes(10))
        os.utime(tmp_path / name, (1e9 - age, 1e9))
    delete_least_recently_used(tmp_path, 30)
    assert len(list(tmp_path.iterdir())) == 3
    delete_least_recently_used(tmp_path, 25)
    assert {path.name for path in tmp_path.iterdir()} == {"new", "old"}


def test_long_compilations_are_announced(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compilation, "NOTICE_DELAY", 0.05)
    with announce_compilation(tmp_path):
        jax.monitoring.record_event_duration_secs(compilation.LOWERING_EVENT, 1.0)
        time.sleep(0.5)
        jax.monitoring.record_event_duration_secs(compilation.COMPILE_EVENT, 18.0)
    err = capsys.readouterr().err
    assert err.startswith("compiling (first run of this program, about 18 s, cached in ") and str(tmp_path) in err


def test_short_compilations_and_reads_from_the_cache_are_not_announced(monkeypatch, capsys):
    monkeypatch.setattr(compilation, "NOTICE_DELAY", 0.2)
    with announce_compilation(None):
        jax.monitoring.record_event_duration_secs(compilation.LOWERING_EVENT, 1.0)
        jax.monitoring.record_event_duration_secs(compilation.COMPILE_EVENT, 0.1)
        jax.monitoring.record_event_duration_secs(compilation.LOWERING_EVENT, 0.001)
        time.sleep(0.5)
    assert capsys.readouterr().err == ""


def test_jax_reports_the_events_of_a_compilation():
    events = []
    listener = lambda event, duration_secs, **_: events.append(event)  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        jax.jit(lambda x: jnp.sin(x) * 3.25)(jnp.ones(17))
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert [event for event in events if event in (compilation.LOWERING_EVENT, compilation.COMPILE_EVENT)][-2:] == [
        compilation.LOWERING_EVENT,
        compilation.COMPILE_EVENT,
    ]
