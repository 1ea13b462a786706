"""`tf.train.Example`: a map from names to lists of numbers or bytes."""

from typing import TypeAlias

import numpy as np

from waymax_sim.datasets import wire
from waymax_sim.datasets.errors import DataError

Example: TypeAlias = dict[str, np.ndarray | list[bytes]]

# Field numbers of the three kinds of lists in a `tf.train.Feature`.
BYTES_LIST, FLOAT_LIST, INT64_LIST = 1, 2, 3


def decode_example(data: bytes) -> Example:
    """Reads a serialized example: float32 and int64 arrays, and lists of bytes. Empty features are left out.

    Raises:
      DataError: The data are not an example.
    """
    example: Example = {}
    for features in wire.blobs(wire.decode(data, "example"), 1, "features"):
        for entry in wire.blobs(wire.decode(features, "features"), 1, "features"):
            pair = wire.decode(entry, "feature")
            key = wire.text(pair, 1, "feature key")
            for feature in wire.blobs(pair, 2, key):
                example.update(_values(feature, key))
    return example


def _values(feature: bytes, key: str) -> Example:
    lists = wire.decode(feature, key)
    kinds = lists.keys() & {BYTES_LIST, FLOAT_LIST, INT64_LIST}
    if len(kinds) > 1:
        raise DataError("has values of more than one kind", field=key, remedy=wire.REMEDY)
    found: Example = {}
    for kind in kinds:
        values = wire.decode(b"".join(wire.blobs(lists, kind, key)), key)
        if kind == FLOAT_LIST:
            found[key] = wire.numbers(values, 1, key, "<f4")
        elif kind == INT64_LIST:
            found[key] = wire.integers(values, 1, key)
        else:
            found[key] = wire.blobs(values, 1, key)
    return found
