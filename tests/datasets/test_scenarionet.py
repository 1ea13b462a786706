"""ScenarioNet records: two generations, several datasets, and malformed records."""

import pickle

import numpy as np
import pytest

from tests.datasets.encode import PAST, small_scene
from tests.datasets.encode_files import scenarionet_of
from tests.datasets.same import assert_same
from tests.datasets.test_gpudrive import spoil
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.formats.drivable_area import signed_area
from waymax_sim.datasets.formats.scenarionet import scene_from_file, scene_from_record
from waymax_sim.datasets.formats.write import unsupported_content
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.datatypes.roadmap import CONTROLS
from waymax_sim.datatypes.signals import SIGNAL_STATE_NAMES
from waymax_sim.datatypes.validate import validate

LANE, OTHER_LANE = "10", str(2**24 + 11)


@pytest.fixture
def record():
    return scenarionet_of(small_scene())


@pytest.mark.parametrize("protocol", [4, 5])
def test_a_file_holds_the_scene(tmp_path, record, protocol):
    path = tmp_path / "scene.pkl"
    path.write_bytes(pickle.dumps(record, protocol))
    raw = scene_from_file(str(path))
    assert_same(raw, small_scene(), ignore=("missing_fields",))
    assert raw.missing_fields == ("routes",)


def test_the_older_generation_holds_the_same(record):
    for track in record["tracks"].values():
        state = track["state"]
        state["size"] = np.stack([state.pop(name) for name in ("length", "width", "height")], axis=1)
    crosswalk = record["map_features"]["13"]
    crosswalk |= {"type": "CROSS_WALK", "polyline": crosswalk.pop("polygon")}
    scene = small_scene()
    for column, light in enumerate(record["dynamic_map_states"].values()):
        light["state"]["object_state"] = scene.signal_state[:, column]
        light["stop_point"] = scene.signal_stop_point[:, column]
    assert_same(scene_from_record(record), scene, ignore=("missing_fields",))


def test_single_numbers_may_have_an_axis_and_valid_may_be_a_float(record):
    for track in record["tracks"].values():
        state = track["state"]
        for name in ("length", "width", "height"):
            state[name] = state[name][:, None]
        state["valid"] = state["valid"].astype(float)
        state["heading"] = state["heading"].tolist()
    assert_same(scene_from_record(record), small_scene(), ignore=("missing_fields",))


def test_lists_of_points_of_two_numbers(record):
    for feature in record["map_features"].values():
        if "polyline" in feature:
            feature["polyline"] = [tuple(p[:2]) for p in feature["polyline"].tolist()]
    raw = scene_from_record(record)
    np.testing.assert_array_equal(raw.point_xyz[:, :2], small_scene().point_xyz[:, :2])
    assert not raw.point_xyz[raw.feature_type[raw.point_feature] <= 15][:, 2].any()
    assert "z" in raw.missing_fields


def test_the_third_number_of_lane_points_of_nuscenes_is_no_height(record):
    record["metadata"]["dataset"] = "nuscenes"
    raw = scene_from_record(record)
    assert not raw.point_xyz[:, 2].any()
    assert "z" in raw.missing_fields


def test_the_ego_of_nuscenes_is_longer_than_wide(record):
    record["metadata"]["dataset"] = "nuscenes"
    ego, other = (record["tracks"][name]["state"] for name in ("3", "7"))
    for state in (ego, other):
        state["length"], state["width"] = state["width"], state["length"]
    raw, scene = scene_from_record(record), small_scene()
    # It is moved from its rear axle to its center, and raised from the ground.
    ahead = [1.385 * np.cos(0.5), 1.385 * np.sin(0.5), scene.size[0, 0, 2] / 2]
    np.testing.assert_allclose(raw.xyz[:, 0], scene.xyz[:, 0] + ahead)
    np.testing.assert_array_equal(raw.xyz[:, 1:], scene.xyz[:, 1:])
    np.testing.assert_array_equal(raw.size[:, 0], scene.size[:, 0])
    np.testing.assert_array_equal(raw.size[:, 1, :2], scene.size[:, 1, 1::-1])


