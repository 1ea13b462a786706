"""Binary encoding of a scenario: its unpadded arrays, exactly as they are, each one Blosc2 chunk.

A header (magic, checksum, optional parts) is followed by a table with one row per array and by the chunks in the order
of the table. Decoding writes each chunk into its final, optionally padded, array.
"""

import dataclasses
import math
import struct
from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.store.layout import DTYPES, Shape, check_arrays, padded_shapes, scenario_layout
from waymax_sim.datatypes.padding import bucket_lengths, min_length
from waymax_sim.datatypes.scenario import Scenario, clock_time_step
from waymax_sim.pytree import aligned_host_arrays

Compression = Literal["fast", "small"]
Decompress = Callable[..., Any]
# The last byte is the format version.
MAGIC = b"WSP7"
# Magic, CRC32C of all that follows it, whether there are routes and goals, two bytes of padding.
HEADER = struct.Struct("<4sI2?2x")
CHECKSUM_BEGIN = 8  # offset of the first byte that the checksum covers
MAX_DIMS = 4
# A row of the table: bytes of the chunk, index in `DTYPES`, number of dimensions, `MAX_DIMS` dimensions; all int32.
ROW_LENGTH = 3 + MAX_DIMS
# Decompressed size, block size and compressed size in the header of a Blosc2 chunk, after four bytes.
CHUNK_SIZES = struct.Struct("<4x3I")
# Blosc2 codec and level of each choice.
CODECS: dict[Compression, tuple[str, int]] = {"fast": ("LZ4HC", 9), "small": ("ZSTD", 5)}
# Explicit, because the default depends on the caches of the machine and a store must be reproducible to the byte.
BLOCK_BYTES = 2**18
# A chunk without byte shuffle is kept where it is at most this much larger than the shuffled one.
MAX_UNSHUFFLED_RATIO = 1.15
# Largest memory of a decoded scenario: a constant for the smallest bucket, and a factor on the encoded size.
MIN_DECODED_LIMIT_BYTES = 2**26
MAX_DECODED_RATIO = 40
STORE_REMEDY = "the store is damaged; convert the scenes again"


def encode_scenario(scenario: Scenario, compression: Compression = "fast") -> bytes:
    """Encodes a scenario that is not padded; `decode_scenario` returns the same arrays, bit for bit.

    Args:
      scenario: The scenario, on the host.
      compression: "fast" (LZ4) or "small" (Zstandard), both with byte shuffle.
    """
    # Imported on use, so that simulation does not depend on it.
    import google_crc32c

    optional_parts = (scenario.routes is not None, scenario.goals is not None)
    arrays = [np.asarray(leaf) for leaf in jax.tree.leaves(scenario)]
    chunks = [_compress(array, *CODECS[compression]) for array in arrays]
    table = np.zeros((len(arrays), ROW_LENGTH), "<i4")
    for row, array, chunk in zip(table, arrays, chunks, strict=True):
        row[: 3 + array.ndim] = (len(chunk), DTYPES.index(array.dtype), array.ndim, *array.shape)
    content = HEADER.pack(MAGIC, 0, *optional_parts)[CHECKSUM_BEGIN:] + table.tobytes() + b"".join(chunks)
    return MAGIC + google_crc32c.value(content).to_bytes(4, "little") + content


def _compress(array: np.ndarray, codec: str, level: int) -> bytes:
    """The chunk of an array; empty for an empty array."""
    import blosc2

    if not array.size:
        return b""
    # The annotations of Blosc2 do not allow these options.
    compress: Any = blosc2.compress2
    options = {"codec": blosc2.Codec[codec], "clevel": level, "typesize": array.itemsize, "filters_meta": [0]}
    options |= {"blocksize": BLOCK_BYTES, "nthreads": 1}
    shuffled, unshuffled = (
        compress(np.ascontiguousarray(array), filters=[kind], **options)
        for kind in (blosc2.Filter.SHUFFLE, blosc2.Filter.NOFILTER)
    )
    return unshuffled if len(unshuffled) <= MAX_UNSHUFFLED_RATIO * len(shuffled) else shuffled


