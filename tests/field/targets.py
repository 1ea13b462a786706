"""The readers under test: for each one its small inputs, its mutations, and the check of the outcome."""

import contextlib
import dataclasses
import functools
import gzip
import io
import json
import pickle
import random
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import jax
import numpy as np
import pyarrow as pa

from tests.datasets import encode_argoverse2, test_commonroad
from tests.datasets.encode import example, features_of, message, scenario_of, small_scene
from tests.datasets.encode_files import gpudrive_of, nocturne_of, scenarionet_of
from tests.datasets.test_fuzz_files import ARRAYS, JUNK
from tests.field.mutations import FLOATS, INTEGERS, mutate_bytes, mutate_record, mutate_text
from waymax_sim.datasets.convert import convert
from waymax_sim.datasets.encoding import tfrecord
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.files import SceneFile
from waymax_sim.datasets.formats.sim_agents_submission import (
    RolloutFile,
    encode_rollouts,
    read_npz,
    read_rollouts,
    rollouts_path,
    unpack_submission,
    write_submission,
)
from waymax_sim.datasets.loader import load
from waymax_sim.datasets.scenarios import RecordFile, Source
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.datasets.scene_info import describe_scene
from waymax_sim.datasets.store.codec import CHECKSUM_BEGIN, HEADER, MAGIC, ROW_LENGTH
from waymax_sim.datasets.store.files import Shard, shard_name
from waymax_sim.datasets.store.layout import scenario_layout
from waymax_sim.datatypes.scenario import Scenario

# Values of fields of messages.
MESSAGE_JUNK = [
    *INTEGERS,
    *FLOATS,
    np.float32(1),
    np.float32("nan"),
    b"",
    b"\xff" * 9,
    "a",
    "\0",
    {},
    [],
    [{}] * 9,
    {1: 1},
]
# Arrays of a scenario that may be infinite.
UNBOUNDED = ("polylines.points", "index.min_z", "index.max_z")


@dataclasses.dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
      name: File name of its inputs.
      damage: A damaged input from a source of choices.
      check: Reads a file. Only `DataError` may leave it.
      prepare: Writes further files that the reader needs into the folder.
    """

    name: str
    damage: Callable[[random.Random], bytes]
    check: Callable[[Path], None]
    prepare: Callable[[Path], None] = lambda folder: None


def check_scenario(scenario: Scenario) -> None:
    """Fails for a scenario that is not finite or cannot be described as JSON."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(scenario):
        name = ".".join(key.name for key in path)
        if not name.endswith(UNBOUNDED):
            assert np.isfinite(leaf).all(), f"{name} is not finite"
    json.dumps(describe_scene(scenario), allow_nan=False).encode()


def check_source(source: Source) -> None:
    """Reads all records of a source; an error of one leaves the others. The check of `Scenarios` is left out, because
    it turns exhausted memory into errors."""
    errors = []
    for record in range(len(source)):
        try:
            scene = source.read(record)
            with np.errstate(all="ignore"):
                check_scenario(to_scenario(scene, pad_to_bucket=False))
        except DataError as error:
            errors.append(error)
    if errors:
        raise errors[0]


def check_scene_file(path: Path) -> None:
    check_source(SceneFile(str(path)))


def check_records(path: Path) -> None:
    index = tfrecord.index_records(path)
    check_source(RecordFile(index))
    if index.problem is not None:
        raise index.problem


def check_shard(path: Path) -> None:
    shard = Shard(str(path), 2)
    errors = []
    for record in range(2):
        try:
            check_scenario(shard.scenario(record, pad_to_bucket=bool(record)))
            shard.info(record)
        except DataError as error:
            errors.append(error)
    if errors:
        raise errors[0]


def check_submission(path: Path) -> None:
    folder = path.with_name("unpacked")
    folder.mkdir(exist_ok=True)
    try:
        unpack_submission(path, folder)
        for file in list(folder.iterdir()):
            found = read_rollouts(folder, "a") if file == rollouts_path(folder, "a") else None
            if found is not None:
                found.check(found.object_id, num_steps=4)
    finally:
        for file in folder.iterdir():
            file.unlink()


def check_npz(path: Path) -> None:
    rollouts = read_npz(path)
    rollouts.check(rollouts.object_id, num_steps=rollouts.heading.shape[2])


def small_rollouts(scenario_id: str) -> RolloutFile:
    rng = np.random.default_rng(0)
    xyz, heading = rng.normal(0, 3000, (2, 3, 4, 3)), rng.uniform(-9, 9, (2, 3, 4))
    return RolloutFile(scenario_id, np.array([7, 2**31 + 5, 3]), xyz.astype(np.float32), heading.astype(np.float32))


@functools.cache
def records() -> dict[str, bytes]:
    scene = small_scene()
    return {
        "example": example(features_of(scene)),
        "proto": message(scenario_of(scene)),
        "gpudrive": json.dumps(gpudrive_of(scene)).encode(),
        "nocturne": json.dumps(nocturne_of(scene)).encode(),
        "scenarionet": pickle.dumps(scenarionet_of(scene)),
        "commonroad": test_commonroad.OLD.encode(),
        "map": json.dumps(encode_argoverse2.archive()).encode(),
        "table": encode_argoverse2.table_bytes(encode_argoverse2.records()),
        "plain table": encode_argoverse2.table_bytes(
            encode_argoverse2.records(), compression="NONE", use_dictionary=False
        ),
    }