def test_the_ego_of_argoverse_is_moved_to_its_center(record):
    record["metadata"]["dataset"] = "av2"
    raw, scene = scene_from_record(record), small_scene()
    np.testing.assert_allclose(raw.xyz[:, 0] - scene.xyz[:, 0], [[1.339 * np.cos(0.5), 1.339 * np.sin(0.5), 0]] * 5)
    np.testing.assert_array_equal(raw.xyz[:, 1:], scene.xyz[:, 1:])


def test_constants_of_converters_are_no_speed_limits(record):
    lanes = [record["map_features"][name] for name in (LANE, OTHER_LANE)]
    for dataset, key, constant in (("nuscenes", "speed_limit_kmh", 100), ("av2", "speed_limit_mph", 85.0)):
        for lane, limit in zip(lanes, (constant, 50), strict=True):
            lane.pop("speed_limit_mph", None), lane.pop("speed_limit_kmh", None)
            lane[key] = limit
        record["metadata"]["dataset"] = dataset
        assert (scene_from_record(record).speed_limit[:2] > 0).tolist() == [False, True]
        record["metadata"]["dataset"] = "waymo"
        assert (scene_from_record(record).speed_limit[:2] > 0).all()


def test_the_last_velocity_of_nuscenes_is_that_of_the_step_before(record):
    """Agent 3 is valid at all five steps, agent 7 from step 2 on, the third one until step 2."""
    scene = small_scene()
    for track, last in zip(record["tracks"].values(), (4, 4, 2), strict=True):
        track["state"]["velocity"] = track["state"]["velocity"].copy()
        track["state"]["velocity"][last] = 0
    record["tracks"]["7"]["state"]["velocity"][3] = 0  # at rest before: it stays at rest
    expected = scene.velocity.copy()
    expected[3:, 1] = 0
    assert not scene_from_record(record).velocity[4, :2].any()
    record["metadata"]["dataset"] = "nuscenes"
    raw = scene_from_record(record)
    np.testing.assert_allclose(raw.velocity[scene.valid], expected[scene.valid], atol=1e-12)


def oldest_lights(record, as_text):
    """Lights as in MetaDrive 0.3: one state, lane and stop point per step, zero where it is not observed."""
    scene = small_scene()
    for column, (name, light) in enumerate(record["dynamic_map_states"].items()):
        seen = scene.signal_valid[:, column]
        words = [f"LANE_STATE_{SIGNAL_STATE_NAMES[code].upper()}" for code in scene.signal_state[:, column]]
        codes = np.where(seen, scene.signal_state[:, column], 0).astype(np.int32)
        light["state"] = {
            "object_state": np.where(seen, words, "") if as_text else codes,
            "lane": np.where(seen, int(name), 0),
            "stop_point": scene.signal_stop_point[:, column].astype(np.float32),
        }
        del light["stop_point"], light["lane"]


@pytest.mark.parametrize("as_text", [False, True])
def test_the_lights_of_the_oldest_generation_hold_the_same(record, as_text):
    oldest_lights(record, as_text)
    assert_same(scene_from_record(record), small_scene())
    # The lane is in the states.
    states = record["dynamic_map_states"]
    record["dynamic_map_states"] = {"a": states[LANE], "b": states[OTHER_LANE]}
    assert_same(scene_from_record(record), small_scene())


def test_links_of_the_oldest_generation(record):
    for name in (LANE, OTHER_LANE):
        lane = record["map_features"][name]
        lane["entry"], lane["exit"] = lane.pop("entry_lanes"), lane.pop("exit_lanes")
    assert scene_from_record(record).links.tolist() == small_scene().links.tolist()


