"""Scenes by path: one file, many files, shards or synthetic ones, as a sequence of scenarios."""

import glob
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import overload

from waymax_sim.datasets.batches import Batches, Position
from waymax_sim.datasets.encoding import tfrecord
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.files import SceneFile, has_one_scene
from waymax_sim.datasets.scenarios import RecordFile, Scenarios, Source, Synthetic
from waymax_sim.datasets.store.files import is_store, shards
from waymax_sim.datasets.store.info import SceneInfo
from waymax_sim.datasets.window import Window

FORMS = (
    "give a file, a pattern such as 'folder/*.tfrecord*', shards as name@N, a folder of converted scenes, "
    "or synthetic:SEED:COUNT"
)
SHARDS = re.compile(r"(?P<name>.+)@(?P<count>\d{1,5})")
SYNTHETIC = re.compile(r"synthetic:(?P<seed>\d{1,9}):(?P<count>\d{1,9})")


@overload
def load(path: str | os.PathLike[str], *, bucketed: bool = True, window: Window | None = None) -> Scenarios: ...
@overload
def load(
    path: str | os.PathLike[str],
    *,
    batch_size: int,
    shuffle_seed: int | None = None,
    shard: tuple[int, int] = (0, 1),
    num_epochs: int | None = 1,
    keep: Callable[[SceneInfo], bool] | None = None,
    pad_to: Mapping[str, int] | Sequence[Mapping[str, int]] | None = None,
    start: Position | None = None,
    bucketed: bool = True,
    window: Window | None = None,
) -> Batches: ...
def load(path, *, batch_size=None, bucketed=True, window=None, start=None, **options):
    """Opens recorded, converted or synthetic scenes.

    Args:
      path: A TFRecord file of WOMD tf.Examples or Scenario protos; a pattern of such files (sorted by name);
        `name@N` for the shards `name-00000-of-0000N` and so on; a folder of converted scenes; or
        `synthetic:SEED:COUNT`.
      batch_size: Scenes of a batch; without it, a sequence of single scenes is returned.
      bucketed: Pad every axis to a common size, so that scenes of similar size share compiled programs.
      window: Which steps of every record to take, so that records of different lengths stack; all by default.
      start: The `position` where batches were left.
      options: More about batches: `shuffle_seed`, `shard`, `num_epochs`, `keep` and `pad_to`; see `Batches`.

    Returns:
      `Scenarios`, or `Batches` where a batch size is given.

    Raises:
      DataError: Nothing is there, or none of it can be read. Single bad records raise when they are read; batches leave
        them out.
    """
    scenarios = load_all([path], bucketed=bucketed, window=window)
    if batch_size is not None:
        return Batches(scenarios, batch_size, start=start or Position(), **options)
    if options or start is not None:
        raise TypeError(f"{', '.join([*options] or ['start'])} are about batches: give batch_size too")
    return scenarios


def load_all(
    paths: Sequence[str | os.PathLike[str]], *, bucketed: bool = True, window: Window | None = None
) -> Scenarios:
    """Opens the scenes of several paths as one sequence; see `load`."""
    found = [_open(os.fspath(path)) for path in paths]
    sources = [source for sources, _ in found for source in sources]
    problems = [problem for _, problems in found for problem in problems]
    return Scenarios(sources, problems=problems, bucketed=bucketed, window=window)


def _open(path: str) -> tuple[list[Source], list[DataError]]:
    """The sources that a path stands for, and what is wrong with some of them."""
    if path.startswith("synthetic:"):
        form = SYNTHETIC.fullmatch(path)
        if form is None or not int(form["count"]):
            raise DataError(
                "not a set of synthetic scenes", file=path, remedy="write synthetic:SEED:COUNT, COUNT above 0"
            )
        return [Synthetic(int(form["seed"]), int(form["count"]))], []
    if is_store(path):
        return [*shards(path)], []

    sources, problems = [], []
    for name in _files(path):
        if has_one_scene(name):
            sources.append(SceneFile(name))
            continue
        try:
            index = tfrecord.index(name)
        except DataError as error:
            problems.append(error)
            continue
        sources.append(RecordFile(index))
        if index.problem is not None:
            problems.append(index.problem)
    if not any(len(source) for source in sources):
        raise problems[0]
    return sources, problems


def _files(path: str) -> list[str]:
    """The files that a path stands for."""
    if os.path.isdir(path):
        raise DataError("is a folder", file=path, remedy=f"name its files, such as {os.path.join(path, '*.tfrecord*')}")
    if os.path.exists(path):
        return [path]
    if form := SHARDS.fullmatch(path):
        return _shards(form["name"], int(form["count"]))
    found = sorted(name for name in glob.glob(path, recursive=True) if os.path.isfile(name))
    if not found:
        raise DataError("no such file", file=path, remedy=FORMS)
    return found


def _shards(name: str, count: int) -> list[str]:
    shards = [f"{name}-{shard:05d}-of-{count:05d}" for shard in range(count)]
    missing = [shard for shard in shards if not os.path.isfile(shard)]
    if missing or not shards:
        where = missing[0] if missing else f"{name}@{count}"
        raise DataError(f"{len(missing)} of {count} shards are missing", file=where, remedy=FORMS)
    return shards
