"""Waymo Open Motion tf.Examples to `RawScene`.

Everything sits in flat arrays of fixed numbers of slots, row-major, split into past, current and future; -1 stands for
"nothing". Slot counts are inferred, so cut or enlarged examples are read as well.
"""

import hashlib

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from waymax_sim.datasets.encoding.tf_example import Example
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.formats.traffic_lights import Lights, by_lane
from waymax_sim.datasets.scene import RawRoutes, RawScene

PERIODS = ("past", "current", "future")
REMEDY = "is it a Waymo Open Motion tf.Example?"
STEP = 0.1  # s


def scene_from_example(example: Example) -> RawScene:
    """Reads a scene from the features of a WOMD tf.Example (schema of WOMD 1.0 to 1.3).

    Slots with an id and a type, or with any valid state, become agents; valid map samples with the same id, one
    after the other, become features. These examples hold no links between lanes and no speed limits.

    Raises:
      DataError: A feature is missing, or has a wrong size or impossible values.
    """
    slot_id = _whole(_feature(example, "state/id"), "state/id")
    slots = len(slot_id)
    if not slots:
        raise DataError("has no slots", field="state/id", remedy=REMEDY)
    valid = _over_time(example, "valid", slots) == 1
    slot_type = _whole(_feature(example, "state/type", slots), "state/type")
    keep = valid.any(axis=0) | ((slot_id >= 0) & (slot_type >= 0))

    def log(*names: str) -> Float[np.ndarray, "T N C"]:
        found = np.empty((len(valid), int(np.count_nonzero(keep)), len(names)))
        for column, name in enumerate(names):
            found[..., column] = _over_time(example, name, slots)[:, keep]
        return found

    def flag(name: str) -> Bool[np.ndarray, " N"]:
        return _feature(example, f"state/{name}", slots)[keep] == 1

    num_steps = len(valid)
    sdc = np.flatnonzero(flag("is_sdc"))
    if len(sdc) > 1:
        raise DataError(f"{len(sdc)} agents are marked as the sdc", field="state/is_sdc", remedy=REMEDY)
    sdc_index = int(sdc[0]) if len(sdc) else -1
    micros = _whole(_over_time(example, "timestamp_micros", slots), "timestamp_micros")
    point_xyz, point_feature, feature_id, feature_type = _map(example)
    lights = _lights(example, num_steps)
    return RawScene(
        scenario_id=_scenario_id(example),
        timestamps=_timestamps(micros[:, keep], valid[:, keep], sdc_index),
        current_step=_feature(example, "state/past/valid").size // slots,
        agent_id=slot_id[keep],
        agent_type=np.maximum(slot_type[keep], 0),
        xyz=log("x", "y", "z"),
        yaw=log("bbox_yaw")[..., 0],
        velocity=log("velocity_x", "velocity_y"),
        size=log("length", "width", "height"),
        valid=valid[:, keep],
        sdc_index=sdc_index,
        to_predict=flag("tracks_to_predict"),
        of_interest=flag("objects_of_interest"),
        point_xyz=point_xyz,
        point_feature=point_feature,
        feature_id=feature_id,
        feature_type=feature_type,
        speed_limit=np.zeros(len(feature_id)),
        links=np.zeros((0, 3), np.int64),
        signal_lane_id=lights.lane_id,
        signal_state=lights.state,
        signal_stop_point=lights.stop_point,
        signal_valid=lights.valid,
        routes=_routes(example),
    )


def _feature(example: Example, key: str, size: int | None = None) -> Num[np.ndarray, " n"]:
    """A feature of numbers; of a known size where one is given."""
    values = example.get(key)
    if values is None:
        raise DataError("missing feature", field=key, remedy=REMEDY)
    if isinstance(values, list):
        raise DataError("has bytes where numbers are expected", field=key, remedy=REMEDY)
    if size is not None and values.size != size:
        raise DataError(f"has {values.size} values where {size} are expected", field=key, remedy=REMEDY)
    return values.reshape(-1)


def _rows(example: Example, key: str, width: int) -> Num[np.ndarray, "rows width"]:
    """A feature of an unknown number of rows of a known width."""
    values = _feature(example, key)
    if not width or values.size % width:
        raise DataError(f"has {values.size} values, which are no rows of {width}", field=key, remedy=REMEDY)
    return values.reshape(-1, width)


def _over_time(example: Example, name: str, slots: int) -> Num[np.ndarray, "T slots"]:
    """Past, current and future of a feature of all agents, with time first."""
    parts = []
    for period in PERIODS:
        steps = _rows(example, f"state/{period}/valid", slots).shape[0]
        parts.append(_feature(example, f"state/{period}/{name}", slots * steps).reshape(slots, steps).T)
    return np.concatenate(parts)


