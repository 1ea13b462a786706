"""Logged transitions as a folder: `transitions.npz`, and `dataset.json` with their observation and tasks."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from behavior_models.encoders.raster import Raster
from behavior_models.networks.checkpoint import ENCODERS
from behavior_models.offline.actions import ROUTE_ACTIONS
from behavior_models.offline.tasks import TASKS
from behavior_models.offline.transitions import Decoder, Transitions
from waymax_sim.datasets.encoding.npz import read_npz_arrays
from waymax_sim.env.flat_view import FlatView

ARRAYS_FILE = "transitions.npz"
DESCRIPTION_FILE = "dataset.json"
ARRAYS = tuple(field.name for field in dataclasses.fields(Transitions) if "static" not in field.metadata)


@dataclasses.dataclass(frozen=True)
class StoredSet:
    """Transitions of driving tasks.

    Attributes:
      transitions: The transitions; their tasks are indices of `tasks`.
      encoder: Encoder of the observations.
      tasks: Names of the tasks.
      facts: Further facts, plain values.
    """

    transitions: Transitions
    encoder: FlatView | Raster
    tasks: tuple[str, ...]
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def masks(self) -> tuple[tuple[bool, ...], ...]:
        """Actions of each task."""
        return tuple(
            tuple(bool(value) for value in np.asarray(ROUTE_ACTIONS.mask(TASKS[name].is_lateral)))
            for name in self.tasks
        )

    @property
    def decode(self) -> Decoder | None:
        """Decoder of the stored observations."""
        return self.encoder.dequantize if isinstance(self.encoder, Raster) else None

    def save(self, folder: str | os.PathLike) -> None:
        """Writes the folder."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {name: np.asarray(getattr(self.transitions, name)) for name in ARRAYS}
        np.savez_compressed(path / ARRAYS_FILE, **arrays)
        description = {
            "encoder": dataclasses.asdict(self.encoder),
            "observation": self.encoder.spec().to_dict(),
            "tasks": list(self.tasks),
            "facts": self.facts,
        }
        (path / DESCRIPTION_FILE).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def load_set(folder: str | os.PathLike) -> StoredSet:
    """Reads the folder.

    Raises:
      ValueError: A file is missing, a task is unknown, or the observation is that of another version.
    """
    path = Path(folder)
    if not (path / DESCRIPTION_FILE).exists():
        raise ValueError(f"{path} has no {DESCRIPTION_FILE}: it is no folder of logged transitions")
    description = json.loads((path / DESCRIPTION_FILE).read_text(encoding="utf-8"))
    encoder = ENCODERS[description["observation"]["encoder"]](**description["encoder"])
    difference = encoder.spec().difference(description["observation"])
    tasks = tuple(description["tasks"])
    unknown = [name for name in tasks if name not in TASKS]
    if difference or unknown:
        raise ValueError(f"{path} has another observation or unknown tasks: {difference or unknown}")
    arrays = read_npz_arrays(path / ARRAYS_FILE, ARRAYS, "log the transitions again")
    missing = [name for name in ARRAYS if name not in arrays]
    if missing:
        raise ValueError(f"{path / ARRAYS_FILE} lacks {', '.join(missing)}")
    return StoredSet(Transitions(**arrays, num_tasks=len(tasks)), encoder, tasks, description["facts"])
