"""Packed scenes: what comes back, how exactly, and what becomes of damaged ones."""

import struct
import tracemalloc

import google_crc32c
import jax
import lz4.block
import numpy as np
import pytest
from hypothesis import given, settings

from tests.data import recorded
from tests.datasets.encode import small_scene
from tests.datasets.scenes import CHOICES, random_scene
from tests.datasets.test_fuzz import MUTATIONS, mutate
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.loader import load
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.datasets.store.layout import CHECKED, HEADER, MAGIC, ROW, form
from waymax_sim.datasets.store.pack import pack, snapped
from waymax_sim.datasets.store.unpack import unpack
from waymax_sim.datatypes.padding import bucket, pad, sizes
from waymax_sim.datatypes.scenario import Scenario

# How far numbers may move: m, m/s, rad (around the circle), 1/m.
BOUNDS = {
    "log.xyz": 0.0005,
    "routes.xyz": 0.0005,
    "log.velocity": 0.004,
    "log.yaw": 1e-4,
    "graph.curvature": 2.0**-13,
}
WOMD = (
    "womd/scenario_637f20cafde22ff8.tfrecord",
    "womd/scenario_2a173b334be3d32c.tfrecord",
    "womd/tf_example_a3bb37c25ce56418.tfrecord",
)


def leaves(scenario: Scenario) -> dict[str, np.ndarray]:
    found = jax.tree_util.tree_leaves_with_path(scenario)
    return {".".join(key.name for key in path): leaf for path, leaf in found}


def assert_unpacks(scenario: Scenario) -> bytes:
    """Unpacks to the same arrays, padded and not: to the bit, or within the bounds."""
    packed = pack(scenario)
    for found, expected in (
        (unpack(packed, bucketed=False), scenario),
        (unpack(packed), pad(scenario, bucket(sizes(scenario)))),
    ):
        found, expected = leaves(found), leaves(expected)
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            assert (found[name].shape, found[name].dtype) == (values.shape, values.dtype), name
            if name not in BOUNDS:
                np.testing.assert_array_equal(found[name], values, err_msg=name)
                continue
            error = np.abs(found[name].astype(np.float64) - values)
            error = np.minimum(error, np.abs(2 * np.pi - error)) if name == "log.yaw" else error
            # Far from the origin float32 is coarser than the grid.
            assert np.all(error <= BOUNDS[name] + 1e-6 + np.abs(values) * 2.0**-23), name
    return packed


@settings(max_examples=15)
@given(choices=CHOICES)
def test_any_scene_unpacks(choices):
    assert_unpacks(to_scenario(snapped(random_scene(**choices)), bucketed=False))


@pytest.mark.parametrize("index", range(3))
def test_synthetic_scenes_unpack(index):
    assert_unpacks(to_scenario(snapped(load("synthetic:0:3").read(index)), bucketed=False))


@pytest.mark.parametrize("path", WOMD)
def test_recorded_scenes_unpack_and_are_small(path):
    packed = assert_unpacks(to_scenario(snapped(load(recorded(path)).read(0)), bucketed=False))
    assert len(packed) < 250_000


def test_points_move_by_less_than_half_a_millimetre():
    raw = load("synthetic:0:3").read(1)
    assert np.abs(snapped(raw).point_xyz - raw.point_xyz).max() <= 2.0**-11
    again = to_scenario(snapped(snapped(raw)), bucketed=False)
    np.testing.assert_array_equal(again.roadmap.xyz, to_scenario(snapped(raw), bucketed=False).roadmap.xyz)


def test_packing_what_was_unpacked_changes_nothing():
    packed = pack(to_scenario(snapped(load("synthetic:0:3").read(1)), bucketed=False))
    assert pack(unpack(packed, bucketed=False)) == packed


def test_what_is_too_far_away_is_refused():
    raw = small_scene()
    raw.point_xyz[0] = 9e6
    with pytest.raises(DataError, match="too far from the local origin"):
        pack(to_scenario(snapped(raw), bucketed=False))


def test_a_feature_in_two_pieces_is_refused():
    raw = small_scene()
    raw.point_feature[:2] = 4
    with pytest.raises(DataError, match="not in one piece"):
        pack(to_scenario(snapped(raw), bucketed=False))


PACKED = pack(to_scenario(snapped(small_scene()), bucketed=False))
BODY = lz4.block.decompress(PACKED[HEADER.size :], uncompressed_size=HEADER.unpack_from(PACKED)[2])


def signed(checked: bytes) -> bytes:
    """A packed scene whose checksum is right, whatever is in it."""
    return PACKED[:4] + google_crc32c.value(checked).to_bytes(4, "little") + checked


def compressed(body: bytes) -> bytes:
    """A packed scene with some content, whatever it is."""
    header = HEADER.pack(MAGIC, 0, len(body), *HEADER.unpack_from(PACKED)[3:])
    return signed(header[CHECKED:] + lz4.block.compress(body, store_size=False))


def check(packed: bytes) -> None:
    try:
        assert isinstance(unpack(packed), Scenario)
    except DataError as error:
        assert error.remedy


@settings(max_examples=60)
@given(mutations=MUTATIONS)
def test_damage_is_found(mutations):
    damaged = mutate(PACKED, mutations)
    if damaged != PACKED:
        with pytest.raises(DataError):
            unpack(damaged)


def test_another_version_is_named():
    with pytest.raises(DataError, match="another version") as caught:
        unpack(b"WSP3" + PACKED[4:])
    assert caught.value.remedy == "convert the scenes again"


@settings(max_examples=60)
@given(mutations=MUTATIONS)
def test_nonsense_with_a_right_checksum_is_a_scene_or_an_error(mutations):
    check(signed(mutate(PACKED[CHECKED:], mutations)))


@settings(max_examples=60)
@given(mutations=MUTATIONS)
def test_nonsense_inside_is_a_scene_or_an_error(mutations):
    check(compressed(mutate(BODY, mutations)))


@pytest.mark.slow
@settings(max_examples=5000)
@given(mutations=MUTATIONS)
def test_much_nonsense_is_a_scene_or_an_error(mutations):
    check(signed(mutate(PACKED[CHECKED:], mutations)))
    check(compressed(mutate(BODY, mutations)))


@pytest.mark.parametrize("number", [-1, 0, 2**15, 2**24, 2**31 - 1])
def test_no_number_of_the_table_is_trusted_with_memory(number):
    rows = len(form(True, False).listed)
    tracemalloc.start()
    try:
        # Every seventh: of all rows of five, some number, and of all five of some rows.
        for place in range(0, 4 * ROW * rows, 4 * 7):
            body = bytearray(BODY)
            body[place : place + 4] = struct.pack("<i", number)
            check(compressed(bytes(body)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 * 2**20


def test_the_announced_size_is_not_trusted_with_memory():
    header = bytearray(PACKED[CHECKED : HEADER.size])
    header[:4] = struct.pack("<I", 2**32 - 1)
    with pytest.raises(DataError, match="more than it can hold"):
        unpack(signed(bytes(header) + PACKED[HEADER.size :]))