def test_outlines_of_the_drivable_area_are_road_edges(record):
    ring = np.array([[0, 0], [0, 9], [9, 9], [9, 0], [0, 0.0]])
    line = {"type": "ROAD_LINE_SOLID_SINGLE_WHITE"}
    record["map_features"] |= {
        "boundary_0": line | {"polyline": ring},
        "boundary_1": line | {"polyline": 2 + ring[::-1] / 9},
        "boundary_2": line | {"polyline": ring[:-1]},
        "edge": line | {"polyline": ring},
    }
    for dataset, types in (("nuscenes", [15, 15, 7, 7]), ("nuplan", [15, 15, 7, 7]), ("waymo", [7] * 4)):
        record["metadata"]["dataset"] = dataset
        raw = scene_from_record(record)
        assert raw.feature_type[5:].tolist() == types
    record["metadata"]["dataset"] = "nuplan"
    raw = scene_from_record(record)
    # The outer ring is counter-clockwise, the hole clockwise: the road is on the left of both.
    areas = [signed_area(raw.point_xyz[raw.point_feature == row]) for row in (5, 6)]
    np.testing.assert_allclose(areas, [81, -1])


def test_the_marked_route(record):
    assert scene_from_record(record).on_route is None
    record["map_features"][LANE]["is_sdc_route"] = False
    assert scene_from_record(record).on_route is None
    record["map_features"][OTHER_LANE]["is_sdc_route"] = True
    raw = scene_from_record(record)
    assert raw.on_route is not None and raw.on_route.tolist() == [False, True, False, False, False]
    assert "routes" not in raw.missing_fields
    assert "marks of the lanes of the route" in unsupported_content(raw)


def test_scenes_without_an_id_have_one_of_their_content(record):
    del record["id"]
    record["metadata"]["scenario_id"] = "from metadata"
    assert scene_from_record(record).scenario_id == "from metadata"
    del record["metadata"]["scenario_id"]
    first = scene_from_record(record).scenario_id
    record["tracks"]["3"]["state"]["position"][0, 0] += 1
    assert len(first) == 16 and scene_from_record(record).scenario_id != first


def test_words_for_ids_are_counted(record):
    record["tracks"]["ego"] = record["tracks"].pop("3")
    record["metadata"]["sdc_id"] = "ego"
    record["map_features"]["boundary_0"] = record["map_features"].pop("12")
    raw = scene_from_record(record)
    assert raw.agent_id.tolist() == [0, 1, 2] and raw.sdc_index == 2
    assert raw.of_interest.tolist() == [True, True, False]
    assert raw.feature_id.tolist() == [0, 1, 2, 3, 4]
    assert raw.feature_type.tolist() == [2, 1, 18, 17, 15]
    # Lights follow the lanes that they control.
    assert raw.signal_lane_id.tolist() == [0, 1]
    # The stop sign comes before the boundary now.
    assert raw.links.tolist() == [*small_scene().links.tolist()[:3], [3, 0, CONTROLS]]


@pytest.mark.parametrize("name", ["007", "2147483648", "1e3", "-0", " 7"])
def test_ids_that_no_number_spells_are_counted(record, name):
    record["tracks"][name] = record["tracks"].pop("7")
    assert scene_from_record(record).agent_id.tolist() == [0, 1, 2]


def test_a_light_on_a_lane_that_is_not_in_the_map_has_an_id_of_its_own(record):
    del record["map_features"][LANE]
    record["map_features"]["a word"] = {"type": "CROSSWALK", "polygon": np.zeros((3, 3))}
    raw = scene_from_record(record)
    assert np.isin(raw.signal_lane_id, raw.feature_id).tolist() == [True, False]


def test_lights_of_metadrive(record):
    words = ["UNKNOWN", "RED", "YELLOW", "GREEN", "RED"]
    light = record["dynamic_map_states"][LANE]
    light["state"]["object_state"] = [f"TRAFFIC_LIGHT_{word}" for word in words]
    light["lane"] = LANE
    light["stop_point"] = [8002.5, -3000.0]
    raw = scene_from_record(record)
    assert raw.signal_state[:, 0].tolist() == [0, 4, 5, 6, 4]
    assert raw.signal_valid[:, 0].all()
    assert raw.signal_stop_point[0, 0].tolist() == [8002.5, -3000, 0]


