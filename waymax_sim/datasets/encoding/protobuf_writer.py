"""Encoder of the protobuf wire format, without generated classes; see `protobuf` for the decoder."""

import struct
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Int, Num

from waymax_sim.datasets.encoding.protobuf import FIXED64, LEN, VARINT, WIRE_OF_KIND


def varint(value: int) -> bytes:
    """An integer as a varint; negative ones as 64-bit two's complement."""
    value %= 1 << 64
    groups = bytearray()
    while value >= 0x80:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


def pack_varints(values: Int[np.ndarray, " n"] | Bool[np.ndarray, " n"]) -> bytes:
    """Signed integers as packed varints, encoded by NumPy."""
    values = values.astype(np.int64).view(np.uint64)
    if values.max(initial=0) < 0x80:
        return values.astype(np.uint8).tobytes()
    shift = 7 * np.arange(10, dtype=np.uint64)
    rest = values[:, None] >> shift
    # The first group of 7 bits is always present, the others as long as a higher bit is set.
    used = (rest > 0) | (shift == 0)
    more = np.append(used[:, 1:], np.zeros((len(used), 1), bool), axis=1)
    return ((rest & 0x7F) | np.where(more, 0x80, 0).astype(np.uint64)).astype(np.uint8)[used].tobytes()


def integer(number: int, value: int) -> bytes:
    """An integer, enum or bool field."""
    return varint(number << 3 | VARINT) + varint(value)


def double(number: int, value: float) -> bytes:
    """A double field."""
    return varint(number << 3 | FIXED64) + struct.pack("<d", value)


def blob(number: int, data: bytes) -> bytes:
    """A field that holds a message, text, bytes or packed numbers."""
    return varint(number << 3 | LEN) + varint(len(data)) + data


def table(
    number: Num[np.ndarray, " n"] | int,
    columns: Mapping[str, tuple[int, str]],
    values: Mapping[str, Num[np.ndarray, " n"] | Bool[np.ndarray, " n"]],
) -> np.ndarray:
    """Many small messages of one type as a structured array; the bytes of consecutive rows are consecutive fields.

    Args:
      number: Number of the field that holds each message, below 16.
      columns: Name -> (field number below 16, "<f8" double, "<f4" float or "u1" bool), in order of field number.
      values: The columns by name.

    Returns:
      One row per message, with its tag and size.
    """
    layout = [("tag", "u1"), ("size", "u1")]
    for column, (_, kind) in columns.items():
        layout += [(f"{column} tag", "u1"), (column, kind)]
    rows = np.zeros(len(next(iter(values.values()))), layout)
    rows["tag"] = np.left_shift(number, 3) | LEN
    rows["size"] = rows.itemsize - 2
    for column, (field, kind) in columns.items():
        rows[f"{column} tag"] = field << 3 | WIRE_OF_KIND[kind]
        rows[column] = values[column]
    return rows
