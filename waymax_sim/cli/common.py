"""Shared by all commands: arguments, exit codes, errors, progress."""

import contextlib
import functools
import json
import re
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any, TypeVar

import tyro
from rich.console import Console

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.loader import load
from waymax_sim.datasets.resample import check_time_step
from waymax_sim.datasets.scenarios import Scenarios
from waymax_sim.env import Policy
from waymax_sim.plugins import policy_names, resolve_policy
from waymax_sim.text import printable

ScenePath = Annotated[
    str,
    tyro.conf.arg(
        metavar="PATH", help="A file, a quoted glob, shards as name@N, a converted folder, or synthetic:SEED:COUNT."
    ),
]
T = TypeVar("T")
# File formats of `draw`.
IMAGE_SUFFIXES = (".png", ".pdf", ".svg")
ANIMATION_SUFFIXES = (".gif", ".mp4")
PAGE_SUFFIXES = (".html",)
# The log as traffic: agents without a policy follow it.
LOG_POLICY = "log_replay"
LOG_ALIAS = "replay"
# Short names of policies.
POLICY_ALIASES = {LOG_ALIAS: LOG_POLICY}
# Exit codes.
DONE = 0
NOTHING_USABLE = 1
USAGE_ERROR = 2
INTERRUPTED = 130


class UsageError(Exception):
    """Invalid arguments of a command."""


@functools.cache
def stderr_console() -> Console:
    """The console of progress bars and notices; sharing it keeps notices above the bars."""
    return Console(stderr=True, markup=False, emoji=False)


def stdout_console(min_width: int = 0) -> Console:
    """The console of results, which may quote data: text is neither markup nor emoji.

    Args:
      min_width: Smallest width, characters.
    """
    plain = Console(highlight=False, markup=False, emoji=False)
    plain.width = max(min_width, plain.width)
    return plain


def print_line(text: str, *, to_stderr: bool = False) -> None:
    """Prints one line that may quote data and paths, to stdout by default."""
    print(printable(text), file=sys.stderr if to_stderr else sys.stdout)


def load_scenes(path: str, time_step: float | None = None) -> Scenarios:
    """Opens the scenes at a path; a malformed name of a synthetic source is a usage error.

    Args:
      path: The path.
      time_step: Time step to resample every record to, s; that of the record by default.
    """
    with usage_error_on(ValueError):
        check_time_step(time_step)
    try:
        return load(path, time_step=time_step)
    except DataError as error:
        raise UsageError(str(error)) if path.startswith("synthetic:") else error from None


def select_scenes(scenarios: Scenarios, path: str, limit: int | None, ids: tuple[str, ...]) -> tuple[Scenarios, str]:
    """The selected scenes, and a text of their source and selection.

    Args:
      scenarios: All scenes.
      path: Their source.
      limit: Maximum number of scenes, the first ones.
      ids: Scenario ids; all by default.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit} is not a number of scenes; give 1 or more")
    if ids:
        scenarios, path = scenarios.with_ids(ids), f"{path} ids {' '.join(ids)}"
    return (scenarios, path) if limit is None else (scenarios[:limit], f"{path} limit {limit}")


def policy_factories() -> dict[str, Callable[[], Policy]]:
    """A constructor for each registered policy; its module is imported at the call."""
    return {name: functools.partial(resolve_policy, name) for name in policy_names()}


def resolve_policies(texts: Iterable[str]) -> dict[str, Policy]:
    """Policies by the texts of the command line; short names are replaced by full ones."""
    return {name: resolve_policy(name) for name in dict.fromkeys(POLICY_ALIASES.get(text, text) for text in texts)}


def parse_shard(shard: str) -> tuple[int, int]:
    """Index and number of shards from i/n."""
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", shard)
    if match is None or not int(match[1]) < int(match[2]):
        raise UsageError(f"--shard {shard} is not of the form i/n with i below n")
    return int(match[1]), int(match[2])


@contextlib.contextmanager
def usage_error_on(*errors: type[Exception]) -> Iterator[None]:
    """Turns exceptions of these types into usage errors; a `DataError` only if it is named itself."""
    try:
        yield
    except errors as error:
        if isinstance(error, DataError) and DataError not in errors:
            raise
        raise UsageError(str(error)) from error


def until_interrupted(results: Iterator[T]) -> Iterator[T]:
    """Yields results; the first Ctrl-C takes effect after the current one, the second at any time.

    A process that is interrupted while XLA compiles would crash at exit.
    """
    is_interrupted = False

    def interrupt(*_):
        nonlocal is_interrupted
        is_interrupted = True
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        for result in results:
            yield result
            if is_interrupted:
                raise KeyboardInterrupt
    finally:
        signal.signal(signal.SIGINT, before)


def to_json(data: Any) -> str:
    """Strict, indented JSON."""
    return json.dumps(data, indent=2, allow_nan=False)


def print_failures(failures: list[DataError]) -> None:
    """Lists unusable scenes on stderr."""
    for error in failures:
        print_line(f"skipped: {error}", to_stderr=True)
    if failures:
        print(f"{len(failures)} could not be used", file=sys.stderr)
