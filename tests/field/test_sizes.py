"""Field reports on declared sizes and large inputs: memory and time are in proportion to the record."""

import contextlib
import json
import pickle
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from tests.datasets.encode import message, scenario_of, small_scene, varint
from tests.datasets.encode_files import scenarionet_of
from tests.datasets.store.test_codec import CHUNKS_BEGIN, ENCODED, NUM_ARRAYS, sign
from tests.field.fuzz import MAX_SECONDS
from tests.field.inputs import field_file
from waymax_sim.datasets.convert import convert
from waymax_sim.datasets.encoding import tfrecord
from waymax_sim.datasets.encoding.array_record import write_array_record
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.loader import load, load_all
from waymax_sim.datasets.scenarios import parse
from waymax_sim.datasets.store.codec import CHECKSUM_BEGIN, HEADER, ROW_LENGTH
from waymax_sim.datasets.store.files import shard_name
from waymax_sim.datasets.store.layout import scenario_layout
from waymax_sim.datasets.store.record import record_features, serialize
from waymax_sim.datatypes.roadmap import LANE_TYPES
from waymax_sim.maps.segments import build_segments


def store_of(folder: Path, encoded: bytes) -> Path:
    """A store of three scenes, the second of which is given."""
    features, _ = record_features(small_scene())
    records = [serialize(features | {"scene": scene}) for scene in (ENCODED, encoded, ENCODED)]
    folder.mkdir()
    write_array_record(str(folder / shard_name(0, 1)), records)
    (folder / "manifest.json").write_text(json.dumps({"shards": [{"file": shard_name(0, 1), "scenes": 3}]}))
    return folder


def with_shapes(shapes: dict[str, tuple[int, ...]]) -> bytes:
    """The encoded small scene, some arrays of which declare other shapes."""
    table = np.frombuffer(ENCODED, "<i4", ROW_LENGTH * NUM_ARRAYS, HEADER.size).reshape(NUM_ARRAYS, ROW_LENGTH).copy()
    for row, name in zip(table, scenario_layout(True, False).names, strict=True):
        if name in shapes:
            row[2 : 3 + len(shapes[name])] = (len(shapes[name]), *shapes[name])
    return sign(ENCODED[CHECKSUM_BEGIN : HEADER.size] + table.tobytes() + ENCODED[CHUNKS_BEGIN:])


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({f"edges.{name}": (2**30, 0) for name in ("previous", "next", "feature", "valid")}, "along"),
        ({f"edges.{name}": (2**24, 8) for name in ("previous", "next", "feature", "valid")}, "along"),
        ({"log.valid": (7, 3)}, "has the length 7 along T"),
        ({"timestamps": (50_000,)}, "along T"),
        ({"polylines.points": (0, 2, 8, 4)}, "along polylines.G"),
    ],
)
def test_a_record_of_a_store_with_wrong_shapes_is_refused_alone(tmp_path, shapes, message):
    scenarios = load(store_of(tmp_path / "store", with_shapes(shapes)))
    tracemalloc.start()
    outcomes = [outcome for _, outcome in scenarios.iter_results()]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [isinstance(outcome, DataError) for outcome in outcomes] == [False, True, False]
    assert message in str(outcomes[1]) and ", record 1," in str(outcomes[1]) and peak < 2**26


def test_a_manifest_cannot_announce_more_scenes_than_fit(tmp_path):
    folder = store_of(tmp_path / "store", ENCODED)
    (folder / "manifest.json").write_text(json.dumps({"shards": [{"file": shard_name(0, 1), "scenes": 10**12}]}))
    with pytest.raises(DataError, match="holds no scenes"):
        load(folder)
    (folder / "manifest.json").write_text(json.dumps({"shards": [{"file": shard_name(0, 1), "scenes": 4}]}))
    with pytest.raises(DataError, match="has 3 records, its manifest lists 4"):
        load(folder)[3]


@pytest.mark.parametrize("has_manifest", [True, False])
def test_a_damaged_file_of_a_store_leaves_the_others(tmp_path, has_manifest):
    folder = tmp_path / "store"
    convert(load_all([field_file("reliability/scene.json")] * 3), folder, shard_size=1)
    if not has_manifest:
        (folder / "manifest.json").unlink()
    for shard, content in ((0, b""), (1, b"\0" * 65536)):
        (folder / shard_name(shard, 3)).write_bytes(content)
    scenarios = load(folder)
    outcomes = [outcome for _, outcome in scenarios.iter_results()]
    assert not isinstance(outcomes[-1], DataError) and len(scenarios.problems) + len(outcomes) == 3
    assert scenarios.problems[0].file == str(folder / shard_name(0, 3))


