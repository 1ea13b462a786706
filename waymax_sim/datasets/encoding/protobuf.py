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
# Largest number of fields of a message, which take up to a hundred bytes each: a map feature has one for each point.
MAX_FIELDS = 2_000_000
# Largest number of different layouts of fields among the rows of a table that are decoded together.
MAX_LAYOUTS = 256
# Largest number of rows of a table that are decoded one by one, 10 us each.
MAX_IRREGULAR_ROWS = 100_000
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


def decode(data: Data, name: str = "", max_fields: int = MAX_FIELDS) -> Fields:
    """Splits a message into its fields.

    Args:
      data: The message.
      name: Name of the message in errors.
      max_fields: Largest accepted number of fields.

    Raises:
      DataError: The data are not a message, or have more than `max_fields` fields.
    """
    fields: Fields = {}
    position, end = 0, len(data)
    try:
        for _ in range(max_fields + 1):
            if position >= end:
                break
            key = data[position]
            position += 1
            if key >= 0x80:
                key, position = varint(data, position - 1, name)
            if key < 8:
                raise DataError(f"has field number 0 at byte {position - 1}", field=name, remedy=MESSAGE_REMEDY)
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
        else:
            raise DataError(f"has more than {max_fields} fields", field=name, remedy=MESSAGE_REMEDY)
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
    values = fields.get(number, [])
    if all(wire == VARINT for wire, _ in values):
        return np.array([_signed(value) for _, value in values], np.int64)
    parts = [
        unpack_varints(value, name)
        if wire == LEN
        else np.array([_signed(_expect(VARINT, (wire, value), name))], np.int64)
        for wire, value in values
    ]
    return np.concatenate(parts)


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
    and are decoded together, and so are those of other common layouts. The others are decoded one by one. Absent fields
    are zero.

    Args:
      messages: The messages.
      columns: Name -> (field number below 16, "<f8" double, "<f4" float or "u1" bool), in order of field number.
      name: Name of the messages in errors.

    Raises:
      DataError: A message is malformed, or too many have unusual layouts.
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
    rows[~regular] = 0
    irregular = _fill_by_layout(rows, messages, np.flatnonzero(~regular), columns)
    if len(irregular) > MAX_IRREGULAR_ROWS:
        problem = f"has more than {MAX_IRREGULAR_ROWS} messages of unusual layouts"
        raise DataError(problem, field=name, remedy=MESSAGE_REMEDY)
    for row in irregular:
        fields = decode(messages[row], f"{name}[{row}]")
        for column, (number, kind) in columns.items():
            path = f"{name}[{row}].{column}"
            if number not in fields:
                continue
            if kind == "u1":
                rows[column][row] = integer(fields, number, path) != 0
            elif len(values := numbers(fields, number, path, kind)):
                rows[column][row] = values[-1]
    return rows


def _fill_by_layout(
    rows: np.ndarray, messages: list[bytes], pending: Int[np.ndarray, " n"], columns: Mapping[str, tuple[int, str]]
) -> Int[np.ndarray, " m"]:
    """Decodes the messages whose layout many of them share into their rows; returns the other rows, ascending.

    Args:
      rows: Rows of `table`, zero where they are to be filled.
      messages: The messages.
      pending: Rows to fill.
      columns: As in `table`.
    """
    lengths, num_layouts, others = np.array([len(messages[row]) for row in pending], np.int64), 0, []
    for length in np.unique(lengths):
        group = pending[lengths == length]
        data = np.frombuffer(b"".join(messages[row] for row in group), np.uint8).reshape(len(group), length)
        while len(group) and num_layouts < MAX_LAYOUTS:
            num_layouts += 1
            layout = _layout(bytes(data[0]), columns)
            matches = np.arange(len(group)) == 0
            if layout is not None:
                tags, spans = layout
                matches = (data[:, [at for at, _ in tags]] == np.array([tag for _, tag in tags], np.uint8)).all(axis=1)
                for _, (at, kind) in spans:
                    if kind == "u1":
                        matches &= data[:, at] <= 1
                for column, (at, kind) in spans:
                    values = data[matches, at : at + np.dtype(kind).itemsize]
                    rows[column][group[matches]] = np.ascontiguousarray(values).view(kind)[:, 0]
            else:
                others.append(group[:1])
            group, data = group[~matches], data[~matches]
        others.append(group)
    return np.sort(np.concatenate(others)) if others else pending


def _layout(
    message: bytes, columns: Mapping[str, tuple[int, str]]
) -> tuple[list[tuple[int, int]], list[tuple[str, tuple[int, str]]]] | None:
    """Offset and value of the tags of a message, and column, offset and kind of its values.

    None if it has other fields than those of the columns, or a number that is longer than a byte.
    """
    by_tag = {number << 3 | WIRE_OF_KIND[kind]: (column, kind) for column, (number, kind) in columns.items()}
    tags, spans, position = [], [], 0
    while position < len(message):
        column, kind = by_tag.get(message[position], (None, ""))
        if column is None or position + 1 + np.dtype(kind).itemsize > len(message):
            return None
        tags.append((position, message[position]))
        spans.append((column, (position + 1, kind)))
        position += 1 + np.dtype(kind).itemsize
        if kind == "u1" and message[position - 1] > 1:
            return None
    return tags, spans


def _expect(wire: int, field: tuple[int, Any], name: str) -> Any:
    if field[0] != wire:
        raise DataError(f"has wire type {field[0]}, expected {wire}", field=name, remedy=MESSAGE_REMEDY)
    return field[1]


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
