"""Scenario ids: encoding in a fixed number of bytes, and ids of scenes whose source has none."""

import hashlib

import numpy as np
from jaxtyping import Shaped, UInt8

from waymax_sim.datatypes.scenario import ID_BYTES

DIGEST_BYTES = 8  # written as 16 hexadecimal digits
DIGEST_MARK = "~"  # between the start of an id and its digest


def encode_id(scenario_id: str) -> UInt8[np.ndarray, " bytes"]:
    """A scenario id as UTF-8 in `ID_BYTES` bytes, zero-padded.

    An id that does not fit, or that UTF-8 or the padding would change, becomes its start and a digest of the whole id:
    scenes with different ids keep different ids.
    """
    data = scenario_id.encode("utf-8", errors="replace")
    if len(data) > ID_BYTES or b"\0" in data or data.decode() != scenario_id:
        suffix = DIGEST_MARK.encode() + _digest(scenario_id.encode("utf-8", errors="surrogatepass")).encode()
        start = data.replace(b"\0", b"?")[: ID_BYTES - len(suffix)].decode(errors="ignore")
        data = start.encode() + suffix
    return np.frombuffer(data.ljust(ID_BYTES, b"\0"), np.uint8)


def content_id(*arrays: Shaped[np.ndarray, "..."]) -> str:
    """An id of a scene whose source has none: a digest of arrays of its content."""
    return _digest(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays))


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).hexdigest()