def decode_scenario(data: bytes | memoryview, *, pad_to_bucket: bool = True) -> Scenario:
    """The scenario of `encode_scenario`, on the host.

    Args:
      data: The encoded scenario.
      pad_to_bucket: Pad all axes to `bucket_lengths`.

    Raises:
      DataError: The data are damaged or have another format version.
    """
    import blosc2

    try:
        layout = scenario_layout(*_read_header(data))
        dtypes, shapes, spans = _read_table(data, len(layout.names))
        lengths = check_arrays(layout, shapes, dtypes)
        # Encoded scenarios may have empty axes, see `pad_empty_axes`.
        lengths = {axis: max(length, min_length(axis)) for axis, length in lengths.items()}
        padded = padded_shapes(layout, shapes, bucket_lengths(lengths) if pad_to_bucket else lengths)
        _check_size(padded, dtypes, len(data))
        arrays = aligned_host_arrays(padded, dtypes)
        view = memoryview(data)
        for array, shape, span, fill in zip(arrays, shapes, spans, layout.fill_values, strict=True):
            _decode_array(blosc2.decompress2, view[span], array, shape, fill)
        scenario = jax.tree.unflatten(layout.structure, arrays)
        return dataclasses.replace(scenario, time_step=clock_time_step(scenario.timestamps))
    except DataError as error:
        raise DataError(error.problem, field=error.field or "scene", remedy=error.remedy or STORE_REMEDY) from None
    except (KeyError, ValueError, RuntimeError, struct.error) as error:
        raise DataError(f"cannot be decoded: {error}", field="scene", remedy=STORE_REMEDY) from None


def _read_header(data: bytes | memoryview) -> tuple[bool, bool]:
    """Whether the scenario has routes and goals, after checking format version and checksum."""
    import google_crc32c

    magic, checksum, has_routes, has_goals = HEADER.unpack_from(data)
    if magic[:3] != MAGIC[:3]:
        raise DataError("is not an encoded scenario")
    if magic != MAGIC:
        version, current = magic[3:].decode("latin-1"), MAGIC[3:].decode()
        raise DataError(
            f"has format version {version!r}, this version of waymax_sim reads {current!r}",
            remedy="convert the scenes again",
        )
    if google_crc32c.value(bytes(data[CHECKSUM_BEGIN:])) != checksum:
        raise DataError("does not match its checksum")
    return has_routes, has_goals


def _read_table(data: bytes | memoryview, num_arrays: int) -> tuple[list[np.dtype], list[Shape], list[slice]]:
    """Dtype, shape and span of the chunk of each array."""
    rows = np.frombuffer(data, "<i4", ROW_LENGTH * num_arrays, HEADER.size).reshape(num_arrays, ROW_LENGTH)
    lengths, dtypes, dims = rows[:, 0], rows[:, 1], rows[:, 2]
    if rows.min() < 0 or dtypes.max() >= len(DTYPES) or dims.max() > MAX_DIMS:
        raise DataError("has an invalid table of arrays")
    ends = HEADER.size + rows.nbytes + np.cumsum(lengths, dtype=np.int64)
    if ends[-1] != len(data):
        raise DataError("has chunks of another total size than its table")
    shapes = [tuple(row[3 : 3 + row[2]]) for row in rows.tolist()]
    spans = [slice(end - length, end) for end, length in zip(ends.tolist(), lengths.tolist(), strict=True)]
    return [DTYPES[index] for index in dtypes.tolist()], shapes, spans


def _check_size(shapes: list[Shape], dtypes: list[np.dtype], encoded_bytes: int) -> None:
    """Refuses shapes whose memory is out of proportion to the encoded size, before it is allocated."""
    size = sum(dtype.itemsize * math.prod(shape) for shape, dtype in zip(shapes, dtypes, strict=True))
    if size > MIN_DECODED_LIMIT_BYTES + MAX_DECODED_RATIO * encoded_bytes:
        raise DataError(f"announces {size} bytes, more than {encoded_bytes} encoded bytes can hold")


def _decode_array(
    decompress: Decompress, chunk: memoryview, array: np.ndarray, shape: Shape, fill: float | int
) -> None:
    """Decompresses a chunk into the first elements of an array along each axis, and pads the rest.

    Args:
      decompress: `blosc2.decompress2`.
      chunk: The chunk; empty for an empty array.
      array: Memory to write to.
      shape: Shape of the values in the chunk.
      fill: Padding value.
    """
    is_contiguous = array.shape[1:] == shape[1:]
    if array.shape == shape:
        values = array
    elif is_contiguous:
        # Padded along the first axis only, so that the values are contiguous in the array.
        values = array[: shape[0]]
        array[shape[0] :] = fill
    else:
        values = np.empty(shape, array.dtype)
        array[...] = fill
    # Blosc2 trusts the size in the header of a chunk, so it is compared with that of the array.
    decompressed, _, compressed = CHUNK_SIZES.unpack_from(chunk) if chunk else (0, 0, 0)
    if decompressed != values.nbytes or compressed != len(chunk):
        raise DataError("has a chunk of another size than its table says")
    if chunk:
        decompress(chunk, dst=values, nthreads=1)
    if not is_contiguous:
        array[tuple(map(slice, shape))] = values
