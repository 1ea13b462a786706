"""Files of a store, in the layout of TFDS."""

import dataclasses
import json
import os
import re

from waymax_sim.datasets.encoding.array_record import open_array_record
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.raw_from_scenario import to_raw_scene
from waymax_sim.datasets.scene import RawScene
from waymax_sim.datasets.scene_info import SceneInfo
from waymax_sim.datasets.store.codec import decode_scenario
from waymax_sim.datasets.store.record import read_info, read_missing_fields, read_scene
from waymax_sim.datatypes.scenario import Scenario

MANIFEST = "manifest.json"
DATASET_INFO = "dataset_info.json"
# Name of the dataset and of its only split, in TFDS.
NAME = "waymax_sim"
SPLIT = "scenes"
SHARD = re.compile(rf".+-{SPLIT}\.array_record-(?P<shard>\d{{5}})-of-(?P<count>\d{{5}})")
MANIFEST_REMEDY = "convert the scenes again"


def shard_name(shard: int, num_shards: int) -> str:
    """File name of a shard, as TFDS names it."""
    return f"{NAME}-{SPLIT}.array_record-{shard:05d}-of-{num_shards:05d}"


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file of a store; a `ScenarioSource`.

    Attributes:
      name: Its path.
      num_scenes: Number of scenes in it.
    """

    name: str
    num_scenes: int

    def __len__(self) -> int:
        return self.num_scenes

    def scenario(self, record: int, *, pad_to_bucket: bool) -> Scenario:
        """The stored scenario."""
        return decode_scenario(read_scene(open_array_record(self.name).read(record)), pad_to_bucket=pad_to_bucket)

    def info(self, record: int) -> SceneInfo:
        """The stored `SceneInfo`; the scenario is not decoded."""
        return read_info(open_array_record(self.name).read(record))

    def read(self, record: int) -> RawScene:
        """The scene in the world frame, restored from the scenario."""
        data = open_array_record(self.name).read(record)
        raw = to_raw_scene(decode_scenario(read_scene(data)))
        return dataclasses.replace(raw, missing_fields=read_missing_fields(data))


def is_store(path: str) -> bool:
    """Whether a path is the folder of a store or its manifest."""
    folder = os.path.dirname(path) if os.path.basename(path) == MANIFEST else path
    return any(os.path.isfile(os.path.join(folder, name)) for name in (MANIFEST, DATASET_INFO))


def list_shards(path: str) -> list[Shard]:
    """The shards of a store, in order, from its manifest if there is one.

    Raises:
      DataError: The store is damaged, incomplete or empty.
    """
    folder = os.path.dirname(path) if os.path.basename(path) == MANIFEST else path
    manifest = os.path.join(folder, MANIFEST)
    if os.path.isfile(manifest):
        shards = [Shard(os.path.join(folder, name), num_scenes) for name, num_scenes in _read_manifest(manifest)]
    else:
        names = sorted(name for name in os.listdir(folder) if SHARD.fullmatch(name))
        paths = [os.path.join(folder, name) for name in names]
        shards = [Shard(path, len(open_array_record(path))) for path in paths]
    missing = [shard.name for shard in shards if not os.path.isfile(shard.name)]
    if missing:
        problem = f"{len(missing)} of {len(shards)} shards are missing"
        raise DataError(problem, file=missing[0], remedy="copy the shards again")
    if not any(len(shard) for shard in shards):
        raise DataError("holds no scenes", file=path, remedy="see the problems in its manifest")
    return shards


def _read_manifest(path: str) -> list[tuple[str, int]]:
    """File name and number of scenes of each shard in a manifest."""
    try:
        with open(path, encoding="utf-8") as file:
            shards = [(shard["file"], shard["scenes"]) for shard in json.load(file)["shards"]]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"is not a valid manifest: {error!r}", file=path, remedy=MANIFEST_REMEDY) from None
    for name, num_scenes in shards:
        is_valid = isinstance(name, str) and isinstance(num_scenes, int) and num_scenes >= 0
        if not is_valid or os.path.basename(name) != name:
            raise DataError("lists an invalid shard", file=path, field="shards", remedy=MANIFEST_REMEDY)
    return shards