def table_columns() -> dict[str, np.ndarray]:
    """Columns of the table, with texts as objects."""
    rows = encode_argoverse2.records()
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return {name: values.astype(object) if values.dtype.kind == "U" else values for name, values in columns.items()}


@functools.cache
def shard_bytes(folder: Path) -> bytes:
    """A shard with the small scene twice."""
    path = folder / "two.tfrecord"
    tfrecord.write_records(path, [records()["proto"], records()["example"]])
    convert(load(path), folder / "store")
    return (folder / "store" / shard_name(0, 1)).read_bytes()


@functools.cache
def submission_bytes(folder: Path) -> bytes:
    sources = []
    for name in ("a", "b"):
        sources.append(rollouts_path(folder, name))
        sources[-1].write_bytes(encode_rollouts(small_rollouts(name)))
    write_submission(folder / "whole.tar.gz", sources, 2, account="a@b", method="m")
    return gzip.decompress((folder / "whole.tar.gz").read_bytes())


def npz_bytes(compressed: bool = False) -> bytes:
    rollouts, out = small_rollouts("a"), io.BytesIO()
    columns = dict(zip("xyz", np.moveaxis(rollouts.xyz, -1, 0), strict=True))
    save = np.savez_compressed if compressed else np.savez
    save(out, object_id=rollouts.object_id, heading=rollouts.heading, **columns)
    return out.getvalue()


def damage_record(name: str, other: str, rng: random.Random) -> bytes:
    """A damaged record in a file with sound checksums: damaged bytes, or damaged content in a sound encoding."""
    damaged = mutate_bytes(records()[name], records()[other], rng)
    if name == "proto" and rng.random() < 0.6:
        # Some of the damaged contents cannot be encoded.
        with contextlib.suppress(TypeError, AttributeError):
            damaged = message(mutate_record(scenario_of(small_scene()), MESSAGE_JUNK, rng))
    elif rng.random() < 0.6:
        damaged = example(mutate_arrays(features_of(small_scene()), rng))
    return tfrecord.encode_record(damaged)


