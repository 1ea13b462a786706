"""Converts scenes of any format to a store.

Shards are written one after the other. A shard has a temporary name until it is complete, then it is renamed and
described by a row of the `ResultsDir`. An interrupted conversion resumes with the first shard without a row. The bytes
of a store do not depend on interruptions, time, machine or number of processes.
"""

import concurrent.futures
import contextlib
import hashlib
import multiprocessing
import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

from waymax_sim.datasets.encoding import array_record
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.files import source_stamp
from waymax_sim.datasets.scenarios import Scenarios
from waymax_sim.datasets.store.codec import Compression
from waymax_sim.datasets.store.files import DATASET_INFO, MANIFEST, SHARD, shard_name
from waymax_sim.datasets.store.record import record_features, serialize
from waymax_sim.datasets.store.schema import VERSION, dataset_info_json, features_json
from waymax_sim.datatypes.padding import axis_lengths, bucket_lengths
from waymax_sim.results_dir import CONDITIONS, PARTS, ROWS, SOURCES, Json, ResultsDir, write_json, write_rows

SHARD_SIZE = 256  # scenes per file: about 200 MB, and a minute of one core
# Attributes of a `DataError` in descriptions and manifest.
PROBLEM_FIELDS = ("file", "record", "field", "problem", "remedy")
OTHER_FOLDER_REMEDY = "choose another folder, or empty this one"


