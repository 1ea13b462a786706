"""Integers in nibbles, bytes and more."""

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.store import integers

EDGES = [0, 7, -7, 8, -8, 127, -127, 128, -128, 32767, -32767, 32768, -32768, 2**31 - 1, -(2**31)]
INTEGERS = st.one_of(st.sampled_from(EDGES), st.integers(-7, 7), st.integers(-(2**31), 2**31 - 1))


@given(st.lists(INTEGERS, max_size=200))
def test_they_come_back(values):
    decoded = integers.decode(integers.encode(np.array(values, np.int64)))
    assert decoded.dtype == np.int32 and decoded.tolist() == values


def test_small_ones_take_half_a_byte():
    assert len(integers.encode(np.tile(np.arange(-7, 8), 1000))) == integers.HEADER.size + 7500
    assert len(integers.encode(np.array([127, 32767, 2**31 - 1]))) == integers.HEADER.size + 2 + 3 + 4 + 4


@settings(max_examples=300)
@given(st.lists(INTEGERS, min_size=1, max_size=50), st.data())
def test_damaged_ones_are_numbers_or_an_error(values, data):
    packed = bytearray(integers.encode(np.array(values, np.int64)))
    for _ in range(data.draw(st.integers(1, 3))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    packed = bytes(packed[: data.draw(st.integers(0, len(packed)))])
    with contextlib.suppress(DataError):
        assert len(integers.decode(packed)) <= 2 * len(packed)


def test_announced_lengths_are_not_trusted():
    with pytest.raises(DataError, match="another length"):
        integers.decode(integers.HEADER.pack(2**32 - 1, 0, 0, 0) + bytes(8))
