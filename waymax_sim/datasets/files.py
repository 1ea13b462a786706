"""Files that hold one scene each, by their ending."""

import dataclasses
import importlib
import os

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.scene import RawScene

# Ending to the module that reads it; each has `scene_from_file(path)`. Imported when needed: some need more packages.
READERS = {
    ".json": "waymax_sim.datasets.formats.gpudrive",
    ".parquet": "waymax_sim.datasets.formats.argoverse2",
    ".pkl": "waymax_sim.datasets.formats.scenarionet",
    ".xml": "waymax_sim.datasets.formats.commonroad",
}
LARGEST = 512 * 2**20  # bytes; the largest real scene known is below 20 MB


def has_one_scene(path: str) -> bool:
    """Whether the ending is that of a format with one scene a file."""
    return os.path.splitext(path)[1] in READERS


@dataclasses.dataclass(frozen=True)
class SceneFile:
    """A file that holds one scene."""

    name: str

    def __len__(self) -> int:
        return 1

    def read(self, record: int) -> RawScene:
        module = importlib.import_module(READERS[os.path.splitext(self.name)[1]])
        return module.scene_from_file(self.name)


def read_bytes(path: str, largest: int = LARGEST) -> bytes:
    """All of a file.

    Raises:
      DataError: It is not there, cannot be read or is larger than `largest` bytes.
    """
    try:
        size = os.path.getsize(path)
        if size > largest:
            raise DataError(f"has {size} bytes, more than {largest}", file=path, remedy="is it one scene?")
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise DataError(error.strerror or "cannot be read", file=path) from None
