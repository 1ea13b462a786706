"""Stores on disk: choices of compression, and stores of another format version."""

import re
from pathlib import Path

import pytest

from tests.datasets.store.test_codec import assert_identical
from waymax_sim.cli import main
from waymax_sim.datasets.convert import convert
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.loader import load
from waymax_sim.datasets.store.codec import MAGIC

pytest.importorskip("array_record", reason="array_record is not installed: stores can be read, but not written")


def test_both_compressions_are_exact_and_one_is_smaller(tmp_path):
    scenarios, sizes = load("synthetic:0:1"), []
    for compression in ("fast", "small"):
        manifest = convert(scenarios, tmp_path / compression, compression=compression)
        assert manifest is not None and "blosc2" in manifest["versions"]
        sizes.append(manifest["shards"][0]["bytes"])
        assert_identical(load(tmp_path / compression)[0], scenarios[0])
    assert sizes[1] < sizes[0]
    with pytest.raises(DataError, match="another conversion"):
        convert(scenarios, tmp_path / "fast", compression="small")


def test_the_command_selects_the_compression(tmp_path, capsys):
    arguments = ["convert", "synthetic:0:1", "--out", str(tmp_path)]
    assert main([*arguments, "--compression", "small"]) == 0
    assert "1 scenes" in capsys.readouterr().out
    assert_identical(load(tmp_path)[0], load("synthetic:0:1")[0])


def test_a_store_of_an_older_version_names_the_file_and_the_remedy(tmp_path):
    scenarios = load("synthetic:0:1")
    convert(scenarios, tmp_path)
    shard = Path(load(tmp_path).source(0)[0])
    data = shard.read_bytes()
    (begin,) = (match.start() for match in re.finditer(MAGIC, data))
    shard.write_bytes(data[:begin] + b"WSP5" + data[begin + 4 :])
    with pytest.raises(DataError, match="format version") as caught:
        load(tmp_path)[0]
    assert caught.value.file == str(shard) and caught.value.record == 0
    assert caught.value.remedy == "convert the scenes again"
