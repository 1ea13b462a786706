"""Streaming reader of tar archives of regular files, optionally compressed by gzip, in bounded memory.

Format: POSIX.1-1988 (ustar) with the extended headers of pax and GNU tar for long names. Links, devices and sparse
files are refused.
"""

import gzip
import os
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from waymax_sim.datasets.errors import DataError

TAR_BLOCK_BYTES = 512
GZIP_MAGIC = b"\x1f\x8b"
USTAR_OFFSET = 257  # of the magic "ustar" in a header
# Largest extended header, bytes; a long name takes a few hundred.
MAX_EXTENDED_BYTES = 2**16
# Largest size of the content: a constant, and a factor on the size of the file. Constant trajectories compress 1 : 250.
MIN_CONTENT_LIMIT_BYTES = 2**30
MAX_CONTENT_EXPANSION = 300
REGULAR_TYPES = (b"0", b"\0", b"7")
DIRECTORY_TYPE = b"5"
PAX_TYPES = (b"x", b"g")
GNU_NAME_TYPES = (b"L", b"K")


class Member(NamedTuple):
    """A regular file in an archive: its name, its size in bytes, and a stream that must be read before the next one."""

    name: str
    size: int
    stream: "BoundedStream"


class BoundedStream:
    """Reads exact numbers of bytes from a stream, up to a limit.

    Args:
      file: The stream.
      remaining: Number of bytes that may be read.
      problem: Description of the error of reading more than that.
    """

    def __init__(
        self,
        file: "BinaryIO | gzip.GzipFile | BoundedStream",
        remaining: int,
        problem: str = "ends in the middle of a record",
    ):
        self._file, self.remaining, self._problem = file, remaining, problem

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes.

        Raises:
          DataError: The stream or the limit ends before.
        """
        if size > self.remaining:
            raise DataError(self._problem)
        try:
            data = self._file.read(size)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"cannot be read: {error}") from None
        if len(data) != size:
            raise DataError("ends in the middle of a record")
        self.remaining -= size
        return data

    def skip(self) -> None:
        """Reads the rest."""
        while self.remaining:
            self.read(min(self.remaining, 2**20))


def is_tar(file: BinaryIO) -> bool:
    """Whether a file at its start is a tar archive, compressed by gzip or not; leaves its position unchanged."""
    start = file.read(USTAR_OFFSET + 5)
    file.seek(0)
    return start.startswith(GZIP_MAGIC) or start[USTAR_OFFSET:] == b"ustar"


def iter_members(file: BinaryIO) -> Iterator[Member]:
    """The regular files of a tar archive, in order.

    Raises:
      DataError: The archive is damaged, has a member that is not a regular file, or expands out of proportion.
    """
    size = os.fstat(file.fileno()).st_size
    is_compressed = file.read(2) == GZIP_MAGIC
    file.seek(0)
    source = gzip.GzipFile(fileobj=file) if is_compressed else file
    limit = MIN_CONTENT_LIMIT_BYTES + MAX_CONTENT_EXPANSION * size
    stream = BoundedStream(source, size)
    if is_compressed:
        stream = BoundedStream(source, limit, f"expands to more than {limit} bytes")
    try:
        yield from _iter_members(stream)
        # The checksum of gzip is after the padding at the end of the archive.
        while is_compressed and (padding := source.read(2**20)):
            if len(padding) > stream.remaining or any(padding):
                raise DataError("has content after the end of the archive")
            stream.remaining -= len(padding)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot be read: {error}") from None


def _iter_members(stream: BoundedStream) -> Iterator[Member]:
    long_name = ""
    while stream.remaining:
        header = stream.read(TAR_BLOCK_BYTES)
        if not any(header):
            return
        name, size, kind = _parse_header(header)
        content = BoundedStream(stream, size)
        if kind in PAX_TYPES or kind in GNU_NAME_TYPES:
            if size > MAX_EXTENDED_BYTES:
                raise DataError(f"has an extended header of {size} bytes")
            data = content.read(size)
            if kind != b"K":
                long_name = _pax_name(data) or long_name if kind in PAX_TYPES else _text(data)
        elif kind in REGULAR_TYPES:
            yield Member(long_name or name, size, content)
            long_name = ""
        elif kind != DIRECTORY_TYPE or size:
            raise DataError(f"member {name!r} is not a regular file but of type {kind!r}")
        content.skip()
        stream.read(-size % TAR_BLOCK_BYTES)


def _parse_header(header: bytes) -> tuple[str, int, bytes]:
    """Name, size (bytes) and type of a member."""
    checksum = sum(header[:148]) + sum(b" " * 8) + sum(header[156:])
    if header[USTAR_OFFSET : USTAR_OFFSET + 5] != b"ustar" or _octal(header[148:156]) != checksum:
        raise DataError("has a damaged header, or is not a tar archive")
    prefix, name = _text(header[345:500]), _text(header[:100])
    # GNU tar uses the prefix for other content.
    is_posix = header[USTAR_OFFSET + 5 : USTAR_OFFSET + 6] == b"\0"
    return f"{prefix}/{name}" if prefix and is_posix else name, _octal(header[124:136]), header[156:157]


def _octal(field: bytes) -> int:
    digits = field.strip(b" \0")
    if field[:1] == b"\x80":  # a binary number of GNU tar
        return int.from_bytes(field[1:], "big")
    if not digits or digits.strip(b"01234567"):
        raise DataError("has a damaged header, or is not a tar archive")
    return int(digits, 8)


def _text(field: bytes) -> str:
    return field.split(b"\0")[0].decode("utf-8", errors="replace")


def _pax_name(data: bytes) -> str:
    """The path in an extended header, "" if it has none.

    Raises:
      DataError: The header is malformed, changes the size of the member, or describes a sparse file.
    """
    name = ""
    while data:
        length, _, _ = data.partition(b" ")
        size = int(length) if length.isdigit() and len(length) < 6 else 0
        if not len(length) < size <= len(data):
            raise DataError("has a damaged extended header")
        key, _, value = data[len(length) + 1 : size - 1].partition(b"=")
        if key == b"size" or key.startswith(b"GNU.sparse"):
            raise DataError(f"has a member with the header {key.decode('latin-1')}, which is not supported")
        name = _text(value) if key == b"path" else name
        data = data[size:]
    return name
