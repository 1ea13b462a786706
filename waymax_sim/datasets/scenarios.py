"""Sequences of scenarios that are read on demand: record files, synthetic scenes and other sources."""

import bisect
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Protocol, overload, runtime_checkable

import numpy as np

from waymax_sim.datasets.encoding import protobuf, tfrecord
from waymax_sim.datasets.encoding.tf_example import decode_example
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.formats.scenario_proto import scene_from_proto
from waymax_sim.datasets.formats.womd import scene_from_example
from waymax_sim.datasets.scene import RawScene, to_scenario
from waymax_sim.datasets.store.info import SceneInfo, info_of
from waymax_sim.datasets.window import Window
from waymax_sim.datasets.window import window as cut
from waymax_sim.datatypes.scenario import Scenario


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
    fields = protobuf.decode(data, "record")
    # An Example has only field 1, a message; in a Scenario, 2 are the tracks and 5 is the id.
    if fields.keys() == {1} and fields[1][0][0] == protobuf.LEN:
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
