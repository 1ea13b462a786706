"""Encoded scenarios: decoding is exact, and damaged or hostile input is a `DataError`."""

import concurrent.futures
import dataclasses
import multiprocessing
import struct
import threading
import tracemalloc
from typing import Any

import blosc2
import google_crc32c
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data import recorded
from tests.datasets.encode import small_scene
from tests.datasets.scenes import CHOICES, random_scene
from tests.datasets.test_fuzz import MUTATIONS, mutate
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.loader import load
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.datasets.store.codec import (
    CHECKSUM_BEGIN,
    HEADER,
    MAGIC,
    ROW_LENGTH,
    Compression,
    decode_scenario,
    encode_scenario,
)
from waymax_sim.datasets.store.layout import scenario_layout
from waymax_sim.datatypes.goals import Goals
from waymax_sim.datatypes.padding import axis_lengths, bucket_lengths, pad, pad_empty_axes
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.datatypes.signals import Signals

COMPRESSIONS: tuple[Compression, ...] = ("fast", "small")
WOMD = (
    "womd/scenario_637f20cafde22ff8.tfrecord",
    "womd/scenario_2a173b334be3d32c.tfrecord",
    "womd/scenario_2a1e44d405a6833f.tfrecord",
    "womd/tf_example_a3bb37c25ce56418.tfrecord",
)


def leaves(scenario: Scenario) -> dict[str, np.ndarray]:
    """Arrays of a scenario by path."""
    arrays = jax.tree_util.tree_leaves_with_path(scenario)
    return {".".join(key.name for key in path): np.asarray(leaf) for path, leaf in arrays}


def assert_identical(actual: Scenario, expected: Scenario) -> None:
    """The same arrays: paths, shapes, dtypes and bits."""
    actual_arrays, expected_arrays = leaves(actual), leaves(expected)
    assert actual_arrays.keys() == expected_arrays.keys()
    for name, values in expected_arrays.items():
        assert (actual_arrays[name].shape, actual_arrays[name].dtype) == (values.shape, values.dtype), name
        assert actual_arrays[name].tobytes() == values.tobytes(), name


def assert_exact(scenario: Scenario, compression: Compression = "fast") -> bytes:
    """Decoding gives the same arrays, and the same as `pad` if it pads."""
    encoded = encode_scenario(scenario, compression)
    assert_identical(decode_scenario(encoded, pad_to_bucket=False), scenario)
    assert_identical(decode_scenario(memoryview(encoded)), pad(scenario, bucket_lengths(axis_lengths(scenario))))
    return encoded


@settings(max_examples=15)
@given(choices=CHOICES, compression=st.sampled_from(COMPRESSIONS))
def test_random_scenes_are_exact(choices, compression):
    assert_exact(to_scenario(random_scene(**choices), pad_to_bucket=False), compression)


@settings(max_examples=15)
@given(st.randoms(use_true_random=False))
def test_any_bits_are_exact(random):
    """NaN of any payload, infinities and -0.0 in all arrays of numbers."""

    def random_bits(leaf):
        dtype = np.asarray(leaf).dtype
        if dtype.kind == "b":
            return leaf
        return np.frombuffer(random.randbytes(np.asarray(leaf).nbytes), dtype).reshape(np.shape(leaf))

    scenario = jax.tree.map(random_bits, to_scenario(small_scene(), pad_to_bucket=False))
    assert_exact(scenario)


@pytest.mark.parametrize("value", [np.nan, -0.0, np.inf, -np.inf])
def test_special_values_are_exact(value):
    scenario = to_scenario(small_scene(), pad_to_bucket=False)
    log = dataclasses.replace(scenario.log, xyz=np.full_like(scenario.log.xyz, value))
    assert_exact(dataclasses.replace(scenario, log=log))


@pytest.mark.parametrize("has_routes", [False, True])
@pytest.mark.parametrize("has_goals", [False, True])
def test_optional_parts_are_exact(has_routes, has_goals):
    scenario = to_scenario(small_scene(), pad_to_bucket=False)
    count = scenario.num_agents
    goals = Goals(xy=np.zeros((count, 2), np.float32), valid=np.ones(count, bool)) if has_goals else None
    assert_exact(dataclasses.replace(scenario, routes=scenario.routes if has_routes else None, goals=goals))


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("index", range(3))
def test_synthetic_scenes_are_exact(index, compression):
    assert_exact(load("synthetic:0:3", pad_to_bucket=False)[index], compression)


@pytest.mark.parametrize("path", WOMD)
def test_recorded_scenes_are_exact(path):
    scenario = load(recorded(path), pad_to_bucket=False)[0]
    size = sum(array.nbytes for array in leaves(scenario).values())
    fast, small = (assert_exact(scenario, compression) for compression in COMPRESSIONS)
    assert len(small) < len(fast) < 0.45 * size


def test_empty_axes_are_padded():
    scenario = to_scenario(small_scene(), pad_to_bucket=False)
    lights = scenario.signals
    no_lights = Signals(lights.lane_id[:0], lights.state[:, :0], lights.stop_point[:, :0], lights.valid[:, :0])
    emptied = dataclasses.replace(scenario, signals=no_lights)
    assert_identical(decode_scenario(encode_scenario(emptied), pad_to_bucket=False), pad_empty_axes(emptied))
    assert decode_scenario(encode_scenario(emptied)).signals.lane_id.tolist() == [-1] * 8


def test_encoding_is_deterministic():
    scenario = load("synthetic:0:3", pad_to_bucket=False)[1]
    assert encode_scenario(decode_scenario(encode_scenario(scenario), pad_to_bucket=False)) == encode_scenario(scenario)