def test_neighbors_may_be_plain_ids_and_exits_strings(record):
    lane = record["map_features"][LANE]
    lane["exit_lanes"], lane["left_neighbor"] = [OTHER_LANE, "99"], [OTHER_LANE]
    assert scene_from_record(record).links.tolist() == small_scene().links.tolist()


def test_speed_limits_in_km_per_hour(record):
    del record["map_features"][LANE]["speed_limit_mph"]
    record["map_features"][OTHER_LANE] |= {"speed_limit_mph": None, "speed_limit_kmh": 36}
    np.testing.assert_allclose(scene_from_record(record).speed_limit, [25 * 0.44704, 10, 0, 0, 0])


def test_speed_limits_in_m_per_second(record):
    record["map_features"][LANE] |= {"speed_limit_mps": 13.5, "speed_limit_kmh": 1.0}
    record["map_features"][OTHER_LANE] |= {"speed_limit_mps": None}
    np.testing.assert_allclose(scene_from_record(record).speed_limit, [13.5, 0, 0, 0, 0])


def test_missing_links_and_speed_limits_are_reported(record):
    for name in (LANE, OTHER_LANE):
        feature = record["map_features"][name]
        record["map_features"][name] = {key: feature[key] for key in ("type", "polyline")}
    assert {"lane links", "speed limits"} <= set(scene_from_record(record).missing_fields)


def test_kinds_that_womd_lacks(record):
    record["tracks"]["7"]["type"] = "TRAFFIC_CONE"
    record["map_features"]["20"] = {"type": "ROAD_EDGE_SIDEWALK", "polygon": np.zeros((4, 2))}
    record["map_features"]["21"] = {"type": "LANE_SURFACE_UNSTRUCTURE", "polygon": np.zeros((4, 2))}
    record["map_features"]["22"] = {"type": "LANE_SURFACE_UNSTRUCTURE", "polyline": np.zeros((2, 3))}
    record["map_features"]["23"] = {"type": "UNKNOWN", "polyline": np.zeros((2, 3))}
    record["map_features"]["24"] = {"type": "UNKNOWN", "polyline": np.zeros((2, 3)), "entry_lanes": []}
    raw = scene_from_record(record)
    assert raw.agent_type.tolist() == [1, 4, 2]
    assert raw.feature_id.tolist()[5:] == [22, 23, 24]
    assert raw.feature_type.tolist()[5:] == [2, 14, 0]
    assert raw.missing_fields[-2:] == (
        "1 map features of type ROAD_EDGE_SIDEWALK",
        "1 map features of type LANE_SURFACE_UNSTRUCTURE without polyline",
    )


def test_without_metadata_of_waymo(record):
    record["metadata"] = {"dataset": "nuplan", "sdc_id": "gone"}
    raw = scene_from_record(record)
    assert (raw.sdc_index, raw.current_step) == (-1, 0)
    np.testing.assert_allclose(raw.timestamps, np.arange(5) * 0.1)
    assert {"sdc", "timestamps", "tracks to predict"} <= set(raw.missing_fields)


def test_an_empty_scene_of_some_length(record):
    record |= {"tracks": {}, "map_features": {}, "dynamic_map_states": {}}
    raw = scene_from_record(record)
    assert raw.xyz.shape == (5, 0, 3) and {"lights", "sdc"} <= set(raw.missing_fields)
    assert "there is no map" in validate(to_scenario(raw))


def test_decreasing_timestamps_are_refused(record):
    record["metadata"]["ts"] = record["metadata"]["ts"][::-1]
    with pytest.raises(DataError, match="timestamps: do not increase"):
        to_scenario(scene_from_record(record))


def test_coordinates_that_are_not_finite_are_refused(record):
    record["tracks"]["3"]["state"]["position"][PAST, 0] = np.nan
    with pytest.raises(DataError, match="field xyz: 1 values are not finite"):
        to_scenario(scene_from_record(record))


