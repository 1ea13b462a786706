"""Integers in planes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from waymax_sim.datasets.store import planes

EDGES = [0, 127, -128, 128, -129, 32767, -32768, 32768, -32769, 2**23 - 1, -(2**23), 2**31 - 1, -(2**31)]
INTEGERS = st.one_of(st.sampled_from(EDGES), st.integers(-200, 200), st.integers(-(2**31), 2**31 - 1))


@given(st.lists(INTEGERS, max_size=50))
def test_they_come_back(values):
    joined = planes.join(planes.split(np.array(values, np.int32)), np.dtype(np.int32))
    assert joined.dtype == np.int32 and joined.tolist() == values


@given(st.lists(st.integers(-(2**15), 2**15 - 1), max_size=50))
def test_short_ones_come_back(values):
    joined = planes.join(planes.split(np.array(values, np.int16)), np.dtype(np.int16))
    assert joined.dtype == np.int16 and joined.tolist() == values


@pytest.mark.parametrize(("value", "count"), [(127, 1), (-128, 1), (128, 2), (-(2**15), 2), (2**15, 3), (2**31 - 1, 4)])
def test_there_are_as_many_as_needed(value, count):
    assert planes.split(np.array([0, value], np.int32)).shape == (count, 2)
