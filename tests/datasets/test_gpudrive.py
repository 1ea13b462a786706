"""GPUDrive and Nocturne JSON: all known schemas, and malformed files."""

import dataclasses
import json

import numpy as np
import pytest

from tests.datasets.encode import PAST, small_scene
from tests.datasets.encode_files import gpudrive_of, nocturne_of
from tests.datasets.same import assert_same
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.formats.gpudrive import MAX_GPUDRIVE_BYTES, scene_from_file, scene_from_record
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.datatypes.validate import validate

NOT_IN_GPUDRIVE = ("timestamps", "current_step", "size", "speed_limit", "links", "missing_fields")


def moving_scene():
    """`small_scene`, whose agents move 1 m per step in the direction of their headings."""
    scene = small_scene()
    heading = np.stack([np.cos(scene.yaw), np.sin(scene.yaw)], axis=-1)
    start = [8000.5, -3000.25] + 10 * np.arange(3)[:, None]
    xyz = scene.xyz.copy()
    xyz[..., :2] = start + np.arange(5)[:, None, None] * heading
    return dataclasses.replace(scene, xyz=xyz)


@pytest.fixture
def record():
    return gpudrive_of(moving_scene())


def test_the_current_schema_holds_the_scene(record):
    raw = scene_from_record(record)
    assert_same(raw, moving_scene(), ignore=NOT_IN_GPUDRIVE)
    assert raw.missing_fields == ("timestamps", "sizes over time", "speed limits", "lane links", "routes")


def test_missing_fields_have_conventional_values(record):
    raw = scene_from_record(record)
    np.testing.assert_allclose(raw.timestamps, np.arange(5) * 0.1)
    assert raw.current_step == 0
    assert not raw.links.size and not raw.speed_limit.any()


def test_now_is_the_tenth_step_of_long_records(record):
    for track in record["objects"]:
        for key in ("position", "velocity", "heading", "valid"):
            track[key] = (track[key] * 3)[:11]
    assert scene_from_record(record).current_step == 10


def test_the_one_size_of_an_agent_holds_at_all_steps(record):
    expected = np.tile([[4.5, 2.0, 1.5], [5.0, 1.75, 1.5], [0.5, 0.5, 1.75]], (5, 1, 1))
    np.testing.assert_array_equal(scene_from_record(record).size, expected)


def test_nocturne_has_degrees_and_neither_heights_nor_ids_nor_an_ego():
    raw, scene = scene_from_record(nocturne_of(moving_scene())), moving_scene()
    assert raw.scenario_id == "scene.json"
    assert raw.sdc_index == -1 and not raw.to_predict.any() and not raw.of_interest.any()
    np.testing.assert_allclose(raw.yaw[raw.valid], scene.yaw[scene.valid], atol=1e-12)
    np.testing.assert_array_equal(raw.xyz[raw.valid][:, :2], scene.xyz[scene.valid][:, :2])
    assert not raw.xyz[raw.valid][:, 2].any() and not raw.point_xyz[:, 2].any() and not raw.size[..., 2].any()
    assert raw.feature_type.tolist() == [0, 0, 14, 18, 17]
    assert raw.agent_id.tolist() == [0, 1, 2]
    missing = {"sdc", "tracks to predict", "agent ids", "z", "heights", "map ids", "map types"}
    assert missing <= set(raw.missing_fields) and "lights" not in raw.missing_fields
    assert "no agent is marked as the sdc" in validate(to_scenario(raw))


def test_roads_without_ids_are_not_mistaken_for_the_lanes_of_lights():
    raw = scene_from_record(nocturne_of(moving_scene()))
    assert not np.isin(raw.feature_id, raw.signal_lane_id).any()
    assert len(np.unique(raw.feature_id)) == len(raw.feature_id)


@pytest.mark.parametrize("sentinel", [0.0, 1e-4, -10000.0])
def test_degrees_with_heights_and_lights_and_any_sentinel(record, sentinel):
    """Early GPUDrive."""
    del record["metadata"]
    for track in record["objects"]:
        for step, valid in enumerate(track["valid"]):
            track["heading"][step] = np.degrees(track["heading"][step]) if valid else sentinel
            if not valid:
                track["position"][step] = dict.fromkeys("xyz", sentinel)
    raw = scene_from_record(record)
    ignore = (*NOT_IN_GPUDRIVE, "sdc_index", "to_predict", "of_interest")
    assert_same(raw, moving_scene(), ignore=ignore)
    assert "sdc" in raw.missing_fields


def test_large_sentinels_are_not_degrees(record):
    """The unit follows from valid states only; headings here reach 9.25 rad."""
    assert any(heading == -10000 for track in record["objects"] for heading in track["heading"])
    np.testing.assert_array_equal(scene_from_record(record).yaw[PAST], moving_scene().yaw[PAST])


def unit_record(heading, step, yaw):
    """Two agents that move by `step` (m) per step in the direction `yaw` (rad), with a heading in the file."""
    track = {
        "position": [{"x": t * step * np.cos(yaw), "y": t * step * np.sin(yaw), "z": 0.0} for t in range(5)],
        "velocity": [{"x": 0.0, "y": 0.0}] * 5,
        "heading": [heading] * 5,
        "valid": [True] * 5,
        **dict.fromkeys(("length", "width", "height"), 1.0),
        "type": "vehicle",
    }
    return {"name": "x", "objects": [track] * 2, "roads": []}


