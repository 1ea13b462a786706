"""Scenes as recorded, in the world frame and float64, and their conversion to a `Scenario` in the local frame."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.scenario_id import encode_id
from waymax_sim.datatypes.agents import AgentInfo, AgentState
from waymax_sim.datatypes.padding import axis_lengths, bucket_lengths, pad, pad_empty_axes
from waymax_sim.datatypes.roadmap import LANE_TYPES, ROAD_EDGE_TYPES, RoadMap
from waymax_sim.datatypes.route import Routes
from waymax_sim.datatypes.scenario import Scenario, clock_time_step
from waymax_sim.datatypes.signals import Signals
from waymax_sim.maps.driveways import driveway_sides
from waymax_sim.maps.lanes import build_lane_graph
from waymax_sim.maps.polylines import build_polylines
from waymax_sim.maps.routes import build_routes
from waymax_sim.maps.segments import build_segments

INT32 = np.iinfo(np.int32)
# Largest number of steps of a scene: half an hour at 10 Hz. Recorded scenes have up to 200.
MAX_STEPS = 20_000
# Time steps that can be simulated, s.
MIN_TIME_STEP = 0.01
MAX_TIME_STEP = 2.0
# Largest deviation of a step from the median, as a share of it: beyond it a step is missing.
MAX_STEP_DEVIATION = 0.5


@dataclasses.dataclass(frozen=True)
class RawRoutes:
    """Candidate paths of the sdc: samples (m, world frame), arc lengths (m) and masks."""

    xyz: Float[np.ndarray, "M R 3"]
    arc_length: Float[np.ndarray, "M R"]
    valid: Bool[np.ndarray, "M R"]
    on_route: Bool[np.ndarray, " M"]


@dataclasses.dataclass(frozen=True)
class RawScene:
    """A scene as recorded, in SI units and the world frame of its source.

    Attributes:
      scenario_id: Id of the source.
      timestamps: Times of the steps, s; any origin.
      current_step: Index of the current step.
      agent_id: Track ids.
      agent_type: 0 unset, 1 vehicle, 2 pedestrian, 3 cyclist, 4 other.
      xyz: Box centers, m. Positions, yaw, velocity and size may hold any value where not `valid`.
      yaw: Headings, rad, wrapped or not.
      velocity: m/s.
      size: Length, width, height per step, m.
      valid: Mask of observed states.
      sdc_index: Row of the self-driving car, -1 if there is none.
      to_predict: Mask of tracks to predict.
      of_interest: Mask of objects of interest.
      point_xyz: Map points, m, contiguous and in order per feature.
      point_feature: Row of each point in the feature table.
      feature_id: Map ids of the source.
      feature_type: WOMD tf.Example codes (see `datatypes.roadmap`).
      speed_limit: Speed limits of lanes, m/s; 0 where unknown.
      links: Rows (from, to, kind) between rows of the feature table (see `RoadMap.links`).
      signal_lane_id: Map id of the lane of each light.
      signal_state: WOMD light states.
      signal_stop_point: Stop points, m.
      signal_valid: Mask of observed light states.
      routes: Candidate paths of the sdc; None to derive them from the lanes.
      on_route: Mask of the features that the source marks as the route of the sdc; None where it marks none. Derived
        routes that follow these lanes are on route.
      missing_fields: Content that the source format lacks, such as "lights" or "z"; reported by `info`.
    """

    scenario_id: str
    timestamps: Float[np.ndarray, " T"]
    current_step: int
    agent_id: Int[np.ndarray, " N"]
    agent_type: Int[np.ndarray, " N"]
    xyz: Float[np.ndarray, "T N 3"]
    yaw: Float[np.ndarray, "T N"]
    velocity: Float[np.ndarray, "T N 2"]
    size: Float[np.ndarray, "T N 3"]
    valid: Bool[np.ndarray, "T N"]
    sdc_index: int
    to_predict: Bool[np.ndarray, " N"]
    of_interest: Bool[np.ndarray, " N"]
    point_xyz: Float[np.ndarray, "P 3"]
    point_feature: Int[np.ndarray, " P"]
    feature_id: Int[np.ndarray, " F"]
    feature_type: Int[np.ndarray, " F"]
    speed_limit: Float[np.ndarray, " F"]
    links: Int[np.ndarray, "L 3"]
    signal_lane_id: Int[np.ndarray, " S"]
    signal_state: Int[np.ndarray, "T S"]
    signal_stop_point: Float[np.ndarray, "T S 3"]
    signal_valid: Bool[np.ndarray, "T S"]
    routes: RawRoutes | None = None
    on_route: Bool[np.ndarray, " F"] | None = None
    missing_fields: tuple[str, ...] = ()


# Invalid states may hold any value, also signaling NaNs, for which NumPy warns.
@np.errstate(invalid="ignore")
def to_scenario(raw: RawScene, *, pad_to_bucket: bool = True) -> Scenario:
    """Moves a scene to its local origin in float64, converts it to float32 and int32 and builds the map indexes.

    Args:
      raw: A scene as recorded.
      pad_to_bucket: Pad all axes to `bucket_lengths`, so that scenes of similar size share compiled programs; otherwise
        only those without content, see `pad_empty_axes`.

    Raises:
      DataError: A number of a valid state is not finite, an index is out of range, or an id does not fit int32.
    """
    check_scene(raw)
    origin = local_origin(raw)
    valid = raw.valid
    xyz = np.where(valid[..., None], raw.xyz - origin, 0.0)
    log = AgentState(
        xyz=xyz.astype(np.float32),
        yaw=_wrap(np.where(valid, raw.yaw, 0.0)),
        velocity=np.where(valid[..., None], raw.velocity, 0.0).astype(np.float32),
        valid=valid,
    )
    num_agents = len(raw.agent_id)
    agents = AgentInfo(
        id=raw.agent_id.astype(np.int32),
        type=raw.agent_type.astype(np.int32),
        size=_size_now(raw).astype(np.float32),
        exists=np.ones(num_agents, bool),
        is_sdc=np.arange(num_agents) == raw.sdc_index,
        to_predict=raw.to_predict,
        of_interest=raw.of_interest,
    )
    points = (raw.point_xyz - origin).astype(np.float32)
    feature = raw.point_feature.astype(np.int32)
    feature_type = raw.feature_type.astype(np.int32)
    roadmap = RoadMap(
        xyz=points,
        feature=feature,
        valid=np.ones(len(points), bool),
        feature_id=raw.feature_id.astype(np.int32),
        feature_type=feature_type,
        speed_limit=raw.speed_limit.astype(np.float32),
        links=raw.links.astype(np.int32),
        driveways=driveway_sides(points, feature, feature_type),
    )
    signal_valid = raw.signal_valid
    signals = Signals(
        lane_id=raw.signal_lane_id.astype(np.int32),
        state=np.where(signal_valid, raw.signal_state, 0).astype(np.int32),
        stop_point=np.where(signal_valid[..., None], raw.signal_stop_point - origin, 0.0).astype(np.float32),
        valid=signal_valid,
    )
    lanes = build_segments(points, feature, feature_type, LANE_TYPES, sided=False)
    timestamps = (raw.timestamps - raw.timestamps[0]).astype(np.float32)
    scenario = Scenario(
        id_bytes=encode_id(raw.scenario_id),
        origin=origin.astype(np.float32),
        timestamps=timestamps,
        current_step=np.asarray(raw.current_step, np.int32),
        last_step=np.asarray(len(timestamps) - 1, np.int32),
        agents=agents,
        log=log,
        roadmap=roadmap,
        edges=build_segments(points, feature, feature_type, ROAD_EDGE_TYPES),
        lanes=lanes,
        graph=build_lane_graph(roadmap, lanes, signals),
        polylines=build_polylines(points, feature),
        signals=signals,
        routes=_local_routes(raw.routes, origin),
        time_step=clock_time_step(timestamps),
    )
    if scenario.routes is None:
        now, time_step = raw.current_step, scenario.time_step
        routes = build_routes(lanes, scenario.graph, log, agents, raw.sdc_index, now, time_step, marked=raw.on_route)
        scenario = dataclasses.replace(scenario, routes=routes)
    return pad(scenario, bucket_lengths(axis_lengths(scenario))) if pad_to_bucket else pad_empty_axes(scenario)


def _wrap(yaw: np.ndarray) -> np.ndarray:
    wrapped = (np.mod(yaw + np.pi, 2 * np.pi) - np.pi).astype(np.float32)
    # float32(pi) is larger than pi; rounding must not leave [-pi, pi).
    return np.where(wrapped >= np.float32(np.pi), -np.float32(np.pi), wrapped)


def local_origin(raw: RawScene) -> Float[np.ndarray, " 3"]:
    """The local origin of a scene, m, world frame, rounded to whole meters.

    It is the current position of the sdc, else the mean of the currently valid agents, else of the map points.
    """
    now = raw.valid[raw.current_step]
    if raw.sdc_index >= 0 and now[raw.sdc_index]:
        origin = raw.xyz[raw.current_step, raw.sdc_index]
    elif now.any():
        origin = raw.xyz[raw.current_step, now].mean(axis=0)
    elif len(raw.point_xyz):
        origin = raw.point_xyz.mean(axis=0)
    else:
        origin = np.zeros(3)
    return np.round(origin)


def _size_now(raw: RawScene) -> np.ndarray:
    """Box sizes at the valid step nearest to the current one; recorded sizes vary over time."""
    steps = np.arange(len(raw.timestamps))
    distance = np.where(raw.valid, np.abs(steps - raw.current_step)[:, None], len(steps))
    nearest = np.argmin(distance, axis=0) if len(raw.agent_id) else np.zeros(0, int)
    size = raw.size[nearest, np.arange(len(raw.agent_id))]
    return np.where(np.any(raw.valid, axis=0, keepdims=True).T, size, 0.0)


def _local_routes(routes: RawRoutes | None, origin: np.ndarray) -> Routes | None:
    if routes is None:
        return None
    return Routes(
        xyz=np.where(routes.valid[..., None], routes.xyz - origin, 0.0).astype(np.float32),
        arc_length=np.where(routes.valid, routes.arc_length, 0.0).astype(np.float32),
        valid=routes.valid,
        on_route=routes.on_route,
    )


def check_num_steps(num_steps: int) -> None:
    """Raises a `DataError` for a scene of more than `MAX_STEPS` steps; readers call it before they allocate states."""
    if num_steps > MAX_STEPS:
        raise DataError(
            f"has too many steps, {num_steps}, more than {MAX_STEPS}",
            field="timestamps",
            remedy="split the record into scenes",
        )


def check_scene(raw: RawScene) -> None:
    """Checks lengths, index ranges and magnitudes, which later conversions would not detect.

    Raises:
      DataError: See `to_scenario`.
    """
    num_steps, num_agents, num_features = len(raw.timestamps), len(raw.agent_id), len(raw.feature_id)
    if not num_steps:
        raise DataError("the scene has no steps", field="timestamps")
    check_num_steps(num_steps)
    if not 0 <= raw.current_step < num_steps:
        raise DataError(f"{raw.current_step} is not a step of 0..{num_steps - 1}", field="current_step")
    if not -1 <= raw.sdc_index < num_agents:
        raise DataError(f"{raw.sdc_index} is not one of {num_agents} agents", field="sdc_index")
    finite = {
        "timestamps": raw.timestamps,
        "xyz": raw.xyz[raw.valid],
        "yaw": raw.yaw[raw.valid],
        "velocity": raw.velocity[raw.valid],
        "size": raw.size[raw.valid],
        "point_xyz": raw.point_xyz,
        "speed_limit": raw.speed_limit,
        "signal_stop_point": raw.signal_stop_point[raw.signal_valid],
    }
    for field, values in finite.items():
        # Projected coordinates (UTM) are below 1e7 m. Timestamps may be absolute.
        invalid = ~(np.abs(values) < 1e10 if field == "timestamps" else np.abs(values) < 1e7)
        if invalid.any():
            raise DataError(f"{np.count_nonzero(invalid)} values are not finite or too large", field=field)
    _check_clock(raw.timestamps)
    for field in ("agent_id", "feature_id", "signal_lane_id"):
        values = getattr(raw, field)
        if values.size and (values.min() < INT32.min or values.max() > INT32.max):
            raise DataError("ids do not fit 32 bits", field=field)
    ranges = [
        ("agent_type", raw.agent_type, 0, 4),
        ("point_feature", raw.point_feature, 0, num_features - 1),
        ("feature_type", raw.feature_type, -1, 20),
        ("links", raw.links[:, :2], 0, num_features - 1),
        ("links", raw.links[:, 2], 0, 3),
        ("signal_state", raw.signal_state[raw.signal_valid], 0, 8),
    ]
    for field, values, low, high in ranges:
        if values.size and (values.min() < low or values.max() > high):
            raise DataError(f"values outside {low}..{high}", field=field)


def _check_clock(timestamps: Float[np.ndarray, " T"]) -> None:
    """Refuses timestamps that are not those of one time step, which simulation could not reproduce.

    Raises:
      DataError: They do not increase, a step is missing, or the time step is out of range.
    """
    check_increasing(timestamps)
    gaps = np.diff(timestamps)
    if not len(gaps):
        return
    remedy = "resample the record: load(path, time_step=0.1), or --time-step 0.1"
    median, mean = np.median(gaps), gaps.mean()
    if np.abs(gaps - median).max() > MAX_STEP_DEVIATION * median:
        problem = f"steps are {gaps.min():.3f} to {gaps.max():.3f} s apart, not equal"
        raise DataError(problem, field="timestamps", remedy=remedy)
    if not MIN_TIME_STEP <= mean <= MAX_TIME_STEP:
        problem = f"the time step of {mean:.4f} s is not within {MIN_TIME_STEP} to {MAX_TIME_STEP} s"
        raise DataError(problem, field="timestamps", remedy=remedy)


def check_increasing(timestamps: Float[np.ndarray, " T"]) -> None:
    """Raises a `DataError` unless finite timestamps (s) increase."""
    gaps = np.diff(timestamps)
    if len(gaps) and not gaps.min() > 0:
        step = int(np.argmin(gaps))
        problem = f"do not increase: {timestamps[step]:.4f} s is followed by {timestamps[step + 1]:.4f} s"
        raise DataError(problem, field="timestamps", remedy="sort the steps by time and drop repeated ones")
