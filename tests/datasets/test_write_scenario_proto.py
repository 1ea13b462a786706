"""Encoder of Scenario protos: scenes restored by our decoder and by protobuf."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings

from tests.data import recorded
from tests.datasets.encode import message, scenario_of, small_scene
from tests.datasets.random_scenes import random_scene, scene_arguments
from tests.datasets.same import assert_same, in_order
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.formats.scenario_proto import scene_from_proto
from waymax_sim.datasets.formats.write_scenario_proto import encode_scenario_proto
from waymax_sim.datasets.loader import load
from waymax_sim.datasets.scenarios import parse
from waymax_sim.datasets.synthetic import synthetic_scene
from waymax_sim.datatypes.roadmap import CONTROLS

RECORDED = ("scenario_637f20cafde22ff8", "scenario_2a1e44d405a6833f", "scenario_2a173b334be3d32c")


def test_a_scene_comes_back():
    assert_same(parse(encode_scenario_proto(small_scene())), small_scene())


def test_the_slow_encoder_says_the_same():
    assert_same(
        scene_from_proto(encode_scenario_proto(small_scene())), scene_from_proto(message(scenario_of(small_scene())))
    )


@settings(max_examples=40)
@given(scene_arguments(paths=0))
def test_any_scene_comes_back(arguments):
    raw = random_scene(**arguments)
    assert_same(parse(encode_scenario_proto(raw)), raw)


@pytest.mark.parametrize("name", [*RECORDED, "tf_example_a3bb37c25ce56418"])
def test_recorded_scenes_come_back_exactly(name):
    raw = load(recorded(f"womd/{name}.tfrecord")).read(0)
    found = parse(encode_scenario_proto(raw))
    for field in dataclasses.fields(raw):
        if field.name == "missing_fields":  # of the format that was read
            continue
        got, expected = getattr(found, field.name), getattr(raw, field.name)
        if field.name in ("xyz", "yaw", "velocity", "size"):
            got, expected = got[raw.valid], expected[raw.valid]
        np.testing.assert_array_equal(got, expected, err_msg=field.name)


def test_synthetic_scenes_come_back():
    raw = in_order(synthetic_scene(3, 1))
    found = parse(encode_scenario_proto(raw))
    for name in ("timestamps", "point_xyz", "signal_stop_point", "agent_id", "feature_id", "links", "signal_state"):
        np.testing.assert_array_equal(getattr(found, name), getattr(raw, name), err_msg=name)
    np.testing.assert_array_equal(found.xyz[raw.valid], raw.xyz[raw.valid])
    np.testing.assert_allclose(found.speed_limit, raw.speed_limit, rtol=1e-12)
    for name in ("yaw", "velocity", "size"):
        np.testing.assert_array_equal(
            getattr(found, name)[raw.valid], getattr(raw, name)[raw.valid].astype(np.float32), err_msg=name
        )


def test_features_without_points_stay():
    raw = small_scene()
    keep = raw.point_feature != 1
    raw = dataclasses.replace(raw, point_xyz=raw.point_xyz[keep], point_feature=raw.point_feature[keep])
    assert_same(parse(encode_scenario_proto(raw)), raw)


def test_points_need_not_be_in_the_order_of_features():
    raw = small_scene()
    order = np.argsort(-raw.point_feature, kind="stable")
    turned = dataclasses.replace(raw, point_xyz=raw.point_xyz[order], point_feature=raw.point_feature[order])
    assert_same(parse(encode_scenario_proto(turned)), raw)


def test_features_of_unknown_type_are_left_out():
    raw = dataclasses.replace(small_scene(), feature_type=np.array([2, 1, -1, 18, 17]))
    found = parse(encode_scenario_proto(raw))
    assert found.feature_id.tolist() == [10, 2**24 + 11, 13, 14]
    assert_same(
        found,
        dataclasses.replace(
            raw,
            feature_id=raw.feature_id[[0, 1, 3, 4]],
            feature_type=raw.feature_type[[0, 1, 3, 4]],
            speed_limit=raw.speed_limit[[0, 1, 3, 4]],
            point_xyz=raw.point_xyz[raw.point_feature != 2],
            point_feature=np.repeat(np.arange(4), [4, 1, 3, 1]),
            links=np.concatenate([raw.links[:3], [[3, 0, CONTROLS]]]),
        ),
    )


def test_links_between_lanes_of_one_id_are_refused():
    raw = dataclasses.replace(small_scene(), feature_id=np.array([10, 10, 12, 13, 14]))
    with pytest.raises(DataError, match="lanes share an id"):
        encode_scenario_proto(raw)
    unlinked = dataclasses.replace(raw, links=np.zeros((0, 3), int))
    assert parse(encode_scenario_proto(unlinked)).feature_id.tolist() == [10, 10, 12, 13, 14]


def test_impossible_numbers_are_refused():
    raw = random_scene(0, steps=2, agents=2, features=1, lights=0, paths=0)
    with pytest.raises(DataError, match="timestamps"):
        encode_scenario_proto(dataclasses.replace(raw, timestamps=np.array([0.0, np.nan])))


# name: [(field, number, type, repeated)] as in scenario.proto and map.proto, for the fields that are written.
MESSAGES = {
    "MapPoint": [("x", 1, "double", 0), ("y", 2, "double", 0), ("z", 3, "double", 0)],
    "LaneNeighbor": [("feature_id", 1, "int64", 0)],
    "LaneCenter": [
        ("speed_limit_mph", 1, "double", 0),
        ("type", 2, "int32", 0),
        ("polyline", 8, "MapPoint", 1),
        ("entry_lanes", 9, "int64", 1),
        ("exit_lanes", 10, "int64", 1),
        ("left_neighbors", 11, "LaneNeighbor", 1),
        ("right_neighbors", 12, "LaneNeighbor", 1),
    ],
    "Line": [("type", 1, "int32", 0), ("polyline", 2, "MapPoint", 1)],
    "Polygon": [("polygon", 1, "MapPoint", 1)],
    "StopSign": [("lane", 1, "int64", 1), ("position", 2, "MapPoint", 0)],
    "MapFeature": [
        ("id", 1, "int64", 0),
        ("lane", 3, "LaneCenter", 0),
        ("road_line", 4, "Line", 0),
        ("road_edge", 5, "Line", 0),
        ("stop_sign", 7, "StopSign", 0),
        ("crosswalk", 8, "Polygon", 0),
        ("speed_bump", 9, "Polygon", 0),
        ("driveway", 10, "Polygon", 0),
    ],
    "ObjectState": [
        *[(name, 2 + i, "double", 0) for i, name in enumerate(("center_x", "center_y", "center_z"))],
        *[(name, 5 + i, "float", 0) for i, name in enumerate(("length", "width", "height", "heading", "vx", "vy"))],
        ("valid", 11, "bool", 0),
    ],
    "Track": [("id", 1, "int32", 0), ("object_type", 2, "int32", 0), ("states", 3, "ObjectState", 1)],
    "LaneState": [("lane", 1, "int64", 0), ("state", 2, "int32", 0), ("stop_point", 3, "MapPoint", 0)],
    "DynamicMapState": [("lane_states", 1, "LaneState", 1)],
    "RequiredPrediction": [("track_index", 1, "int32", 0)],
    "Scenario": [
        ("timestamps_seconds", 1, "double", 1),
        ("tracks", 2, "Track", 1),
        ("objects_of_interest", 4, "int32", 1),
        ("scenario_id", 5, "string", 0),
        ("sdc_track_index", 6, "int32", 0),
        ("dynamic_map_states", 7, "DynamicMapState", 1),
        ("map_features", 8, "MapFeature", 1),
        ("current_time_index", 10, "int32", 0),
        ("tracks_to_predict", 11, "RequiredPrediction", 1),
    ],
}


def official_scenario(data: bytes):
    """The record decoded by protobuf."""
    descriptor = pytest.importorskip("google.protobuf.descriptor_pb2", reason="protobuf is not installed")
    from google.protobuf import descriptor_pool, message_factory

    file = descriptor.FileDescriptorProto(name="scenario.proto", package="womd", syntax="proto2")
    field_type = descriptor.FieldDescriptorProto
    for name, fields in MESSAGES.items():
        entry = file.message_type.add(name=name)
        for field, number, kind, repeated in fields:
            label = field_type.LABEL_REPEATED if repeated else field_type.LABEL_OPTIONAL
            if kind in MESSAGES:
                entry.field.add(
                    name=field, number=number, label=label, type=field_type.TYPE_MESSAGE, type_name=f".womd.{kind}"
                )
            else:
                scalar = getattr(field_type, f"TYPE_{kind.upper()}")
                entry.field.add(name=field, number=number, label=label, type=scalar)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("womd.Scenario")).FromString(data)


def unknown_fields(item) -> int:
    """Unknown fields of a message and of its submessages."""
    from google.protobuf import unknown_fields

    inside = [value for field, values in item.ListFields() if field.message_type for value in _each(values)]
    return len(unknown_fields.UnknownFieldSet(item)) + sum(map(globals()["unknown_fields"], inside))


def _each(values):
    return values if hasattr(values, "__len__") else [values]


def test_protobuf_reads_a_written_scene():
    raw = small_scene()
    scene = official_scenario(encode_scenario_proto(raw))
    assert not unknown_fields(scene)
    assert list(scene.timestamps_seconds) == raw.timestamps.tolist()
    assert (scene.scenario_id, scene.sdc_track_index, scene.current_time_index) == (raw.scenario_id, 0, 2)
    assert [track.id for track in scene.tracks] == raw.agent_id.tolist()
    states = np.array([[[s.center_x, s.center_y, s.center_z] for s in track.states] for track in scene.tracks])
    np.testing.assert_array_equal(states.swapaxes(0, 1)[raw.valid], raw.xyz[raw.valid])
    assert [[s.valid for s in track.states] for track in scene.tracks] == raw.valid.T.tolist()
    assert [s.heading for s in scene.tracks[1].states][2:] == [7.5] * 3
    assert list(scene.objects_of_interest) == [7, 2**24 + 2]
    assert [item.track_index for item in scene.tracks_to_predict] == [1]
    assert [len(step.lane_states) for step in scene.dynamic_map_states] == [1, 2, 2, 1, 2]
    light = scene.dynamic_map_states[1].lane_states[1]
    assert (light.lane, light.state, light.stop_point.x) == (2**24 + 11, 6, 8004.5)
    features = scene.map_features
    assert [item.id for item in features] == raw.feature_id.tolist()
    lane = features[0].lane
    assert (lane.speed_limit_mph, lane.type, len(lane.polyline)) == (25.0, 2, 4)
    assert not features[1].lane.HasField("speed_limit_mph")
    assert list(lane.exit_lanes) == [2**24 + 11] and not lane.entry_lanes
    assert [n.feature_id for n in lane.left_neighbors] == [2**24 + 11]
    assert list(features[1].lane.entry_lanes) == [10]
    assert [n.feature_id for n in features[1].lane.right_neighbors] == [10]
    assert (features[2].road_edge.type, len(features[2].road_edge.polyline)) == (1, 4)
    assert len(features[3].crosswalk.polygon) == 3 and features[4].stop_sign.position.y == -3002
    assert list(features[4].stop_sign.lane) == [10]
