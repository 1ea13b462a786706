"""Scenes by path: one file, many files, shards or synthetic ones, as a sequence of scenarios."""

import bisect
import dataclasses
import glob
import itertools
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, overload, runtime_checkable

import numpy as np

from waymax_sim.datasets import tfrecord, wire
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.files import SceneFile, has_one_scene
from waymax_sim.datasets.scenario_proto import scene_from_proto
from waymax_sim.datasets.scene import RawScene, to_scenario
from waymax_sim.datasets.store.files import is_store, shards
from waymax_sim.datasets.store.info import SceneInfo, info_of
from waymax_sim.datasets.tf_example import decode_example
from waymax_sim.datasets.window import Window
from waymax_sim.datasets.window import window as cut
from waymax_sim.datasets.womd import scene_from_example
from waymax_sim.datatypes.scenario import Scenario

if TYPE_CHECKING:
    from waymax_sim.datasets.batches import Batches, Position

FORMS = (
    "give a file, a pattern such as 'folder/*.tfrecord*', shards as name@N, a folder of converted scenes, "
    "or synthetic:SEED:COUNT"
)
SHARDS = re.compile(r"(?P<name>.+)@(?P<count>\d{1,5})")
SYNTHETIC = re.compile(r"synthetic:(?P<seed>\d{1,9}):(?P<count>\d{1,9})")


@runtime_checkable
class Source(Protocol):
    """Anything that holds a known number of scenes; `read` raises `DataError` for one that cannot be used."""

    @property
    def name(self) -> str: ...

    def __len__(self) -> int: ...

    def read(self, record: int) -> RawScene: ...


@runtime_checkable
class ScenarioSource(Source, Protocol):
    """A source that has scenarios themselves, with all that is built from their maps."""

    def scenario(self, record: int, *, bucketed: bool) -> Scenario: ...

    def info(self, record: int) -> SceneInfo: ...


@dataclasses.dataclass(frozen=True)
class RecordFile:
    """The scenes of a TFRecord file, tf.Examples and Scenario protos alike."""

    index: tfrecord.Index

    @property
    def name(self) -> str:
        return self.index.path

    def __len__(self) -> int:
        return len(self.index)

    def read(self, record: int) -> RawScene:
        return parse(tfrecord.read(self.index, record))


@dataclasses.dataclass(frozen=True)
class Synthetic:
    """Made-up scenes: scene i of a seed is always the same."""

    seed: int
    count: int

    @property
    def name(self) -> str:
        return f"synthetic:{self.seed}:{self.count}"

    def __len__(self) -> int:
        return self.count

    def read(self, record: int) -> RawScene:
        # Only here, so that reading files does not depend on it.
        from waymax_sim.datasets.synthetic import synthetic_scene

        return synthetic_scene(self.seed, record)


# Damaged floats may be signalling NaNs, which NumPy warns of; they are refused later by `to_scenario`.
@np.errstate(invalid="ignore")
def parse(data: bytes) -> RawScene:
    """Reads a scene from a serialized tf.Example or Scenario proto, whichever it is.

    Raises:
      DataError: It is neither, or it is damaged.
    """
    fields = wire.decode(data, "record")
    # An Example has only field 1, a message; in a Scenario, 2 are the tracks and 5 is the id.
    if fields.keys() == {1} and fields[1][0][0] == wire.LEN:
        return scene_from_example(decode_example(data))
    if 2 in fields or 5 in fields:
        return scene_from_proto(data)
    raise DataError("neither a tf.Example nor a Scenario proto", remedy=tfrecord.NOT_A_RECORD)


# Not Sequence[Scenario]: run-time type checks would read a record to see what it holds.
class Scenarios(Sequence):
    """Scenarios that are read when asked for. Nothing stays open, so it can be sent to other processes.

    Args:
      sources: Where the scenes are, in order.
      problems: See below.
      bucketed: Pad every axis to a common size.
      window: Which steps of every record to take, all by default.
      rows: Which of all scenes to take, all by default.

    Attributes:
      problems: Why the rest of a file could not be read, for files whose framing is broken.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        problems: Sequence[DataError] = (),
        bucketed: bool = True,
        window: Window | None = None,
        rows: range | None = None,
    ):
        self.problems = list(problems)
        self._sources = list(sources)
        self._ends = list(itertools.accumulate(len(source) for source in sources))
        self._bucketed = bucketed
        self._window = window
        self._rows = range(self._ends[-1] if self._ends else 0) if rows is None else rows

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Scenario]:
        return (self[index] for index in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> Scenario: ...
    @overload
    def __getitem__(self, index: slice) -> "Scenarios": ...
    def __getitem__(self, index):
        """One scenario, or for a slice the scenarios in it, still unread.

        Raises:
          DataError: The record cannot be used.
          IndexError: There is no such scenario.
        """
        if isinstance(index, slice):
            rows = self._rows[index]
            options = {"problems": self.problems, "bucketed": self._bucketed, "window": self._window}
            return Scenarios(self._sources, **options, rows=rows)
        source, record = self._find(index)
        try:
            if self._window is None and isinstance(source, ScenarioSource):
                return source.scenario(record, bucketed=self._bucketed)
            return to_scenario(self.read(index), bucketed=self._bucketed)
        except DataError as error:
            raise error.at(file=source.name, record=record) from None

    def read(self, index: int) -> RawScene:
        """The scene as its source has it: world frame, float64, no padding. Only the steps of the window, if any.

        Raises:
          DataError: The record cannot be used.
        """
        source, record = self._find(index)
        try:
            raw = source.read(record)
            return raw if self._window is None else cut(raw, **dataclasses.asdict(self._window))
        except DataError as error:
            raise error.at(file=source.name, record=record) from None

    def info(self, index: int) -> SceneInfo:
        """Facts about a scene; of a converted one without decoding it.

        Raises:
          DataError: The record cannot be used.
        """
        source, record = self._find(index)
        try:
            return source.info(record) if isinstance(source, ScenarioSource) else info_of(self[index])
        except DataError as error:
            raise error.at(file=source.name, record=record) from None

    def source(self, index: int) -> tuple[str, int]:
        """File and record of a scenario."""
        source, record = self._find(index)
        return source.name, record

    def attempt(self) -> Iterator[tuple[tuple[str, int], Scenario | DataError]]:
        """Every scenario with its file and record; for a bad record, what is wrong with it."""
        for index in range(len(self)):
            try:
                outcome = self[index]
            except DataError as error:
                outcome = error
            yield self.source(index), outcome

    def _find(self, index: int) -> tuple[Source, int]:
        row = self._rows[index]
        which = bisect.bisect_right(self._ends, row)
        return self._sources[which], row - (self._ends[which - 1] if which else 0)


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
    start: "Position | None" = None,
    bucketed: bool = True,
    window: Window | None = None,
) -> "Batches": ...
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
    # Only here, because batches are made of what this module returns.
    from waymax_sim.datasets.batches import Batches, Position

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
