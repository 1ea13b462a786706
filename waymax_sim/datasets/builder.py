"""The store as a data set of TensorFlow Datasets, which knows how to spread the work over a cluster with Beam.

Import this module only where tensorflow-datasets is installed; TensorFlow itself is not needed. On one machine
`waymax_sim.datasets.convert` does the same, can be resumed and lists what it left out.
"""

import functools
import importlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.loader import load_all
from waymax_sim.datasets.scenarios import Scenarios
from waymax_sim.datasets.store.files import SPLIT
from waymax_sim.datasets.store.record import INFO, LACKS, SCENARIO_ID, SCENE, features_of
from waymax_sim.datasets.store.schema import DESCRIPTION, FACTS, VERSION

Example = tuple[int, dict[str, Any]]


class WaymaxSim(tfds.core.GeneratorBasedBuilder):
    """Scenes of any format, packed with the indexes of their maps.

    Scenes that cannot be used are left out, with a warning in the log.

    Args:
      paths: Where the scenes are, each as `waymax_sim.load` takes it.
      use_beam: Describe the work as a Beam pipeline; give its options to `download_and_prepare`.
      **kwargs: See `tfds.core.DatasetBuilder`.
    """

    VERSION = tfds.core.Version(VERSION)

    def __init__(self, *, paths: Sequence[str] = (), use_beam: bool = False, **kwargs: Any):
        self._paths, self._use_beam = tuple(paths), use_beam
        super().__init__(file_format=kwargs.pop("file_format", "array_record"), **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text()
        info = tfds.features.FeaturesDict(dict.fromkeys(FACTS, np.int64))
        scene = tfds.features.Tensor(shape=(), dtype=np.object_)
        features = tfds.features.FeaturesDict({SCENE: scene, SCENARIO_ID: text, LACKS: text, INFO: info})
        return tfds.core.DatasetInfo(builder=self, description=DESCRIPTION, features=features)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {SPLIT: self._generate_examples()}

    def _generate_examples(self) -> Any:
        scenarios = load_all(self._paths)
        if not self._use_beam:
            return (example for row in range(len(scenarios)) for example in examples(scenarios, row))
        # An extra, and in an environment of its own as a rule.
        beam = importlib.import_module("apache_beam")
        return beam.Create(range(len(scenarios))) | beam.FlatMap(functools.partial(examples, scenarios))


def examples(scenarios: Scenarios, row: int) -> Iterator[Example]:
    """The key and the features of a scene, or nothing where it cannot be used."""
    try:
        yield row, features_of(scenarios.read(row))[0]
    except DataError as error:
        logging.getLogger(__name__).warning("left out: %s", error)
