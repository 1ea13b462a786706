"""Damaged files: for any bytes, the outcome is a scenario or a `DataError`."""

import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.datasets.encode import example, features_of, message, scenario_of, small_scene, varint
from waymax_sim.datasets.encoding import tfrecord
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.loader import load
from waymax_sim.datatypes.scenario import Scenario

RECORDS = {"scenario_proto": message(scenario_of(small_scene())), "tf_example": example(features_of(small_scene()))}
# Far above the needs of a valid record of a few kilobytes; one unchecked length would exceed both.
MAX_SECONDS = 5.0
MAX_BYTES = 64 * 2**20

FLIP, CUT, INSERT, REMOVE, REPEAT, LENGTH = range(6)
# Lengths and counts that break careless readers.
LENGTHS = [varint(n) for n in (0, 1, 127, 128, 2**20, 2**31 - 1, 2**32, 2**63, 2**64 - 1)] + [b"\xff" * 11]
MUTATIONS = st.lists(
    st.tuples(st.integers(FLIP, LENGTH), st.floats(0, 1), st.integers(0, 255), st.binary(min_size=1, max_size=12)),
    min_size=1,
    max_size=4,
)


def mutate(data: bytes, mutations) -> bytes:
    for kind, where, number, extra in mutations:
        at = int(where * len(data))
        if kind == FLIP:
            data = data[:at] + bytes(b ^ (1 << number % 8) for b in data[at : at + 1]) + data[at + 1 :]
        elif kind == CUT:
            data = data[:at]
        elif kind == INSERT:
            data = data[:at] + extra + data[at:]
        elif kind == REMOVE:
            data = data[:at] + data[at + number :]
        elif kind == REPEAT:
            data = data[: at + number] + data[at:]
        else:
            data = data[:at] + LENGTHS[number % len(LENGTHS)] + data[at + 1 :]
    return data


def check(path) -> None:
    """Loads all valid records, in bounded CPU time of this process."""
    started = time.process_time()
    try:
        for (file, _), outcome in load(path, pad_to_bucket=False).iter_results():
            assert isinstance(outcome, (Scenario, DataError))
            assert file == str(path)
    except DataError as error:
        assert error.file == str(path)
    assert time.process_time() - started < MAX_SECONDS


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "scenes.tfrecord"


def test_the_sound_records_load(path):
    tfrecord.write_records(path, [*RECORDS.values()])
    scenarios = load(path)
    assert [scenario.scenario_id for scenario in scenarios] == [small_scene().scenario_id] * 2


def damage_file(path, mutations) -> None:
    path.write_bytes(mutate(b"".join(tfrecord.encode_record(data) for data in RECORDS.values()), mutations))
    check(path)


def damage_record(path, record, mutations) -> None:
    tfrecord.write_records(path, [mutate(RECORDS[record], mutations)])
    check(path)


@settings(max_examples=100)
@given(mutations=MUTATIONS)
def test_damaged_files(path, mutations):
    damage_file(path, mutations)


@pytest.mark.parametrize("record", RECORDS)
@settings(max_examples=100)
@given(mutations=MUTATIONS)
def test_damaged_records_with_sound_checksums(path, record, mutations):
    damage_record(path, record, mutations)


@pytest.mark.slow
@settings(max_examples=5000)
@given(mutations=MUTATIONS)
def test_files_with_many_mutations(path, mutations):
    damage_file(path, mutations)


@pytest.mark.slow
@pytest.mark.parametrize("record", RECORDS)
@settings(max_examples=5000)
@given(mutations=MUTATIONS)
def test_records_with_many_mutations(path, record, mutations):
    damage_record(path, record, mutations)


@pytest.mark.parametrize("record", RECORDS)
def test_no_length_is_trusted_with_memory(path, record):
    data = RECORDS[record]
    damaged = [mutate(data, [(LENGTH, at / 40, at, b"")]) for at in range(40)]
    tfrecord.write_records(path, damaged)
    tracemalloc.start()
    try:
        check(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MAX_BYTES
