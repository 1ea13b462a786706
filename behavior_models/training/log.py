"""The log of a training: JSON lines, a table, and the event file of TensorBoard."""

import csv
import json
import struct
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from waymax_sim.datasets.encoding import protobuf_writer as protobuf
from waymax_sim.datasets.encoding.protobuf import FIXED32
from waymax_sim.datasets.encoding.tfrecord import encode_record

LOG_FILE = "log.jsonl"
TABLE_FILE = "log.csv"
BASELINES_FILE = "baselines.json"
# Scalars of each seed, in the order of the seeds.
SEEDS = "seeds"
# Suffix of the half width of the 95 % interval of a mean over seeds.
INTERVAL = "/ci95"
# Quantile of the two-sided 95 % interval.
QUANTILE = 0.975


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of the log; none without a log."""
    path = folder / LOG_FILE
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def cut_log(folder: Path, done: int) -> None:
    """Removes the lines of steps after the last checkpoint, which are run again, and a line that is incomplete."""
    path = folder / LOG_FILE
    if not path.exists():
        return
    complete = path.read_text(encoding="utf-8").rpartition("\n")[0].splitlines()
    lines = [line for line in complete if json.loads(line)["step"] <= done]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def append_line(folder: Path, line: Mapping[str, Any]) -> None:
    """Appends a line to the log."""
    with (folder / LOG_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def write_table(folder: Path) -> None:
    """Writes the log as a table of its scalars; cells are empty where a line lacks a scalar."""
    lines = [numbers(line) for line in read_log(folder)]
    columns = list(dict.fromkeys(name for line in lines for name in line))
    with (folder / TABLE_FILE).open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(lines)


def numbers(line: Mapping[str, Any]) -> dict[str, int | float]:
    """The scalars of a line, without those of single seeds."""
    return {name: value for name, value in line.items() if isinstance(value, int | float)}


def mean_scalars(steps: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over steps; of several seeds the mean over seeds, its 95 % t-interval, and the values of each seed.

    Args:
      steps: Scalars of steps, [] or [K] for K seeds each.
    """
    steps = list(steps)
    return over_seeds({name: np.mean([step[name] for step in steps], axis=0) for name in steps[0]})


def over_seeds(values: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers of one seed, or the mean over seeds, its 95 % t-interval, and the values of each seed.

    Args:
      values: [] or [K] for K seeds each.
    """
    line: dict[str, Any] = {}
    seeds = {name: np.asarray(value, np.float64) for name, value in values.items()}
    for name, value in seeds.items():
        line[name] = float(np.mean(value))
        if value.ndim:
            line[name + INTERVAL] = half_width(value)
    by_seed = {name: value.tolist() for name, value in seeds.items() if value.ndim}
    return line | ({SEEDS: by_seed} if by_seed else {})


def half_width(values: np.ndarray) -> float:
    """Half width of the 95 % t-interval of a mean; infinite for a single value."""
    from scipy.special import stdtrit

    count = len(values)
    if count < 2:
        return float("inf")
    return float(stdtrit(count - 1, QUANTILE) * np.std(values, ddof=1) / count**0.5)


class EventWriter:
    """The scalars of a log as an event file of TensorBoard: a TFRecord of `Event` messages.

    A resumed training replaces the file, so that it has no step twice.

    Args:
      folder: Folder of the log.
    """

    def __init__(self, folder: Path):
        target = folder / "tensorboard"
        target.mkdir(parents=True, exist_ok=True)
        for old in target.glob("events.out.tfevents.*"):
            old.unlink()
        self.path = target / f"events.out.tfevents.{int(time.time())}.training"
        # Field 3 is the version of the format.
        self._append(protobuf.double(1, time.time()) + protobuf.blob(3, b"brain.Event:2"))
        for line in read_log(folder):
            self.add(line)

    def add(self, line: Mapping[str, Any]) -> None:
        """Appends the scalars of a line."""
        values = [_summary_value(name, value) for name, value in numbers(line).items() if name != "step"]
        step = protobuf.integer(2, line["step"])
        self._append(protobuf.double(1, time.time()) + step + protobuf.blob(5, b"".join(values)))

    def _append(self, event: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(encode_record(event))


def _summary_value(name: str, value: float) -> bytes:
    """A message `Summary.Value`: tag and simple value."""
    number = protobuf.varint(2 << 3 | FIXED32) + struct.pack("<f", value)
    return protobuf.blob(1, protobuf.blob(1, name.encode()) + number)
