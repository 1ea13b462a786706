"""Batches of scenes for training: shuffled, shared out among processes, read ahead, and resumed to the scene."""

import dataclasses
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from jaxtyping import Int

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.scenarios import Scenarios
from waymax_sim.datasets.store.info import SceneInfo
from waymax_sim.datatypes.padding import Stack, larger_in, sizes, stack_scenarios
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.pytree import take

# Batches that are read while the caller works on one.
AHEAD = 2

Sizes = Mapping[str, int]
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Position:
    """Where a pass over batches stands. What comes next depends on nothing else; it is made of plain numbers.

    Attributes:
      epoch: Passes over the data that are complete.
      place: Scenes of this process that were looked at in the present pass.
      waiting: Scenes that were read but are in no batch yet, for each of the sizes that are padded to.
    """

    epoch: int = 0
    place: int = 0
    waiting: Sequence[Sequence[int]] = ()


@dataclasses.dataclass(frozen=True)
class Batches:
    """Batches of scenarios, each with a leading axis B. Iterating begins at `start`, every time.

    An epoch gives every scene once, in an order that depends on the seed and the epoch alone; process i of n gets the
    scenes i, i + n, i + 2 n, ... of that order. What does not fill a batch waits for scenes of the next epoch, so only
    the last batches can be smaller. Scenes that cannot be used are left out and named in `problems` of the iterator.

    Attributes:
      scenarios: The scenes.
      batch_size: Scenes of a batch.
      shuffle_seed: Seed of the order; None for the order of the source.
      shard: (i, n): this is process i of n.
      num_epochs: Passes over the data; None to go on for ever.
      keep: Which scenes to take, by facts that are known without decoding a converted scene.
      pad_to: Lengths of axes, as `sizes` gives them, that scenes are padded to, so that all batches have one shape. For
        several, each scene goes with the first that hold it. None pads each batch to its largest scene.
      start: Where to begin.
    """

    scenarios: Scenarios
    batch_size: int
    shuffle_seed: int | None = None
    shard: tuple[int, int] = (0, 1)
    num_epochs: int | None = 1
    keep: Callable[[SceneInfo], bool] | None = None
    pad_to: Sizes | Sequence[Sizes] | None = None
    start: Position = Position()

    def __post_init__(self):
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size} is not a number of scenes; give 1 or more")
        if not 0 <= self.shard[0] < self.shard[1]:
            raise ValueError(f"shard={self.shard} is not (i, n) with i below n")

    def __iter__(self) -> "BatchIterator":
        return BatchIterator(self)


class BatchIterator:
    """Gives batches while a thread reads the next ones.

    Attributes:
      position: Where this pass stands, after the batches that were given.
      problems: Why scenes before this position were left out.
    """

    def __init__(self, batches: Batches):
        self.position: Position = batches.start
        self.problems: list[DataError] = []
        self._coming = _ahead(_batches(batches))

    def __iter__(self) -> "BatchIterator":
        return self

    def __next__(self) -> Scenario:
        batch, self.position, problems = next(self._coming)
        self.problems += problems
        if batch is None:
            self.close()
            raise StopIteration
        return batch

    def close(self) -> None:
        """Stops reading ahead."""
        self._coming.close()


def _order(batches: Batches, epoch: int) -> Int[np.ndarray, " n"]:
    """The scenes of this process in an epoch, in order."""
    count = len(batches.scenarios)
    index, number = batches.shard
    if batches.shuffle_seed is None:
        return np.arange(index, count, number)
    return np.random.default_rng([batches.shuffle_seed, epoch]).permutation(count)[index::number]


class _Waiting:
    """Scenes of one batch to come. They are stacked as they are read: the memory of one does for the next.

    Attributes:
      rows: Which scenes these are.
    """

    rows: list[int]

    def __init__(self, batch_size: int, to: Sizes | None):
        self._batch_size, self._to = batch_size, to
        self.rows = []
        self._others: dict[int, Scenario] = {}

    def add(self, row: int, scenario: Scenario) -> None:
        """Adds a scene, which is no larger than the sizes to pad to."""
        if not self.rows:
            self._stack = Stack([scenario], sizes(scenario) if self._to is None else self._to, self._batch_size)
        if self._stack.holds(scenario):
            self._stack.put(len(self.rows), scenario)
        else:
            self._others[len(self.rows)] = scenario
        self.rows.append(row)

    def batch(self) -> Scenario:
        """The scenes, stacked."""
        stacked = take(self._stack.batch, slice(len(self.rows)))
        if not self._others:
            return stacked
        rows = range(len(self.rows))
        return stack_scenarios([self._others.get(row) or take(stacked, (row, ...)) for row in rows])


def _batches(batches: Batches) -> Iterator[tuple[Scenario | None, Position, list[DataError]]]:
    """Batches, where the pass stands after each, and what was left out on the way; None for the last of them."""
    shapes = [batches.pad_to] if batches.pad_to is None or isinstance(batches.pad_to, Mapping) else [*batches.pad_to]
    start, problems = batches.start, []
    waiting = [_Waiting(batches.batch_size, shape) for shape in shapes]
    # What waited is read again.
    for group, rows in zip(waiting, start.waiting, strict=False):
        for row in rows:
            group.add(row, _fitted(batches.scenarios, row, shapes)[1])
    epoch = start.epoch
    while batches.num_epochs is None or epoch < batches.num_epochs:
        order, begin, useful = _order(batches, epoch), start.place if epoch == start.epoch else 0, False
        for place in range(begin, len(order)):
            row = int(order[place])
            try:
                if batches.keep is not None and not batches.keep(batches.scenarios.info(row)):
                    continue
                which, scenario = _fitted(batches.scenarios, row, shapes)
            except DataError as error:
                problems.append(error)
                continue
            useful = True
            group = waiting[which]
            group.add(row, scenario)
            if len(group.rows) == batches.batch_size:
                waiting[which] = _Waiting(batches.batch_size, shapes[which])
                yield group.batch(), _position(epoch, place + 1, waiting), problems
                problems = []
        epoch += 1
        if not useful and not begin:
            break
    for which, group in enumerate(waiting):
        waiting[which] = _Waiting(batches.batch_size, shapes[which])
        if group.rows:
            yield group.batch(), _position(epoch, 0, waiting), problems
            problems = []
    yield None, _position(epoch, 0, waiting), problems


def _fitted(scenarios: Scenarios, row: int, shapes: Sequence[Sizes | None]) -> tuple[int, Scenario]:
    """A scene, and the first of the shapes that holds it."""
    scenario = scenarios[row]
    for which, shape in enumerate(shapes):
        if shape is None or not larger_in(scenario, shape):
            return which, scenario
    file, record = scenarios.source(row)
    raise DataError("larger than all sizes to pad to", file=file, record=record, remedy="give larger sizes")


def _position(epoch: int, place: int, waiting: list[_Waiting]) -> Position:
    return Position(epoch, place, [[*group.rows] for group in waiting])


def _ahead(items: Iterator[T]) -> Generator[T, None, None]:
    """The same items; a thread makes some of them in advance."""
    thread = ThreadPoolExecutor(1)
    coming = deque(thread.submit(next, items, None) for _ in range(AHEAD))
    try:
        while (item := coming.popleft().result()) is not None:
            coming.append(thread.submit(next, items, None))
            yield item
    finally:
        thread.shutdown(wait=False, cancel_futures=True)
