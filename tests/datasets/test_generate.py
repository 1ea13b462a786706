"""Files of synthetic scenes."""

import os

import numpy as np
import pytest

from tests.scenes import raw_scene
from waymax_sim import cli
from waymax_sim.datasets import generate as generate_module
from waymax_sim.datasets.encoding import tfrecord
from waymax_sim.datasets.generate import SyntheticShard, generate, synthetic_shards
from waymax_sim.datasets.scene import RawScene


def name_of(raw: RawScene) -> bytes:
    return raw.scenario_id.encode()


def ids(shard: SyntheticShard) -> list[str]:
    index = tfrecord.index_records(shard.path)
    return [tfrecord.read_record(index, record).decode() for record in range(len(index))]


@pytest.fixture
def few(monkeypatch, tmp_path):
    """Five scenes in files of two, with arbitrary content."""

    def made(seed: int, index: int) -> RawScene:
        return raw_scene(scenario_id=f"synthetic-{seed}-{index}")

    monkeypatch.setattr(generate_module, "synthetic_scene", made)
    monkeypatch.setattr(generate_module, "SYNTHETIC_SHARD_SIZE", 2)
    return synthetic_shards(tmp_path, count=5, seed=3)


def test_files_hold_the_scenes_in_order(few):
    assert [shard.path.name for shard in few] == [f"synthetic-3.tfrecord-0000{i}-of-00003" for i in range(3)]
    assert sorted(shard.path for shard in generate(few, encode=name_of)) == [shard.path for shard in few]
    assert [name for shard in few for name in ids(shard)] == [f"synthetic-3-{index}" for index in range(5)]


def test_complete_shards_are_not_written_again(few):
    list(generate(few, encode=name_of))
    before = few[0].path.stat().st_mtime_ns
    few[1].path.unlink()
    whole = few[2].path.read_bytes()
    few[2].path.write_bytes(whole[:-3])
    made = []
    assert len(list(generate(few, encode=lambda raw: made.append(raw.scenario_id) or name_of(raw)))) == 3
    assert made == ["synthetic-3-2", "synthetic-3-3", "synthetic-3-4"]
    assert few[0].path.stat().st_mtime_ns == before and few[2].path.read_bytes() == whole


def test_an_interrupted_file_does_not_count(few):
    def stop(raw):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(generate(few, encode=stop))
    assert not any(shard.is_complete for shard in few)


def test_processes_make_the_same_files(tmp_path):
    folders = []
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        folder.mkdir()
        shards = [SyntheticShard(folder / f"{index}", 3, range(index, index + 1)) for index in range(2)]
        list(generate(shards, workers=workers, encode=name_of))
        folders.append([shard.path.read_bytes() for shard in shards])
        assert sorted(os.listdir(folder)) == ["0", "1"]
    assert folders[0] == folders[1]


@pytest.mark.parametrize("options", ["--count 0", "--count 1 --workers 0", "--count 1 --seed -1"])
def test_wrong_calls_are_refused(options, tmp_path, capsys):
    assert cli.main(["generate", "--out", str(tmp_path), *options.split()]) == cli.USAGE_ERROR
    assert "give" in capsys.readouterr().err


def test_the_command_reports_its_files(tmp_path, capsys, monkeypatch):
    given = {}
    monkeypatch.setattr(generate_module, "generate", lambda shards, **options: given.update(options) or iter(shards))
    assert cli.main(["generate", "--count", "120", "--out", str(tmp_path / "new"), "--workers", "2"]) == 0
    assert given == {"workers": 2}
    assert f"synthetic-0.tfrecord@{np.ceil(120 / 50):.0f}" in capsys.readouterr().out
