"""`tf.train.Example`: a map from names to lists of numbers or bytes."""

from typing import TypeAlias

import numpy as np

from waymax_sim.datasets.encoding import protobuf
from waymax_sim.datasets.errors import DataError

Example: TypeAlias = dict[str, np.ndarray | list[bytes]]

# Field numbers of the three kinds of lists in a `tf.train.Feature`.
BYTES_LIST, FLOAT_LIST, INT64_LIST = 1, 2, 3
# Tags in an entry of numbers: its name, its feature, the list in it, the numbers in that.
FLOATS, INTEGERS = ([number << 3 | protobuf.LEN for number in (1, 2, kind, 1)] for kind in (FLOAT_LIST, INT64_LIST))


def decode_example(data: bytes) -> Example:
    """Reads a serialized example: float32 and int64 arrays, and lists of bytes. Empty features are left out.

    Raises:
      DataError: The data are not an example.
    """
    example: Example = {}
    varints: dict[str, bytes] = {}
    # Parts of what was decoded, not copies: examples are large.
    for features in protobuf.blobs(protobuf.decode(memoryview(data), "example"), 1, "features"):
        for entry in protobuf.blobs(protobuf.decode(features, "features"), 1, "features"):
            key, kind, packed = _packed(bytes(entry)) or ("", None, b"")
            if kind is None:
                found = _read(entry)
            elif kind == FLOATS:
                found = {key: np.frombuffer(packed, "<f4")}
            else:
                found, varints[key] = {}, packed
            # The last feature of a name counts.
            for name in found:
                varints.pop(name, None)
            example.update(found)
    return example | protobuf.unpack_lists(varints)


def _packed(entry: bytes) -> tuple[str, list[int], bytes] | None:
    """A feature of packed numbers laid out as writers do, each message with one field; None for any other.

    It is its name, `FLOATS` or `INTEGERS`, and the numbers.
    """
    try:
        tag, begin, stop = protobuf.head(entry, 0)
        tags, at = [tag], stop
        for _ in range(3):
            tag, at, end = protobuf.head(entry, at)
            tags.append(tag)
            if end != len(entry):
                return None
        if tags == INTEGERS or (tags == FLOATS and (end - at) % 4 == 0):
            return entry[begin:stop].decode(), tags, entry[at:]
    except (IndexError, UnicodeDecodeError, DataError):
        # What is wrong with it is said by `_read`.
        pass
    return None


def _read(entry: protobuf.Data) -> Example:
    """A feature of whatever layout."""
    pair = protobuf.decode(entry, "feature")
    key = protobuf.text(pair, 1, "feature key")
    example: Example = {}
    for feature in protobuf.blobs(pair, 2, key):
        example.update(_values(feature, key))
    return example


def _values(feature: protobuf.Data, key: str) -> Example:
    lists = protobuf.decode(feature, key)
    kinds = lists.keys() & {BYTES_LIST, FLOAT_LIST, INT64_LIST}
    if len(kinds) > 1:
        raise DataError("has values of more than one kind", field=key, remedy=protobuf.REMEDY)
    found: Example = {}
    for kind in kinds:
        values = protobuf.decode(b"".join(protobuf.blobs(lists, kind, key)), key)
        if kind == FLOAT_LIST:
            found[key] = protobuf.numbers(values, 1, key, "<f4")
        elif kind == INT64_LIST:
            found[key] = protobuf.integers(values, 1, key)
        else:
            found[key] = protobuf.blobs(values, 1, key)
    return found
