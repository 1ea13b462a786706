"""Lazily read sequences of scenarios and their sources: record files, synthetic scenes, converted scenes."""

import bisect
import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Protocol, overload, runtime_checkable

import numpy as np

from waymax_sim.datasets.encoding import protobuf, tfrecord
from waymax_sim.datasets.encoding.tf_example import decode_example
from waymax_sim.datasets.errors import DataError, locate_errors
from waymax_sim.datasets.formats.scenario_proto import scene_from_proto
from waymax_sim.datasets.formats.womd import scene_from_example
from waymax_sim.datasets.resample import resample
from waymax_sim.datasets.scene import RawScene, to_scenario
from waymax_sim.datasets.scene_info import SceneInfo, scene_info
from waymax_sim.datasets.testing_split import add_task_steps
from waymax_sim.datasets.window import Window, cut_window
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.text import printable


@runtime_checkable
class Source(Protocol):
    """A source of a known number of scenes; `read` raises `DataError` for an invalid record."""

    @property
    def name(self) -> str: ...

    def __len__(self) -> int: ...

    def read(self, record: int) -> RawScene: ...


@runtime_checkable
class ScenarioSource(Source, Protocol):
    """A source that holds scenarios with the indexes of their maps, and facts about them."""

    def scenario(self, record: int, *, pad_to_bucket: bool) -> Scenario: ...

    def info(self, record: int) -> SceneInfo: ...


@dataclasses.dataclass(frozen=True)
class RecordFile:
    """The scenes of a TFRecord file of tf.Examples and Scenario protos."""

    index: tfrecord.RecordIndex

    @property
    def name(self) -> str:
        return self.index.path

    def __len__(self) -> int:
        return len(self.index)

    def read(self, record: int) -> RawScene:
        return parse(tfrecord.read_record(self.index, record))


@dataclasses.dataclass(frozen=True)
class SyntheticScenes:
    """Synthetic scenes: scene i depends on the seed and i alone."""

    seed: int
    count: int

    @property
    def name(self) -> str:
        return f"synthetic:{self.seed}:{self.count}"

    def __len__(self) -> int:
        return self.count

    def read(self, record: int) -> RawScene:
        # Imported on use, so that readers of files do not load the generator.
        from waymax_sim.datasets.synthetic import synthetic_scene

        return synthetic_scene(self.seed, record)


# Damaged floats may be signaling NaNs, for which NumPy warns; `to_scenario` rejects them.
@np.errstate(invalid="ignore")
def parse(data: bytes) -> RawScene:
    """Decodes a serialized tf.Example or Scenario proto; the format follows from the field numbers.

    Records of testing splits are extended, see `add_task_steps`.

    Raises:
      DataError: The record is neither, or it is damaged.
    """
    fields = protobuf.decode(data, "record")
    # An Example has only field 1, a message; a Scenario has its tracks in field 2 and its id in field 5.
    if fields.keys() == {1} and fields[1][0][0] == protobuf.LEN:
        return add_task_steps(scene_from_example(decode_example(data)))
    if 2 in fields or 5 in fields:
        return add_task_steps(scene_from_proto(data))
    raise DataError("is neither a tf.Example nor a Scenario proto", remedy=tfrecord.TFRECORD_REMEDY)


