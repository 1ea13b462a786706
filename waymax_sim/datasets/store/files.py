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
from waymax_sim.datasets.store.content import check_content
from waymax_sim.datasets.store.record import read_info, read_missing_fields, read_scene
from waymax_sim.datatypes.scenario import Scenario

MANIFEST = "manifest.json"
DATASET_INFO = "dataset_info.json"
# Name of the dataset and of its only split, in TFDS.
NAME = "waymax_sim"
SPLIT = "scenes"
SHARD = re.compile(rf".+-{SPLIT}\.array_record-(?P<shard>\d{{5}})-of-(?P<count>\d{{5}})")
MANIFEST_REMEDY = "convert the scenes again"
MIN_SCENE_BYTES = 64  # bytes of a record of a shard, at least; the smallest scene takes thousands


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
        return self._decode(self._record(record), pad_to_bucket=pad_to_bucket)

    def info(self, record: int) -> SceneInfo:
        """The stored `SceneInfo`; the scenario is not decoded."""
        return read_info(self._record(record))

    def read(self, record: int) -> RawScene:
        """The scene in the world frame, restored from the scenario."""
        data = self._record(record)
        raw = to_raw_scene(self._decode(data, pad_to_bucket=True))
        return dataclasses.replace(raw, missing_fields=read_missing_fields(data))

    def _record(self, record: int) -> memoryview:
        file = open_array_record(self.name)
        if record >= len(file):
            problem = f"has {len(file)} records, its manifest lists {self.num_scenes}"
            raise DataError(problem, file=self.name, record=record, remedy=MANIFEST_REMEDY)
        return file.read(record)

    def _decode(self, data: memoryview, *, pad_to_bucket: bool) -> Scenario:
        scenario = decode_scenario(read_scene(data), pad_to_bucket=pad_to_bucket)
        check_content(scenario)
        return scenario


def is_store(path: str) -> bool:
    """Whether a path is the folder of a store or its manifest."""
    folder = os.path.dirname(path) if os.path.basename(path) == MANIFEST else path
    return any(os.path.isfile(os.path.join(folder, name)) for name in (MANIFEST, DATASET_INFO))


def list_shards(path: str) -> tuple[list[Shard], list[DataError]]:
    """The usable shards of a store, in order, from its manifest if there is one, and the errors of the others.

    Raises:
      DataError: The store is damaged, incomplete or empty.
    """
    folder = os.path.dirname(path) if os.path.basename(path) == MANIFEST else path
    manifest = os.path.join(folder, MANIFEST)
    counts: list[tuple[str, int | None]] = [
        (name, None) for name in sorted(os.listdir(folder)) if SHARD.fullmatch(name)
    ]
    if os.path.isfile(manifest):
        counts = [*_read_manifest(manifest)]
    missing = [name for name, _ in counts if not os.path.isfile(os.path.join(folder, name))]
    if missing:
        problem = f"{len(missing)} of {len(counts)} shards are missing"
        raise DataError(problem, file=os.path.join(folder, missing[0]), remedy="copy the shards again")
    shards, problems = [], []
    for name, count in counts:
        try:
            shards.append(_open_shard(os.path.join(folder, name), count))
        except DataError as error:
            problems.append(error)
    if not any(len(shard) for shard in shards):
        raise DataError("holds no scenes", file=path, remedy="see the problems in its manifest")
    return shards, problems


def _open_shard(path: str, num_scenes: int | None) -> Shard:
    """A shard with a number of scenes; None to count its records.

    Raises:
      DataError: The shard is smaller than this number of scenes, or its records cannot be counted.
    """
    if num_scenes is not None and num_scenes > os.path.getsize(path) // MIN_SCENE_BYTES:
        problem = f"is too small for the {num_scenes} scenes that its manifest lists"
        raise DataError(problem, file=path, remedy=MANIFEST_REMEDY)
    return Shard(path, len(open_array_record(path)) if num_scenes is None else num_scenes)


def _read_manifest(path: str) -> list[tuple[str, int]]:
    """File name and number of scenes of each shard in a manifest."""
    try:
        with open(path, encoding="utf-8") as file:
            shards = [(shard["file"], shard["scenes"]) for shard in json.load(file)["shards"]]
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise DataError(f"is not a valid manifest: {error!r}", file=path, remedy=MANIFEST_REMEDY) from None
    for name, num_scenes in shards:
        is_valid = isinstance(name, str) and isinstance(num_scenes, int) and num_scenes >= 0
        if not is_valid or os.path.basename(name) != name:
            raise DataError("lists an invalid shard", file=path, field="shards", remedy=MANIFEST_REMEDY)
    return shards
