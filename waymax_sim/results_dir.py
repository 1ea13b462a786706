"""Directories in which the rows of a resumable run are collected. All files are strict JSON.

`conditions.json` holds the conditions of the run. Each row is a line of JSON that is on the disk before the next piece
of work begins. A process that is killed leaves at most one incomplete line, which the next start removes.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # not on Windows, where directories are not locked
    fcntl = None

Json = dict[str, Any]
CONDITIONS = "conditions.json"
ROWS = "rows.jsonl"
PARTS = "parts"


@dataclasses.dataclass(frozen=True)
class ResultsDir:
    """A directory with the rows of a run, which one or several processes append to.

    Attributes:
      path: The directory.
      key: Columns that identify a row; of several rows with one key the last one counts.
      part: (i, n) for the i-th of n processes, each with a file of its own in `parts`; None for a single process, which
        appends to `rows.jsonl`.
    """

    path: Path
    key: tuple[str, ...]
    part: tuple[int, int] | None = None

    @property
    def rows_file(self) -> Path:
        """The file that this process appends to."""
        if self.part is None:
            return self.path / ROWS
        return self.path / PARTS / "rows-{:05d}-of-{:05d}.jsonl".format(*self.part)

    def open(self, conditions: Json) -> None:
        """Creates the directory, or checks that an existing one has the same conditions.

        Raises:
          ValueError: It holds results of other conditions.
        """
        check_conditions(self.path, conditions)
        self.rows_file.parent.mkdir(exist_ok=True)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps other processes from appending to the file of this process, and removes an incomplete line from it.

        Raises:
          BlockingIOError: Another process appends to the file.
        """
        with self.rows_file.open("ab") as file:
            _lock(file, self.rows_file)
            repair_jsonl(self.rows_file)
            yield

    def rows(self) -> dict[tuple, Json]:
        """The last row of each key, over the files of all processes."""
        files = [self.path / ROWS, *sorted((self.path / PARTS).glob("rows-*.jsonl"))]
        return {self.row_key(row): row for file in files for row in read_rows(file)}

    def row_key(self, row: Json) -> tuple:
        """The values of the key columns of a row."""
        return tuple(row[name] for name in self.key)

    def append(self, rows: Sequence[Json]) -> None:
        """Appends rows to the file of this process, and waits until they are on the disk."""
        append_rows(self.rows_file, rows)


def check_conditions(path: Path, conditions: Json) -> None:
    """Creates a directory with its conditions, or compares them with those of an existing one.

    Raises:
      ValueError: The directory holds results of other conditions.
    """
    path.mkdir(parents=True, exist_ok=True)
    file = path / CONDITIONS
    if not file.exists() and not (path / ROWS).exists():
        write_json(file, conditions)
    # In the form in which they are read.
    conditions = json.loads(json.dumps(conditions))
    existing = read_json(file) if file.exists() else {}
    if existing != conditions:
        names = sorted(key for key in existing.keys() | conditions.keys() if existing.get(key) != conditions.get(key))
        raise ValueError(f"{path} holds results of another run (different: {', '.join(names)}); choose another --out")


def repair_jsonl(path: Path) -> list[Json]:
    """Removes an incomplete line from the end of a file of rows, and returns its rows."""
    if path.exists():
        with path.open("r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)
    return read_rows(path)


def read_rows(path: Path) -> list[Json]:
    """The rows of a file, without an incomplete line at its end; none where there is no file."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def append_rows(path: Path, rows: Sequence[Json]) -> None:
    """Appends rows to a file, and waits until they are on the disk."""
    with path.open("a", encoding="utf-8") as file:
        file.write(_lines(rows))
        file.flush()
        os.fsync(file.fileno())


def write_rows(path: Path, rows: Iterable[Json]) -> None:
    """Writes a file of rows atomically."""
    write_text(path, _lines(rows))


def read_json(path: Path) -> Json:
    """Reads an object that `write_json` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, data: Any) -> None:
    """Writes strict JSON atomically."""
    write_text(path, json.dumps(data, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a file atomically, and waits until it is on the disk."""
    with replace_file(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """A new file that replaces `path` at the end of the block: other processes read the old content or the new one."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    yield partial
    os.replace(partial, path)


def _lines(rows: Iterable[Json]) -> str:
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)


def _lock(file: Any, path: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BlockingIOError(f"another process is writing to {path}; wait for it, or give each a --shard") from None
    except OSError:
        return  # a file system without locks
