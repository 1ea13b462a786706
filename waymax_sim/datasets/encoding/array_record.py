"""ArrayRecord files whose records stand alone and uncompressed, read without any package.

Such a file is one of Riegeli records (https://github.com/google/riegeli, doc/riegeli_records_file_format.md): blocks of
64 KiB that begin with a header of 24 bytes, and chunks that begin with one of 40 bytes and are cut where a block
begins. The first record of the last block says where the footer is. The footer's first record counts the records of the
file, the others tell the place of the chunk of each. Checksums are not verified here: records have their own.
"""

import functools
import mmap
import os
import struct
from collections.abc import Iterable

import numpy as np
from jaxtyping import Int

from waymax_sim.datasets.encoding import protobuf
from waymax_sim.datasets.errors import DataError

BLOCK, BLOCK_HEADER = 65536, 24
# Header hash, size of the data, hash of the data, type and number of records, decoded size.
CHUNK = struct.Struct("<5Q")
RECORDS, UNCOMPRESSED = ord("r"), 0
# How `write` asks for such a file.
OPTIONS = "group_size:1,uncompressed"
REMEDY = "the file is damaged, or was not written by this package; convert the scenes again"


class Compressed(Exception):
    """The records are compressed, as TFDS writes them by itself."""


class Reader:
    """The records of one file, which stays mapped into memory.

    Raises:
      Compressed: Its records are compressed.
      DataError: It is no such file.
    """

    def __init__(self, path: str):
        self.path = path
        try:
            with open(path, "rb") as file:
                self._data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError) as error:
            raise DataError(f"cannot be read: {error}", file=path) from None
        try:
            self._places = self._find()
        except (DataError, struct.error, IndexError) as error:
            raise DataError(f"no place of its records is found: {error}", file=path, remedy=REMEDY) from None

    def __len__(self) -> int:
        return len(self._places)

    def read(self, record: int) -> memoryview:
        """One record.

        Raises:
          DataError: No record is there.
        """
        try:
            return self._records(int(self._places[record]))[0]
        except (DataError, struct.error) as error:
            raise DataError(f"is not there: {error}", file=self.path, record=record, remedy=REMEDY) from None

    def _find(self) -> Int[np.ndarray, " records"]:
        """Where the chunk of each record is."""
        if len(self._data) % BLOCK:
            raise DataError("its size is no whole number of blocks")
        postscript = self._records(len(self._data) - BLOCK)
        footer = protobuf.integer(protobuf.decode(bytes(postscript[0])), 1, "footer")
        about, *chunks = (protobuf.decode(bytes(record)) for record in self._records(footer))
        counts = protobuf.decode(protobuf.blobs(about, 1, "footer")[0])
        places = [protobuf.integer(chunk, 1, "place") for chunk in chunks]
        if protobuf.integer(counts, 3, "records") != len(places):
            raise DataError("its chunks are not of one record each")
        return np.array(places, np.int64)

    def _records(self, place: int) -> list[memoryview]:
        """The records of a chunk: how it is compressed, the size of the sizes, the sizes, the records."""
        header, place = self._span(place, CHUNK.size)
        _, size, _, kind, _ = CHUNK.unpack(header)
        data = memoryview(self._span(place, size)[0])
        if kind & 255 != RECORDS or not data:
            raise DataError("holds no records")
        if data[0] != UNCOMPRESSED:
            raise Compressed
        length, begin = protobuf.varint(data, 1, "size of sizes")
        sizes = protobuf.unpack_varints(data[begin : begin + length], "sizes")
        ends = begin + length + np.cumsum(sizes)
        if not len(sizes) or len(sizes) != kind >> 8 or sizes.min() < 0 or sizes.max() > size or ends[-1] != size:
            raise DataError("has records of other sizes than announced")
        return [data[end - size : end] for end, size in zip(ends.tolist(), sizes.tolist(), strict=True)]

    def _span(self, place: int, size: int) -> tuple[bytes, int]:
        """So many bytes from a place on, and where they end; headers of blocks are left out."""
        if not 0 <= place <= place + size <= len(self._data):
            raise DataError("goes beyond the end of the file")
        parts = []
        while size > 0:
            place += BLOCK_HEADER if place % BLOCK == 0 else 0
            part = self._data[place : min(place + size, place - place % BLOCK + BLOCK)]
            if not part:
                raise DataError("goes beyond the end of the file")
            parts.append(part)
            place, size = place + len(part), size - len(part)
        return b"".join(parts), place


class OfficialReader:
    """The records of a compressed file, read by the package that defines the format.

    Raises:
      DataError: The package is not there, or it cannot read the file.
    """

    def __init__(self, path: str):
        try:
            from array_record.python.array_record_module import ArrayRecordReader
        except ImportError:
            remedy = "install array_record, or convert with `waymax-sim convert`, which does not compress"
            raise DataError("is compressed", file=path, remedy=remedy) from None
        self.path = path
        try:
            self._reader = ArrayRecordReader(path, "readahead_buffer_size:0")
        except (RuntimeError, ValueError) as error:
            raise DataError(f"cannot be read: {error}", file=path, remedy=REMEDY) from None

    def __len__(self) -> int:
        return self._reader.num_records()

    def read(self, record: int) -> memoryview:
        """One record.

        Raises:
          DataError: It cannot be read.
        """
        try:
            return memoryview(self._reader.read([record])[0])
        except (RuntimeError, ValueError, IndexError) as error:
            raise DataError(f"cannot be read: {error}", file=self.path, record=record, remedy=REMEDY) from None


def opened(path: str) -> "Reader | OfficialReader":
    """The reader of a file; kept for as long as the file stays as it is.

    Raises:
      DataError: It cannot be read.
    """
    try:
        state = os.stat(path)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", file=path) from None
    return _opened(path, state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=1024)
def _opened(path: str, size: int, modified: int) -> "Reader | OfficialReader":
    try:
        return Reader(path)
    except Compressed:
        return OfficialReader(path)


def write(path: str, records: Iterable[bytes]) -> None:
    """Writes records to a new file."""
    # Only here: it is not there on every machine that reads.
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(path, OPTIONS)
    for record in records:
        writer.write(record)
    writer.close()