def mutate_arrays(arrays: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """Arrays by name, some of which have other values or lengths, are absent, or have other names."""
    arrays = dict(arrays)
    for _ in range(rng.choice((1, 1, 2, 4))):
        name = rng.choice(sorted(arrays))
        values, kind = arrays[name], rng.randrange(5)
        if kind == 0 or isinstance(values, list) or not values.size or values.dtype.kind == "O":
            arrays[name] = arrays[rng.choice(sorted(arrays))]
        elif kind == 1:
            del arrays[name]
        elif kind == 2:
            arrays[name] = np.resize(
                values, rng.choice((0, 1, values.size - 1, values.size + 1, 2 * values.size, 5000))
            )
        else:
            flat, numbers = values.ravel().copy(), FLOATS if values.dtype.kind == "f" else INTEGERS
            with np.errstate(all="ignore"):
                picked = np.array([rng.choice(numbers)]).astype(values.dtype)
            flat[rng.randrange(flat.size) : rng.choice((1, flat.size))] = picked
            flat[rng.randrange(flat.size)] = picked[0]
            arrays[name] = flat
    return arrays


def damage_framing(rng: random.Random) -> bytes:
    whole = b"".join(tfrecord.encode_record(records()[name]) for name in ("proto", "example"))
    return mutate_bytes(whole, whole, rng)


def damage_json(name: str, other: str, rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        return mutate_text(records()[name], records()[other], rng)
    return json.dumps(mutate_record(json.loads(records()[name]), JUNK, rng)).encode()


def damage_pickle(rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        return mutate_bytes(records()["scenarionet"], records()["scenarionet"], rng)
    record = mutate_record(pickle.loads(records()["scenarionet"]), JUNK + ARRAYS, rng)
    return pickle.dumps(record, protocol=rng.choice((3, 4, 5)))


def damage_xml(rng: random.Random) -> bytes:
    return mutate_text(records()["commonroad"], records()["commonroad"], rng)


def damage_table(rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        rows = mutate_arrays(table_columns(), rng)
        # Columns of a table have one length.
        length = max(map(len, rows.values()), default=0)
        columns = {
            name: values if len(values) == length else np.resize(values, length) for name, values in rows.items()
        }
        return encode_argoverse2.table_bytes(pa.table({name: pa.array(values) for name, values in columns.items()}))
    return mutate_bytes(records()[rng.choice(("table", "plain table"))], records()["table"], rng)


def damage_shard(shard: Callable[[], bytes], rng: random.Random) -> bytes:
    """Damage of the file, or of its first scene, whose checksum is right."""
    data = shard()
    if rng.random() < 0.3:
        return mutate_bytes(data, data, rng)
    begin = data.index(MAGIC)
    end = data.index(MAGIC, begin + 4) - 200
    content = bytearray(data[begin + CHECKSUM_BEGIN : end])
    table_bytes = 4 * ROW_LENGTH * len(scenario_layout(True, False).names)
    for _ in range(rng.choice((1, 1, 2, 4))):
        in_table = rng.random() < 0.5
        at = rng.randrange(HEADER.size - CHECKSUM_BEGIN, table_bytes if in_table else len(content) - 4)
        if in_table:
            at -= at % 4
            content[at : at + 4] = (rng.choice((*INTEGERS, *range(9))) % 2**32).to_bytes(4, "little")
        else:
            content[at] = rng.randrange(256)
    # The length of the encoded scene, from its table: the checksum covers exactly that.
    table = np.frombuffer(data, "<i4", table_bytes // 4, begin + HEADER.size).reshape(-1, ROW_LENGTH)
    size = HEADER.size + table_bytes + int(table[:, 0].sum()) - CHECKSUM_BEGIN
    content = (
        bytes(content[:size]) if size <= len(content) else bytes(content) + data[end : begin + CHECKSUM_BEGIN + size]
    )
    checksum = google_crc32c.value(content).to_bytes(4, "little")
    return data[:begin] + MAGIC + checksum + content + data[begin + CHECKSUM_BEGIN + size :]


def damage_submission(whole: Callable[[], bytes], rng: random.Random) -> bytes:
    """Damage of the archive with or without sound headers, or of the messages in it, compressed or not."""
    data = whole()
    if rng.random() < 0.5:
        data = mutate_bytes(data, data, rng)
        if rng.random() < 0.5:
            data = sign_headers(data)
    else:
        out = io.BytesIO()
        with tarfile.open(fileobj=io.BytesIO(data)) as source, tarfile.open(fileobj=out, mode="w") as archive:
            for member in source:
                content = source.extractfile(member)
                damaged = mutate_bytes(content.read() if content else b"", data[:2000], rng)
                member.size = len(damaged)
                archive.addfile(member, io.BytesIO(damaged))
        data = out.getvalue()
    if rng.random() < 0.2:
        packed = gzip.compress(data, 1)
        return mutate_bytes(packed, packed, rng) if rng.random() < 0.5 else packed
    return data


def sign_headers(data: bytes) -> bytes:
    """Tar headers with right checksums."""
    out = bytearray(data)
    for at in range(0, len(out) - 511, 512):
        if out[at + 257 : at + 262] == b"ustar":
            header = out[at : at + 148] + b" " * 8 + out[at + 156 : at + 512]
            out[at + 148 : at + 156] = b"%06o\0 " % sum(header)
    return bytes(out)


def damage_npz(rng: random.Random) -> bytes:
    data = npz_bytes(rng.random() < 0.3)
    if rng.random() < 0.5:
        return mutate_bytes(data, data, rng)
    # Damaged arrays in a sound archive: half of them in their headers.
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(out, "w") as archive:
        damaged = rng.choice(source.namelist())
        for name in source.namelist():
            content = source.read(name)
            if name == damaged:
                cut = 128 if rng.random() < 0.5 else len(content)
                mutate = mutate_text if rng.random() < 0.5 else mutate_bytes
                content = mutate(content[:cut], b"(9999999999,), 'descr': '|O'", rng) + content[cut:]
            archive.writestr(name, content)
    return out.getvalue()


def targets(folder: Path) -> dict[str, Target]:
    """All readers by name.

    Args:
      folder: Folder for their inputs.
    """
    (folder / "seeds").mkdir(parents=True, exist_ok=True)
    seeds = folder / "seeds"
    record, text = functools.partial, functools.partial

    def write_map(out: Path) -> None:
        (out / "log_map_archive_x.json").write_bytes(records()["map"])

    def write_table(out: Path) -> None:
        (out / "scenario_x.parquet").write_bytes(records()["table"])

    def check_map(path: Path) -> None:
        check_scene_file(path.with_name("scenario_x.parquet"))

    return {
        "tf.Example": Target("x.tfrecord", record(damage_record, "example", "proto"), check_records),
        "Scenario proto": Target("x.tfrecord", record(damage_record, "proto", "example"), check_records),
        "TFRecord": Target("x.tfrecord", damage_framing, check_records),
        "GPUDrive": Target("x.json", text(damage_json, "gpudrive", "nocturne"), check_scene_file),
        "Nocturne": Target("x.json", text(damage_json, "nocturne", "gpudrive"), check_scene_file),
        "ScenarioNet": Target("x.pkl", damage_pickle, check_scene_file),
        "CommonRoad": Target("x.xml", damage_xml, check_scene_file),
        "Argoverse table": Target("scenario_x.parquet", damage_table, check_scene_file, write_map),
        "Argoverse map": Target("log_map_archive_x.json", text(damage_json, "map", "gpudrive"), check_map, write_table),
        "store": Target(
            shard_name(0, 1), functools.partial(damage_shard, functools.partial(shard_bytes, seeds)), check_shard
        ),
        "submission": Target(
            "x.tar.gz",
            functools.partial(damage_submission, functools.partial(submission_bytes, seeds)),
            check_submission,
        ),
        "npz": Target("x.npz", damage_npz, check_npz),
    }
