"""A folder of converted scenes, as `convert` and as TFDS lay it out."""

import dataclasses
import json
import os
import re

from waymax_sim.datasets.encoding.array_record import opened
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.raw_from_scenario import raw_of
from waymax_sim.datasets.scene import RawScene
from waymax_sim.datasets.store.info import SceneInfo
from waymax_sim.datasets.store.record import info_in, lacks_in, scene_in
from waymax_sim.datasets.store.unpack import unpack
from waymax_sim.datatypes.scenario import Scenario

MANIFEST, DATASET_INFO = "manifest.json", "dataset_info.json"
NAME, SPLIT = "waymax_sim", "scenes"
SHARD = re.compile(rf".+-{SPLIT}\.array_record-(?P<shard>\d{{5}})-of-(?P<count>\d{{5}})")


def shard_name(shard: int, count: int) -> str:
    """The file of a shard, as TFDS names it."""
    return f"{NAME}-{SPLIT}.array_record-{shard:05d}-of-{count:05d}"


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file of a store; a source of scenes that need no building.

    Attributes:
      name: Its path.
      count: Scenes in it.
    """

    name: str
    count: int

    def __len__(self) -> int:
        return self.count

    def scenario(self, record: int, *, bucketed: bool) -> Scenario:
        """A scenario, with the indexes that were built when it was converted."""
        return unpack(scene_in(opened(self.name).read(record)), bucketed=bucketed)

    def info(self, record: int) -> SceneInfo:
        """Facts about a scene, without decoding it."""
        return info_in(opened(self.name).read(record))

    def read(self, record: int) -> RawScene:
        """A scene in the world frame, as far as a scenario still holds it."""
        data = opened(self.name).read(record)
        return dataclasses.replace(raw_of(unpack(scene_in(data))), lacks=lacks_in(data))


def is_store(path: str) -> bool:
    """Whether a path is a folder of converted scenes, or its manifest."""
    folder = os.path.dirname(path) if os.path.basename(path) == MANIFEST else path
    return any(os.path.isfile(os.path.join(folder, name)) for name in (MANIFEST, DATASET_INFO))


def shards(path: str) -> list[Shard]:
    """The shards of a store, in order; nothing is read but its manifest, where it has one.

    Raises:
      DataError: It is damaged, incomplete or empty.
    """
    folder = os.path.dirname(path) if os.path.basename(path) == MANIFEST else path
    manifest = os.path.join(folder, MANIFEST)
    if os.path.isfile(manifest):
        found = [Shard(os.path.join(folder, name), count) for name, count in _listed(manifest)]
    else:
        names = sorted(name for name in os.listdir(folder) if SHARD.fullmatch(name))
        found = [Shard(name, len(opened(name))) for name in (os.path.join(folder, name) for name in names)]
    missing = [shard.name for shard in found if not os.path.isfile(shard.name)]
    if missing:
        raise DataError(f"{len(missing)} of {len(found)} shards are missing", file=missing[0], remedy="copy them again")
    if not any(len(shard) for shard in found):
        raise DataError("holds no scenes", file=path, remedy="its manifest says why")
    return found


def _listed(manifest: str) -> list[tuple[str, int]]:
    """Names and numbers of scenes of the shards in a manifest."""
    try:
        with open(manifest, encoding="utf-8") as file:
            listed = [(shard["file"], shard["scenes"]) for shard in json.load(file)["shards"]]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"is no manifest: {error!r}", file=manifest, remedy="convert the scenes again") from None
    for name, count in listed:
        sound = isinstance(name, str) and isinstance(count, int) and count >= 0
        if not sound or os.path.basename(name) != name:
            raise DataError("lists what is no shard", file=manifest, field="shards", remedy="convert the scenes again")
    return listed
