"""Properties of the repository: strict tests, light imports, short files, documents that match the code."""

import functools
import os
import re
import subprocess
import sys
import warnings
from importlib import metadata
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from waymax_sim import geometry

ROOT = Path(__file__).parents[1]
OPTIONAL = {
    "array_record",
    "behavior_models",
    "dm_env",
    "flax",
    "gymnasium",
    "matplotlib",
    "optax",
    "orbax",
    "pettingzoo",
    "PIL",
    "pyarrow",
    "rich",
    "stable_baselines3",
    "tensorflow",
    "tensorflow_datasets",
    "tree",
    "tyro",
}


def project_files(*patterns: str) -> list[Path]:
    folders = ("waymax_sim", "behavior_models", "examples", "tests", "docs", ".ci", ".github")
    inside = [path for folder in folders for pattern in patterns for path in (ROOT / folder).rglob(pattern)]
    paths = [*inside, *(path for pattern in patterns for path in ROOT.glob(pattern))]
    return [path for path in paths if path.is_file() and "_build" not in path.parts]


def test_mixed_ranks_raise():
    with pytest.raises(ValueError, match="jax_numpy_rank_promotion='raise'"):
        jnp.ones((2, 3)) + jnp.ones(3)


def test_mixed_dtypes_raise():
    with pytest.raises(ValueError, match="promotion"):
        jnp.ones(3, jnp.float32) + jnp.ones(3, jnp.int32)


def test_numbers_are_32_bits_wide():
    assert jnp.asarray(1.0).dtype == jnp.float32
    assert jnp.asarray(1).dtype == jnp.int32


def test_there_are_two_devices():
    assert len(jax.devices()) >= 2 or jax.default_backend() != "cpu"


def test_wrong_shapes_raise():
    with pytest.raises(jaxtyping.TypeCheckError):
        geometry.unit_vector("north")
    with pytest.raises(jaxtyping.TypeCheckError):
        geometry.dot(np.ones(3, np.float32), np.ones(3, np.float32))


def test_warnings_raise():
    with pytest.raises(UserWarning):
        warnings.warn("raised", UserWarning, stacklevel=1)


def test_compiled_programs_are_kept():
    folder = Path(jax.config.jax_compilation_cache_dir)
    # A program of this test only.
    jax.jit(lambda x: x * 3 + 0.1234567)(jnp.ones(17)).block_until_ready()
    assert any(folder.iterdir())


@functools.cache
def imported_packages(code: str) -> set[str]:
    """Top-level packages, other than the standard library, that a new process has imported after running the code."""
    script = f"{code}; import sys; print(); print(*sorted(sys.modules))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    return {name.partition(".")[0] for name in run.stdout.splitlines()[-1].split()} - set(sys.stdlib_module_names)


@pytest.mark.parametrize(
    ("code", "allowed"),
    [
        ("import waymax_sim, waymax_sim.plugins", {"waymax_sim"}),
        ("import behavior_models", {"waymax_sim", "behavior_models"}),
        (
            "from waymax_sim.plugins import resolve_policy as resolve; resolve('idm'), resolve('mppi:num_elites=4')",
            {"waymax_sim", "behavior_models"},
        ),
    ],
)
def test_imports_load_nothing_but_jax(code, allowed):
    assert imported_packages(code) - imported_packages("import jax.experimental, jaxtyping") == allowed


def test_the_log_level_of_xla_is_set_before_jax_is_imported():
    script = """
import os, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "jax":
            print(os.environ.get("TF_CPP_MIN_LOG_LEVEL"))

sys.meta_path.insert(0, Finder())
import waymax_sim
"""
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    for given, expected in (({}, "3"), ({"TF_CPP_MIN_LOG_LEVEL": "0"}, "0")):
        run = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
            env=environment | given,
        )
        assert run.stdout.split() == [expected]


def test_help_of_the_command_is_light():
    loaded = imported_packages("from waymax_sim.cli import main; main(['--help'])")
    assert {"jax", "tyro"} <= loaded
    # The help lists the command `train`, whose package is loaded for its options.
    assert not loaded & OPTIONAL - {"rich", "tyro", "behavior_models"}


def test_files_are_short():
    long = {
        str(path.relative_to(ROOT)): lines
        for path in project_files("*.py", "*.md", "*.toml", "*.yml", "*.html")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 400
    }
    assert not long


def test_nothing_is_left_to_do():
    # Concatenated, so that this file does not match.
    words = ["TO" + "DO", "FIX" + "ME", "XX" + "X", "NotImplemented" + "Error"]
    pattern = re.compile(rf"\b({'|'.join(words)})\b")
    files = project_files("*.py", "*.md", "*.toml", "Makefile", "run")
    assert not [str(path) for path in files if pattern.search(path.read_text(encoding="utf-8"))]


def test_no_file_names_a_folder_of_one_machine():
    pattern = re.compile(r"(?<![\w.*{}])/(work|tmp|root|home|farm)/\w")
    files = project_files("*.py", "*.md", "*.toml", "*.yml", "Makefile", "run")
    assert not [str(path) for path in files if pattern.search(path.read_text(encoding="utf-8"))]


def test_every_package_folder_is_installed():
    inits = {path.parent for path in project_files("__init__.py")}
    bare = [path for path in project_files("*.py") if path.parent not in inits]
    packaged = [path for path in bare if path.relative_to(ROOT).parts[0] in ("waymax_sim", "behavior_models")]
    assert not packaged
    for package in ("waymax_sim", "behavior_models"):
        assert (ROOT / package / "py.typed").exists()


def test_commands_of_the_readme_exist():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    documented = set(re.findall(r"\bmake ([a-z]+)`", readme))
    assert {"demo", "test", "pictures"} <= documented <= targets


def test_version_is_the_top_of_the_changelog():
    import waymax_sim

    top = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert top and waymax_sim.__version__ == top[1] == metadata.version("waymax-sim")


def test_the_public_names_are_documented():
    import waymax_sim

    api = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    missing = [name for name in waymax_sim.__all__ if not re.search(rf"\bwaymax_sim\.{name}\b", api)]
    assert not missing
    assert len(waymax_sim.__all__) <= 25


def test_ci_runs_the_commands_of_users():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "make test" in script.read_text(encoding="utf-8")
    assert "make test" in (ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8")
