"""The wire format: values of any packing are restored, malformed data are refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.datasets.encode import message, packed, varint
from waymax_sim.datasets.encoding import protobuf
from waymax_sim.datasets.errors import DataError

INT64 = st.integers(-(2**63), 2**63 - 1)
STATE = {"x": (2, "<f8"), "heading": (8, "<f4"), "valid": (11, "u1")}


@given(st.lists(INT64, max_size=20))
def test_integers_packed_or_not(values):
    for data in (message({4: values}), message({4: packed(values)})):
        assert protobuf.integers(protobuf.decode(data), 4, "x").tolist() == values


@given(st.lists(INT64, max_size=5), st.lists(INT64, max_size=5))
def test_packed_and_single_values_may_be_mixed(single, many):
    data = message({4: [*single, packed(many)]})
    assert protobuf.integers(protobuf.decode(data), 4, "x").tolist() == single + many


@given(st.dictionaries(st.text(max_size=3), st.lists(INT64, max_size=8), max_size=5))
def test_lists_are_unpacked_together(lists):
    found = protobuf.unpack_lists({name: packed(values) for name, values in lists.items()})
    assert {name: values.tolist() for name, values in found.items()} == lists


def test_a_list_that_ends_early_is_named():
    with pytest.raises(DataError, match="field thing"):
        protobuf.unpack_lists({"other": packed([300]), "thing": packed([300])[:-1]})


@given(st.lists(st.floats(width=32, allow_nan=False), max_size=20))
def test_floats_packed_or_not(values):
    for kind, cast in (("<f4", np.float32), ("<f8", float)):
        array = np.array(values, kind)
        for data in (message({1: [cast(v) for v in values]}), message({1: array.tobytes()})):
            np.testing.assert_array_equal(protobuf.numbers(protobuf.decode(data), 1, "x", kind), array)


def test_the_last_value_of_a_scalar_counts():
    fields = protobuf.decode(message({6: [1, 2**24 + 1, -7], 5: ["a", "b"]}))
    assert protobuf.integer(fields, 6, "x") == -7
    assert protobuf.text(fields, 5, "x") == "b"


def test_absent_fields():
    fields = protobuf.decode(b"")
    assert protobuf.integer(fields, 6, "x", default=-1) == -1
    assert protobuf.text(fields, 5, "x") == ""
    assert protobuf.blobs(fields, 2, "x") == []
    assert len(protobuf.integers(fields, 4, "x")) == len(protobuf.numbers(fields, 1, "x", "<f8")) == 0


@pytest.mark.parametrize(
    "data",
    [
        b"\x08",  # a key without a value
        b"\x80",  # half a key
        b"\x08" + b"\xff" * 11,  # an endless number
        b"\x08\xff",  # half a number
        b"\x0a\x05abc",  # three bytes of five
        b"\x0a",  # a length is missing
        b"\x0a" + varint(2**63),  # a length beyond memory
        b"\x09\0\0\0",  # half a double
        b"\x0d\0",  # a quarter of a float
        b"\x0b\x0c",  # a group
        b"\x0e",  # a wire type that does not exist
    ],
)
def test_malformed_messages_are_refused(data):
    with pytest.raises(DataError, match="field thing"):
        protobuf.decode(data, "thing")


@pytest.mark.parametrize(
    ("read", "data"),
    [
        (lambda fields: protobuf.integer(fields, 1, "thing"), message({1: b"text"})),
        (lambda fields: protobuf.integers(fields, 1, "thing"), message({1: 1.0})),
        (lambda fields: protobuf.integers(fields, 1, "thing"), message({1: b"\x01\x80"})),
        (lambda fields: protobuf.integers(fields, 1, "thing"), message({1: b"\xff" * 11 + b"\x01"})),
        (lambda fields: protobuf.numbers(fields, 1, "thing", "<f8"), message({1: b"seven b"})),
        (lambda fields: protobuf.numbers(fields, 1, "thing", "<f8"), message({1: np.float32(1)})),
        (lambda fields: protobuf.blobs(fields, 1, "thing"), message({1: 3})),
        (lambda fields: protobuf.text(fields, 1, "thing"), message({1: b"\xff\xfe"})),
    ],
)
def test_values_of_another_type_are_refused(read, data):
    with pytest.raises(DataError, match="field thing"):
        read(protobuf.decode(data))


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data):
    try:
        fields = protobuf.decode(data)
        protobuf.integers(fields, 1, "x")
        protobuf.numbers(fields, 2, "x", "<f8")
    except DataError:
        return
    assert sum(map(len, fields.values())) <= len(data)


@given(st.binary(max_size=40))
def test_packed_integers_equal_one_by_one(data):
    expected, position = [], 0
    try:
        while position < len(data):
            value, shift = 0, 0
            while True:
                value |= (data[position] & 0x7F) << shift
                shift += 7
                position += 1
                if data[position - 1] < 0x80:
                    break
            assert shift <= 70
            expected.append(((value + 2**63) % 2**64) - 2**63)
    except (AssertionError, IndexError):
        with pytest.raises(DataError):
            protobuf.unpack_varints(data, "x")
    else:
        assert protobuf.unpack_varints(data, "x").tolist() == expected


def test_a_table_reads_regular_and_irregular_messages_alike():
    messages = [
        message({2: 1.5, 8: np.float32(0.25), 11: True}),  # the usual layout
        message({11: True, 8: np.float32(0.25), 2: 1.5}),  # another order, same length
        message({11: False}),  # the rest is absent
        b"",
        message({2: [9.0, 1.5], 3: "new field", 8: np.float32(0.25), 11: 300}),
    ]
    rows = protobuf.table(messages, STATE, "states")
    assert rows["x"].tolist() == [1.5, 1.5, 0, 0, 1.5]
    assert rows["heading"].tolist() == [0.25, 0.25, 0, 0, 0.25]
    assert rows["valid"].tolist() == [1, 1, 0, 0, 1]


def test_a_table_names_the_bad_message():
    good = message({2: 1.5, 8: np.float32(0.25), 11: True})
    with pytest.raises(DataError, match=r"states\[1\].x"):
        protobuf.table([good, message({2: np.float32(1)})], STATE, "states")
    with pytest.raises(DataError, match=r"states\[1\]:"):
        protobuf.table([good, good[:-1]], STATE, "states")


def test_a_table_of_nothing():
    assert len(protobuf.table([], STATE, "states")) == 0
