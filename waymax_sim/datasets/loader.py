"""Opens scenes by path: files, patterns, shards, converted scenes and synthetic scenes."""

import glob
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import overload

from waymax_sim.datasets.batches import Batches, Position
from waymax_sim.datasets.encoding import tfrecord
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.files import SceneFile, is_single_scene_file
from waymax_sim.datasets.scenarios import RecordFile, Scenarios, Source, SyntheticScenes
from waymax_sim.datasets.scene_info import SceneInfo
from waymax_sim.datasets.store.files import is_store, list_shards
from waymax_sim.datasets.window import Window

PATH_FORMS = (
    "give a file, a pattern such as 'folder/*.tfrecord*', shards as name@N, a folder of converted scenes, "
    "or synthetic:SEED:COUNT"
)
SHARDS_PATTERN = re.compile(r"(?P<name>.+)@(?P<count>\d{1,5})")
SYNTHETIC_PATTERN = re.compile(r"synthetic:(?P<seed>\d{1,9}):(?P<count>\d{1,9})")


@overload
def load(
    path: str | os.PathLike[str],
    *,
    pad_to_bucket: bool = True,
    window: Window | None = None,
    time_step: float | None = None,
) -> Scenarios: ...
@overload
def load(
    path: str | os.PathLike[str],
    *,
    batch_size: int,
    shuffle_seed: int | None = None,
    shard: tuple[int, int] = (0, 1),
    num_epochs: int | None = 1,
    filter: Callable[[SceneInfo], bool] | None = None,
    pad_to: Mapping[str, int] | Sequence[Mapping[str, int]] | None = None,
    resume_from: Position | None = None,
    pad_to_bucket: bool = True,
    window: Window | None = None,
    time_step: float | None = None,
) -> Batches: ...
def load(path, *, batch_size=None, pad_to_bucket=True, window=None, time_step=None, resume_from=None, **options):
    """Opens recorded, converted or synthetic scenes.

    Args:
      path: A TFRecord file of WOMD tf.Examples or Scenario protos; a pattern of such files (sorted by name);
        `name@N` for the shards `name-00000-of-0000N` and so on; a folder of converted scenes; or
        `synthetic:SEED:COUNT`.
      batch_size: Scenes per batch; without it, a sequence of single scenes is returned.
      pad_to_bucket: Pad all axes to `bucket_lengths`, so that scenes of similar size share compiled programs.
      window: Steps to cut from every record, so that records of different lengths stack; all by default.
      time_step: Time step to resample every record to, s; by default each scenario keeps that of its record.
      resume_from: Position of a `BatchIterator` to continue from.
      options: Further options of `Batches`: `shuffle_seed`, `shard`, `num_epochs`, `filter` and `pad_to`.

    Returns:
      `Scenarios`, or `Batches` if a batch size is given.

    Raises:
      DataError: No file exists, or none can be read. An invalid record raises when it is read; batches skip it.
    """
    scenarios = load_all([path], pad_to_bucket=pad_to_bucket, window=window, time_step=time_step)
    if batch_size is not None:
        return Batches(scenarios, batch_size, resume_from=resume_from or Position(), **options)
    if options or resume_from is not None:
        raise TypeError(f"{', '.join([*options] or ['resume_from'])} are options of batches: give batch_size too")
    return scenarios


def load_all(
    paths: Sequence[str | os.PathLike[str]],
    *,
    pad_to_bucket: bool = True,
    window: Window | None = None,
    time_step: float | None = None,
) -> Scenarios:
    """Opens the scenes of several paths as one sequence.

    Args:
      paths: Paths as in `load`.
      pad_to_bucket: See `load`.
      window: See `load`.
      time_step: See `load`.
    """
    opened_paths = [_open(os.fspath(path)) for path in paths]
    sources = [source for sources, _ in opened_paths for source in sources]
    problems = [problem for _, problems in opened_paths for problem in problems]
    options = {"pad_to_bucket": pad_to_bucket, "window": window, "time_step": time_step}
    return Scenarios(sources, problems=problems, **options)


def _open(path: str) -> tuple[list[Source], list[DataError]]:
    """The sources of a path, and the errors of its damaged files."""
    if path.startswith("synthetic:"):
        form = SYNTHETIC_PATTERN.fullmatch(path)
        if form is None or not int(form["count"]):
            raise DataError(
                "is not a set of synthetic scenes", file=path, remedy="write synthetic:SEED:COUNT, COUNT above 0"
            )
        return [SyntheticScenes(int(form["seed"]), int(form["count"]))], []
    if is_store(path):
        shards, problems = list_shards(path)
        return [*shards], problems

    sources, problems = [], []
    for name in _files(path):
        if is_single_scene_file(name):
            sources.append(SceneFile(name))
            continue
        try:
            index = tfrecord.index_records(name)
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
    """The files of a path: itself, its shards, or the matches of a pattern, sorted."""
    if os.path.isdir(path):
        raise DataError("is a folder", file=path, remedy=f"name its files, such as {os.path.join(path, '*.tfrecord*')}")
    if os.path.exists(path):
        return [path]
    if form := SHARDS_PATTERN.fullmatch(path):
        return _shards(form["name"], int(form["count"]))
    matches = sorted(name for name in glob.glob(path, recursive=True) if os.path.isfile(name))
    if not matches:
        raise DataError("no such file", file=path, remedy=PATH_FORMS)
    return matches


def _shards(name: str, count: int) -> list[str]:
    shards = [f"{name}-{shard:05d}-of-{count:05d}" for shard in range(count)]
    missing = [shard for shard in shards if not os.path.isfile(shard)]
    if missing or not shards:
        first = missing[0] if missing else f"{name}@{count}"
        raise DataError(f"{len(missing)} of {count} shards are missing", file=first, remedy=PATH_FORMS)
    return shards
