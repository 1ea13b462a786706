"""Test settings. They must be in place before jax or the packages under test are imported."""

import gc
import os
from pathlib import Path

from tests.flags import fusion_emitters

# Each xdist worker has its own folder: jax writes cache entries in place, and a half-written one read by another
# worker would be a warning, so an error.
CACHE = Path(__file__).parents[1] / ".cache" / "jax" / os.environ.get("PYTEST_XDIST_WORKER", "main")

# To compile is most of what the tests do: here programs are optimised little, which takes a fifth of the time. `make
# slow` runs all tests with the programs that users run.
if os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1") == "1":
    flags = {"xla_cpu_parallel_codegen_split_count": 1} | fusion_emitters(False)
    quick = "".join(f" --{name}={str(value).lower()}" for name, value in flags.items())
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + quick
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.update(
    XLA_FLAGS=os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2",
    JAX_NUMPY_RANK_PROMOTION="raise",
    JAX_NUMPY_DTYPE_PROMOTION="strict",
    JAX_COMPILATION_CACHE_DIR=str(CACHE),
    JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
    JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES="-1",
)

import jax  # noqa: E402
import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

install_import_hook(["waymax_sim", "behavior_models"], "beartype.beartype")

# To look for garbage as often as Python does takes a fifth of the time of all tests: tracing makes much that stays.
gc.freeze()
gc.set_threshold(100_000, 20, 100)

# Bytes from which on compiled programs are dropped.
MUCH_MEMORY = 2.5e9

settings.register_profile("repository", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("repository")


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """Drops what was compiled when it takes much memory: together the programs of all tests take gigabytes."""
    yield
    if resident_bytes() > MUCH_MEMORY:
        jax.clear_caches()


def resident_bytes() -> float:
    """Memory of this process now; where that is not told, more than much."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return float("inf")