def test_decoding_starts_no_threads():
    encoded = encode_scenario(load("synthetic:0:1", pad_to_bucket=False)[0])
    decode_scenario(encoded)
    before = threading.active_count()
    for _ in range(3):
        decode_scenario(encoded)
    assert threading.active_count() == before


def test_threads_decode_the_same():
    scenarios = [load("synthetic:0:3", pad_to_bucket=False)[index] for index in range(3)]
    encoded = [encode_scenario(scenario) for scenario in scenarios]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        decoded = list(pool.map(lambda data: decode_scenario(data, pad_to_bucket=False), 8 * encoded))
    for actual, expected in zip(decoded, 8 * scenarios, strict=True):
        assert_identical(actual, expected)


def _decode_in_child(encoded: bytes, connection) -> None:
    connection.send([array.tobytes() for array in leaves(decode_scenario(encoded)).values()])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning")
def test_forked_processes_decode_the_same():
    encoded = encode_scenario(to_scenario(small_scene(), pad_to_bucket=False))
    expected = [array.tobytes() for array in leaves(decode_scenario(encoded)).values()]
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_decode_in_child, args=(encoded, sender))
    process.start()
    assert receiver.poll(60) and receiver.recv() == expected
    process.join()


SCENARIO = to_scenario(small_scene(), pad_to_bucket=False)
ENCODED = encode_scenario(SCENARIO)
NUM_ARRAYS = len(scenario_layout(True, False).names)
TABLE_BYTES = 4 * ROW_LENGTH * NUM_ARRAYS
CHUNKS_BEGIN = HEADER.size + TABLE_BYTES


def sign(content: bytes) -> bytes:
    """Encoded data with any content and its correct checksum."""
    return MAGIC + google_crc32c.value(content).to_bytes(4, "little") + content


def check(encoded: bytes) -> None:
    try:
        assert isinstance(decode_scenario(encoded), Scenario)
    except DataError as error:
        assert error.field and error.remedy


@settings(max_examples=60)
@given(mutations=MUTATIONS)
def test_damage_is_detected(mutations):
    damaged = mutate(ENCODED, mutations)
    if damaged != ENCODED:
        with pytest.raises(DataError):
            decode_scenario(damaged)


def test_another_format_version_is_named():
    with pytest.raises(DataError, match="format version '5'") as caught:
        decode_scenario(b"WSP5" + ENCODED[4:])
    assert caught.value.remedy == "convert the scenes again"


@settings(max_examples=60)
@given(mutations=MUTATIONS)
def test_damage_with_a_correct_checksum_is_a_scenario_or_an_error(mutations):
    check(sign(mutate(ENCODED[CHECKSUM_BEGIN:], mutations)))


def mutate_chunk(index: int, mutations) -> bytes:
    """Encoded data with one damaged chunk, whose size in the table is that of the damaged one."""
    table = np.frombuffer(ENCODED, "<i4", ROW_LENGTH * NUM_ARRAYS, HEADER.size).reshape(NUM_ARRAYS, ROW_LENGTH).copy()
    ends = CHUNKS_BEGIN + np.cumsum(table[:, 0])
    chunk = mutate(ENCODED[ends[index] - table[index, 0] : ends[index]], mutations)
    before, after = ENCODED[CHUNKS_BEGIN : ends[index] - table[index, 0]], ENCODED[ends[index] :]
    table[index, 0] = len(chunk)
    if len(chunk) >= 16:
        # The sizes in its own header are right too.
        size = [*leaves(SCENARIO).values()][index].nbytes
        chunk = chunk[:4] + struct.pack("<I", size) + chunk[8:12] + struct.pack("<I", len(chunk)) + chunk[16:]
    return sign(ENCODED[CHECKSUM_BEGIN : HEADER.size] + table.tobytes() + before + chunk + after)


@settings(max_examples=60)
@given(index=st.integers(0, NUM_ARRAYS - 1), mutations=MUTATIONS)
def test_damaged_chunks_are_a_scenario_or_an_error(index, mutations):
    check(mutate_chunk(index, mutations))


@pytest.mark.slow
@settings(max_examples=5000)
@given(index=st.integers(0, NUM_ARRAYS - 1), mutations=MUTATIONS)
def test_much_damage_is_a_scenario_or_an_error(index, mutations):
    check(sign(mutate(ENCODED[CHECKSUM_BEGIN:], mutations)))
    check(mutate_chunk(index, mutations))


@pytest.mark.parametrize("number", [-1, 0, 2**15, 2**24, 2**31 - 1])
def test_no_number_of_the_table_is_trusted_with_memory(number):
    tracemalloc.start()
    try:
        # Every seventh number of the table is one of each column of some rows.
        for offset in range(0, TABLE_BYTES, 4 * (ROW_LENGTH - 1)):
            at = HEADER.size + offset
            check(sign(ENCODED[CHECKSUM_BEGIN:at] + struct.pack("<i", number) + ENCODED[at + 4 :]))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 * 2**20


def test_the_size_of_a_chunk_is_not_trusted():
    """A chunk that decompresses to more than its array has is refused before it is decompressed."""
    table = np.frombuffer(ENCODED, "<i4", ROW_LENGTH * NUM_ARRAYS, HEADER.size).reshape(NUM_ARRAYS, ROW_LENGTH).copy()
    compress: Any = blosc2.compress2
    chunk = compress(np.zeros(2**20, np.uint8), nthreads=1)
    first = table[0, 0]
    table[0, 0] = len(chunk)
    content = ENCODED[CHECKSUM_BEGIN : HEADER.size] + table.tobytes() + chunk + ENCODED[CHUNKS_BEGIN + first :]
    with pytest.raises(DataError, match="another size"):
        decode_scenario(sign(content))
