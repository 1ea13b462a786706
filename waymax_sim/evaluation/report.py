"""Results in a folder: rows that grow scene by scene. All files are strict JSON.

`conditions.json` says what is run. Rows are lines of JSON, each of which is on the disk before the next scene begins. A
process that is killed leaves at most half a line, which is dropped.
"""

import json
import os
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

Json = dict[str, Any]


def circumstances() -> Json:
    """What numbers depend on besides what was asked for."""
    return {
        "versions": {"waymax_sim": version(), "jax": jax.__version__},
        "device": jax.devices()[0].device_kind,
    }


def agree(out: Path, conditions: Json) -> None:
    """Makes the folder, or sees that what it holds was found under the same conditions.

    Raises:
      ValueError: It holds results of other conditions.
    """
    out.mkdir(parents=True, exist_ok=True)
    remembered = out / "conditions.json"
    if not remembered.exists() and not (out / "rows.jsonl").exists():
        write_json(remembered, conditions)
    # As they are read again.
    conditions = json.loads(json.dumps(conditions))
    known = read_json(remembered) if remembered.exists() else {}
    if known != conditions:
        differ = sorted(key for key in known.keys() | conditions.keys() if known.get(key) != conditions.get(key))
        raise ValueError(f"{out} holds results of another run (different: {', '.join(differ)}); choose another --out")


def open_results(out: Path, conditions: Json) -> list[Json]:
    """Makes the folder, or opens one to go on with, and returns the rows of the scenes that are done.

    Raises:
      ValueError: The folder holds results of other conditions.
    """
    agree(out, conditions)
    return mend(out / "rows.jsonl")


def mend(path: Path) -> list[Json]:
    """The rows of a file, from which half a line at its end is cut off."""
    rows = read_rows(path)
    if path.exists() and path.read_bytes()[-1:] not in (b"\n", b""):
        write_rows(path, rows)
    return rows


def read_rows(path: Path) -> list[Json]:
    """The rows of a file, none where there is no file; half a line at its end is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def append_rows(path: Path, rows: Sequence[Json]) -> None:
    """Adds rows and waits until they are on the disk."""
    with path.open("a", encoding="utf-8") as file:
        file.write(_lines(rows))
        file.flush()
        os.fsync(file.fileno())


def write_rows(path: Path, rows: Iterable[Json]) -> None:
    """Writes rows, all of them or none."""
    write_text(path, _lines(rows))


def read_json(path: Path) -> Json:
    """An object that `write_json` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, data: Any) -> None:
    """Writes strict JSON, all of it or none."""
    write_text(path, json.dumps(data, indent=2, allow_nan=False) + "\n")


def done(rows: Iterable[Json]) -> set[tuple[str, int]]:
    """The (file, record) of the scenes that the rows are about."""
    return {(row["file"], row["record"]) for row in rows}


def _lines(rows: Iterable[Json]) -> str:
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)


def write_text(path: Path, text: str) -> None:
    """Writes a file. Another process sees the old one or the new one, never half of it."""
    half = path.with_name(f"{path.name}.{os.getpid()}.part")
    half.write_text(text, encoding="utf-8")
    os.replace(half, path)


def version() -> str:
    try:
        return metadata.version("waymax-sim")
    except metadata.PackageNotFoundError:
        return "not installed"
