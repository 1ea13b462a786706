"""`RawScene` to Waymo Open Motion tf.Examples: the counterpart of `womd`."""

import numpy as np
from jaxtyping import Bool, Int, Num

from waymax_sim.datasets.encoding.protobuf_writer import blob, pack_varints
from waymax_sim.datasets.encoding.tf_example import BYTES_LIST, FLOAT_LIST, INT64_LIST, Example
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.scene import RawScene, check, origin_of

# Slots of the format. Map samples: 20,000 up to WOMD 1.1, 30,000 later.
NUM_AGENTS, NUM_LIGHTS, NUM_POINTS = 128, 16, 20_000
NOTHING = -1


def example_of(raw: RawScene, num_points: int = NUM_POINTS) -> bytes:
    """Writes a scene as a serialized WOMD tf.Example.

    What the format cannot hold (`lost` lists it for one scene):

    - Numbers are float32 in world coordinates: 8 km from the world origin they are steps of half a millimetre.
      Times are whole microseconds, from 0 where the source has negative ones; where nobody is valid they are not read.
    - Links between lanes, speed limits, features without points, lights that are never seen, ids of routes.
    - Agents beyond 128. Kept are the sdc, then tracks to predict and objects of interest, then who is valid now,
      then who ever comes nearest to the place of the sdc now.
    - Map points beyond `num_points`. Features are kept whole, those nearest to the place of the sdc now first, until
      the next one does not fit.
    - Lights beyond 16 at one step. Those with the nearest stop points are kept.

    Args:
      raw: A scene of any number of steps; those before its current step are the past.
      num_points: Slots for map samples: 20,000 as in WOMD 1.0 and 1.1, or 30,000 as in later releases.

    Raises:
      DataError: A number is impossible, an agent id is not exact in float32, or two features that follow each other
        have the same id and type, so that readers would join them.
    """
    return encode_example(features_of(raw, num_points))


def encode_example(example: Example) -> bytes:
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