STATE, LIGHT = ["tracks", "3", "state"], ["dynamic_map_states", LANE]
FEW = np.zeros((2, 3))
BAD = {
    "field metadata: missing": spoil(["metadata"], None),
    "field tracks: has unexpected type list": spoil(["tracks"], []),
    "field tracks: has an id twice": spoil(["tracks", 3], None),
    "field metadata.ts: is not a list of numbers": spoil(["metadata", "ts"], {}),
    "field timestamps: has too many steps, 4000000, more than 20000": spoil(["metadata", "ts"], np.zeros(4_000_000)),
    "tracks.3.state.heading: missing": spoil([*STATE, "heading"], None),
    r"tracks.3.state.position: has shape \(2, 3\)": spoil([*STATE, "position"], FEW),
    r"tracks.3.state.velocity: has shape \(5, 4\)": spoil([*STATE, "velocity"], np.zeros((5, 4))),
    "tracks.3.state.valid: is not a list of numbers": spoil([*STATE, "valid"], np.array(["yes"] * 5)),
    "tracks.3.type: has unexpected type int": spoil(["tracks", "3", "type"], 1),
    "map_features.10: is not a list of rows of 2 numbers": spoil(["map_features", LANE, "polyline"], [(1, 2), (3,)]),
    "map_features.10: has points that are not rows": spoil(["map_features", LANE, "polyline"], np.zeros((2, 5))),
    "map_features.10: has points that are not": spoil(["map_features", LANE, "polyline"], [1.0, 2.0]),
    "map_features.14.position: is not a list": spoil(["map_features", "14", "position"], None),
    "map_features.10.exit_lanes: is not a list of ids": spoil(["map_features", LANE, "exit_lanes"], [None]),
    "10.speed_limit_mph: has unexpected type": spoil(["map_features", LANE, "speed_limit_mph"], "fast"),
    "10.state.object_state: is not a list of 5": spoil([*LIGHT, "state", "object_state"], ["LANE_STATE_GO"]),
    "10.state.object_state: has unknown states": spoil([*LIGHT, "state", "object_state"], ["GO"] * 5),
    "10.stop_point: missing": spoil([*LIGHT, "stop_point"], None),
    "10.stop_point: is neither a point nor one": spoil([*LIGHT, "stop_point"], FEW),
    "10.lane: has unexpected type": spoil([*LIGHT, "lane"], [10]),
    "objects_of_interest: is not a list of ids": spoil(["metadata", "objects_of_interest"], [3.5]),
    "field current_step: 5 is not a step": spoil(["metadata", "current_time_index"], 5),
}


@pytest.mark.parametrize("message", BAD)
def test_malformed_fields_are_refused(record, message):
    BAD[message](record)
    with pytest.raises(DataError, match=message):
        to_scenario(scene_from_record(record))


def test_many_references_to_one_value_take_no_memory(record):
    """A pickle may refer to one array a million times; the total is checked first."""
    track, lane, light = record["tracks"]["3"], record["map_features"][LANE], record["dynamic_map_states"][LANE]
    many = {
        "tracks": [track] * 900_000,
        "map_features": [lane | {"polyline": np.zeros((100_000, 3))}] * 1000,
        "dynamic_map_states": [light] * 1001,
    }
    steps = {"tracks": 5, "map_features": 5, "dynamic_map_states": 4000}
    for field, items in many.items():
        crowded = record | {"tracks": {}, "metadata": {"ts": np.arange(steps[field])}}
        crowded[field] = {str(i): item for i, item in enumerate(items)}
        with pytest.raises(DataError, match=f"field {field}: .*(too many|more than)"):
            scene_from_record(crowded)


def test_one_list_of_links_in_many_lanes_takes_no_time(record):
    lane = record["map_features"][LANE] | {"exit_lanes": [10] * 100_000}
    with pytest.raises(DataError, match="more than 1000000 links"):
        scene_from_record(record | {"map_features": {str(i): lane for i in range(10_000)}})
