"""Encoders of small records that are independent of the package, so that tests can damage them without data files."""

import struct

import numpy as np

from waymax_sim.datasets.scene import RawScene
from waymax_sim.datatypes.roadmap import CONTROLS, LEFT_NEIGHBOR, RIGHT_NEIGHBOR, SUCCESSOR

PAST = 2


def small_scene() -> RawScene:
    """Three agents, five steps, five features and two lights, with content that readers are known to mishandle.

    Every number is exact in float32. Agent 7 has headings beyond pi, a size that changes, and a late birth before
    which its states hold nonsense; there is a lane of one point, a closed road edge and ids beyond 2**24.
    """
    steps, agents = 5, 3
    clock = np.arange(steps, dtype=float)
    valid = np.ones((steps, agents), bool)
    valid[:2, 1] = False
    valid[3:, 2] = False
    xyz = np.zeros((steps, agents, 3))
    xyz[..., 0] = 8000.5 + clock[:, None] + 10 * np.arange(agents)
    xyz[..., 1] = -3000.25 - 5 * np.arange(agents)
    xyz[..., 2] = 12.5
    xyz[:2, 1] = 123456.0
    yaw = np.tile([[0.5, 7.5, -9.25]], (steps, 1))
    velocity = np.tile([[[10.0, 0.0], [8.0, -0.5], [1.5, 0.25]]], (steps, 1, 1))
    size = np.tile([[[4.5, 2.0, 1.5], [4.0, 1.75, 1.5], [0.5, 0.5, 1.75]]], (steps, 1, 1))
    size[:, 1, 0] = 4 + 0.25 * clock
    line = [(8000.0 + i, -3000.0, 12.0) for i in range(4)]
    loop = [(8000.0, -2990.0, 12.0), (8010.0, -2990.0, 12.0), (8010.0, -2980.0, 12.0), (8000.0, -2990.0, 12.0)]
    points = [line, [(8004.0, -3000.0, 12.0)], loop, loop[:3], [(8003.0, -3002.0, 12.0)]]
    lit = np.array([[True, False], [True, True], [True, True], [False, True], [True, True]])
    return RawScene(
        scenario_id="0123456789abcdef",
        timestamps=clock / 8,
        current_step=PAST,
        agent_id=np.array([3, 7, 2**24 + 2]),
        agent_type=np.array([1, 1, 2]),
        xyz=xyz,
        yaw=yaw,
        velocity=velocity,
        size=size,
        valid=valid,
        sdc_index=0,
        to_predict=np.array([False, True, False]),
        of_interest=np.array([False, True, True]),
        point_xyz=np.concatenate(points),
        point_feature=np.repeat(np.arange(5), [len(p) for p in points]),
        feature_id=np.array([10, 2**24 + 11, 12, 13, 14]),
        feature_type=np.array([2, 1, 15, 18, 17]),
        speed_limit=np.array([25 * 0.44704, 0, 0, 0, 0]),
        links=np.array([[0, 1, SUCCESSOR], [0, 1, LEFT_NEIGHBOR], [1, 0, RIGHT_NEIGHBOR], [4, 0, CONTROLS]]),
        signal_lane_id=np.array([10, 2**24 + 11]),
        signal_state=np.where(lit, [[4, 6]], 0),
        signal_stop_point=np.where(lit[..., None], [[[8002.5, -3000.0, 12.0], [8004.5, -3000.0, 12.0]]], 0.0),
        signal_valid=lit,
    )


def varint(value: int) -> bytes:
    """A number in 7-bit groups; negative ones as 64-bit two's complement."""
    value, out = int(value) % (1 << 64), bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def message(fields: dict) -> bytes:
    """A message from field number -> value, or list of values for repeated fields.

    Integers become varints, float doubles, np.float32 floats, text, bytes and nested dicts length-delimited.
    """
    parts = []
    for number, values in fields.items():
        for value in values if isinstance(values, list) else [values]:
            if isinstance(value, np.float32):
                parts += [varint(number << 3 | 5), struct.pack("<f", value)]
            elif isinstance(value, float):
                parts += [varint(number << 3 | 1), struct.pack("<d", value)]
            elif isinstance(value, (bool, int, np.integer, np.bool_)):
                parts += [varint(number << 3), varint(value)]
            else:
                data = (
                    message(value) if isinstance(value, dict) else value.encode() if isinstance(value, str) else value
                )
                parts += [varint(number << 3 | 2), varint(len(data)), data]
    return b"".join(parts)


def packed(values) -> bytes:
    """Packed integers."""
    return b"".join(varint(value) for value in np.asarray(values).ravel())


def example(features: dict) -> bytes:
    """A tf.Example from name -> array of floats or integers, or list of bytes."""
    entries = []
    for name, values in features.items():
        if isinstance(values, list):
            feature = {1: {1: values}}
        elif np.issubdtype(values.dtype, np.floating):
            feature = {2: {1: values.astype("<f4").tobytes()}}
        else:
            feature = {3: {1: packed(values)}}
        entries.append({1: name, 2: feature})
    return message({1: {1: entries}})


