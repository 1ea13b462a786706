"""Test settings. They must be in place before jax or the packages under test are imported."""

import gc
import os
from collections import Counter
from pathlib import Path

from tests.flags import fusion_emitters

# One folder for all xdist workers: what one of them compiles, the others read.
CACHE = Path(__file__).parents[1] / ".cache" / "jax"

# Most of the time of the tests is compilation: here programs are optimized little, in a fifth of the time. `make slow`
# runs all tests with the programs that users run.
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
    # Otherwise the path of the cache is part of the keys, and a clone elsewhere compiles all programs again.
    JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES="none",
    JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
    JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES="-1",
)

import jax  # noqa: E402
import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

install_import_hook(["waymax_sim", "behavior_models"], "beartype.beartype")

# Garbage collection as often as Python does it takes a fifth of the time of all tests: tracing allocates much.
gc.freeze()
gc.set_threshold(100_000, 20, 100)

# Resident memory (bytes) above which compiled programs are dropped.
MAX_MEMORY = 2.5e9
# Number of programs that one test may compile, unless it is marked with `max_programs`. The count depends on the order
# of tests, because eager operations are compiled once per process.
MAX_PROGRAMS = 200
COMPILATION = "/jax/core/compile/backend_compile_duration"

settings.register_profile("repository", deadline=None, derandomize=True, max_examples=50)
settings.register_profile("quick", settings.get_profile("repository"), max_examples=10)
settings.load_profile("repository")

# Number of events of each name since the test began.
events: Counter[str] = Counter()


def count_event(name: str, _: float, **__: object) -> None:
    events[name] += 1


jax.monitoring.register_event_duration_secs_listener(count_event)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with heavy tests first: the workers of xdist then end at about the same time."""
    heavy = {item.path for item in items if item.get_closest_marker("compile_heavy")}
    items.sort(key=lambda item: item.path not in heavy)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item):
    """Fails a test that compiles more programs than it may: compilation is what makes tests slow."""
    events.clear()
    result = yield
    marker = item.get_closest_marker("max_programs")
    limit = marker.args[0] if marker else MAX_PROGRAMS
    if events[COMPILATION] > limit:
        pytest.fail(
            f"compiled {events[COMPILATION]} programs, more than {limit}: share shapes and compiled functions "
            "(tests/programs.py), index NumPy arrays instead of JAX arrays, or mark the test with max_programs"
        )
    return result


@pytest.fixture(autouse=True, scope="module")
def drop_programs():
    """Drops compiled programs when memory is large: those of all tests together take gigabytes."""
    yield
    if resident_memory() > MAX_MEMORY:
        jax.clear_caches()


def resident_memory() -> float:
    """Resident memory of this process in bytes; infinite where the system does not report it."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return float("inf")