def features_of(raw: RawScene, num_points: int = NUM_POINTS) -> Example:
    """The features of `example_of` by name: arrays [slots, steps], [steps, lights] or [points], as the format has them.

    Raises:
      DataError: See `example_of`.
    """
    check(raw)
    agents = kept_agents(raw)
    ids = raw.agent_id[agents]
    if (ids.astype(np.float32) != ids).any():
        remedy = "write a Scenario proto, or number the agents anew"
        raise DataError("ids are not exact in float32", field="agent_id", remedy=remedy)
    # Whatever the clock of the source, times of the format are not negative.
    micros = np.round((raw.timestamps - min(raw.timestamps[0], 0.0)) * 1e6).astype(np.int64)
    now = raw.current_step
    periods = {"past": slice(0, now), "current": slice(now, now + 1), "future": slice(now + 1, None)}
    logs, lights = _logs(raw, agents, micros), _lights(raw, micros)
    return {
        "scenario/id": [raw.scenario_id.encode()],
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


def kept_agents(raw: RawScene) -> Int[np.ndarray, " K"]:
    """Rows of the agents that a tf.Example has slots for (see `example_of`), in ascending order."""
    agents = np.arange(len(raw.agent_id))
    away = np.linalg.norm(np.where(raw.valid[..., None], raw.xyz, np.inf) - origin_of(raw), axis=-1)
    marked = raw.to_predict | raw.of_interest
    # The last key counts most.
    order = np.lexsort(
        (away.min(axis=0, initial=np.inf), ~raw.valid[raw.current_step], ~marked, agents != raw.sdc_index)
    )
    return np.sort(order[:NUM_AGENTS])


def kept_points(raw: RawScene, num_points: int = NUM_POINTS) -> Bool[np.ndarray, " P"]:
    """Which map points a tf.Example has slots for (see `example_of`)."""
    rows, of, count = np.unique(raw.point_feature, return_inverse=True, return_counts=True)
    nearest = np.full(len(rows), np.inf)
    np.minimum.at(nearest, of, np.linalg.norm(raw.point_xyz - origin_of(raw), axis=-1))
    order = np.argsort(nearest, kind="stable")
    kept = np.zeros(len(rows), bool)
    kept[order] = np.cumsum(count[order]) <= num_points
    return kept[of]


def kept_lights(raw: RawScene) -> Bool[np.ndarray, "T S"]:
    """Which sightings of lights a tf.Example has slots for (see `example_of`)."""
    there = np.where(raw.signal_valid[..., None], raw.signal_stop_point, np.inf)
    order = np.argsort(np.linalg.norm(there - origin_of(raw), axis=-1), axis=1, kind="stable")
    rank = np.argsort(order, axis=1)
    return raw.signal_valid & (rank < NUM_LIGHTS)


def _slots(
    values: Num[np.ndarray, "K *rest"] | Bool[np.ndarray, "K *rest"],
    dtype: type[np.float32 | np.int64] = np.int64,
    count: int = NUM_AGENTS,
) -> Num[np.ndarray, "slots *rest"]:
    """Values in a fixed number of slots, nothing in those that are left."""
    out = np.full((count, *values.shape[1:]), NOTHING, dtype)
    out[: len(values)] = values
    return out


def _logs(raw: RawScene, agents: Int[np.ndarray, " K"], micros: Int[np.ndarray, " T"]) -> dict[str, np.ndarray]:
    """What agents do, [slots, T], by name."""
    valid = raw.valid[:, agents]
    velocity = np.where(valid[..., None], raw.velocity[:, agents], 0.0).astype(np.float32)
    columns = dict(zip("xyz", np.moveaxis(raw.xyz[:, agents], -1, 0), strict=True))
    columns |= {"bbox_yaw": raw.yaw[:, agents], "velocity_x": velocity[..., 0], "velocity_y": velocity[..., 1]}
    columns |= dict(zip(("length", "width", "height"), np.moveaxis(raw.size[:, agents], -1, 0), strict=True))
    columns |= {"speed": np.hypot(velocity[..., 0], velocity[..., 1])}
    columns |= {"vel_yaw": np.arctan2(velocity[..., 1], velocity[..., 0])}
    found = {name: _slots(np.where(valid, values, NOTHING).T, np.float32) for name, values in columns.items()}
    found["timestamp_micros"] = _slots(np.where(valid, micros[:, None], NOTHING).T)
    found["valid"] = np.maximum(_slots(valid.T), 0)
    return found


def _lights(raw: RawScene, micros: Int[np.ndarray, " T"]) -> dict[str, np.ndarray]:
    """Lights, [T, slots], by name: each step fills the slots from the left with the lights it saw."""
    step, column = np.nonzero(kept_lights(raw))
    slot = np.arange(len(step)) - np.searchsorted(step, step)
    stop = np.moveaxis(raw.signal_stop_point[step, column], -1, 0)
    seen = {"id": raw.signal_lane_id[column], "state": raw.signal_state[step, column], "valid": np.ones_like(step)}
    found = {"timestamp_micros": micros}
    for name, values in (seen | dict(zip("xyz", stop, strict=True))).items():
        dtype = np.float32 if name in ("x", "y", "z") else np.int64
        found[name] = np.full((len(micros), NUM_LIGHTS), 0 if name == "valid" else NOTHING, dtype)
        found[name][step, slot] = values
    return found


def _map(raw: RawScene, num_points: int) -> dict[str, np.ndarray]:
    """Samples with their directions: towards the next sample of the feature, zero at the last one."""
    keep = kept_points(raw, num_points)
    xyz, feature = raw.point_xyz[keep], raw.point_feature[keep]
    follows = feature[1:] == feature[:-1]
    sample_id, sample_type = raw.feature_id[feature], raw.feature_type[feature]
    alike = (sample_id[1:] == sample_id[:-1]) & (sample_type[1:] == sample_type[:-1])
    if (alike & ~follows).any():
        remedy = "number the features anew"
        raise DataError("features that follow each other have the same id and type", field="feature_id", remedy=remedy)
    step = np.zeros_like(xyz)
    step[:-1][follows] = np.diff(xyz, axis=0)[follows]
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
        "xyz": np.where(routes.valid[..., None], routes.xyz, NOTHING).astype(np.float32),
        "arc_length": np.where(routes.valid, routes.arc_length, NOTHING).astype(np.float32),
        "valid": routes.valid.astype(np.int64),
        "id": np.full(routes.valid.shape, NOTHING),
        "on_route": routes.on_route[:, None].astype(np.int64),
    }
    return {f"path_samples/{name}": values for name, values in samples.items()}