def features_of(scene: RawScene, slots: int = 4, samples: int = 20, lights: int = 3) -> dict:
    """The features of a WOMD tf.Example of a scene, padded with -1 to fixed numbers of slots."""

    def padded(values, size, axis, dtype):
        out = np.full([size if a == axis else n for a, n in enumerate(values.shape)], -1, dtype)
        out[tuple(slice(n) for n in values.shape)] = values
        return out

    def agent(values, dtype=np.int64):
        return padded(np.asarray(values), slots, 0, dtype)

    is_sdc = np.arange(len(scene.agent_id)) == scene.sdc_index
    found = {
        "scenario/id": [scene.scenario_id.encode()],
        "state/id": agent(scene.agent_id, np.float32),
        "state/type": agent(scene.agent_type, np.float32),
        "state/is_sdc": agent(is_sdc),
        "state/tracks_to_predict": agent(scene.to_predict),
        "state/objects_of_interest": agent(scene.of_interest),
    }
    columns = {
        "x": scene.xyz[..., 0],
        "y": scene.xyz[..., 1],
        "z": scene.xyz[..., 2],
        "bbox_yaw": scene.yaw,
        "velocity_x": scene.velocity[..., 0],
        "velocity_y": scene.velocity[..., 1],
        "length": scene.size[..., 0],
        "width": scene.size[..., 1],
        "height": scene.size[..., 2],
    }
    micros = np.round(scene.timestamps * 1e6).astype(np.int64)[:, None]
    now = scene.current_step
    # The observed lights of a step have the first slots, as in the format.
    order = np.argsort(~scene.signal_valid, axis=1, kind="stable")
    seen = np.take_along_axis(scene.signal_valid, order, axis=1)
    signals = {"id": np.broadcast_to(scene.signal_lane_id, seen.shape), "state": scene.signal_state, "valid": seen}
    for axis, letter in enumerate("xyz"):
        signals[letter] = scene.signal_stop_point[..., axis]
    for period, rows in (("past", slice(0, now)), ("current", slice(now, now + 1)), ("future", slice(now + 1, None))):
        for name, values in columns.items():
            found[f"state/{period}/{name}"] = agent(values[rows].T, np.float32)
        found[f"state/{period}/valid"] = agent(scene.valid[rows].T).clip(0)
        found[f"state/{period}/timestamp_micros"] = agent(np.where(scene.valid, micros, -1)[rows].T)
        for name, values in signals.items():
            moved = values if name == "valid" else np.where(seen, np.take_along_axis(values, order, axis=1), -1)
            dtype = np.float32 if name in "xyz" else np.int64
            found[f"traffic_light_state/{period}/{name}"] = padded(moved[rows], lights, 1, dtype)
    found["roadgraph_samples/xyz"] = padded(scene.point_xyz, samples, 0, np.float32)
    for name, values in (("type", scene.feature_type), ("id", scene.feature_id)):
        found[f"roadgraph_samples/{name}"] = padded(values[scene.point_feature], samples, 0, np.int64)
    found["roadgraph_samples/valid"] = padded(np.ones(len(scene.point_xyz), np.int64), samples, 0, np.int64).clip(0)
    return found


def point(xyz) -> dict:
    """A MapPoint."""
    return dict(zip((1, 2, 3), map(float, xyz), strict=True))


def scenario_of(scene: RawScene) -> dict:
    """The fields of a Scenario proto of a scene, by field number."""
    tracks = []
    for i, agent in enumerate(scene.agent_id):
        states = []
        for t in range(len(scene.timestamps)):
            floats = [*scene.size[t, i], scene.yaw[t, i], *scene.velocity[t, i]]
            state = dict(zip((2, 3, 4), map(float, scene.xyz[t, i]), strict=True))
            state |= dict(zip((5, 6, 7, 8, 9, 10), map(np.float32, floats), strict=True))
            states.append(state | {11: scene.valid[t, i]})
        tracks.append({1: agent, 2: scene.agent_type[i], 3: states})
    lights = [
        {
            1: [
                {1: scene.signal_lane_id[s], 2: scene.signal_state[t, s], 3: point(scene.signal_stop_point[t, s])}
                for s in np.flatnonzero(scene.signal_valid[t])
            ]
        }
        for t in range(len(scene.timestamps))
    ]
    return {
        1: [float(t) for t in scene.timestamps],
        2: tracks,
        4: list(scene.agent_id[scene.of_interest]),
        5: scene.scenario_id,
        6: scene.sdc_index,
        7: lights,
        8: [map_feature(scene, row) for row in range(len(scene.feature_id))],
        10: scene.current_step,
        11: [{1: index, 2: 1} for index in np.flatnonzero(scene.to_predict)],
    }


def map_feature(scene: RawScene, row: int) -> dict:
    """A MapFeature; a successor is listed on both sides, as the format does."""
    points = [point(xyz) for xyz in scene.point_xyz[scene.point_feature == row]]
    code = int(scene.feature_type[row])

    def linked(kind, own, other):
        return [int(scene.feature_id[link[other]]) for link in scene.links if link[2] == kind and link[own] == row]

    if code <= 3:
        body = {
            1: float(scene.speed_limit[row] / 0.44704),
            2: code,
            8: points,
            9: packed(linked(SUCCESSOR, 1, 0)),
            10: packed(linked(SUCCESSOR, 0, 1)),
            11: [{1: lane} for lane in linked(LEFT_NEIGHBOR, 0, 1)],
            12: [{1: lane} for lane in linked(RIGHT_NEIGHBOR, 0, 1)],
        }
        number = 3
    elif code <= 13:
        number, body = 4, {1: code - 5, 2: points}
    elif code <= 16:
        number, body = 5, {1: code - 14, 2: points}
    elif code == 17:
        number, body = 7, {1: linked(CONTROLS, 0, 1), 2: points}
    else:
        number, body = {18: 8, 19: 9, 20: 10}[code], {1: points}
    return {1: scene.feature_id[row], number: body}
