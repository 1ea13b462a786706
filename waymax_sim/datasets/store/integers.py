"""Small integers in four bits each, the others in as many bytes as they need; fast to decode with NumPy alone.

A nibble holds -7 to 7. Nibble 15 stands for the next of the bytes, byte -128 for the next of the 16-bit numbers, and
-32768 among those for the next of the 32-bit numbers. The first half of all nibbles is in the low bits of the
bytes, the second half in the high ones.
"""

import struct

import numpy as np
from jaxtyping import Int, Int32

from waymax_sim.datasets.errors import DataError

# Numbers in all, and how many of them are in bytes, in 16 and in 32 bits.
HEADER = struct.Struct("<4I")
LARGEST, ESCAPE = 7, 15
LEAST = {"i1": -128, "<i2": -32768}


def encode(values: Int[np.ndarray, " n"]) -> bytes:
    """Integers of 32 bits, most of them small, as bytes."""
    values = np.asarray(values).astype(np.int32)
    nibbles = np.where(np.abs(values.astype(np.int64)) <= LARGEST, values + LARGEST, ESCAPE).astype(np.uint8)
    left, tiers = values[nibbles == ESCAPE], []
    for kind, least in LEAST.items():
        fits = (left > least) & (left < -least)
        tiers.append(np.where(fits, left, least).astype(kind))
        left = left[~fits]
    nibbles = np.append(nibbles, np.zeros(len(nibbles) % 2, np.uint8))
    half = len(nibbles) // 2
    parts = [left.astype("<i4"), tiers[1], tiers[0], nibbles[:half] | nibbles[half:] << 4]
    header = HEADER.pack(len(values), len(tiers[0]), len(tiers[1]), len(left))
    return header + b"".join(part.tobytes() for part in parts)


def decode(data: bytes | memoryview) -> Int32[np.ndarray, " n"]:
    """The integers again. Memory is in proportion to the data: eight bytes for each.

    Raises:
      DataError: The data are damaged.
    """
    if len(data) < HEADER.size:
        raise DataError("the numbers end early")
    count, num_bytes, num_shorts, num_ints = HEADER.unpack_from(data)
    half = (count + 1) // 2
    if len(data) != HEADER.size + 4 * num_ints + 2 * num_shorts + num_bytes + half:
        raise DataError("the numbers have another length than announced")
    ints = np.frombuffer(data, "<i4", num_ints, HEADER.size)
    shorts = np.frombuffer(data, "<i2", num_shorts, HEADER.size + 4 * num_ints)
    bytes_ = np.frombuffer(data, "i1", num_bytes, HEADER.size + 4 * num_ints + 2 * num_shorts)
    packed = np.frombuffer(data, np.uint8, half, len(data) - half)
    nibbles = np.empty(2 * half, np.uint8)
    np.bitwise_and(packed, 15, out=nibbles[:half])
    np.right_shift(packed, 4, out=nibbles[half:])
    nibbles = nibbles[:count]
    values = nibbles.astype(np.int32)
    values -= LARGEST
    values[_escaped(nibbles, ESCAPE, num_bytes)] = _join(bytes_, LEAST["i1"], _join(shorts, LEAST["<i2"], ints))
    return values


def _join(small: np.ndarray, escape: int, large: np.ndarray) -> np.ndarray:
    """Numbers of one size, with those that need the next size put in their places."""
    where = _escaped(small, escape, len(large))
    if not len(large):
        return small
    joined = small.astype(large.dtype)
    joined[where] = large
    return joined


def _escaped(values: np.ndarray, escape: int, count: int) -> Int[np.ndarray, " k"]:
    where = np.flatnonzero(values == escape)
    if len(where) != count:
        raise DataError(f"{len(where)} numbers are large where {count} are announced")
    return where
