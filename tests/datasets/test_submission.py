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
from waymax_sim.datasets.encoding import tar
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


def archive_of(path, members, mode="w"):
    """A tar archive of names and contents; a content of None is a link."""
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if content is None:
                member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            else:
                member.size = len(content)
            archive.addfile(member, io.BytesIO(content or b""))
    return path


def shard(*names, num_rollouts=2):
    return message({1: [encode_rollouts(rollouts(name, num_rollouts=num_rollouts)) for name in names], 2: 1})


NUMBERED = "x.binproto-{:05d}-of-{:05d}".format


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([(NUMBERED(0, 2), shard("a"))], "misses shards 1 of 2"),
        ([(NUMBERED(0, 2), shard("a")), (NUMBERED(0, 2), shard("b")), (NUMBERED(1, 2), shard("c"))], "twice"),
        ([(NUMBERED(0, 1), shard("a")), (NUMBERED(1, 1), shard("b"))], "more than its names say"),
        ([(NUMBERED(0, 2), shard("a")), (NUMBERED(1, 3), shard("b"))], "different sets"),
        ([(NUMBERED(0, 1), shard("a")), ("notes", shard("b"))], "'notes' and other files"),
        ([(NUMBERED(0, 2), shard("a")), (NUMBERED(1, 2), shard("a"))], "has scenario 'a' twice"),
        ([(NUMBERED(0, 1), shard("a")), ("link", None)], "not a regular file"),
        ([("/" + NUMBERED(0, 1), shard("a"))], "a file with the name '/x"),
        ([("../" + NUMBERED(0, 1), shard("a"))], r"a file with the name '\.\./x"),
        ([(NUMBERED(0, 1), b"\0" * 3000)], "not a SimAgentsChallengeSubmission"),
        ([(NUMBERED(0, 1), b"")], "has no scenario"),
    ],
)
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_archives_that_the_challenge_refuses(tmp_path, members, reason, mode):
    path = archive_of(tmp_path / "x.tar", members, mode)
    with pytest.raises(DataError, match=reason) as caught:
        unpack_submission(path, tmp_path)
    assert caught.value.file == str(path) and caught.value.remedy


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archives_of_other_programs_are_read(tmp_path, mode, form):
    """Plain archives, folders, long names, and times in extended headers."""
    folder = "f" * 90 + "/" + "g" * 50 + "/"
    with tarfile.open(tmp_path / "x", mode, format=form) as archive:
        directory = tarfile.TarInfo(folder)
        directory.type = tarfile.DIRTYPE
        archive.addfile(directory)
        for number, name in enumerate("ab"):
            member = tarfile.TarInfo(folder + NUMBERED(number, 2))
            content = shard(name)
            member.size, member.mtime = len(content), 1.5 if form == tarfile.PAX_FORMAT else 1
            archive.addfile(member, io.BytesIO(content))
    out = tmp_path / "out"
    out.mkdir()
    assert unpack_submission(tmp_path / "x", out) == 2
    same(read_rollouts(out, "b"), rollouts("b"))


def test_other_numbers_of_rollouts_are_refused_on_demand(tmp_path):
    path = archive_of(tmp_path / "x.tar", [(NUMBERED(0, 1), shard("a"))])
    assert unpack_submission(path, tmp_path) == unpack_submission(path, tmp_path, 2) == 1
    with pytest.raises(DataError, match="scenario 'a' has 2 rollouts, expected 32"):
        unpack_submission(path, tmp_path, 32)


def test_an_archive_that_expands_without_limit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tar, "MIN_CONTENT_LIMIT_BYTES", 2**20)
    monkeypatch.setattr(tar, "MAX_CONTENT_EXPANSION", 1)
    path = archive_of(tmp_path / "x.tar.gz", [(NUMBERED(0, 1), message({1: {1: "a", 9: bytes(2**22)}}))], "w:gz")
    with pytest.raises(DataError, match="expands to more than"):
        unpack_submission(path, tmp_path)


def test_a_shard_that_claims_to_be_huge_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(submission, "MAX_SCENARIO_BYTES", 100)
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
