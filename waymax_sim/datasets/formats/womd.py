"""Decoder of Waymo Open Motion tf.Examples.

Features are flat row-major arrays with a fixed number of slots, split into past, current and future; unused slots are
-1. Numbers of slots are inferred, so cropped or enlarged examples are supported.
"""

import hashlib

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from waymax_sim.datasets.encoding.tf_example import Example
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.formats.traffic_lights import Lights, lights_by_lane
from waymax_sim.datasets.scene import RawRoutes, RawScene
from waymax_sim.datatypes.scenario import TIME_STEP

PERIODS = ("past", "current", "future")
WOMD_REMEDY = "give a Waymo Open Motion tf.Example"


def scene_from_example(example: Example) -> RawScene:
    """Decodes a scene from the features of a WOMD tf.Example (schema of WOMD 1.0 to 1.3).

    Slots with an id and a type, or with any valid state, are agents; consecutive valid map samples with the same id are
    features. Examples have no links between lanes and no speed limits. Those of the testing split may lack all features
    of the future, of the map or of the lights.

    Raises:
      DataError: A feature is missing or has an invalid size or invalid values.
    """
    slot_id = _integers(_feature(example, "state/id"), "state/id")
    slots = len(slot_id)
    if not slots:
        raise DataError("has no slots", field="state/id", remedy=WOMD_REMEDY)
    valid = _over_time(example, "valid", slots) == 1
    slot_type = _integers(_feature(example, "state/type", slots), "state/type")
    is_agent = valid.any(axis=0) | ((slot_id >= 0) & (slot_type >= 0))

    def log(*names: str) -> Float[np.ndarray, "T N C"]:
        values = np.empty((len(valid), int(np.count_nonzero(is_agent)), len(names)))
        for column, name in enumerate(names):
            values[..., column] = _over_time(example, name, slots)[:, is_agent]
        return values

    def flag(name: str) -> Bool[np.ndarray, " N"]:
        return _feature(example, f"state/{name}", slots)[is_agent] == 1

    num_steps = len(valid)
    sdc = np.flatnonzero(flag("is_sdc"))
    if len(sdc) > 1:
        raise DataError(f"marks {len(sdc)} agents as the sdc", field="state/is_sdc", remedy=WOMD_REMEDY)
    sdc_index = int(sdc[0]) if len(sdc) else -1
    micros = _integers(_over_time(example, "timestamp_micros", slots), "timestamp_micros")
    point_xyz, point_feature, feature_id, feature_type = _map(example)
    lights, routes = _lights(example, num_steps), _routes(example)
    has_field = {
        "map": _has_group(example, "roadgraph_samples"),
        "lights": _has_group(example, "traffic_light_state"),
        "speed limits": False,
        "lane links": False,
        "routes": routes is not None,
    }
    return RawScene(
        scenario_id=_scenario_id(example),
        timestamps=_timestamps(micros[:, is_agent], valid[:, is_agent], sdc_index),
        current_step=_feature(example, "state/past/valid").size // slots,
        agent_id=slot_id[is_agent],
        agent_type=np.maximum(slot_type[is_agent], 0),
        xyz=log("x", "y", "z"),
        yaw=log("bbox_yaw")[..., 0],
        velocity=log("velocity_x", "velocity_y"),
        size=log("length", "width", "height"),
        valid=valid[:, is_agent],
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
        routes=routes,
        missing_fields=tuple(name for name, present in has_field.items() if not present),
    )


def _feature(example: Example, key: str, size: int | None = None) -> Num[np.ndarray, " n"]:
    """A feature of numbers, of the given size if any."""
    values = example.get(key)
    if values is None:
        raise DataError("missing feature", field=key, remedy=WOMD_REMEDY)
    if isinstance(values, list):
        raise DataError("has bytes, expected numbers", field=key, remedy=WOMD_REMEDY)
    if size is not None and values.size != size:
        raise DataError(f"has {values.size} values, expected {size}", field=key, remedy=WOMD_REMEDY)
    return values.reshape(-1)


def _rows(example: Example, key: str, width: int) -> Num[np.ndarray, "rows width"]:
    """A feature as rows of the given width."""
    values = _feature(example, key)
    if not width or values.size % width:
        raise DataError(f"has {values.size} values, which is not a multiple of {width}", field=key, remedy=WOMD_REMEDY)
    return values.reshape(-1, width)


def _has_group(example: Example, prefix: str) -> bool:
    return any(key.startswith(f"{prefix}/") for key in example)


def _periods(example: Example, group: str) -> tuple[str, ...]:
    """The periods of a group of features; the future is optional, but complete or absent."""
    return PERIODS if _has_group(example, f"{group}/future") else PERIODS[:-1]


def _over_time(example: Example, name: str, slots: int) -> Num[np.ndarray, "T slots"]:
    """Past, current and future of an agent feature, time-major."""
    parts = []
    for period in _periods(example, "state"):
        steps = _rows(example, f"state/{period}/valid", slots).shape[0]
        parts.append(_feature(example, f"state/{period}/{name}", slots * steps).reshape(slots, steps).T)
    return np.concatenate(parts)


