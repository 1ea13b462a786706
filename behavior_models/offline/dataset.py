"""Folders of logged transitions: shards of arrays and `dataset.json`."""

import dataclasses
import json
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from jaxtyping import Key

from behavior_models.offline.transitions import Transitions, returns_to_go
from waymax_sim.datasets.encoding.npz import read_npz_arrays
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.prefetch import prefetch
from waymax_sim.env.encoder import ObservationEncoder, ObservationSpec
from waymax_sim.pytree import Array

FORMAT = 1
DATASET_FILE = "dataset.json"
# Rows of a stream, and size of the observations of a shard, bytes: readers limit the expansion of compressed files.
NUM_ROWS = 128
SHARD_BYTES = 2**25
ARRAYS = ("observation", "action", "reward", "ended", "truncated", "active", "task", "return_to_go")
REMEDY = "repeat `waymax-sim log`, or remove the folder"


def pack_episodes(episodes: Any, task: int, num_tasks: int, num_rows: int = NUM_ROWS) -> Transitions:
    """Episodes of a task without the rows after their ends, one after another in streams.

    Args:
      episodes: Records on the host with `observation` [T + 1, E, D] and `action`, `reward`, `ended`, `truncated` and
        `active` [T, E], such as `TaskEpisodes`.
      task: Index of the task.
      num_tasks: Number of tasks.
      num_rows: Rows of a stream, more than T.
    """
    lengths = episodes.active.sum(axis=0)
    lasts = np.maximum(lengths - 1, 0)
    # A truncated episode keeps its last observation.
    retained = lengths + episodes.truncated[lasts, np.arange(len(lasts))]
    stream, row, position = 0, 0, []
    for size in retained:
        stream, row = (stream + 1, 0) if row + size > num_rows else (stream, row)
        position.append((stream, row))
        row += int(size)
    shape = num_rows, stream + 1
    names = ("observation", "action", "reward", "ended", "truncated", "active")
    arrays = {name: getattr(episodes, name) for name in names}
    packed = {name: np.zeros((*shape, *array.shape[2:]), array.dtype) for name, array in arrays.items()}
    for index, (stream, row) in enumerate(position):
        for name, array in arrays.items():
            size = retained[index] if name == "observation" else lengths[index]
            packed[name][row : row + size, stream] = array[:size, index]
    ends = np.logical_or(packed["ended"], packed["truncated"])
    to_go = returns_to_go(packed["reward"], ends, packed["active"])
    return Transitions(**packed, task=np.full(shape[1], task, np.int32), return_to_go=to_go, num_tasks=num_tasks)


def concatenate(parts: Sequence[Transitions]) -> Transitions:
    """The streams of all parts."""
    joined = {name: np.concatenate([getattr(part, name) for part in parts], axis=_stream_axis(name)) for name in ARRAYS}
    return Transitions(**joined, num_tasks=parts[0].num_tasks)


def select_streams(transitions: Transitions, index: slice | Array) -> Transitions:
    """Some streams of host arrays, by an index, slice or mask."""
    arrays = {name: np.asarray(getattr(transitions, name)) for name in ARRAYS}
    chosen = {name: array[index] if name == "task" else array[:, index] for name, array in arrays.items()}
    return Transitions(**chosen, num_tasks=transitions.num_tasks)


