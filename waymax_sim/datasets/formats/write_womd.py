"""Encoder of Waymo Open Motion tf.Examples; see `womd` for the decoder."""

import numpy as np
from jaxtyping import Bool, Int, Num

from waymax_sim.datasets.encoding.protobuf_writer import blob, pack_varints
from waymax_sim.datasets.encoding.tf_example import BYTES_LIST, FLOAT_LIST, INT64_LIST, Example
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.scene import RawScene, check_scene, local_origin

NUM_AGENT_SLOTS = 128
NUM_LIGHT_SLOTS = 16  # per step
NUM_POINT_SLOTS = 20_000  # map samples up to WOMD 1.1; later releases have 30,000
EMPTY_SLOT = -1  # value of unused slots


def encode_tf_example(raw: RawScene, num_points: int = NUM_POINT_SLOTS) -> bytes:
    """Encodes a scene as a serialized WOMD tf.Example.

    Limits of the format (`unsupported_content` lists the content of a scene that is dropped):

    - Numbers are float32 in world coordinates, with a resolution of 0.5 mm at 8 km from the world origin. Times are
      integer microseconds, shifted to start at 0 if they are negative; at steps without a valid agent they are absent.
    - Links between lanes, speed limits, features without points, lights that are never observed and route ids are
      not supported.
    - Of more than 128 agents, the sdc is selected first, then tracks to predict and objects of interest, then currently
      valid agents, then those that come nearest to the current position of the sdc.
    - Of more than `num_points` map points, complete features are selected by distance from the sdc, until the next one
      exceeds the number of slots.
    - Of more than 16 lights at one step, those with the nearest stop points are selected.

    Args:
      raw: A scene of any number of steps; those before its current step are the past.
      num_points: Slots for map samples: 20,000 as in WOMD 1.0 and 1.1, or 30,000 as in later releases.

    Raises:
      DataError: The scene is invalid, an agent id is not exact in float32, or two consecutive features have the same id
        and type, so that readers would join them.
    """
    return serialize_example(tf_example_features(raw, num_points))


def serialize_example(example: Example) -> bytes:
    """Serializes a `tf.train.Example`: arrays of float32 and of integers, and lists of bytes."""
    entries = []
    for key, values in example.items():
        if isinstance(values, list):
            feature = blob(BYTES_LIST, b"".join(blob(1, value) for value in values))
        elif np.issubdtype(values.dtype, np.floating):
            feature = blob(FLOAT_LIST, blob(1, values.astype("<f4").tobytes()))
        else:
            feature = blob(INT64_LIST, blob(1, pack_varints(values.reshape(-1))))
        entries.append(blob(1, blob(1, key.encode()) + blob(2, feature)))
    return blob(1, b"".join(entries))


def tf_example_features(raw: RawScene, num_points: int = NUM_POINT_SLOTS) -> Example:
    """The features of a WOMD tf.Example by name: arrays [slots, steps], [steps, lights] or [points].

    Raises:
      DataError: See `encode_tf_example`.
    """
    check_scene(raw)
    agents = select_agents(raw)
    ids = raw.agent_id[agents]
    if (ids.astype(np.float32) != ids).any():
        remedy = "write a Scenario proto, or give agents smaller ids"
        raise DataError("has ids that are not exact in float32", field="agent_id", remedy=remedy)
    # Times of the format are not negative.
    micros = np.round((raw.timestamps - min(raw.timestamps[0], 0.0)) * 1e6).astype(np.int64)
    now = raw.current_step
    periods = {"past": slice(0, now), "current": slice(now, now + 1), "future": slice(now + 1, None)}
    logs, lights = _logs(raw, agents, micros), _lights(raw, micros)
    return {
        "scenario/id": [raw.scenario_id.encode("utf-8", errors="replace")],
        "state/id": _slots(ids, np.float32),
        "state/type": _slots(raw.agent_type[agents], np.float32),
        "state/is_sdc": _slots(agents == raw.sdc_index),
        "state/tracks_to_predict": _slots(raw.to_predict[agents]),
        "state/objects_of_interest": _slots(raw.of_interest[agents]),
        "state/difficulty_level": _slots(np.zeros(len(agents))),
        **{f"state/{p}/{name}": values[:, steps] for p, steps in periods.items() for name, values in logs.items()},
        **{
            f"traffic_light_state/{p}/{name}": values[steps]
            for p, steps in periods.items()
            for name, values in lights.items()
        },
        **_map(raw, num_points),
        **_routes(raw),
    }


def select_agents(raw: RawScene) -> Int[np.ndarray, " K"]:
    """Indices of the agents that are written to a tf.Example (see `encode_tf_example`), in ascending order."""
    agents = np.arange(len(raw.agent_id))
    distance = np.linalg.norm(np.where(raw.valid[..., None], raw.xyz, np.inf) - local_origin(raw), axis=-1)
    is_marked = raw.to_predict | raw.of_interest
    # The last key of `lexsort` is the primary one.
    order = np.lexsort(
        (distance.min(axis=0, initial=np.inf), ~raw.valid[raw.current_step], ~is_marked, agents != raw.sdc_index)
    )
    return np.sort(order[:NUM_AGENT_SLOTS])


def select_points(raw: RawScene, num_points: int = NUM_POINT_SLOTS) -> Bool[np.ndarray, " P"]:
    """Mask of the map points that are written to a tf.Example (see `encode_tf_example`)."""
    rows, inverse, count = np.unique(raw.point_feature, return_inverse=True, return_counts=True)
    nearest = np.full(len(rows), np.inf)
    np.minimum.at(nearest, inverse, np.linalg.norm(raw.point_xyz - local_origin(raw), axis=-1))
    order = np.argsort(nearest, kind="stable")
    feature_mask = np.zeros(len(rows), bool)
    feature_mask[order] = np.cumsum(count[order]) <= num_points
    return feature_mask[inverse]


