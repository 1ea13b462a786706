"""TFRecord files: random access to records, and writing.

A record consists of its length (uint64), the checksum of these eight bytes, the data and the checksum of the data, all
little-endian. Checksums are CRC-32C (RFC 3720), rotated right by 15 bits, plus a constant.
"""

import dataclasses
import os
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.regular_file import open_regular

RECORD_HEADER = struct.Struct("<QI")  # length and its checksum
CHECKSUM = struct.Struct("<I")
DAMAGED_FILE_REMEDY = "the file is damaged from here on, earlier records are usable; copy it again"
TFRECORD_REMEDY = "give an uncompressed TFRecord of WOMD tf.Examples or Scenario protos"


@dataclasses.dataclass(frozen=True)
class RecordIndex:
    """Offsets of the records of a file.

    Attributes:
      path: The file.
      offset: Offset of the data of each record, bytes.
      length: Size of the data of each record, bytes.
      problem: Error that prevents reading of further records; None if there are none.
    """

    path: str
    offset: Int[np.ndarray, " R"]
    length: Int[np.ndarray, " R"]
    problem: DataError | None

    def __len__(self) -> int:
        return len(self.offset)


def index_records(path: str | os.PathLike[str]) -> RecordIndex:
    """Indexes the records of a file by their lengths, without reading their data.

    Lengths are checked against their checksums and the size of the file. The first mismatch ends the index and is its
    `problem`.

    Raises:
      DataError: The file cannot be opened, or is empty.
    """
    path = os.fspath(path)
    spans: list[tuple[int, int]] = []
    problem = None
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if not size:
                raise DataError("is empty", file=path, remedy=TFRECORD_REMEDY)
            start = 0
            while start < size:
                file.seek(start)
                header = file.read(RECORD_HEADER.size)
                problem = _header_problem(header, size - start)
                if problem is not None:
                    problem = problem.with_location(file=path, record=len(spans))
                    break
                length = RECORD_HEADER.unpack(header)[0]
                spans.append((start + RECORD_HEADER.size, length))
                start += RECORD_HEADER.size + length + CHECKSUM.size
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", file=path) from error
    offset, length = np.array(spans, np.int64).reshape(-1, 2).T
    return RecordIndex(path, offset, length, problem)


def _header_problem(header: bytes, available: int) -> DataError | None:
    """The error of a record header that is `available` bytes before the end of the file, if any."""
    if len(header) < RECORD_HEADER.size:
        return DataError(
            f"the file ends after {len(header)} of {RECORD_HEADER.size} bytes",
            field="length",
            remedy=DAMAGED_FILE_REMEDY,
        )
    length, checksum = RECORD_HEADER.unpack(header)
    if masked_crc32c(header[:8]) != checksum:
        hint = (
            "decompress it first" if header.startswith(b"\x1f\x8b") else f"{DAMAGED_FILE_REMEDY}, or {TFRECORD_REMEDY}"
        )
        return DataError("does not match the length", field="length checksum", remedy=hint)
    missing = RECORD_HEADER.size + length + CHECKSUM.size - available
    if missing > 0:
        return DataError(
            f"the file ends {missing} bytes before the record does", field="data", remedy=DAMAGED_FILE_REMEDY
        )
    return None


def read_record(file: RecordIndex, record: int) -> bytes:
    """The data of one record, verified against their checksum.

    Raises:
      DataError: The data do not match their checksum, or the file has changed since it was indexed.
    """
    length = int(file.length[record])
    try:
        with open_regular(file.path) as stream:
            stream.seek(int(file.offset[record]))
            data = stream.read(length)
            checksum = stream.read(CHECKSUM.size)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", file=file.path, record=record) from error
    location = {"file": file.path, "record": record}
    if len(data) < length or len(checksum) < CHECKSUM.size:
        raise DataError("the file was truncated after it was indexed", field="data", remedy="load it again", **location)
    if masked_crc32c(data) != CHECKSUM.unpack(checksum)[0]:
        raise DataError(
            "does not match the data",
            field="data checksum",
            remedy="the record is damaged; copy the file again",
            **location,
        )
    return data


def write_records(path: str | os.PathLike[str], records: Sequence[bytes]) -> None:
    """Writes records to a new file."""
    Path(path).write_bytes(b"".join(encode_record(record) for record in records))


def encode_record(data: bytes) -> bytes:
    """The bytes of one record: length, checksum, data, checksum."""
    length = struct.pack("<Q", len(data))
    return b"".join([length, CHECKSUM.pack(masked_crc32c(length)), data, CHECKSUM.pack(masked_crc32c(data))])


def masked_crc32c(data: bytes) -> int:
    """The checksum of TFRecord: a masked CRC-32C."""
    # Imported on use, because synthetic scenes do not need it.
    import google_crc32c

    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
