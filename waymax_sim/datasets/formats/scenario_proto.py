"""Decoder of Waymo Open Motion `Scenario` protos (scenario.proto and map.proto of WOMD 1.0 to 1.3)."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from waymax_sim.datasets.encoding import protobuf
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.formats.traffic_lights import Lights, lights_by_lane
from waymax_sim.datasets.scenario_id import content_id
from waymax_sim.datasets.scene import RawScene
from waymax_sim.datatypes.roadmap import (
    CONTROLS,
    CROSSWALK,
    DRIVEWAY,
    LANE_TYPES,
    LANE_UNDEFINED,
    LEFT_NEIGHBOR,
    RIGHT_NEIGHBOR,
    ROAD_EDGE_UNKNOWN,
    ROAD_LINE_UNKNOWN,
    SPEED_BUMP,
    STOP_SIGN,
    SUCCESSOR,
)

MILE_PER_HOUR = 0.44704  # m/s

POINT = {"x": (1, "<f8"), "y": (2, "<f8"), "z": (3, "<f8")}
OBJECT_STATE = {
    "x": (2, "<f8"),
    "y": (3, "<f8"),
    "z": (4, "<f8"),
    "length": (5, "<f4"),
    "width": (6, "<f4"),
    "height": (7, "<f4"),
    "heading": (8, "<f4"),
    "velocity_x": (9, "<f4"),
    "velocity_y": (10, "<f4"),
    "valid": (11, "u1"),
}


class FeatureKind(NamedTuple):
    """Encoding of one kind of map feature.

    Attributes:
      name: Name in errors.
      code: First type code.
      codes: Number of type codes.
      type_field: Field number of the type; unused for kinds with one code.
      points_field: Field number of the points.
    """

    name: str
    code: int
    codes: int
    type_field: int
    points_field: int


# Field number in MapFeature -> kind.
FEATURE_KINDS = {
    3: FeatureKind("lane", LANE_UNDEFINED, 4, 2, 8),
    4: FeatureKind("road_line", ROAD_LINE_UNKNOWN, 9, 1, 2),
    5: FeatureKind("road_edge", ROAD_EDGE_UNKNOWN, 3, 1, 2),
    7: FeatureKind("stop_sign", STOP_SIGN, 1, 0, 2),
    8: FeatureKind("crosswalk", CROSSWALK, 1, 0, 1),
    9: FeatureKind("speed_bump", SPEED_BUMP, 1, 0, 1),
    10: FeatureKind("driveway", DRIVEWAY, 1, 0, 1),
}


class EncodedFeature(NamedTuple):
    """One map feature.

    Attributes:
      id: Map id.
      type: WOMD tf.Example code (see `datatypes.roadmap`).
      points: Encoded points.
      body: Decoded message of the kind.
    """

    id: int
    type: int
    points: list[bytes]
    body: protobuf.Fields


def scene_from_proto(data: bytes) -> RawScene:
    """Decodes a serialized `Scenario`.

    Raises:
      DataError: The data are not a Scenario, or a track has another number of steps.
    """
    scene = protobuf.decode(data, "Scenario")
    timestamps = protobuf.numbers(scene, 1, "timestamps_seconds", "<f8")
    num_steps = len(timestamps)
    if not num_steps:
        raise DataError("missing", field="timestamps_seconds", remedy=protobuf.MESSAGE_REMEDY)
    tracks = [protobuf.decode(track, f"tracks[{i}]") for i, track in enumerate(protobuf.blobs(scene, 2, "tracks"))]
    agent_id = np.array([protobuf.integer(track, 1, "tracks.id") for track in tracks], np.int64)
    states = _states(tracks, num_steps)

    def log(*names: str) -> Float[np.ndarray, "T N C"]:
        return np.stack([states[name] for name in names], axis=-1).astype(np.float64)

    xyz, valid = log("x", "y", "z"), states["valid"] == 1
    features = [feature for item in protobuf.blobs(scene, 8, "map_features") if (feature := _feature(item))]
    points = _points([point for feature in features for point in feature.points], "map_features.points")
    lights = _lights(protobuf.blobs(scene, 7, "dynamic_map_states"), num_steps)
    return RawScene(
        scenario_id=protobuf.text(scene, 5, "scenario_id") or content_id(xyz, valid),
        timestamps=timestamps.astype(np.float64),
        current_step=protobuf.integer(scene, 10, "current_time_index"),
        agent_id=agent_id,
        agent_type=np.array([protobuf.integer(track, 2, "tracks.object_type") for track in tracks], np.int64),
        xyz=xyz,
        yaw=log("heading")[..., 0],
        velocity=log("velocity_x", "velocity_y"),
        size=log("length", "width", "height"),
        valid=valid,
        sdc_index=protobuf.integer(scene, 6, "sdc_track_index", default=-1),
        to_predict=_to_predict(scene, len(tracks)),
        of_interest=np.isin(agent_id, protobuf.integers(scene, 4, "objects_of_interest")),
        point_xyz=points,
        point_feature=np.repeat(np.arange(len(features)), [len(feature.points) for feature in features]),
        feature_id=np.array([feature.id for feature in features], np.int64),
        feature_type=np.array([feature.type for feature in features], np.int64),
        speed_limit=np.array([_speed_limit(feature) for feature in features], np.float64),
        links=_links(features),
        signal_lane_id=lights.lane_id,
        signal_state=lights.state,
        signal_stop_point=lights.stop_point,
        signal_valid=lights.valid,
    )


def _states(tracks: list[protobuf.Fields], num_steps: int) -> np.ndarray:
    """All states of all tracks, [T, N]."""
    messages = []
    for i, track in enumerate(tracks):
        states = protobuf.blobs(track, 3, f"tracks[{i}].states")
        if len(states) != num_steps:
            problem = f"has {len(states)} states for {num_steps} timestamps"
            raise DataError(problem, field=f"tracks[{i}].states", remedy=protobuf.MESSAGE_REMEDY)
        messages += states
    return protobuf.table(messages, OBJECT_STATE, "states").reshape(len(tracks), num_steps).T


def _points(messages: list[bytes], name: str) -> Float[np.ndarray, "P 3"]:
    rows = protobuf.table(messages, POINT, name)
    return np.stack([rows["x"], rows["y"], rows["z"]], axis=-1)


def _to_predict(scene: protobuf.Fields, num_tracks: int) -> np.ndarray:
    name = "tracks_to_predict.track_index"
    to_predict = np.zeros(num_tracks, bool)
    for item in protobuf.blobs(scene, 11, "tracks_to_predict"):
        index = protobuf.integer(protobuf.decode(item, name), 1, name)
        if not 0 <= index < num_tracks:
            raise DataError(f"{index} is not one of {num_tracks} tracks", field=name, remedy=protobuf.MESSAGE_REMEDY)
        to_predict[index] = True
    return to_predict


def _feature(data: bytes) -> EncodedFeature | None:
    """Decodes a map feature; None for unknown kinds."""
    item = protobuf.decode(data, "map_features")
    number = next((number for number in FEATURE_KINDS if number in item), None)
    if number is None:
        return None
    kind = FEATURE_KINDS[number]
    body = protobuf.decode(protobuf.blobs(item, number, kind.name)[-1], kind.name)
    type_offset = protobuf.integer(body, kind.type_field, f"{kind.name}.type") if kind.codes > 1 else 0
    if not 0 <= type_offset < kind.codes:
        raise DataError(
            f"{type_offset} is outside 0..{kind.codes - 1}", field=f"{kind.name}.type", remedy=protobuf.MESSAGE_REMEDY
        )
    points = protobuf.blobs(body, kind.points_field, f"{kind.name} points")
    return EncodedFeature(protobuf.integer(item, 1, "map_features.id"), kind.code + type_offset, points, body)


def _is_lane(feature: EncodedFeature) -> bool:
    return feature.type in LANE_TYPES


def _speed_limit(feature: EncodedFeature) -> float:
    if not _is_lane(feature):
        return 0.0
    miles = protobuf.numbers(feature.body, 1, "lane.speed_limit_mph", "<f8")
    return float(miles[-1]) * MILE_PER_HOUR if len(miles) else 0.0


def _links(features: list[EncodedFeature]) -> Int[np.ndarray, "L 3"]:
    """Distinct links between lanes, and from stop signs to lanes, of the map."""
    lanes = {feature.id: row for row, feature in enumerate(features) if _is_lane(feature)}
    links = set()
    for row, feature in enumerate(features):
        if feature.type == STOP_SIGN:
            controlled = protobuf.integers(feature.body, 1, "stop_sign.lane").tolist()
            links |= {(row, lanes[lane], CONTROLS) for lane in controlled if lane in lanes}
        if not _is_lane(feature):
            continue
        entries = protobuf.integers(feature.body, 9, "lane.entry_lanes").tolist()
        exits = protobuf.integers(feature.body, 10, "lane.exit_lanes").tolist()
        links |= {(lanes[lane], row, SUCCESSOR) for lane in entries if lane in lanes}
        links |= {(row, lanes[lane], SUCCESSOR) for lane in exits if lane in lanes}
        for number, kind in ((11, LEFT_NEIGHBOR), (12, RIGHT_NEIGHBOR)):
            for neighbor in protobuf.blobs(feature.body, number, "lane.neighbors"):
                lane = protobuf.integer(
                    protobuf.decode(neighbor, "lane.neighbors"), 1, "lane.neighbors.feature_id", default=-1
                )
                if lane in lanes:
                    links.add((row, lanes[lane], kind))
    return np.array(sorted(links), np.int64).reshape(-1, 3)


def _lights(dynamic_map_states: list[bytes], num_steps: int) -> Lights:
    name = "dynamic_map_states"
    if len(dynamic_map_states) > num_steps:
        raise DataError(
            f"has {len(dynamic_map_states)} states for {num_steps} timestamps",
            field=name,
            remedy=protobuf.MESSAGE_REMEDY,
        )
    step, lane, state, stop_point = [], [], [], []
    for index, item in enumerate(dynamic_map_states):
        for light in protobuf.blobs(protobuf.decode(item, name), 1, "lane_states"):
            fields = protobuf.decode(light, "lane_states")
            step.append(index)
            lane.append(protobuf.integer(fields, 1, "lane_states.lane"))
            state.append(protobuf.integer(fields, 2, "lane_states.state"))
            # An absent stop point is decoded as an empty message: the origin.
            stop_point.append(b"".join(protobuf.blobs(fields, 3, "lane_states.stop_point")))
    points = _points(stop_point, "lane_states.stop_point")
    return lights_by_lane(
        num_steps, np.array(step, np.int64), np.array(lane, np.int64), np.array(state, np.int64), points
    )