@pytest.mark.parametrize(
    ("heading", "step", "yaw"),
    [
        (90.0, 1.0, np.pi / 2),
        (np.pi / 2, 1.0, np.pi / 2),
        # Wrapped several times: larger than any threshold, and in radians.
        (np.pi / 2 + 8 * np.pi, 1.0, np.pi / 2 + 8 * np.pi),
        # Small numbers that are degrees.
        (12.0, 1.0, np.radians(12.0)),
        # At rest only the size of the numbers tells.
        (90.0, 0.01, np.pi / 2),
        (1.5, 0.01, 1.5),
    ],
)
def test_the_unit_of_headings_follows_from_the_motion(heading, step, yaw):
    np.testing.assert_allclose(scene_from_record(unit_record(heading, step, yaw)).yaw, yaw)


def test_a_code_that_contradicts_the_kind_is_not_used(record):
    """Early GPUDrive gives driveways the code -1."""
    record["roads"][0] |= {"type": "driveway", "map_element_id": -1}
    record["roads"][2]["map_element_id"] = 2
    assert scene_from_record(record).feature_type.tolist() == [20, 1, 14, 18, 17]


def test_roads_of_unknown_kinds_are_left_out(record):
    record["roads"][1]["type"] = "tunnel"
    raw = scene_from_record(record)
    assert raw.feature_type.tolist() == [2, 15, 18, 17]
    assert "1 map features of type tunnel" in raw.missing_fields
    assert np.bincount(raw.point_feature).tolist() == [4, 4, 3, 1]


def test_an_empty_map_and_no_lights(record):
    record["roads"], record["tl_states"] = [], {}
    raw = scene_from_record(record)
    assert "lights" in raw.missing_fields
    assert "there is no map" in validate(to_scenario(raw))


def test_no_agents_are_no_scene(record):
    record["objects"] = []
    record["metadata"] = record["tl_states"] = {}
    with pytest.raises(DataError, match="the scene has no steps"):
        to_scenario(scene_from_record(record))


def test_duplicate_ids_are_reported(record):
    record["objects"][1]["id"] = 3
    assert "1 agent ids are used twice" in validate(to_scenario(scene_from_record(record)))


def test_coordinates_that_are_not_finite_are_refused(record):
    record["objects"][0]["position"][0]["x"] = float("nan")
    with pytest.raises(DataError, match="field xyz: 1 values are not finite"):
        to_scenario(scene_from_record(record))


def spoil(path, value):
    """A function that sets the value at a path in a record."""

    def apply(record):
        *parents, last = path
        for key in parents:
            record = record[key]
        record[last] = value

    return apply


BAD = {
    "objects: has unexpected type": spoil(["objects"], {}),
    "field objects: missing": spoil(["objects"], None),
    r"objects\[0\].heading: has 4 steps": spoil(["objects", 0, "heading"], [0.0] * 4),
    r"objects\[0\].position: missing": spoil(["objects", 0], {}),
    r"objects\[1\]: has type list": spoil(["objects", 1], []),
    "objects.valid: is not a list of numbers": spoil(["objects", 0, "valid"], ["yes"] * 5),
    "objects.type: 'plane' is not one of": spoil(["objects", 0, "type"], "plane"),
    "objects.length: missing": spoil(["objects", 0, "length"], None),
    "objects.position: has points without x, y, z": spoil(["objects", 0, "position", 1], {"x": 0.0, "y": 0.0}),
    "objects.velocity: is not a list of rows": spoil(["objects", 0, "velocity", 1], {"x": 0.0, "y": "fast"}),
    "objects.id: is not a list of 64-bit integers": spoil(["objects", 0, "id"], 1.5),
    "roads.geometry: is not a list of rows": spoil(["roads", 0, "geometry", 0, "x"], 10**400),
    "roads: has type str": spoil(["roads", 0], "lane"),
    "roads.id: is not a list": spoil(["roads", 0, "id"], 2**70),
    "metadata.sdc_track_index: has unexpected type": spoil(["metadata", "sdc_track_index"], "0"),
    "tracks_to_predict: 3 is not one of 3": spoil(["metadata", "tracks_to_predict", 0, "track_index"], 3),
    "tl_states.10: has unknown states": spoil(["tl_states", "10", "state", 0], "green"),
    "tl_states.lane: has unknown states, or its key is not a lane id": spoil(
        ["tl_states", "lane"], {"time_index": [0], "state": ["go"]}
    ),
    "tl_states.10: has lists of different": spoil(["tl_states", "10", "x"], [0.0]),
    "time_index: has steps outside 0..4": spoil(["tl_states", "10", "time_index", 0], 5),
}


@pytest.mark.parametrize("message", BAD)
def test_malformed_fields_are_refused(record, message):
    BAD[message](record)
    with pytest.raises(DataError, match=message):
        to_scenario(scene_from_record(record))


@pytest.mark.parametrize("data", [b"", b"\xff\xfe", b"[" * 100_000, b"{", b'{"objects": ' + b"9" * 5000 + b"}"])
def test_files_that_are_not_json_are_refused(tmp_path, data):
    path = tmp_path / "scene.json"
    path.write_bytes(data)
    with pytest.raises(DataError, match="is not JSON") as caught:
        scene_from_file(str(path))
    assert caught.value.file == str(path)


def test_files_beyond_any_scene_are_not_read(tmp_path):
    path = tmp_path / "scene.json"
    with open(path, "wb") as file:
        file.truncate(MAX_GPUDRIVE_BYTES + 1)
    with pytest.raises(DataError, match=f"more than {MAX_GPUDRIVE_BYTES}"):
        scene_from_file(str(path))


def test_a_million_empty_objects_are_refused(tmp_path):
    path = tmp_path / "scene.json"
    path.write_text(json.dumps({"objects": [{}] * 1_000_000, "roads": []}))
    with pytest.raises(DataError, match=r"objects\[0\].position: missing"):
        scene_from_file(str(path))


def test_ids_that_are_no_sound_text_are_replaced(record):
    record["scenario_id"] = "a\ud800b"
    assert to_scenario(scene_from_record(record)).scenario_id.startswith("a?b~")
