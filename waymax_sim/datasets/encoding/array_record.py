"""Reader of ArrayRecord files of uncompressed groups of one record, without the array_record package.

Such a file has the format of Riegeli records (https://github.com/google/riegeli,
doc/riegeli_records_file_format.md): blocks of 64 KiB that begin with a header of 24 bytes, and chunks that begin with a
header of 40 bytes and continue after block headers. The first record of the last block has the offset of the footer.
The first record of the footer has the number of records, the others have the offset of the chunk of each record.
Checksums of chunks are not verified here, because records have their own.
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
from waymax_sim.datasets.regular_file import open_regular

RIEGELI_BLOCK_BYTES = 65536
RIEGELI_BLOCK_HEADER_BYTES = 24
# Hash of the header, data size, hash of the data, chunk type and number of records, decoded size.
CHUNK_HEADER = struct.Struct("<5Q")
CHUNK_TYPE_RECORDS = ord("r")  # the lower 8 bits of the fourth number of the chunk header
COMPRESSION_NONE = 0
# Options of `ArrayRecordWriter` for such a file.
WRITER_OPTIONS = "group_size:1,uncompressed"
ARRAY_RECORD_REMEDY = "the file is damaged or was not written by this package; convert the scenes again"


class CompressedRecordsError(Exception):
    """The records are compressed, as TFDS writes them by default."""


class PlainReader:
    """The uncompressed records of a file, which stays mapped into memory.

    Raises:
      CompressedRecordsError: The records are compressed.
      DataError: The file is not an ArrayRecord file.
    """

    def __init__(self, path: str):
        self.path = path
        try:
            with open_regular(path) as file:
                self._data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except DataError:
            raise
        except (OSError, ValueError) as error:
            raise DataError(f"cannot be read: {error}", file=path) from None
        try:
            self._chunk_offsets = self._read_chunk_offsets()
        except (DataError, struct.error, IndexError) as error:
            raise DataError(f"has no index of its records: {error}", file=path, remedy=ARRAY_RECORD_REMEDY) from None

    def __len__(self) -> int:
        return len(self._chunk_offsets)

    def read(self, record: int) -> memoryview:
        """One record.

        Raises:
          DataError: The chunk of the record is damaged.
        """
        try:
            return self._read_chunk(int(self._chunk_offsets[record]))[0]
        except (DataError, struct.error, IndexError, CompressedRecordsError) as error:
            raise DataError(
                f"cannot be read: {error}", file=self.path, record=record, remedy=ARRAY_RECORD_REMEDY
            ) from None

    def _read_chunk_offsets(self) -> Int[np.ndarray, " records"]:
        """Offset of the chunk of each record, bytes."""
        if len(self._data) % RIEGELI_BLOCK_BYTES:
            raise DataError(f"its size is not a multiple of {RIEGELI_BLOCK_BYTES} bytes")
        postscript = self._read_chunk(len(self._data) - RIEGELI_BLOCK_BYTES)
        footer = protobuf.integer(protobuf.decode(bytes(postscript[0])), 1, "footer")
        summary, *chunks = (protobuf.decode(bytes(record)) for record in self._read_chunk(footer))
        counts = protobuf.decode(protobuf.blobs(summary, 1, "footer")[0])
        offsets = [protobuf.integer(chunk, 1, "chunk offset") for chunk in chunks]
        if protobuf.integer(counts, 3, "records") != len(offsets):
            raise DataError("its chunks do not have one record each")
        return np.array(offsets, np.int64)

    def _read_chunk(self, offset: int) -> list[memoryview]:
        """The records of a chunk. Its data are: compression type, size of the sizes, sizes of records, records."""
        header, offset = self._read_span(offset, CHUNK_HEADER.size)
        _, size, _, kind, _ = CHUNK_HEADER.unpack(header)
        data = memoryview(self._read_span(offset, size)[0])
        if kind & 255 != CHUNK_TYPE_RECORDS or not data:
            raise DataError("its chunk holds no records")
        if data[0] != COMPRESSION_NONE:
            raise CompressedRecordsError("its chunk is compressed")
        length, begin = protobuf.varint(data, 1, "size of sizes")
        sizes = protobuf.unpack_varints(data[begin : begin + length], "sizes")
        ends = begin + length + np.cumsum(sizes)
        if not len(sizes) or len(sizes) != kind >> 8 or sizes.min() < 0 or sizes.max() > size or ends[-1] != size:
            raise DataError("the sizes of its records do not match its chunk header")
        return [data[end - size : end] for end, size in zip(ends.tolist(), sizes.tolist(), strict=True)]

    def _read_span(self, offset: int, size: int) -> tuple[bytes, int]:
        """`size` bytes from an offset on without the headers of blocks, and the offset of their end."""
        if not 0 <= offset <= offset + size <= len(self._data):
            raise DataError("its chunk exceeds the end of the file")
        parts = []
        while size > 0:
            offset += RIEGELI_BLOCK_HEADER_BYTES if offset % RIEGELI_BLOCK_BYTES == 0 else 0
            part = self._data[offset : min(offset + size, offset - offset % RIEGELI_BLOCK_BYTES + RIEGELI_BLOCK_BYTES)]
            if not part:
                raise DataError("its chunk exceeds the end of the file")
            parts.append(part)
            offset, size = offset + len(part), size - len(part)
        return b"".join(parts), offset


class OfficialReader:
    """The records of a compressed file, read by the array_record package.

    Raises:
      DataError: The package is not installed, or it cannot read the file.
    """

    def __init__(self, path: str):
        try:
            from array_record.python.array_record_module import ArrayRecordReader
        except ImportError:
            remedy = "install array_record, or convert with `waymax-sim convert`, which does not compress"
            raise DataError("has compressed records", file=path, remedy=remedy) from None
        self.path = path
        try:
            self._reader = ArrayRecordReader(path, "readahead_buffer_size:0")
        except (RuntimeError, ValueError) as error:
            raise DataError(f"cannot be read: {error}", file=path, remedy=ARRAY_RECORD_REMEDY) from None

    def __len__(self) -> int:
        return self._reader.num_records()

    def read(self, record: int) -> memoryview:
        """One record.

        Raises:
          DataError: The record cannot be read.
        """
        try:
            return memoryview(self._reader.read([record])[0])
        except (RuntimeError, ValueError, IndexError) as error:
            raise DataError(
                f"cannot be read: {error}", file=self.path, record=record, remedy=ARRAY_RECORD_REMEDY
            ) from None


def open_array_record(path: str) -> "PlainReader | OfficialReader":
    """The reader of a file, cached until the size or modification time of the file changes.

    Raises:
      DataError: The file cannot be read.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", file=path) from None
    return _open_cached(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=1024)
def _open_cached(path: str, size: int, modified: int) -> "PlainReader | OfficialReader":
    try:
        return PlainReader(path)
    except CompressedRecordsError:
        return OfficialReader(path)


def write_array_record(path: str, records: Iterable[bytes]) -> None:
    """Writes records to a new file, one uncompressed group each."""
    # Imported on use, because only writing needs the package.
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(path, WRITER_OPTIONS)
    for record in records:
        writer.write(record)
    writer.close()
