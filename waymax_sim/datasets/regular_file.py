"""Opening of input files: regular files only, because a pipe or a device may block or never end."""

import os
import stat
from typing import BinaryIO

from waymax_sim.datasets.errors import DataError

READ_BYTES = 2**20
REGULAR_FILE_REMEDY = "give a regular file; copy the content of a pipe or device to one first"


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Opens a regular file for reading.

    Raises:
      DataError: The file does not exist, cannot be read or is not a regular file.
    """
    path = os.fspath(path)
    try:
        # Before the file is opened: opening a pipe blocks until another process writes to it.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise DataError("is not a regular file", file=path, remedy=REGULAR_FILE_REMEDY)
        return open(path, "rb")
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DataError(f"cannot be read: {reason}", file=path) from None


def read_regular(path: str | os.PathLike[str], max_bytes: int, remedy: str) -> bytes:
    """The content of a regular file.

    Args:
      path: The file.
      max_bytes: Largest accepted size.
      remedy: Suggested action for a larger file.

    Raises:
      DataError: See `open_regular`, or the file is larger than `max_bytes`.
    """
    path = os.fspath(path)
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            content = file.read(size + 1) if size <= max_bytes else b""
            # A file may grow, and some regular files of the system have the size 0 and more content.
            while size < len(content) <= max_bytes and (more := file.read(READ_BYTES)):
                content += more
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", file=path) from None
    if max(size, len(content)) > max_bytes:
        raise DataError(f"has {max(size, len(content))} bytes, more than {max_bytes}", file=path, remedy=remedy)
    return content
