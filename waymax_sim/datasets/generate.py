"""Writes shards of synthetic scenes as WOMD tf.Examples. Complete shards are not written again."""

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

SYNTHETIC_SHARD_SIZE = 50  # scenes per file

Encode = Callable[[RawScene], bytes]


@dataclasses.dataclass(frozen=True)
class SyntheticShard:
    """A file of synthetic scenes.

    Attributes:
      path: The file.
      seed: Seed of the scenes.
      scenes: Indices of the scenes.
    """

    path: Path
    seed: int
    scenes: range

    @property
    def is_complete(self) -> bool:
        """Whether the file exists with all of its records."""
        try:
            index = tfrecord.index_records(self.path)
        except DataError:
            return False
        return index.problem is None and len(index) == len(self.scenes)


def synthetic_shards(out: Path, *, count: int, seed: int) -> list[SyntheticShard]:
    """The shards of a set of scenes: `synthetic-SEED.tfrecord-00000-of-000NN` and so on.

    Scenes depend on seed and index alone, so the shards of one set are valid in a larger set of equally many shards.

    Args:
      out: Folder of the files.
      count: Number of scenes.
      seed: Seed of the scenes.
    """
    num_shards = math.ceil(count / SYNTHETIC_SHARD_SIZE)
    starts = range(0, count, SYNTHETIC_SHARD_SIZE)
    return [
        SyntheticShard(
            out / f"synthetic-{seed}.tfrecord-{index:05d}-of-{num_shards:05d}",
            seed,
            range(start, min(start + SYNTHETIC_SHARD_SIZE, count)),
        )
        for index, start in enumerate(starts)
    ]


def generate(
    shards: list[SyntheticShard], *, workers: int = 1, encode: Encode | None = None
) -> Iterator[SyntheticShard]:
    """Writes the incomplete shards and yields each complete one, in any order.

    A file is renamed to its path when it is complete, so an interrupted call can be repeated.

    Args:
      shards: The shards; see `synthetic_shards`.
      workers: Number of processes; 1 uses the current one.
      encode: Encodes a scene as a record; as a WOMD tf.Example by default.
    """
    write = functools.partial(_write, encode=encode)
    yield from (shard for shard in shards if shard.is_complete)
    missing = [shard for shard in shards if not shard.is_complete]
    if workers == 1:
        yield from map(write, missing)
        return
    # A forked process with the threads of JAX can deadlock.
    executor = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        for future in as_completed([executor.submit(write, shard) for shard in missing]):
            yield future.result()
    finally:
        executor.shutdown(cancel_futures=True)


def _write(shard: SyntheticShard, encode: Encode | None) -> SyntheticShard:
    encode_scene: Encode = encode or importlib.import_module("waymax_sim.datasets.formats.write_womd").encode_tf_example
    partial = shard.path.with_name(f"{shard.path.name}.partial")
    tfrecord.write_records(partial, [encode_scene(synthetic_scene(shard.seed, index)) for index in shard.scenes])
    os.replace(partial, shard.path)
    return shard
