"""Type-checked access to fields of nested dicts and lists that were read from a file."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from waymax_sim.datasets.errors import DataError


def member(record: Any, key: str, kind: type | tuple[type, ...], name: str, default: Any = None) -> Any:
    """`record[key]`, checked to have an expected type.

    Args:
      record: A dict.
      key: Key of the member.
      kind: Expected type or types.
      name: Path of `record`, for errors.
      default: Value for a key that is absent or None; None if the member is required.

    Raises:
      DataError: The member is missing or has another type, or `record` is not a dict.
    """
    if not isinstance(record, dict):
        raise DataError(f"has type {type(record).__name__}, expected a dict", field=name)
    value = record.get(key)
    value = default if value is None else value
    field = f"{name}.{key}" if name else key
    if value is None:
        raise DataError("missing", field=field)
    # In Python, bool is a subclass of int.
    if not isinstance(value, kind) or isinstance(value, bool):
        raise DataError(f"has unexpected type {type(value).__name__}", field=field)
    return value


def numbers(values: Any, name: str, width: int | None = None) -> Float[np.ndarray, "n *width"]:
    """A list or array of numbers, or of rows of `width` numbers, as float64.

    Args:
      values: The list or array.
      name: Path of the field, for errors.
      width: Length of the rows; None for single numbers.

    Raises:
      DataError: The type or shape is different.
    """
    tail = () if width is None else (width,)
    if isinstance(values, np.ndarray):
        is_valid = values.dtype.kind in "biuf" and values.ndim > 0 and values.shape[1:] == tail
    elif not isinstance(values, (list, tuple)):
        is_valid = False
    elif width is None:
        is_valid = all(isinstance(value, (int, float)) for value in values)
    else:
        # Checked before the conversion: nested lists of a damaged file may expand to any size.
        is_valid = all(isinstance(row, (list, tuple)) and len(row) == width for row in values)
        is_valid = is_valid and all(isinstance(value, (int, float)) for row in values for value in row)
    if is_valid:
        try:
            return np.asarray(values, np.float64).reshape(len(values), *tail)
        except OverflowError:
            pass
    items = "numbers" if width is None else f"rows of {width} numbers"
    raise DataError(f"is not a list of {items}", field=name)


def row_width(values: Any) -> int | None:
    """Length of the first row in a list or array of rows; None if there are no rows."""
    if isinstance(values, np.ndarray):
        return values.shape[1] if values.ndim > 1 else None
    first = values[0] if isinstance(values, (list, tuple)) and values else None
    return len(first) if isinstance(first, (list, tuple)) else None


def integers(values: Any, name: str) -> Int[np.ndarray, " n"]:
    """A list of integers as int64.

    Raises:
      DataError: It is not a list of integers, or one does not fit into 64 bits.
    """
    if isinstance(values, list) and all(type(value) is int for value in values):
        try:
            return np.array(values, np.int64)
        except OverflowError:
            pass
    raise DataError("is not a list of 64-bit integers", field=name)
