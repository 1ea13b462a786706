"""Seeded mutations of bytes, texts and nested records."""

import copy
import random
import struct
from typing import Any

from tests.datasets.encode import varint
from tests.datasets.test_fuzz import LENGTHS, mutate
from tests.datasets.test_fuzz_files import change

# Numbers at the limits of common types.
INTEGERS = (
    0,
    1,
    -1,
    7,
    127,
    128,
    255,
    256,
    65535,
    65536,
    2**24,
    2**30,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
    -(2**63),
)
FLOATS = (0.0, -0.0, 1e-308, 1e7, -1e7, 1e20, 3e38, 1e308, float("nan"), float("inf"), float("-inf"))
# Parts of texts that parsers treat in a special way.
TOKENS = (
    *(b"", b"0", b"-1", b"1e999", b"NaN", b"Infinity", b"-0", b"9" * 25, b"null", b"true", b"0.0001", b"99999"),
    *(b"{}", b"[]", b'""', b"[[[[[[[[", b"\\ud800", b"\\u0000", b"\xff\xfe", b"\x00"),
    *(b"</", b"<!DOCTYPE a>", b"&#0;", b"&a;", b"]]>"),
)


def mutate_bytes(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """One to four byte mutations: flips, cuts, insertions, removals, repeats, lengths, numbers, splices.

    Args:
      data: The input.
      other: Another input, whose parts are spliced in.
      rng: Source of the choices.
    """
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        kind, at = rng.randrange(9), rng.random()
        if kind < 6:
            data = mutate(data, [(kind, at, rng.randrange(256), rng.randbytes(rng.randint(1, 12)))])
            continue
        position = int(at * len(data))
        if kind == 6:
            start = rng.randrange(len(other) + 1)
            part = other[start : start + rng.choice((1, 8, 64, 1024))]
        elif kind == 7:
            form = rng.choice("bhiqfd")
            values = FLOATS if form in "fd" else INTEGERS
            part = _packed(form, rng.choice(values))
        else:
            part = rng.choice((varint(rng.choice(INTEGERS)), rng.choice(LENGTHS)))
        data = data[:position] + part + data[position + rng.choice((0, len(part))) :]
    return data


def _packed(form: str, value: float) -> bytes:
    if form in "fd":
        return struct.pack("<d", value) if form == "d" or abs(value) > 3e38 else struct.pack("<f", value)
    size = struct.calcsize("<" + form)
    return (int(value) % 2 ** (8 * size)).to_bytes(size, "little")


def mutate_text(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """Replaces a number, a quoted text or a tag by a special one; sometimes a mutation of bytes.

    Args:
      data: The input.
      other: Another input.
      rng: Source of the choices.
    """
    if rng.random() < 0.3:
        return mutate_bytes(data, other, rng)
    for _ in range(rng.choice((1, 1, 2, 4))):
        start = rng.randrange(len(data) + 1)
        while start < len(data) and data[start - 1 : start].isalnum():
            start += 1
        end = start
        while end < len(data) and (data[end : end + 1].isalnum() or data[end : end + 1] in b".-"):
            end += 1
        part = rng.choice(TOKENS) if rng.random() < 0.8 else data[start:end] * rng.choice((2, 50))
        data = data[:start] + part + data[end:]
    return data


def mutate_record(record: Any, junk: list[Any], rng: random.Random) -> Any:
    """Replaces parts of nested dicts and lists by other values, removes or repeats them.

    Args:
      record: The record, which is not changed.
      junk: Replacements.
      rng: Source of the choices.
    """
    changes = [
        ([rng.randrange(64) for _ in range(rng.randint(1, 7))], rng.randrange(64), rng.random() < 0.2)
        for _ in range(rng.choice((1, 1, 2, 3)))
    ]
    return change(copy.deepcopy(record), changes, junk)
