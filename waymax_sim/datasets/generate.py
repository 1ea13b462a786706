"""Made-up scenes as files: shards of WOMD tf.Examples. What is already there is not made again."""

import dataclasses
import functools
import importlib
import math
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from waymax_sim.datasets.encoding import tfrecord
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.scene import RawScene
from waymax_sim.datasets.synthetic import synthetic_scene

SCENES_PER_SHARD = 50

Encode = Callable[[RawScene], bytes]


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file of made-up scenes.

    Attributes:
      path: The file.
      seed: Seed of the scenes.
      scenes: Their numbers.
    """

    path: Path
    seed: int
    scenes: range

    @property
    def is_done(self) -> bool:
        """Whether the file is there and whole."""
        try:
            found = tfrecord.index(self.path)
        except DataError:
            return False
        return found.problem is None and len(found) == len(self.scenes)


def shards_of(out: Path, *, count: int, seed: int) -> list[Shard]:
    """The files of a set of scenes: `synthetic-SEED.tfrecord-00000-of-000NN` and so on.

    A scene is the same in every set of its seed, so files of one set are also right for a larger one of as many shards.
    """
    number = math.ceil(count / SCENES_PER_SHARD)
    starts = range(0, count, SCENES_PER_SHARD)
    return [
        Shard(
            out / f"synthetic-{seed}.tfrecord-{index:05d}-of-{number:05d}",
            seed,
            range(start, min(start + SCENES_PER_SHARD, count)),
        )
        for index, start in enumerate(starts)
    ]


def generate(shards: list[Shard], *, workers: int = 1, encode: Encode | None = None) -> Iterator[Shard]:
    """Writes the shards that are not there yet and yields each when it is, in any order.

    A file appears under its name only when it is whole, so an interrupted call can be repeated.

    Args:
      shards: What to write; see `shards_of`.
      workers: Processes to use. With one, nothing is started.
      encode: From a scene to the bytes of a record; WOMD tf.Examples by default.
    """
    write = functools.partial(_write, encode=encode)
    yield from (shard for shard in shards if shard.is_done)
    missing = [shard for shard in shards if not shard.is_done]
    if workers == 1:
        yield from map(write, missing)
        return
    # A fork of a process with the threads of JAX can hang.
    executor = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        for future in as_completed([executor.submit(write, shard) for shard in missing]):
            yield future.result()
    finally:
        executor.shutdown(cancel_futures=True)


def _write(shard: Shard, encode: Encode | None) -> Shard:
    make: Encode = encode or importlib.import_module("waymax_sim.datasets.formats.write_womd").example_of
    partial = shard.path.with_name(f"{shard.path.name}.partial")
    tfrecord.write_records(partial, [make(synthetic_scene(shard.seed, index)) for index in shard.scenes])
    os.replace(partial, shard.path)
    return shard
