"""Formats with one scene per file, identified by the file extension."""

import dataclasses
import importlib
import os

from waymax_sim.datasets.errors import DataError
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
    """Whether the extension is that of a format with one scene per file."""
    return os.path.splitext(path)[1] in READER_MODULES


@dataclasses.dataclass(frozen=True)
class SceneFile:
    """A source of one scene: a file of a format in `READER_MODULES`."""

    name: str

    def __len__(self) -> int:
        return 1

    def read(self, record: int) -> RawScene:
        module = importlib.import_module(READER_MODULES[os.path.splitext(self.name)[1]])
        return add_task_steps(module.scene_from_file(self.name))


def read_bytes(path: str, max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """The content of a file.

    Raises:
      DataError: The file does not exist, cannot be read or has more than `max_bytes` bytes.
    """
    try:
        size = os.path.getsize(path)
        if size > max_bytes:
            raise DataError(f"has {size} bytes, more than {max_bytes}", file=path, remedy="give a file with one scene")
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise DataError(error.strerror or "cannot be read", file=path) from None
