"""Encoder of Waymo Open Motion `Scenario` protos; see `scenario_proto` for the decoder."""

import numpy as np
from jaxtyping import Float, Int

from waymax_sim.datasets.encoding.protobuf_writer import blob, double, integer, pack_varints, table
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.formats.scenario_proto import FEATURE_KINDS, MILE_PER_HOUR, OBJECT_STATE, POINT
from waymax_sim.datasets.scene import RawScene, check_scene
from waymax_sim.datatypes.roadmap import CONTROLS, LANE_TYPES, LEFT_NEIGHBOR, RIGHT_NEIGHBOR, SUCCESSOR

# Type code of a feature -> its field number in MapFeature.
FEATURE_FIELD = {kind.code + offset: number for number, kind in FEATURE_KINDS.items() for offset in range(kind.codes)}
LANE_FIELD = next(number for number, kind in FEATURE_KINDS.items() if kind.name == "lane")
NEIGHBOR_FIELD = {LEFT_NEIGHBOR: 11, RIGHT_NEIGHBOR: 12}


def encode_scenario_proto(raw: RawScene) -> bytes:
    """Encodes a scene as a serialized Scenario proto.

    Times and positions are exact in float64. Headings, velocities and sizes are rounded to float32, and invalid states
    are zero. Routes, lights that are never observed and features of unknown type are not supported by the format
    (see `unsupported_content`). Lane boundaries, ranges of lane neighbors and prediction difficulties are absent,
    because `RawScene` does not have them.

    Raises:
      DataError: The scene is invalid, or lanes with links share an id.
    """
    check_scene(raw)
    parts = [blob(1, raw.timestamps.astype("<f8").tobytes()), *_tracks(raw)]
    parts += [
        blob(4, pack_varints(raw.agent_id[raw.of_interest])),
        blob(5, raw.scenario_id.encode("utf-8", errors="replace")),
    ]
    parts += [integer(6, raw.sdc_index)] if raw.sdc_index >= 0 else []
    parts += [*_lights(raw), *_map_features(raw), integer(10, raw.current_step)]
    parts += [blob(11, integer(1, int(row))) for row in np.flatnonzero(raw.to_predict)]
    return b"".join(parts)


def _points(number: Int[np.ndarray, " P"] | int, xyz: Float[np.ndarray, "P 3"]) -> np.ndarray:
    """MapPoints as rows of bytes, each with the tag of the field that holds it."""
    return table(number, POINT, dict(zip(POINT, xyz.T, strict=True)))


def _tracks(raw: RawScene) -> list[bytes]:
    values = np.concatenate([raw.xyz, raw.size, raw.yaw[..., None], raw.velocity], axis=-1)
    values = np.where(raw.valid[..., None], values, 0.0).transpose(1, 0, 2)
    columns = [*values.reshape(-1, values.shape[-1]).T, raw.valid.T.reshape(-1)]
    states = table(3, OBJECT_STATE, dict(zip(OBJECT_STATE, columns, strict=True)))
    headers = [
        integer(1, int(agent_id)) + integer(2, int(agent_type))
        for agent_id, agent_type in zip(raw.agent_id, raw.agent_type, strict=True)
    ]
    states = states.reshape(len(headers), len(raw.timestamps))
    return [blob(2, header + track.tobytes()) for header, track in zip(headers, states, strict=True)]


def _lights(raw: RawScene) -> list[bytes]:
    """One DynamicMapState per step, with the observed lights."""
    steps: list[list[bytes]] = [[] for _ in raw.timestamps]
    observed = np.argwhere(raw.signal_valid)
    points = _points(3, raw.signal_stop_point[raw.signal_valid])
    for (step, column), point in zip(observed.tolist(), points, strict=True):
        lane, state = int(raw.signal_lane_id[column]), int(raw.signal_state[step, column])
        steps[step].append(blob(1, integer(1, lane) + integer(2, state) + point.tobytes()))
    return [blob(7, b"".join(lights)) for lights in steps]


def _map_features(raw: RawScene) -> list[bytes]:
    ids, types = raw.feature_id.tolist(), raw.feature_type.tolist()
    points_field = [FEATURE_KINDS[FEATURE_FIELD[code]].points_field if code in FEATURE_FIELD else 0 for code in types]
    order = np.argsort(raw.point_feature, kind="stable")
    feature = raw.point_feature[order]
    points = _points(np.array(points_field, np.int64)[feature], raw.point_xyz[order])
    ends = np.searchsorted(feature, np.arange(len(ids) + 1))
    links = _links(raw)
    messages = []
    for row, code in enumerate(types):
        if code not in FEATURE_FIELD:
            continue
        number = FEATURE_FIELD[code]
        kind = FEATURE_KINDS[number]
        body = integer(kind.type_field, code - kind.code) if kind.codes > 1 else b""
        body += points[ends[row] : ends[row + 1]].tobytes()
        if number == LANE_FIELD:
            body += _speed_limit(float(raw.speed_limit[row]))
        body += links[row]
        messages.append(blob(8, integer(1, ids[row]) + blob(number, body)))
    return messages


def _speed_limit(limit: float) -> bytes:
    # Rounded, so that integer miles per hour remain integers.
    return double(1, round(limit / MILE_PER_HOUR, 12)) if limit else b""


def _links(raw: RawScene) -> list[bytes]:
    """The link fields of each feature."""
    lanes = raw.feature_id[np.isin(raw.feature_type, LANE_TYPES)]
    if len(raw.links) and len(np.unique(lanes)) < len(lanes):
        raise DataError("lanes share an id, so links are ambiguous", field="feature_id", remedy="give lanes unique ids")
    entries: list[list[int]] = [[] for _ in raw.feature_id]
    exits: list[list[int]] = [[] for _ in raw.feature_id]
    others = [b"" for _ in raw.feature_id]
    for start, end, kind in raw.links.tolist():
        if kind == SUCCESSOR:
            exits[start].append(raw.feature_id[end])
            entries[end].append(raw.feature_id[start])
        elif kind == CONTROLS:
            others[start] += integer(1, int(raw.feature_id[end]))
        else:
            others[start] += blob(NEIGHBOR_FIELD[kind], integer(1, int(raw.feature_id[end])))
    return [
        (blob(9, pack_varints(np.array(before))) if before else b"")
        + (blob(10, pack_varints(np.array(after))) if after else b"")
        + other
        for before, after, other in zip(entries, exits, others, strict=True)
    ]
