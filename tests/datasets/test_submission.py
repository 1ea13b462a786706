import contextlib
import dataclasses
import gzip
import io
import tarfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data import recorded
from tests.datasets.encode import message
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.formats import sim_agents_submission as submission
from waymax_sim.datasets.formats.sim_agents_submission import (
    RolloutFile,
    decode_rollouts,
    encode_rollouts,
    read_npz,
    read_rollouts,
    rollouts_path,
    unpack_submission,
    write_submission,
)


def rollouts(scenario_id="0a1b", ids=(7, 2**31 + 5, 3), num_rollouts=2, num_steps=4) -> RolloutFile:
    rng = np.random.default_rng(0)
    shape = (num_rollouts, len(ids), num_steps)
    xyz, heading = rng.normal(0, 3000, (*shape, 3)), rng.uniform(-9, 9, shape)
    return RolloutFile(scenario_id, np.array(ids, np.int64), xyz.astype(np.float32), heading.astype(np.float32))


def same(found: RolloutFile, expected: RolloutFile):
    assert found.scenario_id == expected.scenario_id
    for name in ("object_id", "xyz", "heading"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def trajectory(agent, columns, steps=3, packed=True):
    values = [np.float32(step) for step in range(steps)]
    data = np.array(values, "<f4").tobytes() if packed else values
    return {number: data for number in columns} | {6: agent}


def test_a_written_submission_is_read():
    same(decode_rollouts(encode_rollouts(rollouts())), rollouts())


def test_messages_of_other_writers_are_read():
    scene = {1: [trajectory(5, (2, 3, 4, 5), packed=False), trajectory(9, (2, 3, 4, 5))], 99: 1}
    mixed = {1: [trajectory(9, (2, 3, 4, 5)), trajectory(5, (2, 3, 4, 5))]}
    found = decode_rollouts(message({1: "x", 2: [scene, mixed]}))
    assert found.object_id.tolist() == [5, 9]
    np.testing.assert_array_equal(found.heading, np.broadcast_to(np.arange(3), (2, 2, 3)))
    np.testing.assert_array_equal(found.xyz[..., 2], found.heading)


@pytest.mark.parametrize(
    ("scenes", "reason"),
    [
        ([], "no rollouts"),
        ([{}], "no rollouts"),
        ([{1: [trajectory(5, (2, 3, 4))]}], "different lengths"),
        ([{1: [trajectory(5, (2, 3, 4, 5)), trajectory(5, (2, 3, 4, 5))]}], "twice"),
        ([{1: [trajectory(5, (2, 3, 4, 5))]}, {1: [trajectory(6, (2, 3, 4, 5))]}], "other agents"),
        ([{1: [trajectory(5, (2, 3, 4, 5)), trajectory(6, (2, 3, 4, 5), steps=2)]}], "different lengths"),
    ],
)
def test_rollouts_that_do_not_belong_together_are_refused(scenes, reason):
    with pytest.raises(DataError, match=reason):
        decode_rollouts(message({1: "x", 2: scenes}))


def test_submissions_of_many_shards_are_read_back(tmp_path):
    names = [f"scene{index}" for index in range(5)] + ["../odd"]
    sources = []
    for name in names:
        sources.append(rollouts_path(tmp_path, name))
        sources[-1].write_bytes(encode_rollouts(rollouts(name)))
    assert all(source.parent == tmp_path for source in sources)
    archive = tmp_path / "submission.tar.gz"
    write_submission(archive, sources, 4, account="a@b", method="mine")
    with tarfile.open(archive) as file:
        shards = file.getnames()
        first = file.extractfile(shards[0]).read()
    assert shards == [f"submission.binproto-{index:05d}-of-00004" for index in range(4)]
    assert first.endswith(message({2: 1, 3: "a@b", 4: "mine"}))
    folder = tmp_path / "unpacked"
    folder.mkdir()
    assert unpack_submission(archive, folder) == len(names)
    for name in names:
        same(read_rollouts(folder, name), rollouts(name))
    with pytest.raises(DataError, match="no rollouts of scenario 'other'"):
        read_rollouts(folder, "other")


def test_broken_files_are_refused(tmp_path):
    empty = io.BytesIO()
    with tarfile.open(fileobj=empty, mode="w:gz"):
        pass
    contents = {
        "empty": b"",
        "empty.tar.gz": empty.getvalue(),
        "noise": b"\xff" * 50,
        "cut.tar.gz": gzip.compress(b"\x01" * 2000)[:-10],
        "long_id": message({1: {1: "x" * 65, 2: {}}}),
    }
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError) as error:
            unpack_submission(tmp_path / name, tmp_path)
        assert str(tmp_path / name) in str(error.value)
    with pytest.raises(DataError, match="cannot be read"):
        unpack_submission(tmp_path / "absent", tmp_path)


