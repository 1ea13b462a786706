"""Folders of logged transitions of driving tasks, as the learners of action values read them."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np

from behavior_models.encoders.raster import Raster
from behavior_models.networks.checkpoint import ENCODERS
from behavior_models.offline.actions import ROUTE_ACTIONS
from behavior_models.offline.dataset import load_transitions, read_description, write_dataset, write_shards
from behavior_models.offline.tasks import TASKS
from behavior_models.offline.transitions import Decoder, Transitions
from waymax_sim.env.flat_view import FlatView


@dataclasses.dataclass(frozen=True)
class StoredSet:
    """Transitions of driving tasks.

    Attributes:
      transitions: The transitions; their tasks are indices of `tasks`.
      encoder: Encoder of the observations.
      tasks: Names of the tasks.
    """

    transitions: Transitions
    encoder: FlatView | Raster
    tasks: tuple[str, ...]

    @property
    def masks(self) -> tuple[tuple[bool, ...], ...]:
        """Actions of each task."""
        masks = (np.asarray(ROUTE_ACTIONS.mask(TASKS[name].is_lateral)) for name in self.tasks)
        return tuple(tuple(bool(value) for value in mask) for mask in masks)

    @property
    def decode(self) -> Decoder | None:
        """Decoder of the stored observations."""
        return self.encoder.dequantize if isinstance(self.encoder, Raster) else None

    def save(self, folder: str | os.PathLike, **facts: Any) -> None:
        """Writes the folder.

        Args:
          folder: The folder.
          facts: Further content of its description.
        """
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        files = write_shards(path, self.transitions, "transitions")
        write_dataset(path, self.encoder, self.tasks, files, **facts)


def load_set(folder: str | os.PathLike) -> StoredSet:
    """Reads a folder; tasks without transitions are left out.

    Raises:
      ValueError: It holds no transitions of driving tasks, or those of another observation.
    """
    path = Path(folder)
    content = read_description(path)
    name = content["observation"].get("encoder")
    unknown = [task for task in content["tasks"] if task not in TASKS]
    if name not in ENCODERS or unknown:
        raise ValueError(f"{path} has no driving tasks, or another encoder: {unknown or name}")
    encoder = ENCODERS[name](**content["encoder"])
    transitions = load_transitions(path, encoder.spec())
    used, task = np.unique(transitions.task, return_inverse=True)
    transitions = dataclasses.replace(transitions, task=task.astype(np.int32), num_tasks=len(used))
    return StoredSet(transitions, encoder, tuple(content["tasks"][index] for index in used))
