"""Decoder of the protobuf wire format, without generated classes (https://protobuf.dev/programming-guides/encoding).

A message is a sequence of (field number, wire type, value). `decode` splits it into fields, the other functions read
fields of a known type. Malformed data raise `DataError`; allocated memory is proportional to the input.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Int, Num

from waymax_sim.datasets.errors import DataError

# Wire types.
VARINT = 0
FIXED64 = 1
LEN = 2
FIXED32 = 5
WIRE_OF_KIND = {"<f8": FIXED64, "<f4": FIXED32, "u1": VARINT}
MESSAGE_REMEDY = "the record is damaged or has another format"
# Mask of the bytes of a varint of each length up to 10, among its first eight bytes.
VARINT_MASKS = np.array([256 ** min(length, 8) - 1 for length in range(11)], np.uint64)
# Masks of lower and upper groups and shift of the steps that join 7-bit groups in pairs, fours and eights.
VARINT_JOIN_STEPS = tuple(
    tuple(np.uint64(number) for number in row)
    for row in (
        (0x007F007F007F007F, 0x7F007F007F007F00, 1),
        (0x00003FFF00003FFF, 0x3FFF00003FFF0000, 2),
        (0x000000000FFFFFFF, 0x0FFFFFFF00000000, 4),
    )
)

# Field number -> (wire type, value) pairs in order; the value is an int for VARINT, else a slice of the data.
Fields: TypeAlias = dict[int, list[tuple[int, Any]]]
Data: TypeAlias = bytes | memoryview


def decode(data: Data, name: str = "") -> Fields:
    """Splits a message into its fields.

    Args:
      data: The message.
      name: Name of the message in errors.

    Raises:
      DataError: The data are not a message.
    """
    fields: Fields = {}
    position, end = 0, len(data)
    try:
        while position < end:
            key = data[position]
            position += 1
            if key >= 0x80:
                key, position = varint(data, position - 1, name)
            wire = key & 7
            if wire == LEN:
                size = data[position]
                position += 1
                if size >= 0x80:
                    size, position = varint(data, position - 1, name)
            elif wire == VARINT:
                value, position = varint(data, position, name)
                fields.setdefault(key >> 3, []).append((wire, value))
                continue
            elif wire == FIXED64:
                size = 8
            elif wire == FIXED32:
                size = 4
            else:
                raise DataError(
                    f"has unknown wire type {wire} at byte {position - 1}", field=name, remedy=MESSAGE_REMEDY
                )
            if size > end - position:
                raise DataError(
                    f"has {end - position} bytes left, but a field of {size} bytes", field=name, remedy=MESSAGE_REMEDY
                )
            fields.setdefault(key >> 3, []).append((wire, data[position : position + size]))
            position += size
    except IndexError:
        raise DataError("ends in the middle of a number", field=name, remedy=MESSAGE_REMEDY) from None
    return fields


def read_tag(data: Data, position: int) -> tuple[int, int, int]:
    """Tag of the length-delimited field at a position, and start and end of its value.

    Raises:
      IndexError: The data end first.
    """
    size, begin = data[position + 1], position + 2
    if size >= 0x80:
        size, begin = varint(data, position + 1, "")
    return data[position], begin, begin + size


def varint(data: Data, position: int, name: str) -> tuple[int, int]:
    """The varint at a position, and the position of its end.

    Args:
      data: The message.
      position: Start of the varint.
      name: Name of the message in errors.

    Raises:
      DataError: It has more than 10 bytes.
      IndexError: The data end first.
    """
    value = shift = 0
    while shift < 70:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, position
        shift += 7
    raise DataError(f"has a number of more than 10 bytes at byte {position - 10}", field=name, remedy=MESSAGE_REMEDY)


def blobs(fields: Fields, number: int, name: str) -> list[Any]:
    """All values of a field of messages, strings or bytes, as slices of the data.

    Args:
      fields: A decoded message.
      number: Field number.
      name: Name of the field in errors.
    """
    return [_expect(LEN, field, name) for field in fields.get(number, [])]


def text(fields: Fields, number: int, name: str) -> str:
    """The value of a string field, "" if absent.

    Args:
      fields: A decoded message.
      number: Field number.
      name: Name of the field in errors.
    """
    try:
        return b"".join(blobs(fields, number, name)[-1:]).decode("utf-8")
    except UnicodeDecodeError:
        raise DataError("is not UTF-8 text", field=name, remedy=MESSAGE_REMEDY) from None


def integer(fields: Fields, number: int, name: str, default: int = 0) -> int:
    """The value of an integer, enum or bool field.

    Args:
      fields: A decoded message.
      number: Field number.
      name: Name of the field in errors.
      default: Value of an absent field.
    """
    values = fields.get(number)
    return _signed(_expect(VARINT, values[-1], name)) if values else default


def integers(fields: Fields, number: int, name: str) -> Int[np.ndarray, " n"]:
    """All values of a repeated integer field, packed or not.

    Args:
      fields: A decoded message.
      number: Field number.
      name: Name of the field in errors.
    """
    parts = [
        unpack_varints(value, name)
        if wire == LEN
        else np.array([_signed(_expect(VARINT, (wire, value), name))], np.int64)
        for wire, value in fields.get(number, [])
    ]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def numbers(fields: Fields, number: int, name: str, kind: str) -> Num[np.ndarray, " n"]:
    """All values of a repeated float or double field, packed or not.

    Args:
      fields: A decoded message.
      number: Field number.
      name: Name of the field in errors.
      kind: "<f4" for float, "<f8" for double.
    """
    fixed, size = WIRE_OF_KIND[kind], np.dtype(kind).itemsize
    data = b"".join(
        value if wire == LEN else _expect(fixed, (wire, value), name) for wire, value in fields.get(number, [])
    )
    if len(data) % size:
        raise DataError(f"has {len(data)} bytes, which is not a multiple of {size}", field=name, remedy=MESSAGE_REMEDY)
    return np.frombuffer(data, kind)


def unpack_lists(lists: Mapping[str, bytes]) -> dict[str, Int[np.ndarray, " n"]]:
    """Packed signed integers of several fields, by the names of the fields.

    Raises:
      DataError: One of them is malformed.
    """
    arrays = {name: np.frombuffer(data, np.uint8).astype(np.int64) for name, data in lists.items() if data.isascii()}
    longer = {name: data for name, data in lists.items() if name not in arrays}
    for name, data in longer.items():
        if data[-1] >= 0x80:
            raise DataError("ends in the middle of a number", field=name, remedy=MESSAGE_REMEDY)
    # Decoded together, because most lists are short.
    values, begin = unpack_varints(b"".join(longer.values()), ", ".join(longer)), 0
    for name, data in longer.items():
        end = begin + np.count_nonzero(np.frombuffer(data, np.int8) >= 0)
        arrays[name] = values[begin:end]
        begin = end
    return arrays


def unpack_varints(data: Data, name: str) -> Int[np.ndarray, " n"]:
    """Decodes packed signed integers by joining the 7-bit groups of all varints in parallel."""
    bytes_ = np.frombuffer(data, np.uint8)
    last = bytes_ < 0x80
    if last.all():
        return bytes_.astype(np.int64)
    if not last[-1]:
        raise DataError("ends in the middle of a number", field=name, remedy=MESSAGE_REMEDY)
    ends = last.nonzero()[0]
    starts = np.empty_like(ends)
    starts[0], starts[1:] = 0, ends[:-1] + 1
    lengths = ends - starts + 1
    if lengths.max() > 10:
        raise DataError("has a number of more than 10 bytes", field=name, remedy=MESSAGE_REMEDY)
    # The first eight bytes of each number, with zeros after its end.
    padded = np.append(bytes_, np.zeros(8, np.uint8))
    values = np.ndarray(len(bytes_), "<u8", padded, strides=(1,))[starts]
    values &= VARINT_MASKS.take(lengths)
    for low, high, shift in VARINT_JOIN_STEPS:
        upper = values & high
        values &= low
        upper >>= shift
        values |= upper
    longer = (lengths > 8).nonzero()[0]
    if len(longer):
        ninth = starts[longer] + 8
        last_two = padded.take(ninth).astype(np.uint64) & np.uint64(0x7F)
        last_two |= padded.take(ninth + 1).astype(np.uint64) * (lengths[longer] > 9) << np.uint64(7)
        values[longer] |= last_two << np.uint64(56)
    return values.view(np.int64)


def table(messages: list[bytes], columns: Mapping[str, tuple[int, str]], name: str) -> np.ndarray:
    """Scalars of many small messages of one type, as a structured array with one row per message.

    Messages with exactly these fields in this order, as writers produce them, have a fixed layout of tags and values
    and are decoded together. The others are decoded one by one. Absent fields are zero.

    Args:
      messages: The messages.
      columns: Name -> (field number below 16, "<f8" double, "<f4" float or "u1" bool), in order of field number.
      name: Name of the messages in errors.
    """
    layout = np.dtype(
        [item for column, (_, kind) in columns.items() for item in ((f"{column} tag", "u1"), (column, kind))]
    )
    rows = np.zeros(len(messages), layout)
    regular = np.array([len(message) == layout.itemsize for message in messages], bool)
    rows[regular] = np.frombuffer(b"".join(m for m in messages if len(m) == layout.itemsize), layout)
    for column, (number, kind) in columns.items():
        regular &= rows[f"{column} tag"] == number << 3 | WIRE_OF_KIND[kind]
        if kind == "u1":
            regular &= rows[column] <= 1
    for row in np.flatnonzero(~regular):
        fields = decode(messages[row], f"{name}[{row}]")
        rows[row] = 0
        for column, (number, kind) in columns.items():
            path = f"{name}[{row}].{column}"
            if number not in fields:
                continue
            if kind == "u1":
                rows[column][row] = integer(fields, number, path) != 0
            elif len(values := numbers(fields, number, path, kind)):
                rows[column][row] = values[-1]
    return rows


def _expect(wire: int, field: tuple[int, Any], name: str) -> Any:
    if field[0] != wire:
        raise DataError(f"has wire type {field[0]}, expected {wire}", field=name, remedy=MESSAGE_REMEDY)
    return field[1]


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
