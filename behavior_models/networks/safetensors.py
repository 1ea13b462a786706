"""Reader of safetensors files: a length, a JSON header with types, shapes and offsets, and the bytes of the tensors."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from behavior_models.networks.checkpoint import CheckpointError

TENSOR_TYPES = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}
# Bytes of the length of the header.
LENGTH_BYTES = 8
COPY_AGAIN = "copy the file again"


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file.

    Attributes:
      path: The file.
      name: Name of the tensor.
      dtype: Number format.
      shape: Shape.
      offset: First byte in the file.
    """

    path: Path
    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int

    def read(self) -> np.ndarray:
        """The values, as a view of the mapped file."""
        return np.memmap(self.path, self.dtype, "r", self.offset, self.shape)


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a file by name.

    Raises:
      CheckpointError: The header is incomplete, a type is unknown, or a tensor is not within the file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        if size < LENGTH_BYTES + length or length == 0:
            raise CheckpointError(f"{path}: a header of {length} bytes in a file of {size}; {COPY_AGAIN}")
        try:
            header = json.loads(file.read(length))
        except ValueError as error:
            raise CheckpointError(f"{path}: the header is not JSON ({error}); {COPY_AGAIN}") from None
    header.pop("__metadata__", None)
    begin = LENGTH_BYTES + length
    return {name: _parse(path, name, entry, begin, size) for name, entry in header.items()}


def _parse(path: Path, name: str, entry: Any, begin: int, size: int) -> StoredTensor:
    """An entry of the header.

    Args:
      path: The file.
      name: Name of the tensor.
      entry: Its type, shape and offsets from the end of the header.
      begin: End of the header.
      size: Bytes of the file.
    """
    try:
        dtype, shape, (first, last) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(f"{path}: tensor {name} lacks type, shape or offsets; {COPY_AGAIN}") from None
    if dtype not in TENSOR_TYPES:
        raise CheckpointError(
            f"{path}: tensor {name} has the type {dtype}; convert it to one of {', '.join(TENSOR_TYPES)}"
        )
    if last - first != math.prod(shape) * TENSOR_TYPES[dtype].itemsize or first < 0 or begin + last > size:
        raise CheckpointError(f"{path}: the bytes of tensor {name} {list(shape)} are not in the file; {COPY_AGAIN}")
    return StoredTensor(path, name, TENSOR_TYPES[dtype], shape, begin + first)
