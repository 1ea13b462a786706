"""Reader of .npz archives of plain arrays, which checks declared sizes before it allocates memory.

Format: a ZIP archive of files of the NPY format (numpy.lib.format): a magic string, a version, the length of a header,
the header, which is a Python literal, and the content.
"""

import ast
import math
import os
import re
import tokenize
import zipfile
import zlib
from collections.abc import Collection
from typing import Any, cast

import numpy as np

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.regular_file import open_regular

NPY_MAGIC = b"\x93NUMPY"
# Size of the length of the header by major version, bytes.
HEADER_LENGTH_BYTES = {1: 2, 2: 4, 3: 4}
# Largest header that is parsed, bytes; those of arrays of numbers have 118.
MAX_HEADER_BYTES = 4096
# Booleans, integers and floats of up to 64 bits.
NUMBER_DTYPE = re.compile(r"[<|>=]?(?:b1|[iu][1248]|f[248])")
MAX_NPY_DIMS = 8
# Largest size of all arrays: a constant, and a factor on the size of the file.
MIN_ARRAYS_LIMIT_BYTES = 2**26
MAX_ARRAYS_EXPANSION = 20
# Errors of damaged archives; of headers, also those of the Python parser.
ARCHIVE_ERRORS = (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error)
HEADER_ERRORS = (ValueError, TypeError, SyntaxError, MemoryError, RecursionError, tokenize.TokenError)


def read_npz_arrays(path: str | os.PathLike[str], names: Collection[str], remedy: str) -> dict[str, np.ndarray]:
    """The arrays of some names in an archive; names that it does not have are left out.

    Args:
      path: The archive.
      names: Names of the arrays.
      remedy: Suggested action for errors.

    Raises:
      DataError: The file is not such an archive, or an array is not of plain numbers, is damaged or out of proportion.
    """
    path = os.fspath(path)
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            members = [info for info in archive.infolist() if info.filename.removesuffix(".npy") in names]
            size = sum(info.file_size for info in members)
            limit = MIN_ARRAYS_LIMIT_BYTES + MAX_ARRAYS_EXPANSION * os.fstat(file.fileno()).st_size
            if size > limit:
                raise DataError(f"announces {size} bytes of arrays, more than {limit}", file=path, remedy=remedy)
            return {info.filename.removesuffix(".npy"): _read_member(archive, info) for info in members}
    except DataError as error:
        raise DataError(error.problem, file=path, field=error.field, remedy=remedy) from None
    except ARCHIVE_ERRORS as error:
        raise DataError(f"cannot be read: {error}", file=path, remedy=remedy) from None


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(info) as member:
        try:
            return _read_array(cast(zipfile.ZipExtFile, member), info.file_size)
        except DataError as error:
            raise DataError(error.problem, field=info.filename) from None


def _read_array(file: zipfile.ZipExtFile, size: int) -> np.ndarray:
    """The array of a file in the NPY format of `size` bytes."""
    start = file.read(len(NPY_MAGIC) + 2)
    width = HEADER_LENGTH_BYTES.get(start[len(NPY_MAGIC)]) if len(start) == len(NPY_MAGIC) + 2 else None
    if width is None or not start.startswith(NPY_MAGIC):
        raise DataError("is not an array in the NPY format")
    length = int.from_bytes(file.read(width), "little")
    if length > MAX_HEADER_BYTES:
        raise DataError(f"has a header of {length} bytes, more than {MAX_HEADER_BYTES}")
    dtype, shape, order = _parse_header(file.read(length))
    if math.prod(shape) * dtype.itemsize != size - len(start) - width - length:
        raise DataError(f"has another size than {dtype} of the shape {shape}")
    content = file.read()
    return np.frombuffer(content, dtype).reshape(shape, order=order)


def _parse_header(header: bytes) -> tuple[np.dtype, tuple[int, ...], Any]:
    """Dtype, shape and order of an array."""
    try:
        fields = ast.literal_eval(header.decode("latin-1").strip())
        dtype, is_fortran, shape = fields["descr"], fields["fortran_order"], fields["shape"]
    except (*HEADER_ERRORS, KeyError):
        raise DataError("has a header that is not valid") from None
    if not (isinstance(dtype, str) and NUMBER_DTYPE.fullmatch(dtype) and type(is_fortran) is bool):
        raise DataError("is not an array of plain numbers")
    is_shape = isinstance(shape, tuple) and len(shape) <= MAX_NPY_DIMS
    if not is_shape or not all(type(length) is int and 0 <= length < 2**40 for length in shape):
        raise DataError("has a shape that is not valid")
    return np.dtype(dtype), shape, "F" if is_fortran else "C"
