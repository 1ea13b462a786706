"""TFRecord framing: checksums, offsets, and effects of each kind of damage."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from waymax_sim.datasets.encoding import tfrecord
from waymax_sim.datasets.errors import DataError

RECORDS = [b"first", b"", b"the third record" * 20]


def slow_crc32c(data: bytes) -> int:
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


@pytest.fixture
def path(tmp_path):
    tfrecord.write_records(tmp_path / "three.tfrecord", RECORDS)
    return tmp_path / "three.tfrecord"


def damage(path, position, data):
    content = bytearray(path.read_bytes())
    content[position : position + len(data)] = data
    path.write_bytes(content)


@given(st.binary(max_size=300))
def test_checksum_equals_bit_by_bit(data):
    crc = slow_crc32c(data)
    assert tfrecord.masked_crc32c(data) == ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32


def test_written_records_come_back(path):
    index = tfrecord.index_records(path)
    assert index.problem is None
    assert index.length.tolist() == [len(record) for record in RECORDS]
    assert [tfrecord.read_record(index, record) for record in range(3)] == RECORDS


def test_a_bad_record_leaves_the_others(path):
    index = tfrecord.index_records(path)
    damage(path, int(index.offset[0]) + 2, b"X")
    with pytest.raises(DataError, match=r"three.tfrecord, record 0, field data checksum"):
        tfrecord.read_record(index, 0)
    assert tfrecord.index_records(path).problem is None
    assert tfrecord.read_record(index, 2) == RECORDS[2]


def test_a_bad_data_checksum_is_found(path):
    index = tfrecord.index_records(path)
    damage(path, int(index.offset[2] + index.length[2]), b"\0\0\0\0")
    with pytest.raises(DataError, match="record 2, field data checksum"):
        tfrecord.read_record(index, 2)


@pytest.mark.parametrize("position", [0, 7, 8, 11])
def test_after_a_bad_length_only_earlier_records_count(path, position):
    index = tfrecord.index_records(path)
    damage(path, int(index.offset[1]) - tfrecord.RECORD_HEADER.size + position, b"\x99")
    damaged = tfrecord.index_records(path)
    assert len(damaged) == 1
    assert (damaged.problem.file, damaged.problem.record) == (str(path), 1)
    assert damaged.problem.field == "length checksum"
    assert "damaged from here on, earlier records are usable" in str(damaged.problem)
    assert tfrecord.read_record(damaged, 0) == RECORDS[0]


@pytest.mark.parametrize(("cut", "field"), [(1, "data"), (200, "data"), (324 + 5, "length")])
def test_a_truncated_file_keeps_its_complete_records(path, cut, field):
    content = path.read_bytes()
    path.write_bytes(content[:-cut])
    index = tfrecord.index_records(path)
    assert len(index) == 2
    assert (index.problem.record, index.problem.field) == (2, field)


def test_a_huge_length_allocates_nothing(tmp_path):
    length = struct.pack("<Q", 2**63)
    header = length + struct.pack("<I", tfrecord.masked_crc32c(length))
    (tmp_path / "huge").write_bytes(header + b"data")
    index = tfrecord.index_records(tmp_path / "huge")
    assert len(index) == 0
    assert index.problem.field == "data"


@pytest.mark.parametrize(
    ("content", "hint"), [(b"\xff\xd8\xff\xe0\0\x10JFIF" * 9, "TFRecord"), (b"\x1f\x8b\x08" * 9, "decompress")]
)
def test_other_files_are_refused_with_a_hint(tmp_path, content, hint):
    (tmp_path / "other").write_bytes(content)
    problem = tfrecord.index_records(tmp_path / "other").problem
    assert problem.record == 0
    assert hint in problem.remedy


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "empty").touch()
    with pytest.raises(DataError, match="empty: is empty"):
        tfrecord.index_records(tmp_path / "empty")


def test_files_that_cannot_be_opened_are_refused(tmp_path):
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(DataError, match=r"cannot be read|is not a regular file"):
            tfrecord.index_records(path)


def test_a_file_that_shrinks_after_indexing_is_noticed(path):
    index = tfrecord.index_records(path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DataError, match="record 2, field data"):
        tfrecord.read_record(index, 2)
    path.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        tfrecord.read_record(index, 0)


def test_offsets_point_at_the_data(path):
    index, content = tfrecord.index_records(path), path.read_bytes()
    found = [content[o : o + n] for o, n in zip(index.offset, index.length, strict=True)]
    assert found == RECORDS
    assert index.offset.dtype == np.int64
