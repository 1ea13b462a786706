"""Converts scenes of any format to a store, once and for all.

Shards are written one after the other, each under another name until it is complete; then a file beside it describes
it. A conversion that was killed goes on with the first shard that is not described, and what comes out is the same, to
the byte: nothing in a store depends on when, where or by how many it was written.
"""

import concurrent.futures
import contextlib
import hashlib
import json
import multiprocessing
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

from waymax_sim.datasets.encoding import array_record
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.scenarios import Scenarios
from waymax_sim.datasets.store.files import DATASET_INFO, MANIFEST, SHARD, shard_name
from waymax_sim.datasets.store.record import features_of, serialize
from waymax_sim.datasets.store.schema import VERSION, dataset_info_json, features_json
from waymax_sim.datatypes.padding import bucket, sizes

Json = dict[str, Any]
# Scenes of a shard: about 60 MB, and about a minute of work.
SHARD_SIZE = 256
# What is kept of a problem.
PROBLEM = ("file", "record", "field", "problem", "remedy")
OTHER_FOLDER = "choose another folder, or empty this one"


def convert(
    scenarios: Scenarios,
    out: str | os.PathLike[str],
    *,
    workers: int = 1,
    shard: tuple[int, int] = (0, 1),
    shard_size: int = SHARD_SIZE,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Json | None:
    """Writes scenes to a store; the same call goes on with a conversion that was stopped.

    Scenes that cannot be used are left out and listed in the manifest.

    Args:
      scenarios: The scenes.
      out: Folder to write to.
      workers: Processes to use.
      shard: (i, n) to write only every n-th file from the i-th on, so that n machines can share the work. When all
        have done theirs, a last call without it finds all files written and adds the manifest.
      shard_size: Records of the source that go into one file.
      progress: Told how many records are done and how many there are to do.

    Returns:
      The manifest, or None for a part.

    Raises:
      DataError: The folder holds something else.
      OSError: It cannot be written to.
    """
    folder = os.fspath(out)
    os.makedirs(folder, exist_ok=True)
    count = max(-(-len(scenarios) // shard_size), 1)
    plan = _plan(scenarios, shard_size)
    names = [shard_name(number, count) for number in range(count)]
    strange = sorted(name for name in os.listdir(folder) if SHARD.fullmatch(name) and name not in names)
    if strange:
        raise DataError("is of another conversion", file=os.path.join(folder, strange[0]), remedy=OTHER_FOLDER)
    mine = range(shard[0], count, shard[1])
    rows = {number: range(len(scenarios))[number * shard_size : (number + 1) * shard_size] for number in mine}
    done, total = 0, sum(map(len, rows.values()))
    with _makers(scenarios, workers) as make:
        for number in mine:
            progress(done, total)
            path = os.path.join(folder, names[number])
            if not _described(path, plan):
                about = {"plan": plan, "file": names[number], "scenes": 0, "problems": [], "sizes": {}, "buckets": {}}

                def records(about: Json = about, number: int = number, done: int = done) -> Iterator[bytes]:
                    for place, outcome in enumerate(make(rows[number])):
                        progress(done + place, total)
                        if (record := _counted(about, outcome)) is not None:
                            yield record

                array_record.write(path + ".partial", records())
                about["sha256"], about["bytes"] = _settled(path)
                _put(_description(path), about)
            done += len(rows[number])
    progress(done, total)
    # Whoever writes all shards, or finds them written, describes the whole.
    return _finish(folder, names, scenarios.problems) if shard[1] == 1 else None


def _plan(scenarios: Scenarios, shard_size: int) -> str:
    """What the files of a store must agree on: which records go where, and in which form."""
    content = hashlib.sha256(f"{VERSION} {shard_size}\n".encode())
    for index in range(len(scenarios)):
        content.update("{}\0{}\n".format(*scenarios.source(index)).encode())
    return content.hexdigest()


@contextlib.contextmanager
def _makers(scenarios: Scenarios, workers: int) -> Iterator[Callable[[range], Iterator[Json]]]:
    """Makes records of rows, in order; in this process, or in several others."""
    if workers == 1:
        yield lambda rows: (_make(scenarios, row) for row in rows)
        return
    # Not forked: JAX may have threads by now.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, context, _start, (scenarios,)) as pool:
        yield lambda rows: pool.map(_make_row, rows)


def _start(scenarios: Scenarios) -> None:
    """Prepares a process; it ends with the one that started it, even when that one is killed."""
    global _scenarios
    _scenarios = scenarios

    def follow() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _make_row(row: int) -> Json:
    return _make(_scenarios, row)


def _make(scenarios: Scenarios, row: int) -> Json:
    """The record of a scene and its sizes, or what is wrong with it."""
    file, record = scenarios.source(row)
    try:
        features, scenario = features_of(scenarios.read(row))
    except DataError as error:
        return {"problem": {key: getattr(error.at(file=file, record=record), key) for key in PROBLEM}}
    except Exception as error:
        # A fault of a reader; it must not end the conversion of all other records.
        return {"problem": dict(zip(PROBLEM, (file, record, "", f"unexpected {error!r}", "report it"), strict=True))}
    return {"record": serialize(features), "sizes": bucket(sizes(scenario))}


def _counted(about: Json, outcome: Json) -> bytes | None:
    """Adds an outcome to what is said of a shard, and gives its record."""
    if "problem" in outcome:
        about["problems"].append(outcome["problem"])
        return None
    about["scenes"] += 1
    _merge(about, outcome["sizes"], {str(outcome["sizes"]["P"]): 1})
    return outcome["record"]


def _merge(about: Json, largest: Json, buckets: Json) -> None:
    have = about["sizes"]
    about["sizes"] = {axis: max(have.get(axis, 0), largest.get(axis, 0)) for axis in have | largest}
    about["buckets"] = dict(Counter(about["buckets"]) + Counter(buckets))


def _finish(folder: str, names: list[str], problems: list[DataError]) -> Json:
    """Describes the whole store, last of all in its manifest."""
    parts = [_read(_description(os.path.join(folder, name))) for name in names]
    of_files = [{key: getattr(error, key) for key in PROBLEM} for error in problems]
    about: Json = {"sizes": {}, "buckets": {}}
    for part in parts:
        _merge(about, part["sizes"], part["buckets"])
    found = of_files + [problem for part in parts for problem in part["problems"]]
    manifest = {
        "version": VERSION,
        "versions": {name: metadata.version(name) for name in ("array_record", "numpy")},
        "num_scenes": sum(part["scenes"] for part in parts),
        "num_problems": len(found),
        "largest_sizes": about["sizes"],
        "scenes_by_map_points": about["buckets"],
        "shards": [{key: part[key] for key in ("file", "scenes", "bytes", "sha256")} for part in parts],
        "problems": found,
    }
    _put(os.path.join(folder, "features.json"), features_json())
    num_bytes = sum(part["bytes"] for part in parts)
    _put(os.path.join(folder, DATASET_INFO), dataset_info_json([part["scenes"] for part in parts], num_bytes))
    _put(os.path.join(folder, MANIFEST), manifest)
    return manifest


def _description(path: str) -> str:
    return path + ".json"


def _described(path: str, plan: str) -> bool:
    """Whether a shard is complete.

    Raises:
      DataError: It belongs to another conversion.
    """
    if not os.path.isfile(_description(path)):
        return False
    if _read(_description(path)).get("plan") != plan:
        raise DataError("is of another conversion", file=path, remedy=OTHER_FOLDER)
    return os.path.isfile(path)


def _read(path: str) -> Json:
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except ValueError as error:
        raise DataError(f"is no description of a shard: {error}", file=path, remedy="remove it") from None


def _settled(path: str) -> tuple[str, int]:
    """Gives a written file its name, once it is safely on the disk; its checksum and size."""
    with open(path + ".partial", "rb+") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
        size = file.tell()
        os.fsync(file.fileno())
    os.replace(path + ".partial", path)
    return checksum, size


def _put(path: str, content: Json) -> None:
    """Writes JSON to a file that is there as a whole or not at all."""
    with open(path + ".partial", "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1, sort_keys=True, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path + ".partial", path)
