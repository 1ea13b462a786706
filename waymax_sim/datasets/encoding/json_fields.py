"""Fields of nested dicts and lists that came from a file, each of the kind that is expected."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from waymax_sim.datasets.errors import DataError


def member(record: Any, key: str, kind: type | tuple[type, ...], name: str, default: Any = None) -> Any:
    """`record[key]`; the default, where one is given, for a key that is absent or None.

    Raises:
      DataError: It is missing or not of the kind, or `record`, called `name`, is not a dict.
    """
    if not isinstance(record, dict):
        raise DataError(f"is of type {type(record).__name__} where a dict is expected", field=name)
    value = record.get(key)
    value = default if value is None else value
    field = f"{name}.{key}" if name else key
    if value is None:
        raise DataError("missing", field=field)
    # For Python, True is a number.
    if not isinstance(value, kind) or isinstance(value, bool):
        raise DataError(f"has unexpected type {type(value).__name__}", field=field)
    return value


def numbers(values: Any, name: str, width: int | None = None) -> Float[np.ndarray, "n *width"]:
    """A list or array of numbers, or of rows of `width` numbers, as float64.

    Raises:
      DataError: It is something else.
    """
    tail = () if width is None else (width,)
    if isinstance(values, np.ndarray):
        good = values.dtype.kind in "biuf" and values.ndim > 0 and values.shape[1:] == tail
    elif not isinstance(values, (list, tuple)):
        good = False
    elif width is None:
        good = all(isinstance(value, (int, float)) for value in values)
    else:
        # Before NumPy sees them: lists in lists of a damaged file may multiply to any size.
        good = all(isinstance(row, (list, tuple)) and len(row) == width for row in values)
        good = good and all(isinstance(value, (int, float)) for row in values for value in row)
    if good:
        try:
            return np.asarray(values, np.float64).reshape(len(values), *tail)
        except OverflowError:
            pass
    what = "numbers" if width is None else f"rows of {width} numbers"
    raise DataError(f"is no list of {what}", field=name)


def width_of(values: Any) -> int | None:
    """Length of the first row in a list or array of rows; None where there are no rows."""
    if isinstance(values, np.ndarray):
        return values.shape[1] if values.ndim > 1 else None
    first = values[0] if isinstance(values, (list, tuple)) and values else None
    return len(first) if isinstance(first, (list, tuple)) else None


def whole_numbers(values: Any, name: str) -> Int[np.ndarray, " n"]:
    """A list of integers as int64.

    Raises:
      DataError: It is something else, or does not fit.
    """
    if isinstance(values, list) and all(type(value) is int for value in values):
        try:
            return np.array(values, np.int64)
        except OverflowError:
            pass
    raise DataError("is no list of whole numbers of 64 bits", field=name)
