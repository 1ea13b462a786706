"""TFRecord files: where the records are, and reading one of them.

A record is its length (uint64), the checksum of those eight bytes, the data, and the checksum of the data, all
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

HEADER = struct.Struct("<QI")
CHECKSUM = struct.Struct("<I")
DAMAGED = "the file is damaged: what comes before is usable, what comes after is not; copy it again"
NOT_A_RECORD = "give an uncompressed TFRecord of WOMD tf.Examples or Scenario protos"


@dataclasses.dataclass(frozen=True)
class Index:
    """Where the records of a file are.

    Attributes:
      path: The file.
      offset: Position of the data of each record, bytes.
      length: Size of the data of each record, bytes.
      problem: Why nothing after these records can be read; None when the whole file is sound.
    """

    path: str
    offset: Int[np.ndarray, " R"]
    length: Int[np.ndarray, " R"]
    problem: DataError | None

    def __len__(self) -> int:
        return len(self.offset)


def index(path: str | os.PathLike[str]) -> Index:
    """Finds the records of a file by their lengths, without reading their data.

    Lengths are checked against their checksums and the size of the file. What fails there is in `problem`,
    and the records before it still count.

    Raises:
      DataError: The file cannot be opened, or is empty.
    """
    path = os.fspath(path)
    found: list[tuple[int, int]] = []
    problem = None
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not size:
                raise DataError("the file is empty", file=path, remedy=NOT_A_RECORD)
            start = 0
            while start < size:
                file.seek(start)
                header = file.read(HEADER.size)
                problem = _header_problem(header, size - start)
                if problem is not None:
                    problem = problem.at(file=path, record=len(found))
                    break
                length = HEADER.unpack(header)[0]
                found.append((start + HEADER.size, length))
                start += HEADER.size + length + CHECKSUM.size
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", file=path) from error
    offset, length = np.array(found, np.int64).reshape(-1, 2).T
    return Index(path, offset, length, problem)


def _header_problem(header: bytes, available: int) -> DataError | None:
    """What is wrong with the header of a record that has `available` bytes until the end of the file."""
    if len(header) < HEADER.size:
        return DataError(f"the file ends after {len(header)} of {HEADER.size} bytes", field="length", remedy=DAMAGED)
    length, checksum = HEADER.unpack(header)
    if masked_crc32c(header[:8]) != checksum:
        hint = "decompress it first" if header.startswith(b"\x1f\x8b") else f"{DAMAGED}, or {NOT_A_RECORD}"
        return DataError("does not match the length", field="length checksum", remedy=hint)
    missing = HEADER.size + length + CHECKSUM.size - available
    if missing > 0:
        return DataError(f"the file ends {missing} bytes before the record does", field="data", remedy=DAMAGED)
    return None


def read(file: Index, record: int) -> bytes:
    """The data of one record, checked.

    Raises:
      DataError: The data do not match their checksum, or the file has changed since it was indexed.
    """
    length = int(file.length[record])
    try:
        with open(file.path, "rb") as stream:
            stream.seek(int(file.offset[record]))
            data = stream.read(length)
            checksum = stream.read(CHECKSUM.size)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", file=file.path, record=record) from error
    place = {"file": file.path, "record": record}
    if len(data) < length or len(checksum) < CHECKSUM.size:
        raise DataError("the file has become shorter while in use", field="data", **place)
    if masked_crc32c(data) != CHECKSUM.unpack(checksum)[0]:
        raise DataError(
            "does not match the data",
            field="data checksum",
            remedy="the record is damaged; copy the file again",
            **place,
        )
    return data


def write_records(path: str | os.PathLike[str], records: Sequence[bytes]) -> None:
    """Writes records to a new file."""
    Path(path).write_bytes(b"".join(frame(record) for record in records))


def frame(data: bytes) -> bytes:
    """One record as it stands in a file: length, checksum, data, checksum."""
    length = struct.pack("<Q", len(data))
    return b"".join([length, CHECKSUM.pack(masked_crc32c(length)), data, CHECKSUM.pack(masked_crc32c(data))])


def masked_crc32c(data: bytes) -> int:
    """The checksum of a TFRecord."""
    # Only here: made-up scenes run on machines that do not have it.
    import google_crc32c

    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
