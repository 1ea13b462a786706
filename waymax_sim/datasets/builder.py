"""The store as a data set of TensorFlow Datasets, which can convert on a cluster with Beam.

This module needs tensorflow-datasets (`pip install 'waymax-sim[tfds]'`), but not TensorFlow. On one machine,
`waymax_sim.datasets.convert` writes the same store, can be resumed and lists skipped scenes.
"""

import functools
import importlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.loader import load_all
from waymax_sim.datasets.scenarios import Scenarios
from waymax_sim.datasets.store.files import SPLIT
from waymax_sim.datasets.store.record import INFO, MISSING_FIELDS, SCENARIO_ID, SCENE, record_features
from waymax_sim.datasets.store.schema import DESCRIPTION, INFO_FIELDS, VERSION

try:
    import tensorflow_datasets as tfds
except ImportError as error:
    raise ImportError("needs tensorflow-datasets, which is not installed: pip install 'waymax-sim[tfds]'") from error

Example = tuple[int, dict[str, Any]]


class WaymaxSim(tfds.core.GeneratorBasedBuilder):
    """Scenes of any format, packed with the indexes of their maps.

    Invalid scenes are skipped with a warning in the log.

    Args:
      paths: Paths as in `waymax_sim.load`.
      use_beam: Generate examples in a Beam pipeline, whose options are given to `download_and_prepare`.
      **kwargs: See `tfds.core.DatasetBuilder`.
    """

    VERSION = tfds.core.Version(VERSION)

    def __init__(self, *, paths: Sequence[str] = (), use_beam: bool = False, **kwargs: Any):
        self._paths, self._use_beam = tuple(paths), use_beam
        super().__init__(file_format=kwargs.pop("file_format", "array_record"), **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text()
        info = tfds.features.FeaturesDict(dict.fromkeys(INFO_FIELDS, np.int64))
        scene = tfds.features.Tensor(shape=(), dtype=np.object_)
        features = tfds.features.FeaturesDict({SCENE: scene, SCENARIO_ID: text, MISSING_FIELDS: text, INFO: info})
        return tfds.core.DatasetInfo(builder=self, description=DESCRIPTION, features=features)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {SPLIT: self._generate_examples()}

    def _generate_examples(self) -> Any:
        scenarios = load_all(self._paths)
        if not self._use_beam:
            return (example for row in range(len(scenarios)) for example in examples(scenarios, row))
        # Optional, and usually in an environment of its own.
        beam = importlib.import_module("apache_beam")
        return beam.Create(range(len(scenarios))) | beam.FlatMap(functools.partial(examples, scenarios))


def examples(scenarios: Scenarios, row: int) -> Iterator[Example]:
    """The key and the features of a scene; empty if it is invalid."""
    try:
        yield row, record_features(scenarios.read(row))[0]
    except DataError as error:
        logging.getLogger(__name__).warning("skipped: %s", error)
