"""Integers as planes: the low bytes of all, then their next bytes, and so on. Two directions of one thing."""

import numpy as np
from jaxtyping import Int, UInt8
from numpy.typing import DTypeLike


def split(values: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "k n"]:
    """As many planes as the largest value needs, at least one."""
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    count = next(k for k in (1, 2, 3, 4) if -(2 ** (8 * k - 1)) <= low and high < 2 ** (8 * k - 1))
    return np.ascontiguousarray(values.astype("<i4").view(np.uint8).reshape(-1, 4).T[:count])


def join(planes: UInt8[np.ndarray, "k n"], dtype: DTypeLike) -> Int[np.ndarray, " n"]:
    """The values again. The top plane has the sign; what does not fit the type is cut off."""
    values = planes[-1].view(np.int8).astype(dtype)
    for plane in planes[-2::-1]:
        values *= 256
        values += plane
    return values