# Not Sequence[Scenario]: run-time type checks would read a record to check its type.
class Scenarios(Sequence):
    """A sequence of scenarios that are read on access. It holds no open file, so it can be sent to other processes.

    Args:
      sources: The sources, in order.
      problems: See below.
      pad_to_bucket: Pad all axes to `bucket_lengths`.
      window: Steps to cut from every record; all by default.
      time_step: Time step to resample every record to, s; that of the record by default.
      rows: Rows among the scenes of all sources; all by default.

    Attributes:
      time_step: Time step that records are resampled to, s; None for their own.
      problems: Errors of files whose framing is damaged, so that their remaining records cannot be read.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        problems: Sequence[DataError] = (),
        pad_to_bucket: bool = True,
        window: Window | None = None,
        time_step: float | None = None,
        rows: Sequence[int] | None = None,
    ):
        self.problems = list(problems)
        self._sources = list(sources)
        self._ends = list(itertools.accumulate(len(source) for source in sources))
        self._bucketed = pad_to_bucket
        self._window = window
        self.time_step = time_step
        self._rows = range(self._ends[-1] if self._ends else 0) if rows is None else rows

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        names = [source.name for source in self._sources[:3]]
        more = f" and {len(self._sources) - 3} more" if len(self._sources) > 3 else ""
        problems = f"; {len(self.problems)} unreadable files" if self.problems else ""
        return f"Scenarios({len(self)} of {', '.join(map(printable, names))}{more}{problems})"

    def __iter__(self) -> Iterator[Scenario]:
        return (self[index] for index in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> Scenario: ...
    @overload
    def __getitem__(self, index: slice) -> "Scenarios": ...
    def __getitem__(self, index):
        """One scenario, or the unread scenarios of a slice.

        Raises:
          DataError: The record is invalid.
          IndexError: There is no such scenario.
        """
        if isinstance(index, slice):
            return self._at_rows(self._rows[index])
        source, record = self._locate(index)
        with locate_errors(source.name, record):
            if self._window is None and self.time_step is None and isinstance(source, ScenarioSource):
                return source.scenario(record, pad_to_bucket=self._bucketed)
            return to_scenario(self.read(index), pad_to_bucket=self._bucketed)

    def with_ids(self, ids: Sequence[str]) -> "Scenarios":
        """The unread scenarios with the given scenario ids, in the order of the source; unreadable records are skipped.

        All records are parsed for their ids.

        Raises:
          DataError: There is no scenario with one of the ids.
        """
        rows_by_id: dict[str, list[int]] = {name: [] for name in ids}
        for index, row in enumerate(self._rows):
            with contextlib.suppress(DataError):
                rows_by_id.get(self.read(index).scenario_id, []).append(row)
        missing = [name for name, rows in rows_by_id.items() if not rows]
        if missing:
            files = ", ".join(source.name for source in self._sources)
            raise DataError(f"no scenario has the id {', '.join(missing)}", file=files, remedy="see `waymax-sim info`")
        return self._at_rows(sorted(row for rows in rows_by_id.values() for row in rows))

    def _at_rows(self, rows: Sequence[int]) -> "Scenarios":
        """The unread scenarios at rows among those of all sources."""
        return Scenarios(
            self._sources,
            problems=self.problems,
            pad_to_bucket=self._bucketed,
            window=self._window,
            time_step=self.time_step,
            rows=rows,
        )

    def read(self, index: int) -> RawScene:
        """The scene as recorded: world frame, float64, no padding, resampled, then cut to the window.

        Raises:
          DataError: The record is invalid.
        """
        source, record = self._locate(index)
        with locate_errors(source.name, record):
            raw = source.read(record)
            raw = raw if self.time_step is None else resample(raw, self.time_step)
            return raw if self._window is None else cut_window(raw, **dataclasses.asdict(self._window))

    def info(self, index: int) -> SceneInfo:
        """Facts about a scene; a converted scene is not decoded for them.

        Raises:
          DataError: The record is invalid.
        """
        source, record = self._locate(index)
        with locate_errors(source.name, record):
            if isinstance(source, ScenarioSource) and self.time_step is None:
                return source.info(record)
            return scene_info(self[index])

    def source(self, index: int) -> tuple[str, int]:
        """File and record of a scenario."""
        source, record = self._locate(index)
        return source.name, record

    def iter_results(self) -> Iterator[tuple[tuple[str, int], Scenario | DataError]]:
        """Each scenario, or the error of its record, with file and record."""
        for index in range(len(self)):
            try:
                outcome = self[index]
            except DataError as error:
                outcome = error
            yield self.source(index), outcome

    def _locate(self, index: int) -> tuple[Source, int]:
        row = self._rows[index]
        source_index = bisect.bisect_right(self._ends, row)
        return self._sources[source_index], row - (self._ends[source_index - 1] if source_index else 0)
