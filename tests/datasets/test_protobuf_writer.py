"""Encoder of the wire format: the same bytes as the slow encoder, and all values are restored."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.datasets.encode import message, packed, varint
from waymax_sim.datasets.encoding import protobuf, protobuf_writer

INT64 = st.integers(-(2**63), 2**63 - 1)
STATE = {"x": (2, "<f8"), "heading": (8, "<f4"), "valid": (11, "u1")}


@given(INT64)
def test_one_integer(value):
    assert protobuf_writer.varint(value) == varint(value)


@given(st.lists(INT64, max_size=20))
def test_packed_integers(values):
    array = np.array(values, np.int64)
    assert protobuf_writer.pack_varints(array) == packed(array)
    assert protobuf.unpack_varints(protobuf_writer.pack_varints(array), "x").tolist() == values


@pytest.mark.parametrize("bits", range(64))
def test_integers_where_their_length_changes(bits):
    values = [2**bits - 1, min(2**bits, 2**63 - 1), -(2**bits)]
    assert protobuf_writer.pack_varints(np.array(values)) == packed(values)


def test_flags_and_small_types_are_integers():
    assert protobuf_writer.pack_varints(np.array([True, False])) == b"\1\0"
    assert protobuf_writer.pack_varints(np.array([-1, 3], np.int8)) == packed([-1, 3])


@given(st.integers(1, 500), INT64, st.floats(allow_nan=False), st.binary(max_size=300))
def test_fields(number, value, real, data):
    assert protobuf_writer.integer(number, value) == message({number: value})
    assert protobuf_writer.double(number, real) == message({number: real})
    assert protobuf_writer.blob(number, data) == message({number: data})


@given(st.lists(st.tuples(st.floats(-1e9, 1e9), st.floats(-9, 9, width=32), st.booleans()), max_size=9))
def test_rows_are_messages(rows):
    values = np.array(rows, [("x", "f8"), ("heading", "f4"), ("valid", "?")])
    numbers = np.arange(len(rows)) + 1
    found = protobuf_writer.table(numbers, STATE, {name: values[name] for name in STATE})
    expected = [{2: x, 8: np.float32(h), 11: v} for x, h, v in rows]
    assert found.tobytes() == b"".join(message({n: row}) for n, row in zip(numbers, expected, strict=True))
    read = protobuf.table([message(row) for row in expected], STATE, "x")
    for name in STATE:
        np.testing.assert_array_equal(read[name], values[name])