def test_indices_of_a_stored_scene_are_checked(tmp_path):
    table = np.frombuffer(ENCODED, "<i4", ROW_LENGTH * NUM_ARRAYS, HEADER.size).reshape(NUM_ARRAYS, ROW_LENGTH)
    names = list(scenario_layout(True, False).names)
    from tests.datasets.store.test_codec import SCENARIO, leaves
    from waymax_sim.datasets.store.codec import CODECS, _compress

    feature = np.full_like(leaves(SCENARIO)["roadmap.feature"], 10**6)
    chunks, begin = [], CHUNKS_BEGIN
    for length in table[:, 0].tolist():
        chunks.append(ENCODED[begin : begin + length])
        begin += length
    chunks[names.index("roadmap.feature")] = _compress(feature, *CODECS["fast"])
    damaged = table.copy()
    damaged[:, 0] = [len(chunk) for chunk in chunks]
    encoded = sign(ENCODED[CHECKSUM_BEGIN : HEADER.size] + damaged.tobytes() + b"".join(chunks))
    scenarios = load(store_of(tmp_path / "store", encoded))
    with pytest.raises(DataError, match="values outside") as caught:
        scenarios[1]
    assert caught.value.field == "roadmap.feature" and scenarios[2].num_agents == 8


def test_too_many_steps_are_refused():
    started = time.process_time()
    with pytest.raises(DataError, match="too many steps, 999999, more than 20000"):
        load(field_file("reliability/steps_999999.xml"))[0]
    assert time.process_time() - started < 1
    assert load(field_file("reliability/steps_5.xml"))[0].num_steps == 5


def test_many_features_of_one_array_are_refused(tmp_path):
    points = np.random.default_rng(0).normal(0, 100, (1000, 3))
    features = {str(row): {"type": "LANE_FREEWAY", "polyline": points} for row in range(900)}
    path = tmp_path / "shared.pkl"
    path.write_bytes(pickle.dumps(scenarionet_of(small_scene()) | {"map_features": features}))
    with pytest.raises(DataError, match="has more than 5"):
        load(path)[0]


def test_long_segments_do_not_multiply(tmp_path):
    """Points 600 m apart: split into pieces of 10 m, they would be 60 times as many."""
    xyz = np.cumsum(np.tile([[600.0, 0.0, 0.0], [-600.0, 1.0, 0.0]], (1000, 1)), axis=0).astype(np.float32)
    feature = np.zeros(len(xyz), np.int32)
    segments = build_segments(xyz, feature, np.array([2]), LANE_TYPES)
    assert segments.valid.sum() == len(xyz) - 1
    # A few of them are split.
    assert build_segments(xyz[:2], feature[:2], np.array([2]), LANE_TYPES).valid.sum() == 61


@pytest.mark.slow
@pytest.mark.parametrize(("num_points", "max_megabytes", "max_seconds"), [(300_000, 900, 30), (1_000_000, 1500, 60)])
def test_large_maps_load_in_proportion(tmp_path, num_points, max_megabytes, max_seconds):
    path = big_map(tmp_path, num_points)
    script = (
        # Not `ru_maxrss`, which a process inherits from the one that started it.
        "import re, sys, time, waymax_sim as ws; scenario = ws.load(sys.argv[1])[0]; "
        "memory = re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]; "
        "print(int(scenario.roadmap.valid.sum()), memory, time.process_time())"
    )
    run = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    points, kilobytes, seconds = map(float, run.stdout.split())
    assert points == num_points
    assert kilobytes < 1000 * max_megabytes and seconds < max_seconds


def big_map(folder: Path, num_points: int) -> Path:
    """A Scenario proto with lanes of 100 points in 5 km x 5 km."""
    rng, parts = np.random.default_rng(0), [message(scenario_of(small_scene()) | {8: []})]
    for lane in range(num_points // 100):
        (x, y), turn = rng.uniform(-2500, 2500, 2) + [8000, -3000], rng.uniform(0, 6.28)
        points = [{1: x + step * np.cos(turn), 2: y + step * np.sin(turn), 3: 0.0} for step in range(100)]
        points = [{key: float(value) for key, value in point.items()} for point in points]
        parts.append(message({8: {1: lane + 1, 3: {2: 2, 8: points}}}))
    path = folder / "town.tfrecord"
    tfrecord.write_records(path, [b"".join(parts)])
    return path


def wrapped(number: int, body: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(body)) + body


@pytest.mark.parametrize(
    "extra",
    {
        "empty points of a lane": wrapped(8, b"\x08\x63" + wrapped(3, b"\x10\x02" + b"\x42\x00" * 100_000)),
        "empty features": b"\x42\x00" * 100_000,
        "empty tracks": b"\x12\x00" * 100_000,
        "unknown fields": b"".join(varint(number << 3) + b"\x01" for number in range(100, 100_100)),
        "successors": wrapped(8, b"\x08\x63" + wrapped(3, b"\x10\x02" + b"\x48\x0a" * 100_000)),
        "zeros": bytes(100_000),
    }.items(),
    ids=lambda item: item[0],
)
def test_many_small_fields_take_time_in_proportion(extra):
    started = time.process_time()
    with contextlib.suppress(DataError):
        parse(message(scenario_of(small_scene())) + extra[1])
    assert time.process_time() - started < MAX_SECONDS