def test_a_shard_that_claims_to_be_huge_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(submission, "MAX_MESSAGE_BYTES", 100)
    source = rollouts_path(tmp_path, "a")
    source.write_bytes(encode_rollouts(rollouts("a")))
    write_submission(tmp_path / "x.tar.gz", [source], 1)
    with pytest.raises(DataError, match="larger than"):
        unpack_submission(tmp_path / "x.tar.gz", tmp_path)


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 255), st.integers(0, 10**6))
def test_damage_raises_only_data_errors(place, flip, cut):
    data = bytearray(encode_rollouts(rollouts()))
    data[place % len(data)] ^= flip
    for damaged in (bytes(data), bytes(data[: cut % len(data)])):
        with contextlib.suppress(DataError):
            decode_rollouts(damaged)


@pytest.mark.parametrize(
    ("changes", "expected", "reason"),
    [
        ({}, [3, 7], "1 agents that are not valid at the current step"),
        ({}, [3, 7, 9, 2**31 + 5], "1 agents are missing: 9"),
        ({"object_id": np.array([3, 3, 7])}, [3, 7], "twice"),
        ({"heading": np.full((2, 3, 4), np.nan, np.float32)}, [3, 7, 2**31 + 5], "not finite"),
    ],
)
def test_ids_and_numbers_are_checked(changes, expected, reason):
    with pytest.raises(DataError, match=reason):
        dataclasses.replace(rollouts(), **changes).check(np.array(expected), num_steps=4)


def test_counts_and_lengths_are_checked():
    ids = rollouts().object_id
    rollouts().check(ids, num_steps=4)
    rollouts(num_rollouts=32, num_steps=80).check(ids, num_rollouts=32)
    with pytest.raises(DataError, match="2 rollouts, expected 32"):
        rollouts(num_steps=80).check(ids, num_rollouts=32)
    with pytest.raises(DataError, match="4 steps, expected 80"):
        rollouts().check(ids)


def arrays(**changes):
    shape = (2, 3, 4)
    found = {"object_id": np.arange(3)} | {name: np.ones(shape, np.float32) for name in ("x", "y", "z", "heading")}
    return {name: value for name, value in (found | changes).items() if value is not None}


def test_arrays_are_read(tmp_path):
    np.savez(tmp_path / "a.npz", **arrays(z=np.full((2, 3, 4), 7.0)))
    found = read_npz(tmp_path / "a.npz")
    assert found.xyz.shape == (2, 3, 4, 3) and found.xyz.dtype == np.float32
    np.testing.assert_array_equal(found.xyz[0, 0, 0], [1, 1, 7])


@pytest.mark.parametrize(
    "changes",
    [
        {"x": None},
        {"x": np.ones((2, 3), np.float32)},
        {"heading": np.ones((2, 3, 5), np.float32)},
        {"y": np.ones((2, 3, 4), int)},
        {"object_id": np.ones(3)},
        {"object_id": np.array([{}] * 3, dtype=object)},
    ],
)
def test_wrong_arrays_are_refused(changes, tmp_path):
    np.savez(tmp_path / "a.npz", **arrays(**changes))
    with pytest.raises(DataError) as error:
        read_npz(tmp_path / "a.npz")
    assert str(tmp_path / "a.npz") in str(error.value)


def test_the_official_example_is_read(tmp_path):
    source = recorded("wosac/test_submission.binproto")
    assert unpack_submission(source, tmp_path) == 1
    found = read_rollouts(tmp_path, "637f20cafde22ff8")
    expected = read_npz(recorded("wosac/637f20cafde22ff8/rollouts_test_submission.npz"))
    order = [found.object_id.tolist().index(agent) for agent in expected.object_id.tolist()]
    np.testing.assert_array_equal(found.xyz[:, order], expected.xyz)
    np.testing.assert_array_equal(found.heading[:, order], expected.heading)
    # Encoded again, it is the same message.
    (message_file,) = tmp_path.iterdir()
    assert encode_rollouts(found) == message_file.read_bytes()