def write_shards(folder: Path, transitions: Transitions, name: str) -> list[str]:
    """Writes the streams of a set in shards of at most `SHARD_BYTES`; returns the names of the files.

    Args:
      folder: The folder, which exists.
      transitions: The set, on the host.
      name: Prefix of the files.
    """
    stream_bytes = max(transitions.observation[:, :1].nbytes, 1)
    step = max(SHARD_BYTES // stream_bytes, 1)
    files = []
    for begin in range(0, transitions.task.shape[0], step):
        shard = select_streams(transitions, slice(begin, begin + step))
        file = f"{name}-{begin // step:04d}.npz"
        partial = folder / f".{file}"
        with partial.open("wb") as out:
            np.savez_compressed(out, **{key: getattr(shard, key) for key in ARRAYS})
        partial.replace(folder / file)
        files.append(file)
    return files


def write_dataset(
    folder: Path, encoder: ObservationEncoder, tasks: Sequence[str], files: Sequence[str], **facts: Any
) -> None:
    """Writes `dataset.json`, with which a folder is complete.

    Args:
      folder: The folder of the shards.
      encoder: Encoder of the observations.
      tasks: Names of the tasks by index.
      files: Names of the shards.
      facts: Further content, such as policies and normalized returns.
    """
    content = {
        "format": FORMAT,
        "encoder": dataclasses.asdict(cast(Any, encoder)),
        "observation": encoder.spec().to_dict(),
        "tasks": list(tasks),
        "shards": list(files),
        "facts": facts,
    }
    partial = folder / f".{DATASET_FILE}"
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    partial.replace(folder / DATASET_FILE)


def read_description(folder: Path, spec: ObservationSpec | None = None) -> dict[str, Any]:
    """The content of `dataset.json`.

    Args:
      folder: The folder.
      spec: Specification that the observations must have; not checked by default.

    Raises:
      DataError: The folder holds no dataset, one of another format, or other observations.
    """
    file = folder / DATASET_FILE
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"holds no dataset of transitions: {error}", file=str(file), remedy=REMEDY) from None
    valid = isinstance(content, dict) and content.get("format") == FORMAT
    if not valid or not all(isinstance(content.get(key), list) for key in ("tasks", "shards")):
        raise DataError("has another format", file=str(file), remedy=REMEDY)
    difference = None if spec is None else spec.difference(content.get("observation") or {})
    if difference is not None:
        raise DataError(
            f"has other observations: {difference}", file=str(file), remedy="use the encoder of the dataset"
        )
    return content


def load_transitions(folder: Path, spec: ObservationSpec | None = None) -> Transitions:
    """The whole set, on the host.

    Args:
      folder: The folder.
      spec: Specification that the observations must have; not checked by default.

    Raises:
      DataError: See `read_description`; a shard is damaged, or there is no transition.
    """
    content = read_description(folder, spec)
    parts = [_read_shard(folder, name, len(content["tasks"])) for name in content["shards"]]
    if not any(part.active.any() for part in parts):
        raise DataError("has no transition", file=str(folder), remedy=REMEDY)
    return concatenate(parts)


def stream_transitions(
    folder: Path, key: Key[Array, ""], num_streams: int, spec: ObservationSpec | None = None
) -> Generator[Transitions, None, None]:
    """Endless sets of `num_streams` streams in random order, for sets larger than the memory; read in the background.

    Every pass visits each shard once in random order. Streams of two consecutive shards are shuffled together.

    Args:
      folder: The folder.
      key: Random key.
      num_streams: Streams per set.
      spec: Specification that the observations must have.

    Raises:
      DataError: See `load_transitions`.
    """
    content = read_description(folder, spec)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).astype(np.uint32))

    def sets() -> Iterator[Transitions]:
        pool: list[Transitions] = []
        while content["shards"]:
            for name in rng.permutation(content["shards"]):
                pool.append(_read_shard(folder, str(name), len(content["tasks"])))
                merged = concatenate(pool)
                merged = select_streams(merged, rng.permutation(len(merged.task)))
                # The rest is shuffled with the next shard.
                count = len(merged.task) // num_streams
                for index in range(count):
                    yield select_streams(merged, slice(index * num_streams, (index + 1) * num_streams))
                pool = [select_streams(merged, slice(count * num_streams, None))]

    return prefetch(sets(), 2)


def _read_shard(folder: Path, name: str, num_tasks: int) -> Transitions:
    path = folder / Path(name).name
    arrays = read_npz_arrays(path, ARRAYS, REMEDY)
    missing = [key for key in ARRAYS if key not in arrays]
    if missing:
        raise DataError(f"lacks {', '.join(missing)}", file=str(path), remedy=REMEDY)
    shape = arrays["action"].shape
    fits = len(shape) == 2 and all(arrays[key].shape[:2] == shape for key in ARRAYS if key != "task")
    task = arrays["task"]
    if not fits or task.shape != shape[1:] or (task.size and not 0 <= task.min() <= task.max() < num_tasks):
        raise DataError("has arrays of different shapes or unknown tasks", file=str(path), remedy=REMEDY)
    if not np.isfinite(arrays["reward"]).all():
        raise DataError("has rewards that are not finite", file=str(path), field="reward", remedy=REMEDY)
    return Transitions(**arrays, num_tasks=num_tasks)


def _stream_axis(name: str) -> int:
    return 0 if name == "task" else 1
