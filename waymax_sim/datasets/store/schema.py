"""What TFDS must know of a store, in the files where it looks for it."""

import dataclasses
from typing import Any

from waymax_sim.datasets.store.files import NAME, SPLIT
from waymax_sim.datasets.store.info import SceneInfo
from waymax_sim.datasets.store.record import INFO, LACKS, SCENARIO_ID, SCENE

VERSION = "4.0.0"
DESCRIPTION = "Driving scenes, packed with the indexes of their maps; waymax_sim.load reads them."
FACTS = tuple(field.name for field in dataclasses.fields(SceneInfo))


def features_json() -> dict[str, Any]:
    """The types of the features of a record."""

    def tensor(dtype: str) -> dict[str, Any]:
        kind = "tensorflow_datasets.core.features.tensor_feature.Tensor"
        return {"pythonClassName": kind, "tensor": {"dtype": dtype, "encoding": "none", "shape": {}}}

    def group(features: dict[str, Any]) -> dict[str, Any]:
        kind = "tensorflow_datasets.core.features.features_dict.FeaturesDict"
        return {"featuresDict": {"features": features}, "pythonClassName": kind}

    text = {"pythonClassName": "tensorflow_datasets.core.features.text_feature.Text", "text": {}}
    info = group({name: tensor("int64") for name in FACTS})
    return group({SCENE: tensor("string"), SCENARIO_ID: text, LACKS: text, INFO: info})


def dataset_info_json(counts: list[int], num_bytes: int) -> dict[str, Any]:
    """The name and version of a store, and how many scenes are in each shard."""
    split = {
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        "name": SPLIT,
        "numBytes": str(num_bytes),
        "shardLengths": [str(count) for count in counts],
    }
    return {
        "description": DESCRIPTION,
        "fileFormat": "array_record",
        "moduleName": "waymax_sim.datasets.builder",
        "name": NAME,
        "splits": [split],
        "version": VERSION,
    }
