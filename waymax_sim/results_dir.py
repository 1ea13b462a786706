"""Directories in which the rows of a resumable run are collected. All files are strict JSON.

`conditions.json` holds the conditions of the run, `sources.json` the size and the times of change of its input files.
Each row is a line of JSON that is on the disk before the next piece of work begins. A process that is killed leaves at
most one incomplete line, which the next start removes; lines that are no rows count as missing.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # not on Windows, where directories are not locked
    fcntl = None

Json = dict[str, Any]
# Size (bytes) and times of the last changes of content and of status (ns) of the files of a source.
Stamp = list[list[int]]
CONDITIONS = "conditions.json"
SOURCES = "sources.json"
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
        """Keeps other processes from appending to the file of this process, and removes lines that are no rows from it.

        Raises:
          BlockingIOError: Another process appends to the file.
        """
        with self.rows_file.open("ab") as file:
            _lock(file, self.rows_file)
            repair_jsonl(self.rows_file)
            yield

    def rows(self) -> dict[tuple, Json]:
        """The last row of each key, over the files of all processes."""
        return {self.row_key(row): row for file in self._files for row in self._usable_rows(file)}

    def row_key(self, row: Json) -> tuple:
        """The values of the key columns of a row."""
        return tuple(row[name] for name in self.key)

    def refresh(
        self, stamps: Mapping[str, Stamp], stale: Callable[[set[str], list[Json]], Callable[[Json], bool]]
    ) -> bool:
        """Removes the rows of inputs that have changed since the last start; call it before `lock`.

        Args:
          stamps: Stamps of the current inputs, by source.
          stale: Function from the sources with other stamps than before and all rows to a function that is true for
            rows to remove.

        Returns:
          Whether rows have been removed.

        Raises:
          BlockingIOError: There are rows to remove from a file that another process appends to.
        """
        with (self.path / CONDITIONS).open("r+b") as guard:
            _lock(guard, self.path / CONDITIONS, wait=True)
            file = self.path / SOURCES
            known = read_json(file) if file.exists() else {}
            # In the form in which they are read.
            current = json.loads(json.dumps(stamps))
            changed = {name for name, stamp in current.items() if known.get(name) != stamp}
            rows = list(self.rows().values())
            is_stale = stale(changed, rows) if rows else lambda row: False
            num_removed = sum(self._remove(path, is_stale) for path in self._files) if rows else 0
            if known != current:
                write_json(file, current)
        return num_removed > 0

    def append(self, rows: Sequence[Json]) -> None:
        """Appends rows to the file of this process, and waits until they are on the disk."""
        append_rows(self.rows_file, rows)

    @property
    def _files(self) -> list[Path]:
        """The files with rows, of all processes."""
        return [self.path / ROWS, *sorted((self.path / PARTS).glob("rows-*.jsonl"))]

    def _usable_rows(self, path: Path) -> list[Json]:
        """The rows of a file that have all key columns."""
        return [row for _, row in _parse_lines(path) if row is not None and all(name in row for name in self.key)]

    def _remove(self, path: Path, is_stale: Callable[[Json], bool]) -> int:
        """Removes rows from a file, and returns their number."""
        rows = self._usable_rows(path)
        current = [row for row in rows if not is_stale(row)]
        if len(current) == len(rows):
            return 0
        with path.open("r+b") as file:
            _lock(file, path)
            # In place, because a process may wait for the lock of this file. Rows that a kill loses are computed again.
            content = _lines(current).encode()
            file.write(content)
            file.truncate(len(content))
            file.flush()
            os.fsync(file.fileno())
        return len(rows) - len(current)


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
    """Removes lines that are no rows from a file, also an incomplete one at its end, and returns the rows."""
    lines = _parse_lines(path)
    rows = [row for _, row in lines if row is not None]
    if path.exists():
        content = b"".join(line + b"\n" for line, row in lines if row is not None)
        with path.open("r+b") as file:
            if file.read() != content:
                file.seek(0)
                file.write(content)
                file.truncate(len(content))
    return rows


def read_rows(path: Path) -> list[Json]:
    """The rows of a file, without an incomplete line at its end; none where there is no file.

    Raises:
      ValueError: A line is no row.
    """
    lines = _parse_lines(path)
    for number, (_, row) in enumerate(lines, start=1):
        if row is None:
            raise ValueError(f"line {number} of {path} is damaged; repeat the command that wrote it")
    return [row for _, row in lines if row is not None]


def _parse_lines(path: Path) -> list[tuple[bytes, Json | None]]:
    """The complete lines of a file, each with its row; None for a line that is no row."""
    if not path.exists():
        return []
    # An incomplete line at the end is left out.
    return [(line, _parse_row(line)) for line in path.read_bytes().split(b"\n")[:-1]]


def _parse_row(line: bytes) -> Json | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


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
    """Reads an object that `write_json` wrote.

    Raises:
      ValueError: The file is damaged.
    """
    data = _parse_row(path.read_bytes())
    if data is None:
        raise ValueError(f"{path} is damaged; choose another folder, or remove the file")
    return data


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
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _lines(rows: Iterable[Json]) -> str:
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)


def _lock(file: Any, path: Path, wait: bool = False) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise BlockingIOError(f"another process is writing to {path}; wait for it, or give each a --shard") from None
    except OSError:
        return  # a file system without locks
