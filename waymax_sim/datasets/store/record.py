"""Records of a store: an encoded scenario and its `SceneInfo`, as a tf.Example that TFDS can read too."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from waymax_sim.datasets.encoding import protobuf
from waymax_sim.datasets.encoding.tf_example import MAX_FEATURES
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.scene import RawScene, to_scenario
from waymax_sim.datasets.scene_info import SceneInfo, scene_info
from waymax_sim.datasets.store.codec import Compression, decode_scenario, encode_scenario
from waymax_sim.datatypes.scenario import Scenario

# Features of a record.
SCENE = "scene"
SCENARIO_ID = "scenario_id"
MISSING_FIELDS = "missing_fields"
INFO = "info"
# Field numbers of the kinds of feature lists in a tf.Example.
BYTES_LIST = 1
INT64_LIST = 3
RECORD_REMEDY = "check that the file was written by `waymax-sim convert`"


def record_features(raw: RawScene, compression: Compression = "fast") -> tuple[dict[str, Any], Scenario]:
    """The nested features of a record, and the unpadded scenario in it.

    The encoded scenario is decoded and compared bit for bit, so that a store holds no other scenario.

    Raises:
      DataError: The scene cannot be used or encoded.
    """
    scenario = to_scenario(raw, pad_to_bucket=False)
    scene = encode_scenario(scenario, compression)
    changed = _changed_arrays(scenario, decode_scenario(scene, pad_to_bucket=False))
    if changed:
        raise DataError(f"encoding changes {', '.join(changed)}", field="scene", remedy="report it as a bug")
    info = {name: int(value) for name, value in dataclasses.asdict(scene_info(scenario)).items()}
    missing_fields = ", ".join(raw.missing_fields)
    return {SCENE: scene, SCENARIO_ID: raw.scenario_id, MISSING_FIELDS: missing_fields, INFO: info}, scenario


def _changed_arrays(expected: Scenario, actual: Scenario) -> list[str]:
    """Paths of the arrays that differ in dtype, shape or any bit."""
    arrays = zip(jax.tree_util.tree_leaves_with_path(expected), jax.tree.leaves(actual), strict=True)
    return [
        ".".join(key.name for key in path)
        for (path, a), b in arrays
        if a.dtype != b.dtype or a.shape != b.shape or a.tobytes() != b.tobytes()
    ]


def serialize(features: Mapping[str, Any]) -> bytes:
    """Nested features as a tf.Example, named by their paths, such as info/num_agents."""
    # Imported on use, because only writing needs the package.
    import tree

    entries = []
    for path, value in tree.flatten_with_path(features):
        data = value.encode("utf-8", errors="replace") if isinstance(value, str) else value
        if isinstance(data, bytes):
            feature = _field(BYTES_LIST, _field(1, data))
        else:
            feature = _field(INT64_LIST, _field(1, _varint(data)))
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


def read_scene(record: protobuf.Data) -> memoryview:
    """The encoded scenario of a record.

    Raises:
      DataError: The record has none.
    """
    return _read_bytes(_features(record), SCENE)


def read_missing_fields(record: protobuf.Data) -> tuple[str, ...]:
    """`RawScene.missing_fields` of the scene of a record.

    Raises:
      DataError: The record does not have them.
    """
    text = bytes(_read_bytes(_features(record), MISSING_FIELDS)).decode("utf-8", errors="replace")
    return tuple(text.split(", ")) if text else ()


def read_info(record: protobuf.Data) -> SceneInfo:
    """The `SceneInfo` of a record.

    Raises:
      DataError: A field is missing.
    """
    features, values = _features(record), {}
    for field in dataclasses.fields(SceneInfo):
        name = f"{INFO}/{field.name}"
        numbers = protobuf.integers(_feature_list(features, name, INT64_LIST), 1, name)
        if len(numbers) != 1:
            raise DataError(f"has {len(numbers)} values where 1 is expected", field=name, remedy=RECORD_REMEDY)
        values[field.name] = bool(numbers[0]) if field.type is bool else int(numbers[0])
    return SceneInfo(**values)


def _features(record: protobuf.Data) -> dict[bytes, memoryview]:
    """The encoded features of a record by name."""
    (features,) = _messages(protobuf.decode(memoryview(record), "record", MAX_FEATURES), 1)[-1:] or [memoryview(b"")]
    entries = _messages(protobuf.decode(features, "features", MAX_FEATURES), 1)
    # An entry of a map begins with its key: a tag, its length, and the key.
    return {bytes(entry[2 : 2 + entry[1]]): entry for entry in entries if len(entry) >= 2}


def _feature_list(features: Mapping[bytes, memoryview], name: str, kind: int) -> protobuf.Fields:
    """The list of a feature; `kind` is `BYTES_LIST` or `INT64_LIST`."""
    if name.encode() not in features:
        raise DataError("missing feature", field=name, remedy=RECORD_REMEDY)
    feature = _messages(protobuf.decode(features[name.encode()], name), 2)
    lists = _messages(protobuf.decode(feature[-1], name), kind) if feature else []
    return protobuf.decode(lists[-1], name) if lists else {}


def _read_bytes(features: Mapping[bytes, memoryview], name: str) -> memoryview:
    return (_messages(_feature_list(features, name, BYTES_LIST), 1) or [memoryview(b"")])[-1]


def _messages(fields: protobuf.Fields, number: int) -> list[memoryview]:
    """Values of a field of messages or bytes, as views of the decoded data."""
    return [value for kind, value in fields.get(number, []) if kind == protobuf.LEN]
