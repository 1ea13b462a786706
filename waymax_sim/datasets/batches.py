"""Batches of scenarios for training: shuffled, sharded over processes, prefetched, exactly resumable."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Int

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.prefetch import prefetch
from waymax_sim.datasets.scenarios import Scenarios
from waymax_sim.datasets.scene_info import SceneInfo
from waymax_sim.datatypes.padding import BatchBuffer, axes_too_large, axis_lengths, stack_scenarios
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.pytree import tree_index

# Batches that are read in advance.
PREFETCHED_BATCHES = 2

AxisLengths = Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class Position:
    """Position of a pass over batches, in plain numbers. It determines all following batches.

    Attributes:
      epoch: Number of complete passes over the data.
      offset: Number of scenes of this process that were processed in the current pass.
      pending: Indices of scenes that were read but are in no batch yet, per entry of `Batches.pad_to`.
    """

    epoch: int = 0
    offset: int = 0
    pending: Sequence[Sequence[int]] = ()


@dataclasses.dataclass(frozen=True)
class Batches:
    """Batches of scenarios, each with a leading axis B. Each iteration starts at `resume_from`.

    An epoch yields each scene once, in an order that depends on the seed and the epoch alone; process i of n takes the
    scenes i, i + n, i + 2 n, ... of that order. An incomplete batch is completed with scenes of the next epoch, so only
    the last batches can be smaller. Scenes that cannot be read are skipped and listed in `problems` of the iterator.

    Attributes:
      scenarios: The scenes.
      batch_size: Scenes per batch.
      shuffle_seed: Seed of the order; None for the order of the source.
      shard: (i, n): this is process i of n.
      num_epochs: Passes over the data; None for an infinite number.
      filter: Selects scenes by their `SceneInfo`; converted scenes are not decoded for it.
      pad_to: Axis lengths, as `axis_lengths` returns them, that scenes are padded to, so that all batches have one
        shape. Of several, a scene takes the first ones that hold it. None pads each batch to its largest scene.
      resume_from: Position to start at.
    """

    scenarios: Scenarios
    batch_size: int
    shuffle_seed: int | None = None
    shard: tuple[int, int] = (0, 1)
    num_epochs: int | None = 1
    filter: Callable[[SceneInfo], bool] | None = None
    pad_to: AxisLengths | Sequence[AxisLengths] | None = None
    resume_from: Position = Position()

    def __post_init__(self):
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size} is not a number of scenes; give 1 or more")
        if not 0 <= self.shard[0] < self.shard[1]:
            raise ValueError(f"shard={self.shard} is not (i, n) with 0 <= i < n")

    def __iter__(self) -> "BatchIterator":
        return BatchIterator(self)


class BatchIterator:
    """Yields batches while a thread reads the following ones.

    Attributes:
      position: Position after the batches that have been yielded, for `resume_from`.
      problems: Errors of the scenes before this position that were skipped.
    """

    def __init__(self, batches: Batches):
        self.position: Position = batches.resume_from
        self.problems: list[DataError] = []
        self._prefetched = prefetch(_iter_batches(batches), PREFETCHED_BATCHES)

    def __iter__(self) -> "BatchIterator":
        return self

    def __next__(self) -> Scenario:
        batch, self.position, problems = next(self._prefetched)
        self.problems += problems
        if batch is None:
            self.close()
            raise StopIteration
        return batch

    def close(self) -> None:
        """Stops the background thread."""
        self._prefetched.close()


def _epoch_order(batches: Batches, epoch: int) -> Int[np.ndarray, " n"]:
    """Indices of the scenes of this process in an epoch, in order."""
    num_scenes = len(batches.scenarios)
    index, num_shards = batches.shard
    if batches.shuffle_seed is None:
        return np.arange(index, num_scenes, num_shards)
    return np.random.default_rng([batches.shuffle_seed, epoch]).permutation(num_scenes)[index::num_shards]


class _PendingBatch:
    """A batch that is being filled. Scenes are written to its buffer as they are read.

    Attributes:
      indices: Indices of its scenes.
    """

    indices: list[int]

    def __init__(self, batch_size: int, lengths: AxisLengths | None):
        self._batch_size, self._lengths = batch_size, lengths
        self.indices = []
        self._unbuffered: dict[int, Scenario] = {}

    def add(self, index: int, scenario: Scenario) -> None:
        """Adds a scene that is no larger than the axis lengths to pad to."""
        if not self.indices:
            lengths = axis_lengths(scenario) if self._lengths is None else self._lengths
            self._buffer = BatchBuffer([scenario], lengths, self._batch_size)
        if self._buffer.fits(scenario):
            self._buffer.write(len(self.indices), scenario)
        else:
            self._unbuffered[len(self.indices)] = scenario
        self.indices.append(index)

    def stack(self) -> Scenario:
        """The scenes as one batch."""
        buffered = tree_index(self._buffer.batch, slice(len(self.indices)))
        if not self._unbuffered:
            return buffered
        rows = range(len(self.indices))
        return stack_scenarios([self._unbuffered.get(row) or tree_index(buffered, (row, ...)) for row in rows])


def _iter_batches(batches: Batches) -> Iterator[tuple[Scenario | None, Position, list[DataError]]]:
    """Batches, each with the position after it and the errors since the previous one; the last batch is None."""
    shapes = [batches.pad_to] if batches.pad_to is None or isinstance(batches.pad_to, Mapping) else [*batches.pad_to]
    start, problems = batches.resume_from, []
    pending = [_PendingBatch(batches.batch_size, shape) for shape in shapes]
    for group, indices in zip(pending, start.pending, strict=False):
        for index in indices:
            group.add(index, _read_fitting(batches.scenarios, index, shapes)[1])
    epoch = start.epoch
    while batches.num_epochs is None or epoch < batches.num_epochs:
        first_offset, any_usable = start.offset if epoch == start.epoch else 0, False
        order = _epoch_order(batches, epoch)
        for offset in range(first_offset, len(order)):
            index = int(order[offset])
            try:
                if batches.filter is not None and not batches.filter(batches.scenarios.info(index)):
                    continue
                shape, scenario = _read_fitting(batches.scenarios, index, shapes)
            except DataError as error:
                problems.append(error)
                continue
            any_usable = True
            group = pending[shape]
            group.add(index, scenario)
            if len(group.indices) == batches.batch_size:
                pending[shape] = _PendingBatch(batches.batch_size, shapes[shape])
                yield group.stack(), _position(epoch, offset + 1, pending), problems
                problems = []
        epoch += 1
        # With infinite epochs, a source without any usable scene must end.
        if not any_usable and not first_offset:
            break
    for shape, group in enumerate(pending):
        pending[shape] = _PendingBatch(batches.batch_size, shapes[shape])
        if group.indices:
            yield group.stack(), _position(epoch, 0, pending), problems
            problems = []
    yield None, _position(epoch, 0, pending), problems


def _read_fitting(scenarios: Scenarios, index: int, shapes: Sequence[AxisLengths | None]) -> tuple[int, Scenario]:
    """A scene, preceded by the index of the first of the shapes that holds it."""
    scenario = scenarios[index]
    for shape_index, shape in enumerate(shapes):
        if shape is None or not axes_too_large(scenario, shape):
            return shape_index, scenario
    file, record = scenarios.source(index)
    raise DataError("larger than all of `pad_to`", file=file, record=record, remedy="give larger axis lengths")


def _position(epoch: int, offset: int, pending: list[_PendingBatch]) -> Position:
    return Position(epoch, offset, [[*group.indices] for group in pending])
