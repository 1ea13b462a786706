"""What commands share: arguments, exit codes, errors, progress."""

import contextlib
import importlib
import json
import re
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Annotated, Any, TypeVar

import tyro

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.loader import load
from waymax_sim.datasets.scenarios import Scenarios
from waymax_sim.env import Policy

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


def policies_by_name() -> dict[str, Callable[[], Policy]]:
    """What makes each policy, by name."""
    # By name, because the simulator must not depend on its users.
    return importlib.import_module("behavior_models").POLICIES


def policy_named(name: str) -> Policy:
    """A policy by name."""
    policies, name = policies_by_name(), SHORT.get(name, name)
    if name not in policies:
        raise WrongCall(f"unknown policy {name!r}; known are {', '.join(policies)}")
    return policies[name]()


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
