"""The TFDS builder, in one process; `tests/beam` tests it with Beam."""

import json
import sys
from pathlib import Path

import pytest

from tests.datasets.test_convert import small_file
from waymax_sim.datasets.loader import load
from waymax_sim.datasets.store.schema import features_json

tfds = pytest.importorskip("tensorflow_datasets", reason="tensorflow-datasets is not installed")


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
    from waymax_sim.datasets.builder import WaymaxSim

    path = small_file(tmp_path_factory.mktemp("source") / "scenes.tfrecord", "abc")
    made = WaymaxSim(paths=[str(path)], data_dir=str(tmp_path_factory.mktemp("tfds")))
    made.download_and_prepare()
    return made


@pytest.mark.filterwarnings("default")
def test_the_builder_writes_a_store(builder):
    assert builder.info.splits["scenes"].num_examples == 3
    assert {scenario.scenario_id for scenario in load(builder.data_dir)} == set("abc")
    assert "tensorflow" not in sys.modules


@pytest.mark.filterwarnings("default")
def test_features_are_described_as_tfds_does(builder):
    assert json.loads((Path(builder.data_dir) / "features.json").read_text()) == features_json()


@pytest.mark.filterwarnings("default")
def test_invalid_scenes_are_skipped(tmp_path, caplog):
    from waymax_sim.datasets.builder import examples
    from waymax_sim.datasets.encoding import tfrecord

    tfrecord.write_records(tmp_path / "bad", [b"\x08\x01"])
    assert list(examples(load(tmp_path / "bad"), 0)) == []
    assert "skipped" in caplog.text
