"""Decoder of `tf.train.Example`, a map from names to lists of floats, integers or bytes."""

from typing import TypeAlias

import numpy as np

from waymax_sim.datasets.encoding import protobuf
from waymax_sim.datasets.errors import DataError

Example: TypeAlias = dict[str, np.ndarray | list[bytes]]

# Field numbers of the lists of a `tf.train.Feature`.
BYTES_LIST = 1
FLOAT_LIST = 2
INT64_LIST = 3
# Largest number of features, which take 250 bytes each while they are decoded; WOMD has 80 to 150.
MAX_FEATURES = 100_000
# Tags of a packed feature: name, feature, list, numbers.
FLOAT_TAGS = [number << 3 | protobuf.LEN for number in (1, 2, FLOAT_LIST, 1)]
INT64_TAGS = [number << 3 | protobuf.LEN for number in (1, 2, INT64_LIST, 1)]


def decode_example(data: bytes) -> Example:
    """Decodes a serialized example: float32 and int64 arrays, and lists of bytes. Empty features are omitted.

    Raises:
      DataError: The data are not an example.
    """
    example: Example = {}
    varints: dict[str, bytes] = {}
    # Views, not copies: examples have about 1 MB.
    for features in protobuf.blobs(protobuf.decode(memoryview(data), "example", MAX_FEATURES), 1, "features"):
        for entry in protobuf.blobs(protobuf.decode(features, "features", MAX_FEATURES), 1, "features"):
            key, kind, packed = _decode_packed(bytes(entry)) or ("", None, b"")
            if kind is None:
                decoded = _decode_entry(entry)
            elif kind == FLOAT_TAGS:
                decoded = {key: np.frombuffer(packed, "<f4")}
            else:
                decoded, varints[key] = {}, packed
            # Of several features of one name, the last one is valid.
            for name in decoded:
                varints.pop(name, None)
            example.update(decoded)
    return example | protobuf.unpack_lists(varints)


def _decode_packed(entry: bytes) -> tuple[str, list[int], bytes] | None:
    """A feature in the common layout of packed numbers, each message with one field; None for other layouts.

    Returns:
      Its name, `FLOAT_TAGS` or `INT64_TAGS`, and the packed numbers.
    """
    try:
        tag, begin, stop = protobuf.read_tag(entry, 0)
        tags, at = [tag], stop
        for _ in range(3):
            tag, at, end = protobuf.read_tag(entry, at)
            tags.append(tag)
            if end != len(entry):
                return None
        if tags == INT64_TAGS or (tags == FLOAT_TAGS and (end - at) % 4 == 0):
            return entry[begin:stop].decode(), tags, entry[at:]
    except (IndexError, UnicodeDecodeError, DataError):
        # `_decode_entry` reports the error.
        pass
    return None


def _decode_entry(entry: protobuf.Data) -> Example:
    """A feature of any layout."""
    pair = protobuf.decode(entry, "feature")
    key = protobuf.text(pair, 1, "feature key")
    example: Example = {}
    for feature in protobuf.blobs(pair, 2, key):
        example.update(_decode_feature(feature, key))
    return example


def _decode_feature(feature: protobuf.Data, key: str) -> Example:
    lists = protobuf.decode(feature, key)
    kinds = lists.keys() & {BYTES_LIST, FLOAT_LIST, INT64_LIST}
    if len(kinds) > 1:
        raise DataError("has values of several types", field=key, remedy=protobuf.MESSAGE_REMEDY)
    values_by_key: Example = {}
    for kind in kinds:
        values = protobuf.decode(b"".join(protobuf.blobs(lists, kind, key)), key)
        if kind == FLOAT_LIST:
            values_by_key[key] = protobuf.numbers(values, 1, key, "<f4")
        elif kind == INT64_LIST:
            values_by_key[key] = protobuf.integers(values, 1, key)
        else:
            values_by_key[key] = protobuf.blobs(values, 1, key)
    return values_by_key
