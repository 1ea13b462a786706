"""Formats with one scene per file, identified by the file extension."""

import dataclasses
import importlib
import os
from typing import Any

from waymax_sim.datasets.regular_file import read_regular
from waymax_sim.datasets.scene import RawScene
from waymax_sim.datasets.testing_split import add_task_steps

# File extension -> module with `scene_from_file(path)`. Imported on use, because some need optional packages.
READER_MODULES = {
    ".json": "waymax_sim.datasets.formats.gpudrive",
    ".parquet": "waymax_sim.datasets.formats.argoverse2",
    ".pkl": "waymax_sim.datasets.formats.scenarionet",
    ".xml": "waymax_sim.datasets.formats.commonroad",
}
MAX_FILE_BYTES = 512 * 2**20  # bytes; recorded scenes are below 20 MB


def is_single_scene_file(path: str) -> bool:
    """Whether the extension, in upper or lower case, is that of a format with one scene per file."""
    return os.path.splitext(path)[1].lower() in READER_MODULES


@dataclasses.dataclass(frozen=True)
class SceneFile:
    """A source of one scene: a file of a format in `READER_MODULES`."""

    name: str

    def __len__(self) -> int:
        return 1

    def read(self, record: int) -> RawScene:
        return add_task_steps(_reader(self.name).scene_from_file(self.name))


def read_bytes(path: str, max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """The content of a file.

    Raises:
      DataError: The file does not exist, cannot be read or has more than `max_bytes` bytes.
    """
    return read_regular(path, max_bytes, "give a file with one scene")


def source_stamp(name: str) -> list[list[int]]:
    """Size (bytes) and times of the last changes of content and of status (ns) of the files of a source.

    Args:
      name: Name of a source, as in `Scenarios.source`.
    """
    states = [os.stat(path) for path in source_files(name) if os.path.exists(path)]
    return [[state.st_size, state.st_mtime_ns, state.st_ctime_ns] for state in states]


def source_files(name: str) -> list[str]:
    """The files that a source of scenes is read from; none for synthetic scenes.

    Args:
      name: Name of a source, as in `Scenarios.source`.
    """
    if not os.path.exists(name):
        return []
    if not is_single_scene_file(name):
        return [name]
    companions = getattr(_reader(name), "companion_files", lambda path: [])(name)
    return [name, *companions]


def _reader(path: str) -> Any:
    return importlib.import_module(READER_MODULES[os.path.splitext(path)[1].lower()])
