"""Metadata files by which TFDS recognizes a store."""

import dataclasses
from typing import Any

from waymax_sim.datasets.scene_info import SceneInfo
from waymax_sim.datasets.store.files import NAME, SPLIT
from waymax_sim.datasets.store.record import INFO, MISSING_FIELDS, SCENARIO_ID, SCENE

VERSION = "6.0.0"
DESCRIPTION = "Driving scenes with the indexes of their maps, for `waymax_sim.load`."
INFO_FIELDS = tuple(field.name for field in dataclasses.fields(SceneInfo))


def features_json() -> dict[str, Any]:
    """Types of the features of a record."""

    def tensor(dtype: str) -> dict[str, Any]:
        kind = "tensorflow_datasets.core.features.tensor_feature.Tensor"
        return {"pythonClassName": kind, "tensor": {"dtype": dtype, "encoding": "none", "shape": {}}}

    def group(features: dict[str, Any]) -> dict[str, Any]:
        kind = "tensorflow_datasets.core.features.features_dict.FeaturesDict"
        return {"featuresDict": {"features": features}, "pythonClassName": kind}

    text = {"pythonClassName": "tensorflow_datasets.core.features.text_feature.Text", "text": {}}
    info = group({name: tensor("int64") for name in INFO_FIELDS})
    return group({SCENE: tensor("string"), SCENARIO_ID: text, MISSING_FIELDS: text, INFO: info})


def dataset_info_json(scene_counts: list[int], num_bytes: int) -> dict[str, Any]:
    """Name, version and shards of a store.

    Args:
      scene_counts: Number of scenes in each shard.
      num_bytes: Size of all shards, bytes.
    """
    split = {
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        "name": SPLIT,
        "numBytes": str(num_bytes),
        "shardLengths": [str(count) for count in scene_counts],
    }
    return {
        "description": DESCRIPTION,
        "fileFormat": "array_record",
        "moduleName": "waymax_sim.datasets.builder",
        "name": NAME,
        "splits": [split],
        "version": VERSION,
    }
