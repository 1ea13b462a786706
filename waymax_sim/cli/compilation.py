"""Persistent cache of compiled programs in the user's cache folder, and notices of long compilations."""

import contextlib
import hashlib
import os
import platform
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from jax import monitoring

from waymax_sim.cli.common import stderr_console

# Environment variable with the cache folder, or with one of `CACHE_OFF`.
CACHE_VARIABLE = "WAYMAX_SIM_CACHE"
CACHE_OFF = ("off", "0", "no", "false")
# Size above which the least recently used programs are deleted when a command starts, bytes.
MAX_CACHE_BYTES = 2**30
# Compilations and reads from the cache that take less are not announced, s.
NOTICE_DELAY = 2.0
# Ratio of the time of XLA's compilation to that of lowering: 15 to 22 for rollouts on CPUs.
COMPILE_TO_LOWERING_RATIO = 18.0
LOWERING_EVENT = "/jax/core/compile/jaxpr_to_mlir_module_duration"
COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"


def enable_cache() -> Path | None:
    """Makes JAX store compiled programs for later runs, unless JAX has a cache folder already.

    Returns:
      The folder; None if the cache is disabled or the folder is not writable.
    """
    config: Any = jax.config  # its options have no types
    setting = os.environ.get(CACHE_VARIABLE, "")
    if config.jax_compilation_cache_dir is not None:
        return Path(config.jax_compilation_cache_dir)
    if setting.lower() in CACHE_OFF or not config.jax_enable_compilation_cache:
        return None
    try:
        # JAX caches machine code: hosts with different CPUs that share a home folder have separate caches.
        folder = (Path(setting).expanduser() if setting else user_cache_folder()) / _cpu_id()
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
        delete_least_recently_used(folder, MAX_CACHE_BYTES)
    except (OSError, RuntimeError):  # not writable, or no home folder
        return None
    # A full disk, or an entry that another process has not completed: the program is compiled as without a cache.
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation cache entry")
    settings = {"compilation_cache_dir": str(folder)}
    settings |= {"persistent_cache_min_compile_time_secs": 0.0, "persistent_cache_min_entry_size_bytes": -1}
    for name, value in settings.items():
        if f"JAX_{name.upper()}" not in os.environ:
            config.update(f"jax_{name}", value)
    return folder


def user_cache_folder() -> Path:
    """The platform's folder for caches of this package."""
    if sys.platform == "win32":
        root = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        root = Path.home() / "Library" / "Caches"
    else:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "waymax_sim"


def delete_least_recently_used(folder: Path, max_bytes: int) -> None:
    """Deletes the files of a folder with the oldest access until the others have at most `max_bytes`."""
    files = [(path, path.stat()) for path in folder.iterdir() if path.is_file()]
    total = sum(stat.st_size for _, stat in files)
    for path, stat in sorted(files, key=lambda item: item[1].st_atime):
        if total <= max_bytes:
            break
        path.unlink(missing_ok=True)
        total -= stat.st_size


@contextlib.contextmanager
def announce_compilation(folder: Path | None) -> Iterator[None]:
    """Reports compilations of more than `NOTICE_DELAY` on stderr, with an estimate of their duration.

    Args:
      folder: Folder of the cache, if there is one.
    """
    timer: threading.Timer | None = None

    def listen(event: str, duration_secs: float, **_) -> None:
        nonlocal timer
        if event not in (LOWERING_EVENT, COMPILE_EVENT):
            return
        if timer is not None:
            timer.cancel()
        timer = None
        estimate = COMPILE_TO_LOWERING_RATIO * duration_secs
        # Programs that are compiled in less time are not worth a thread.
        if event == LOWERING_EVENT and estimate > NOTICE_DELAY:
            timer = threading.Timer(NOTICE_DELAY, _print_notice, (estimate, folder))
            timer.daemon = True
            timer.start()

    monitoring.register_event_duration_secs_listener(listen)
    try:
        yield
    finally:
        monitoring.unregister_event_duration_listener(listen)
        if timer is not None:
            timer.cancel()


def _print_notice(estimate: float, folder: Path | None) -> None:
    stored = "not cached" if folder is None else f"cached in {folder}"
    text = f"compiling (first run of this program, about {estimate:.0f} s, {stored})"
    stderr_console().print(text, soft_wrap=True, highlight=False, markup=False)


def _cpu_id() -> str:
    """Name of the instruction set of this host's CPU."""
    features = [platform.machine(), platform.processor()]
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        features += sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))})
    return f"{platform.machine()}-{hashlib.sha256(' '.join(features).encode()).hexdigest()[:8]}"
