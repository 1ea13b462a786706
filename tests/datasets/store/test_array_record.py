"""ArrayRecord files: ours is what the official package writes and reads."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.datasets.test_fuzz import MUTATIONS, mutate
from waymax_sim.datasets.encoding.array_record import OfficialReader, PlainReader, open_array_record, write_array_record
from waymax_sim.datasets.errors import DataError

official = pytest.importorskip("array_record.python.array_record_module", reason="array_record is not installed")
BLOCK = 65536
# Around the places where a record, its header or its sizes meet the header of a block.
SIZES = st.one_of(st.integers(0, 300), st.integers(BLOCK - 160, BLOCK + 40), st.just(3 * BLOCK))


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> str:
    return str(tmp_path_factory.mktemp("records") / "records.array_record")


def records_of(sizes: list[int]) -> list[bytes]:
    rng = np.random.default_rng(len(sizes))
    return [rng.bytes(size) for size in sizes]


@settings(max_examples=40)
@given(sizes=st.lists(SIZES, max_size=8))
def test_records_are_those_of_the_official_reader(path, sizes):
    records = records_of(sizes)
    write_array_record(path, records)
    ours, theirs = PlainReader(path), OfficialReader(path)
    assert len(ours) == len(theirs) == len(records)
    for index, record in enumerate(records):
        assert bytes(ours.read(index)) == bytes(theirs.read(index)) == record


def test_every_position_of_a_block_boundary(path):
    for offset in range(0, 120, 7):
        records = records_of([BLOCK - 200 + offset, *range(40)])
        write_array_record(path, records)
        reader = PlainReader(path)
        assert [bytes(reader.read(index)) for index in range(len(reader))] == records


def test_many_records(path):
    records = records_of([*range(700)])
    write_array_record(path, records)
    assert [bytes(open_array_record(path).read(index)) for index in range(700)] == records


def test_the_same_records_make_the_same_file(path, tmp_path):
    write_array_record(path, records_of([10, 70000]))
    write_array_record(str(tmp_path / "again"), records_of([10, 70000]))
    with open(path, "rb") as file:
        assert file.read() == (tmp_path / "again").read_bytes()


def test_compressed_files_are_read_by_the_official_package(path):
    writer = official.ArrayRecordWriter(path, "group_size:1")
    for record in records_of([5, 90000]):
        writer.write(record)
    writer.close()
    reader = open_array_record(path)
    assert isinstance(reader, OfficialReader) and len(reader) == 2
    assert [bytes(reader.read(index)) for index in range(2)] == records_of([5, 90000])
    with pytest.raises(DataError):
        reader.read(2)


def test_a_changed_file_is_read_again(path):
    write_array_record(path, [b"old"])
    assert bytes(open_array_record(path).read(0)) == b"old"
    write_array_record(path, [b"new", b"more"])
    assert bytes(open_array_record(path).read(1)) == b"more"


def test_grouped_records_are_refused(path):
    writer = official.ArrayRecordWriter(path, "group_size:4,uncompressed")
    for record in records_of([5] * 8):
        writer.write(record)
    writer.close()
    with pytest.raises(DataError, match="do not have one record each"):
        PlainReader(path)


@pytest.mark.parametrize("data", [b"", b"x", bytes(BLOCK), b"\xff" * BLOCK])
def test_other_files_are_refused(tmp_path, data):
    (tmp_path / "other").write_bytes(data)
    with pytest.raises(DataError):
        open_array_record(str(tmp_path / "other"))


def test_an_absent_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        open_array_record(str(tmp_path / "absent"))


def check_damaged(path: str, mutations) -> None:
    write_array_record(path, records_of([50, 0, 70000]))
    with open(path, "rb") as file:
        data = mutate(file.read(), mutations)
    with open(path, "wb") as file:
        file.write(data)
    try:
        reader = PlainReader(path)
        for index in range(len(reader)):
            assert len(reader.read(index)) <= len(data)
    except DataError as error:
        assert error.file == path


@settings(max_examples=40)
@given(mutations=MUTATIONS)
def test_damaged_files(path, mutations):
    check_damaged(path, mutations)


@pytest.mark.slow
@settings(max_examples=5000)
@given(mutations=MUTATIONS)
def test_many_damaged_files(path, mutations):
    check_damaged(path, mutations)
