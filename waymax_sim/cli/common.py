"""What commands share: arguments, exit codes, errors, progress."""

import contextlib
import functools
import json
import re
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any, TypeVar

import tyro

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.loader import load
from waymax_sim.datasets.scenarios import Scenarios
from waymax_sim.env import Policy
from waymax_sim.plugins import policy_names, resolve_policy

ScenePath = Annotated[
    str,
    tyro.conf.arg(
        metavar="PATH", help="A file, a quoted glob, shards as name@N, a converted folder, or synthetic:SEED:COUNT."
    ),
]
T = TypeVar("T")
PICTURES, ANIMATIONS, PAGES = (".png", ".pdf", ".svg"), (".gif", ".mp4"), (".html",)
# Other names of policies.
SHORT = {"replay": "log_replay"}
DONE, NOTHING_USABLE, WRONG_CALL, INTERRUPTED = 0, 1, 2, 130


class WrongCall(Exception):
    """The command cannot mean anything as it was given."""


def load_scenes(path: str) -> Scenarios:
    """Opens the scenes at a path."""
    try:
        return load(path)
    except DataError as error:
        # A synthetic source is nothing but its name: only the name can be wrong.
        raise WrongCall(str(error)) if path.startswith("synthetic:") else error from None


def policy_factories() -> dict[str, Callable[[], Policy]]:
    """A function for each registered policy that makes it; a policy is imported when it is made."""
    return {name: functools.partial(resolve_policy, name) for name in policy_names()}


def resolve_policies(texts: Iterable[str]) -> dict[str, Policy]:
    """Policies by the text that the user gave, or by the full name where that is a short one."""
    return {name: resolve_policy(name) for name in dict.fromkeys(SHORT.get(text, text) for text in texts)}


def part_of(shard: str) -> tuple[int, int]:
    """Which of how many parts, from i/n."""
    part = re.fullmatch(r"(\d{1,6})/(\d{1,6})", shard)
    if part is None or not int(part[1]) < int(part[2]):
        raise WrongCall(f"--shard {shard} is not i/n with i below n")
    return int(part[1]), int(part[2])


@contextlib.contextmanager
def wrong_if(*errors: type[Exception]) -> Iterator[None]:
    """Errors of these kinds inside the block are about how the command was called."""
    try:
        yield
    except errors as error:
        raise WrongCall(str(error)) from error


def until_interrupted(results: Iterator[T]) -> Iterator[T]:
    """Waits for the end of a scene at the first Ctrl-C: a process stopped while XLA compiles crashes at its exit."""
    pressed = []

    def press(*_):
        pressed.append(True)
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, press)
    try:
        for result in results:
            yield result
            if pressed:
                raise KeyboardInterrupt
    finally:
        signal.signal(signal.SIGINT, before)


def dumps(data: Any) -> str:
    """JSON for scripts."""
    return json.dumps(data, indent=2, allow_nan=False)


def list_failures(failures: list[DataError]) -> None:
    """Says on stderr which scenes could not be used."""
    for error in failures:
        print(f"skipped: {error}", file=sys.stderr)
    if failures:
        print(f"{len(failures)} could not be used", file=sys.stderr)