def _integers(values: Num[np.ndarray, "*n"], key: str) -> Int[np.ndarray, "*n"]:
    """Integers that the format stores as floats."""
    if np.issubdtype(values.dtype, np.integer):
        return values
    # NaN fails this comparison too.
    if not ((np.abs(values) < 2.0**62) & (np.floor(values) == values)).all():
        raise DataError("has values that are not integers", field=key, remedy=WOMD_REMEDY)
    return values.astype(np.int64)


def _scenario_id(example: Example) -> str:
    """The id of the example, else a hash of its positions."""
    values = example.get("scenario/id")
    if isinstance(values, list) and values:
        return values[0].decode("utf-8", errors="replace")
    content = hashlib.blake2b(digest_size=8)
    periods = _periods(example, "state")
    for key in ("state/id", *(f"state/{period}/{axis}" for period in periods for axis in "xy")):
        content.update(_feature(example, key).tobytes())
    return content.hexdigest()


def _timestamps(
    micros: Int[np.ndarray, "T N"], valid: Bool[np.ndarray, "T N"], sdc_index: int
) -> Float[np.ndarray, " T"]:
    """Times (s) of the sdc, else of any valid agent; uniform steps if these have gaps or are not increasing."""
    observed = np.where(valid, micros, -1)
    sdc = observed[:, sdc_index] if sdc_index >= 0 else np.full(len(observed), -1)
    times = np.where(sdc >= 0, sdc, observed.max(axis=1, initial=-1)) / 1e6
    if times.min(initial=0) < 0 or (np.diff(times) <= 0).any():
        return np.arange(len(times)) * TIME_STEP
    return times


def _map(example: Example):
    """Points, their feature rows, and ids and types of features."""
    if not _has_group(example, "roadgraph_samples"):
        return np.zeros((0, 3)), *np.zeros((3, 0), np.int64)
    sample_id = _feature(example, "roadgraph_samples/id")
    xyz = _feature(example, "roadgraph_samples/xyz", sample_id.size * 3).reshape(-1, 3)
    kind = _integers(_feature(example, "roadgraph_samples/type", sample_id.size), "roadgraph_samples/type")
    valid = _feature(example, "roadgraph_samples/valid", sample_id.size) == 1
    sample_id = _integers(sample_id, "roadgraph_samples/id")
    if not valid.all():
        xyz, sample_id, kind = xyz[valid], sample_id[valid], kind[valid]
    first = np.ones(len(sample_id), bool)
    first[1:] = (sample_id[1:] != sample_id[:-1]) | (kind[1:] != kind[:-1])
    return xyz.astype(np.float64), np.cumsum(first) - 1, sample_id[first], kind[first]


def _lights(example: Example, num_steps: int) -> Lights:
    has_lights = _has_group(example, "traffic_light_state")
    slots = _feature(example, "traffic_light_state/current/id").size if has_lights else 0
    periods = _periods(example, "traffic_light_state")

    def over_time(name: str) -> Num[np.ndarray, "T slots"]:
        if not slots:
            return np.zeros((num_steps, 0), np.int64)
        keys = [f"traffic_light_state/{period}/{name}" for period in periods]
        values = np.concatenate([_rows(example, key, slots) for key in keys])
        if periods != PERIODS:
            values = np.concatenate([values, np.zeros((max(num_steps - len(values), 0), slots), values.dtype)])
        if len(values) != num_steps:
            raise DataError(f"has {len(values)} steps, agents have {num_steps}", field=keys[-1], remedy=WOMD_REMEDY)
        return values

    step, slot = np.nonzero(over_time("valid") == 1)

    def observed(name: str) -> Num[np.ndarray, " K"]:
        return over_time(name)[step, slot]

    lane = _integers(observed("id"), "traffic_light_state/current/id")
    state = _integers(observed("state"), "traffic_light_state/current/state")
    return lights_by_lane(
        num_steps, step, lane, state, np.stack([observed(axis) for axis in "xyz"], axis=-1).astype(np.float64)
    )


def _routes(example: Example) -> RawRoutes | None:
    if "path_samples/xyz" not in example:
        return None
    on_route = _feature(example, "path_samples/on_route") == 1
    paths = len(on_route)
    valid = _feature(example, "path_samples/valid")
    if not paths or valid.size % paths:
        problem = f"has {valid.size} values for {paths} paths"
        raise DataError(problem, field="path_samples/valid", remedy=WOMD_REMEDY)
    shape = (paths, valid.size // paths)
    return RawRoutes(
        xyz=_feature(example, "path_samples/xyz", valid.size * 3).reshape(*shape, 3).astype(np.float64),
        arc_length=_feature(example, "path_samples/arc_length", valid.size).reshape(shape).astype(np.float64),
        valid=valid.reshape(shape) == 1,
        on_route=on_route,
    )
