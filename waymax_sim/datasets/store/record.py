"""Records of a store: a packed scene and a few facts about it, as a tf.Example that TFDS can read too."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from waymax_sim.datasets.encoding import protobuf
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.scene import RawScene, to_scenario
from waymax_sim.datasets.store.info import SceneInfo, info_of
from waymax_sim.datasets.store.pack import pack, snapped
from waymax_sim.datasets.store.unpack import unpack
from waymax_sim.datatypes.scenario import Scenario

SCENE, SCENARIO_ID, LACKS, INFO = "scene", "scenario_id", "lacks", "info"
REMEDY = "is it a record of a store of this package?"


def features_of(raw: RawScene) -> tuple[dict[str, Any], Scenario]:
    """The nested features of a record, and the scenario in it, not padded.

    The packed scene is unpacked again and compared, so that what is in a store is right.

    Raises:
      DataError: The scene cannot be used or packed.
    """
    scenario = to_scenario(snapped(raw), bucketed=False)
    scene = pack(scenario)
    unpacked = unpack(scene, bucketed=False)
    different = [".".join(key.name for key in path) for path, same in _compared(scenario, unpacked) if not same]
    if different:
        raise DataError(f"packing would change {', '.join(different)}", field="scene", remedy="report it as a bug")
    info = {name: int(value) for name, value in dataclasses.asdict(info_of(scenario)).items()}
    return {SCENE: scene, SCENARIO_ID: raw.scenario_id, LACKS: ", ".join(raw.lacks), INFO: info}, unpacked


def _compared(scenario: Scenario, unpacked: Scenario) -> list[tuple[Any, bool]]:
    """Which arrays are the same, by their path; all that are not rounded must be."""
    pairs = zip(
        jax.tree_util.tree_leaves_with_path(scenario), jax.tree_util.tree_leaves_with_path(unpacked), strict=True
    )
    rounded = {("log", "xyz"), ("log", "yaw"), ("log", "velocity"), ("graph", "curvature"), ("routes", "xyz")}

    def same(path: Any, a: np.ndarray, b: np.ndarray) -> bool:
        exact = tuple(key.name for key in path) not in rounded
        return a.shape == b.shape and a.dtype == b.dtype and (not exact or np.array_equal(a, b))

    return [(path, same(path, a, b)) for (path, a), (_, b) in pairs]


def serialize(features: Mapping[str, Any]) -> bytes:
    """Nested features as a tf.Example, named by their paths, such as info/num_agents."""
    # Only here: it is not there on every machine that reads.
    import tree

    entries = []
    for path, value in tree.flatten_with_path(features):
        data = value.encode() if isinstance(value, str) else value
        feature = _field(1, _field(1, data)) if isinstance(data, bytes) else _field(3, _field(1, _varint(data)))
        entries.append(_field(1, _field(1, "/".join(path).encode()) + _field(2, feature)))
    return _field(1, b"".join(entries))


def _field(number: int, data: bytes) -> bytes:
    """A length-delimited field of a message."""
    return _varint(number << 3 | protobuf.LEN) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def scene_in(record: protobuf.Data) -> memoryview:
    """The packed scene of a record.

    Raises:
      DataError: There is none.
    """
    return _text(_entries(record), SCENE)


def lacks_in(record: protobuf.Data) -> tuple[str, ...]:
    """What the format of the source does not hold, by the record.

    Raises:
      DataError: The record does not say.
    """
    text = bytes(_text(_entries(record), LACKS)).decode("utf-8", errors="replace")
    return tuple(text.split(", ")) if text else ()


def info_in(record: protobuf.Data) -> SceneInfo:
    """The facts about the scene of a record.

    Raises:
      DataError: One is missing.
    """
    entries, values = _entries(record), {}
    for field in dataclasses.fields(SceneInfo):
        name = f"{INFO}/{field.name}"
        numbers = protobuf.integers(_list(entries, name, 3), 1, name)
        if len(numbers) != 1:
            raise DataError(f"has {len(numbers)} values where 1 is expected", field=name, remedy=REMEDY)
        values[field.name] = bool(numbers[0]) if field.type is bool else int(numbers[0])
    return SceneInfo(**values)


def _entries(record: protobuf.Data) -> dict[bytes, memoryview]:
    """The features of a record by name, not decoded: only one of many is wanted."""
    (features,) = _messages(protobuf.decode(memoryview(record), "record"), 1)[-1:] or [memoryview(b"")]
    entries = _messages(protobuf.decode(features, "features"), 1)
    # An entry of a map begins with its key: a tag, its length, and the key.
    return {bytes(entry[2 : 2 + entry[1]]): entry for entry in entries if len(entry) >= 2}


def _list(entries: Mapping[bytes, memoryview], name: str, kind: int) -> protobuf.Fields:
    """The list of a feature; `kind` is 1 for bytes and 3 for integers."""
    if name.encode() not in entries:
        raise DataError("missing feature", field=name, remedy=REMEDY)
    feature = _messages(protobuf.decode(entries[name.encode()], name), 2)
    lists = _messages(protobuf.decode(feature[-1], name), kind) if feature else []
    return protobuf.decode(lists[-1], name) if lists else {}


def _text(entries: Mapping[bytes, memoryview], name: str) -> memoryview:
    return (_messages(_list(entries, name, 1), 1) or [memoryview(b"")])[-1]


def _messages(fields: protobuf.Fields, number: int) -> list[memoryview]:
    """Values of a field of messages or bytes, as parts of what was decoded: a scene is large."""
    return [value for kind, value in fields.get(number, []) if kind == protobuf.LEN]