def select_lights(raw: RawScene) -> Bool[np.ndarray, "T S"]:
    """Mask of the light observations that are written to a tf.Example (see `encode_tf_example`)."""
    stop_point = np.where(raw.signal_valid[..., None], raw.signal_stop_point, np.inf)
    order = np.argsort(np.linalg.norm(stop_point - local_origin(raw), axis=-1), axis=1, kind="stable")
    rank = np.argsort(order, axis=1)
    return raw.signal_valid & (rank < NUM_LIGHT_SLOTS)


def _slots(
    values: Num[np.ndarray, "K *rest"] | Bool[np.ndarray, "K *rest"],
    dtype: type[np.float32 | np.int64] = np.int64,
    count: int = NUM_AGENT_SLOTS,
) -> Num[np.ndarray, "slots *rest"]:
    """Values in a fixed number of slots, padded with `EMPTY_SLOT`."""
    out = np.full((count, *values.shape[1:]), EMPTY_SLOT, dtype)
    out[: len(values)] = values
    return out


def _logs(raw: RawScene, agents: Int[np.ndarray, " K"], micros: Int[np.ndarray, " T"]) -> dict[str, np.ndarray]:
    """Agent states, [slots, T], by name."""
    valid = raw.valid[:, agents]
    velocity = np.where(valid[..., None], raw.velocity[:, agents], 0.0).astype(np.float32)
    columns = dict(zip("xyz", np.moveaxis(raw.xyz[:, agents], -1, 0), strict=True))
    columns |= {"bbox_yaw": raw.yaw[:, agents], "velocity_x": velocity[..., 0], "velocity_y": velocity[..., 1]}
    columns |= dict(zip(("length", "width", "height"), np.moveaxis(raw.size[:, agents], -1, 0), strict=True))
    columns |= {"speed": np.hypot(velocity[..., 0], velocity[..., 1])}
    columns |= {"vel_yaw": np.arctan2(velocity[..., 1], velocity[..., 0])}
    features = {name: _slots(np.where(valid, values, EMPTY_SLOT).T, np.float32) for name, values in columns.items()}
    features["timestamp_micros"] = _slots(np.where(valid, micros[:, None], EMPTY_SLOT).T)
    features["valid"] = np.maximum(_slots(valid.T), 0)
    return features


def _lights(raw: RawScene, micros: Int[np.ndarray, " T"]) -> dict[str, np.ndarray]:
    """Light states, [T, slots], by name; the observed lights of a step have the first slots."""
    step, column = np.nonzero(select_lights(raw))
    slot = np.arange(len(step)) - np.searchsorted(step, step)
    stop = np.moveaxis(raw.signal_stop_point[step, column], -1, 0)
    observed = {"id": raw.signal_lane_id[column], "state": raw.signal_state[step, column], "valid": np.ones_like(step)}
    features = {"timestamp_micros": micros}
    for name, values in (observed | dict(zip("xyz", stop, strict=True))).items():
        dtype = np.float32 if name in ("x", "y", "z") else np.int64
        features[name] = np.full((len(micros), NUM_LIGHT_SLOTS), 0 if name == "valid" else EMPTY_SLOT, dtype)
        features[name][step, slot] = values
    return features


def _map(raw: RawScene, num_points: int) -> dict[str, np.ndarray]:
    """Map samples with directions towards the next sample of the feature, zero at the last one."""
    point_mask = select_points(raw, num_points)
    xyz, feature = raw.point_xyz[point_mask], raw.point_feature[point_mask]
    continues = feature[1:] == feature[:-1]
    sample_id, sample_type = raw.feature_id[feature], raw.feature_type[feature]
    same_id = (sample_id[1:] == sample_id[:-1]) & (sample_type[1:] == sample_type[:-1])
    if (same_id & ~continues).any():
        remedy = "give features unique ids"
        raise DataError("consecutive features have the same id and type", field="feature_id", remedy=remedy)
    step = np.zeros_like(xyz)
    step[:-1][continues] = np.diff(xyz, axis=0)[continues]
    length = np.linalg.norm(step, axis=-1, keepdims=True)
    samples = {
        "xyz": _slots(xyz, np.float32, num_points),
        "dir": _slots(step / np.where(length > 0, length, 1.0), np.float32, num_points),
        "type": _slots(sample_type, np.int64, num_points),
        "id": _slots(sample_id, np.int64, num_points),
        "valid": np.maximum(_slots(np.ones(len(xyz)), np.int64, num_points), 0),
    }
    return {f"roadgraph_samples/{name}": values for name, values in samples.items()}


def _routes(raw: RawScene) -> dict[str, np.ndarray]:
    routes = raw.routes
    if routes is None or not len(routes.on_route):
        return {}
    samples = {
        "xyz": np.where(routes.valid[..., None], routes.xyz, EMPTY_SLOT).astype(np.float32),
        "arc_length": np.where(routes.valid, routes.arc_length, EMPTY_SLOT).astype(np.float32),
        "valid": routes.valid.astype(np.int64),
        "id": np.full(routes.valid.shape, EMPTY_SLOT),
        "on_route": routes.on_route[:, None].astype(np.int64),
    }
    return {f"path_samples/{name}": values for name, values in samples.items()}