def convert(
    scenarios: Scenarios,
    out: str | os.PathLike[str],
    *,
    compression: Compression = "fast",
    workers: int = 1,
    shard: tuple[int, int] = (0, 1),
    shard_size: int = SHARD_SIZE,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Json | None:
    """Writes scenes to a store; repeating the call resumes an interrupted conversion.

    Files of the store whose sources have changed since then, or which are incomplete, are written again. Invalid scenes
    are skipped and listed in the manifest.

    Args:
      scenarios: The scenes.
      out: Folder of the store.
      compression: "fast" to decode (LZ4) or "small" on disk (Zstandard); both are exact.
      workers: Number of processes.
      shard: (i, n) to write only every n-th file from the i-th on, so that n machines can share the work. After all of
        them, a final call without `shard` adds the manifest.
      shard_size: Records of the source per file.
      progress: Called with the number of converted records and their total number.

    Returns:
      The manifest; None if `shard` selects a part.

    Raises:
      DataError: The folder has files of another conversion.
      OSError: The folder cannot be written to.
    """
    directory = _open(Path(out), scenarios, compression, shard, shard_size)
    count = max(-(-len(scenarios) // shard_size), 1)
    names = [shard_name(number, count) for number in range(count)]
    _remove_stale(directory, scenarios, names, shard_size)
    shard_numbers = range(shard[0], count, shard[1])
    rows = {number: range(len(scenarios))[number * shard_size : (number + 1) * shard_size] for number in shard_numbers}
    done, total = 0, sum(map(len, rows.values()))
    with directory.lock(), _makers(scenarios, compression, workers) as make:
        described = directory.rows()
        for number in shard_numbers:
            progress(done, total)
            path = directory.path / names[number]
            if not _is_complete(path, described.get((names[number],))):
                about = {"file": names[number], "scenes": 0, "problems": [], "sizes": {}, "buckets": {}}

                def records(about: Json = about, number: int = number, done: int = done) -> Iterator[bytes]:
                    for offset, outcome in enumerate(make(rows[number])):
                        progress(done + offset, total)
                        if (record := _counted(about, outcome)) is not None:
                            yield record

                partial = path.with_name(path.name + ".partial")
                array_record.write_array_record(os.fspath(partial), records())
                about["sha256"], about["bytes"] = _publish(partial, path)
                directory.append([about])
            done += len(rows[number])
    progress(done, total)
    return _finish(directory, names, scenarios.problems) if shard[1] == 1 else None


def _open(
    folder: Path, scenarios: Scenarios, compression: Compression, shard: tuple[int, int], shard_size: int
) -> ResultsDir:
    """Opens the folder of a conversion.

    Raises:
      DataError: The folder has files of another conversion.
    """
    records = hashlib.sha256()
    for index in range(len(scenarios)):
        records.update("{}\0{}\n".format(*scenarios.source(index)).encode("utf-8", errors="surrogateescape"))
    conditions = {
        "version": VERSION,
        "compression": compression,
        "shard_size": shard_size,
        "records": records.hexdigest(),
        "time_step": scenarios.time_step,
    }
    error = DataError("holds another conversion", file=os.fspath(folder), remedy=OTHER_FOLDER_REMEDY)
    if (
        folder.is_dir()
        and not (folder / CONDITIONS).exists()
        and any(SHARD.fullmatch(f.name) for f in folder.iterdir())
    ):
        raise error
    directory = ResultsDir(folder, ("file",), shard)
    try:
        directory.open(conditions)
    except ValueError:
        raise error from None
    return directory


def _remove_stale(directory: ResultsDir, scenarios: Scenarios, names: list[str], shard_size: int) -> None:
    """Removes the rows of the files of a store whose sources have changed, and its manifest.

    Args:
      directory: The open folder.
      scenarios: The scenes.
      names: Names of the files of the store.
      shard_size: Records of the source per file.
    """
    sources = [scenarios.source(index)[0] for index in range(len(scenarios))]
    stamps = {name: source_stamp(name) for name in dict.fromkeys(sources)}
    had_stamps = (directory.path / SOURCES).exists()

    def stale(changed: set[str], rows: list[Json]) -> Callable[[Json], bool]:
        # A folder of an older version has no stamps.
        changed = changed if had_stamps else set()
        parts = {
            name: sources[number * shard_size : (number + 1) * shard_size]
            for number, name in enumerate(names)
            if changed
        }
        return lambda row: not changed.isdisjoint(parts.get(row["file"], ()))

    if directory.refresh(stamps, stale):
        for name in (MANIFEST, DATASET_INFO):
            (directory.path / name).unlink(missing_ok=True)


def _is_complete(path: Path, row: Json | None) -> bool:
    """Whether a file of a store is there and has the size that its row says."""
    return row is not None and path.is_file() and path.stat().st_size == row["bytes"]


@contextlib.contextmanager
def _makers(
    scenarios: Scenarios, compression: Compression, workers: int
) -> Iterator[Callable[[range], Iterator[Json]]]:
    """A function that yields the records of rows in order, made in this process or in several others."""
    if workers == 1:
        yield lambda rows: (_make(scenarios, compression, row) for row in rows)
        return
    # Not forked, because JAX may have started threads.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, context, _start, (scenarios, compression)) as pool:
        yield lambda rows: pool.map(_make_row, rows)


# State of a worker process, set by `_start`.
_scenarios: Scenarios
_compression: Compression


def _start(scenarios: Scenarios, compression: Compression) -> None:
    """Initializes a worker process, which exits when its parent exits, even if the parent is killed."""
    global _scenarios, _compression
    _scenarios, _compression = scenarios, compression

    def follow() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _make_row(row: int) -> Json:
    return _make(_scenarios, _compression, row)


def _make(scenarios: Scenarios, compression: Compression, row: int) -> Json:
    """The record of a scene and its axis lengths, or its error."""
    file, record = scenarios.source(row)
    try:
        features, scenario = record_features(scenarios.read(row), compression)
    except DataError as error:
        return _problem(error.with_location(file=file, record=record))
    except Exception as error:
        # An unexpected error of a reader must not stop the conversion of the other records.
        return _problem(DataError(f"unexpected {error!r}", file=file, record=record, remedy="report it"))
    return {"record": serialize(features), "sizes": bucket_lengths(axis_lengths(scenario))}


def _problem(error: DataError) -> Json:
    return {"problem": {key: getattr(error, key) for key in PROBLEM_FIELDS}}


def _counted(about: Json, outcome: Json) -> bytes | None:
    """Adds an outcome to the description of a shard and returns its record, if any."""
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


def _finish(directory: ResultsDir, names: list[str], problems: list[DataError]) -> Json:
    """Writes the descriptions of the whole store, the manifest last."""
    folder, rows = directory.path, directory.rows()
    parts = [rows[name,] for name in names]
    file_problems = [{key: getattr(error, key) for key in PROBLEM_FIELDS} for error in problems]
    about: Json = {"sizes": {}, "buckets": {}}
    for part in parts:
        _merge(about, part["sizes"], part["buckets"])
    all_problems = file_problems + [problem for part in parts for problem in part["problems"]]
    manifest = {
        "version": VERSION,
        "versions": {name: metadata.version(name) for name in ("array_record", "blosc2", "numpy")},
        "num_scenes": sum(part["scenes"] for part in parts),
        "num_problems": len(all_problems),
        "largest_sizes": about["sizes"],
        "scenes_by_map_points": about["buckets"],
        "shards": [{key: part[key] for key in ("file", "scenes", "bytes", "sha256")} for part in parts],
        "problems": all_problems,
    }
    write_json(folder / "features.json", features_json())
    num_bytes = sum(part["bytes"] for part in parts)
    write_json(folder / DATASET_INFO, dataset_info_json([part["scenes"] for part in parts], num_bytes))
    # All rows in one file, which does not depend on the processes.
    write_rows(folder / ROWS, parts)
    shutil.rmtree(folder / PARTS)
    write_json(folder / MANIFEST, manifest)
    return manifest


def _publish(partial: Path, path: Path) -> tuple[str, int]:
    """Syncs a written file to disk and renames it to its path; returns its checksum and size."""
    with partial.open("rb+") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
        size = file.tell()
        os.fsync(file.fileno())
    os.replace(partial, path)
    return checksum, size
