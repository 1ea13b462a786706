"""Waymo Open Motion `Scenario` protos (scenario.proto and map.proto of WOMD 1.0 to 1.3) to `RawScene`."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from waymax_sim.datasets.encoding import protobuf
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.formats.traffic_lights import Lights, by_lane
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


class Kind(NamedTuple):
    """How one kind of map feature is written: its first type code, how many there are, and two field numbers."""

    name: str
    code: int
    codes: int
    type_field: int
    points_field: int


# By field number in MapFeature. Kinds with one code have no type field.
KINDS = {
    3: Kind("lane", LANE_UNDEFINED, 4, 2, 8),
    4: Kind("road_line", ROAD_LINE_UNKNOWN, 9, 1, 2),
    5: Kind("road_edge", ROAD_EDGE_UNKNOWN, 3, 1, 2),
    7: Kind("stop_sign", STOP_SIGN, 1, 0, 2),
    8: Kind("crosswalk", CROSSWALK, 1, 0, 1),
    9: Kind("speed_bump", SPEED_BUMP, 1, 0, 1),
    10: Kind("driveway", DRIVEWAY, 1, 0, 1),
}


class Feature(NamedTuple):
    """One map feature: its id, type code, points still encoded, and its own message."""

    id: int
    type: int
    points: list[bytes]
    body: protobuf.Fields


def scene_from_proto(data: bytes) -> RawScene:
    """Reads a serialized `Scenario`.

    Raises:
      DataError: The data are not a Scenario, or tracks disagree with the number of steps.
    """
    scene = protobuf.decode(data, "Scenario")
    timestamps = protobuf.numbers(scene, 1, "timestamps_seconds", "<f8")
    num_steps = len(timestamps)
    if not num_steps:
        raise DataError("missing", field="timestamps_seconds", remedy=protobuf.REMEDY)
    tracks = [protobuf.decode(track, f"tracks[{i}]") for i, track in enumerate(protobuf.blobs(scene, 2, "tracks"))]
    agent_id = np.array([protobuf.integer(track, 1, "tracks.id") for track in tracks], np.int64)
    states = _states(tracks, num_steps)

    def log(*names: str) -> Float[np.ndarray, "T N C"]:
        return np.stack([states[name] for name in names], axis=-1).astype(np.float64)

    features = [feature for item in protobuf.blobs(scene, 8, "map_features") if (feature := _feature(item))]
    points = _points([point for feature in features for point in feature.points], "map_features.points")
    lights = _lights(protobuf.blobs(scene, 7, "dynamic_map_states"), num_steps)
    return RawScene(
        scenario_id=protobuf.text(scene, 5, "scenario_id"),
        timestamps=timestamps.astype(np.float64),
        current_step=protobuf.integer(scene, 10, "current_time_index"),
        agent_id=agent_id,
        agent_type=np.array([protobuf.integer(track, 2, "tracks.object_type") for track in tracks], np.int64),
        xyz=log("x", "y", "z"),
        yaw=log("heading")[..., 0],
        velocity=log("velocity_x", "velocity_y"),
        size=log("length", "width", "height"),
        valid=states["valid"] == 1,
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
            problem = f"has {len(states)} states where there are {num_steps} timestamps"
            raise DataError(problem, field=f"tracks[{i}].states", remedy=protobuf.REMEDY)
        messages += states
    return protobuf.table(messages, OBJECT_STATE, "states").reshape(len(tracks), num_steps).T


def _points(messages: list[bytes], name: str) -> Float[np.ndarray, "P 3"]:
    rows = protobuf.table(messages, POINT, name)
    return np.stack([rows["x"], rows["y"], rows["z"]], axis=-1)


def _to_predict(scene: protobuf.Fields, num_tracks: int) -> np.ndarray:
    name = "tracks_to_predict.track_index"
    chosen = np.zeros(num_tracks, bool)
    for item in protobuf.blobs(scene, 11, "tracks_to_predict"):
        index = protobuf.integer(protobuf.decode(item, name), 1, name)
        if not 0 <= index < num_tracks:
            raise DataError(f"{index} is not one of {num_tracks} tracks", field=name, remedy=protobuf.REMEDY)
        chosen[index] = True
    return chosen


def _feature(data: bytes) -> Feature | None:
    """Splits a map feature; None for kinds that are not known."""
    item = protobuf.decode(data, "map_features")
    number = next((number for number in KINDS if number in item), None)
    if number is None:
        return None
    kind = KINDS[number]
    body = protobuf.decode(protobuf.blobs(item, number, kind.name)[-1], kind.name)
    which = protobuf.integer(body, kind.type_field, f"{kind.name}.type") if kind.codes > 1 else 0
    if not 0 <= which < kind.codes:
        raise DataError(f"{which} is outside 0..{kind.codes - 1}", field=f"{kind.name}.type", remedy=protobuf.REMEDY)
    points = protobuf.blobs(body, kind.points_field, f"{kind.name} points")
    return Feature(protobuf.integer(item, 1, "map_features.id"), kind.code + which, points, body)


def _is_lane(feature: Feature) -> bool:
    return feature.type in LANE_TYPES


def _speed_limit(feature: Feature) -> float:
    if not _is_lane(feature):
        return 0.0
    miles = protobuf.numbers(feature.body, 1, "lane.speed_limit_mph", "<f8")
    return float(miles[-1]) * MILE_PER_HOUR if len(miles) else 0.0


def _links(features: list[Feature]) -> Int[np.ndarray, "L 3"]:
    """Links between lanes, and from stop signs to lanes, that are in the map, each once."""
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
        raise DataError(f"{len(dynamic_map_states)} for {num_steps} timestamps", field=name, remedy=protobuf.REMEDY)
    step, lane, state, stop_point = [], [], [], []
    for index, item in enumerate(dynamic_map_states):
        for light in protobuf.blobs(protobuf.decode(item, name), 1, "lane_states"):
            fields = protobuf.decode(light, "lane_states")
            step.append(index)
            lane.append(protobuf.integer(fields, 1, "lane_states.lane"))
            state.append(protobuf.integer(fields, 2, "lane_states.state"))
            # An absent stop point is an empty message: the origin.
            stop_point.append(b"".join(protobuf.blobs(fields, 3, "lane_states.stop_point")))
    points = _points(stop_point, "lane_states.stop_point")
    return by_lane(num_steps, np.array(step, np.int64), np.array(lane, np.int64), np.array(state, np.int64), points)