def _whole(values: Num[np.ndarray, "*n"], key: str) -> Int[np.ndarray, "*n"]:
    """Integers that the format keeps as floats."""
    if np.issubdtype(values.dtype, np.integer):
        return values
    # Written so that NaN fails too.
    if not ((np.abs(values) < 2.0**62) & (np.floor(values) == values)).all():
        raise DataError("has values that are not whole numbers", field=key, remedy=REMEDY)
    return values.astype(np.int64)


def _scenario_id(example: Example) -> str:
    """The id in the example, else one made from its positions."""
    values = example.get("scenario/id")
    if isinstance(values, list) and values:
        return values[0].decode("utf-8", errors="replace")
    content = hashlib.blake2b(digest_size=8)
    for key in ("state/id", *(f"state/{period}/{axis}" for period in PERIODS for axis in "xy")):
        content.update(_feature(example, key).tobytes())
    return content.hexdigest()


def _timestamps(
    micros: Int[np.ndarray, "T N"], valid: Bool[np.ndarray, "T N"], sdc_index: int
) -> Float[np.ndarray, " T"]:
    """Times (s) of the sdc, or of whoever is valid; regular steps where those leave gaps or run backwards."""
    seen = np.where(valid, micros, -1)
    sdc = seen[:, sdc_index] if sdc_index >= 0 else np.full(len(seen), -1)
    times = np.where(sdc >= 0, sdc, seen.max(axis=1, initial=-1)) / 1e6
    if times.min(initial=0) < 0 or (np.diff(times) <= 0).any():
        return np.arange(len(times)) * STEP
    return times


def _map(example: Example):
    """Points, the feature of each, and ids and types of features."""
    sample_id = _feature(example, "roadgraph_samples/id")
    xyz = _feature(example, "roadgraph_samples/xyz", sample_id.size * 3).reshape(-1, 3)
    kind = _whole(_feature(example, "roadgraph_samples/type", sample_id.size), "roadgraph_samples/type")
    valid = _feature(example, "roadgraph_samples/valid", sample_id.size) == 1
    sample_id = _whole(sample_id, "roadgraph_samples/id")
    if not valid.all():
        xyz, sample_id, kind = xyz[valid], sample_id[valid], kind[valid]
    first = np.ones(len(sample_id), bool)
    first[1:] = (sample_id[1:] != sample_id[:-1]) | (kind[1:] != kind[:-1])
    return xyz.astype(np.float64), np.cumsum(first) - 1, sample_id[first], kind[first]


def _lights(example: Example, num_steps: int) -> Lights:
    slots = _feature(example, "traffic_light_state/current/id").size

    def over_time(name: str) -> Num[np.ndarray, "T slots"]:
        if not slots:
            return np.zeros((num_steps, 0), np.int64)
        keys = [f"traffic_light_state/{period}/{name}" for period in PERIODS]
        values = np.concatenate([_rows(example, key, slots) for key in keys])
        if len(values) != num_steps:
            raise DataError(f"lights have {len(values)} steps, agents {num_steps}", field=keys[-1], remedy=REMEDY)
        return values

    step, slot = np.nonzero(over_time("valid") == 1)

    def seen(name: str) -> Num[np.ndarray, " K"]:
        return over_time(name)[step, slot]

    lane = _whole(seen("id"), "traffic_light_state/current/id")
    state = _whole(seen("state"), "traffic_light_state/current/state")
    return by_lane(num_steps, step, lane, state, np.stack([seen(axis) for axis in "xyz"], axis=-1).astype(np.float64))


def _routes(example: Example) -> RawRoutes | None:
    if "path_samples/xyz" not in example:
        return None
    on_route = _feature(example, "path_samples/on_route") == 1
    paths = len(on_route)
    valid = _feature(example, "path_samples/valid")
    if not paths or valid.size % paths:
        problem = f"has {valid.size} values for {paths} paths"
        raise DataError(problem, field="path_samples/valid", remedy=REMEDY)
    shape = (paths, valid.size // paths)
    return RawRoutes(
        xyz=_feature(example, "path_samples/xyz", valid.size * 3).reshape(*shape, 3).astype(np.float64),
        arc_length=_feature(example, "path_samples/arc_length", valid.size).reshape(shape).astype(np.float64),
        valid=valid.reshape(shape) == 1,
        on_route=on_route,
    )
