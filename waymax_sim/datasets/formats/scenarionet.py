"""Reader of ScenarioNet pickles (MetaDrive's ScenarioDescription): one scene per file, of any dataset.

Two generations of the schema, and the lights of MetaDrive 0.3, are supported, with the conventions of the converters of
Waymo Open Motion, nuScenes, nuPlan and Argoverse 2. The pickle is decoded without unpickling, see `safe_pickle`.
"""

import functools
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from waymax_sim.datasets.encoding.json_fields import member, numbers, row_width
from waymax_sim.datasets.encoding.safe_pickle import loads
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.files import read_bytes
from waymax_sim.datasets.formats.map_features import check_num_states
from waymax_sim.datasets.formats.rear_axle import (
    ARGOVERSE2_EGO,
    NUSCENES_EGO,
    EgoVehicleParams,
    rear_axle_to_center,
)
from waymax_sim.datasets.formats.scenario_proto import MILE_PER_HOUR
from waymax_sim.datasets.formats.scenarionet_lights import lane_name, read_lights
from waymax_sim.datasets.formats.scenarionet_map import (
    MAX_ITEMS,
    SCENARIONET_REMEDY,
    id_strings,
    integer_ids,
    read_links,
    read_roads,
    read_route,
    read_speed_limit,
)
from waymax_sim.datasets.scenario_id import content_id
from waymax_sim.datasets.scene import RawScene
from waymax_sim.datatypes.agents import AGENT_TYPE_NAMES, OTHER
from waymax_sim.datatypes.roadmap import CONTROLS
from waymax_sim.datatypes.scenario import TIME_STEP

MAX_SCENARIONET_BYTES = 64 * 2**20
# Largest number of map points: a constant, and the size of the file in points, which take 8 bytes or more each.
MIN_POINTS_LIMIT = 50_000
POINT_BYTES = 8
# Start of the name of a data set -> its recording vehicle, whose position is that of the rear axle.
REAR_AXLE_EGOS = {"nuscenes": NUSCENES_EGO, "av2": ARGOVERSE2_EGO}
# Start of the name of a data set without speed limits -> the constant that its converter writes, m/s.
PLACEHOLDER_SPEED_LIMITS = {"nuscenes": 100 / 3.6, "av2": 85 * MILE_PER_HOUR}
# Data sets whose converters write the outlines of the drivable area as lines.
OUTLINED_DATASETS = ("nuscenes", "nuplan")


class AgentLog(NamedTuple):
    """Recorded states of the agents: fields of a `RawScene`."""

    xyz: Float[np.ndarray, "T N 3"]
    yaw: Float[np.ndarray, "T N"]
    velocity: Float[np.ndarray, "T N 2"]
    size: Float[np.ndarray, "T N 3"]
    valid: Bool[np.ndarray, "T N"]


def scene_from_file(path: str) -> RawScene:
    """Reads a scene from a ScenarioNet pickle.

    Raises:
      DataError: The file cannot be read, has other than plain data, is not a ScenarioNet scene or is damaged.
    """
    data = read_bytes(path, MAX_SCENARIONET_BYTES)
    # In a pickle, many features can refer to one array.
    return scene_from_record(loads(data), max_points=min(MIN_POINTS_LIMIT + len(data) // POINT_BYTES, MAX_ITEMS))


def scene_from_record(record: Any, max_points: int = MAX_ITEMS) -> RawScene:
    """Reads a scene from the content of a ScenarioNet pickle.

    Ids are strings. If all of a scene are 32-bit integers, they are converted; otherwise agents and map features are
    numbered from 0 in the order of the file. Agents of types that WOMD does not have are "other"; map features of such
    types, and lanes that have a polygon only, are dropped, which `missing_fields` says. The current step is 0 unless
    the file has one. The lanes that the converter of nuPlan marks are the route. Closed outlines of the drivable areas
    of nuScenes and nuPlan are road edges.

    Speed limits of nuScenes and Argoverse 2, which are constants of their converters, are unknown. The converter of
    nuScenes derives velocities from later positions, and writes zero for the last step of a track; the velocity of the
    step before is used.

    The maps of nuScenes are planar, and the length and width of its ego, which its converter swaps, are corrected. The
    egos of nuScenes and Argoverse 2 are moved from the rear axle to the box center (see `rear_axle`); that of nuScenes
    is on the ground and is raised by half of its height.

    Args:
      record: The content.
      max_points: Largest accepted number of map points.

    Raises:
      DataError: A field is missing or malformed.
    """
    metadata = member(record, "metadata", dict, "")
    tracks_by_key = member(record, "tracks", dict, "")
    tracks = {str(key): track for key, track in tracks_by_key.items()}
    if len(tracks) < len(tracks_by_key):
        raise DataError("has an id twice, as a string and as a number", field="tracks", remedy=SCENARIONET_REMEDY)
    map_features = member(record, "map_features", dict, "")
    light_states = member(record, "dynamic_map_states", dict, "", default={})
    dataset = member(metadata, "dataset", str, "metadata", default="")
    is_nuscenes = dataset.startswith("nuscenes")

    has_times = metadata.get("ts") is not None
    num_steps = len(numbers(metadata["ts"], "metadata.ts")) if has_times else member(record, "length", int, "")
    if num_steps < 0:
        raise DataError(f"{num_steps} is not a number of steps", field="length", remedy=SCENARIONET_REMEDY)
    check_num_states(num_steps, len(tracks), field="tracks", remedy=SCENARIONET_REMEDY)
    log = _log(tracks, num_steps)
    timestamps = numbers(metadata["ts"], "metadata.ts") if has_times else np.arange(num_steps) * TIME_STEP
    sdc_id = str(member(metadata, "sdc_id", (str, int), "metadata", default=""))
    sdc_index = list(tracks).index(sdc_id) if sdc_id in tracks else -1
    if is_nuscenes and sdc_index >= 0:
        _unswap(log.size[:, sdc_index])
        log.xyz[:, sdc_index, 2] += log.size[:, sdc_index, 2] / 2
    if is_nuscenes:
        _hold_last_velocity(log)
    ego = next((params for name, params in REAR_AXLE_EGOS.items() if dataset.startswith(name)), None)
    if ego is not None and sdc_index >= 0:
        _move_to_center(log, sdc_index, timestamps, ego)

    def agent_mask(key: str) -> Bool[np.ndarray, " N"]:
        values = member(metadata, key, (list, tuple, set, dict), "metadata", default=[])
        selected = set(id_strings(values, f"metadata.{key}"))
        return np.array([name in selected for name in tracks], bool)

    roads, left_out = read_roads(
        map_features,
        planar=is_nuscenes,
        has_outlines=dataset.startswith(OUTLINED_DATASETS),
        max_points=max_points,
    )
    lane_names = [lane_name(key, light) for key, light in light_states.items()]
    feature_ids = integer_ids([*(road.name for road in roads), *lane_names])
    lights = read_lights(light_states, num_steps, feature_ids)
    links = read_links(roads)
    on_route = read_route(roads)
    placeholders = [limit for name, limit in PLACEHOLDER_SPEED_LIMITS.items() if dataset.startswith(name)]
    speed_limit = np.array([read_speed_limit(road) for road in roads], np.float64)
    speed_limit[np.isclose(speed_limit[:, None], placeholders).any(axis=1)] = 0.0
    agent_ids = integer_ids(tracks)
    has_field = {
        "timestamps": has_times,
        "sdc": sdc_index >= 0,
        "tracks to predict": "tracks_to_predict" in metadata,
        "z": all(road.has_z for road in roads),
        "speed limits": speed_limit.any(),
        "lane links": (links[:, 2] != CONTROLS).any(),
        "lights": len(lights.lane_id) > 0,
        "routes": on_route is not None,
    }
    return RawScene(
        scenario_id=_scenario_id(record, metadata, log),
        timestamps=timestamps,
        current_step=member(metadata, "current_time_index", int, "metadata", default=0),
        agent_id=np.array([agent_ids[name] for name in tracks], np.int64),
        agent_type=np.array([_agent_type(track, name) for name, track in tracks.items()], np.int64),
        xyz=log.xyz,
        yaw=log.yaw,
        velocity=log.velocity,
        size=log.size,
        valid=log.valid,
        sdc_index=sdc_index,
        to_predict=agent_mask("tracks_to_predict"),
        of_interest=agent_mask("objects_of_interest"),
        point_xyz=np.concatenate([np.zeros((0, 3)), *(road.points for road in roads)]),
        point_feature=np.repeat(np.arange(len(roads)), [len(road.points) for road in roads]),
        feature_id=np.array([feature_ids[road.name] for road in roads], np.int64),
        feature_type=np.array([road.type for road in roads], np.int64),
        speed_limit=speed_limit,
        links=links,
        signal_lane_id=lights.lane_id,
        signal_state=lights.state,
        signal_stop_point=lights.stop_point,
        signal_valid=lights.valid,
        on_route=on_route,
        missing_fields=(*(name for name, present in has_field.items() if not present), *left_out),
    )


def _scenario_id(record: dict, metadata: dict, log: AgentLog) -> str:
    """The id in the file, or else a digest of the states."""
    stated = member(record, "id", str, "", default="") or member(metadata, "scenario_id", str, "metadata", default="")
    return stated or content_id(log.xyz, log.valid)


def _move_to_center(log: AgentLog, agent: int, timestamps: Float[np.ndarray, " T"], params: EgoVehicleParams) -> None:
    """Moves an agent from its rear axle to its box center, in place."""
    log.xyz[:, agent, :2], log.velocity[:, agent] = rear_axle_to_center(
        log.xyz[:, agent, :2],
        log.yaw[:, agent],
        log.velocity[:, agent],
        log.valid[:, agent],
        timestamps,
        params,
    )


def _log(tracks: dict[str, Any], num_steps: int) -> AgentLog:
    shape = (num_steps, len(tracks))
    log = AgentLog(
        np.zeros((*shape, 3)), np.zeros(shape), np.zeros((*shape, 2)), np.zeros((*shape, 3)), np.zeros(shape, bool)
    )
    for i, (name, track) in enumerate(tracks.items()):
        field = f"tracks.{name[:40]}"
        state = member(track, "state", dict, field)
        series = functools.partial(_series, state, num_steps, f"{field}.state")
        position = series("position", 2, 3)
        log.xyz[:, i, : position.shape[1]] = position
        log.yaw[:, i] = series("heading", 1)[:, 0]
        log.velocity[:, i] = series("velocity", 2, 3)[:, :2]
        if "size" in state:
            log.size[:, i] = series("size", 3)
        else:
            log.size[:, i] = np.concatenate([series(key, 1) for key in ("length", "width", "height")], axis=1)
        log.valid[:, i] = series("valid", 1)[:, 0] > 0
    return log


def _series(state: dict, num_steps: int, field: str, key: str, *widths: int) -> Float[np.ndarray, "T width"]:
    """Values of a track over time; scalars may have a trailing axis of length 1."""
    values = member(state, key, (np.ndarray, list), field)
    width = row_width(values)
    rows = numbers(values, f"{field}.{key}", width)
    rows = rows[:, None] if width is None else rows
    if len(rows) != num_steps or rows.shape[1] not in widths:
        problem = f"has shape {rows.shape} in a scene of {num_steps} steps"
        raise DataError(problem, field=f"{field}.{key}", remedy=SCENARIONET_REMEDY)
    return rows


def _hold_last_velocity(log: AgentLog) -> None:
    """Replaces velocities of zero at steps without a later state by that of the step before, in place."""
    valid, velocity = log.valid, log.velocity
    ends = valid[1:] & ~np.append(valid[2:], np.zeros((1, valid.shape[1]), bool), axis=0)[: len(valid) - 1]
    steps, agents = np.nonzero(ends & valid[:-1] & ~velocity[1:].any(axis=-1))
    velocity[steps + 1, agents] = velocity[steps, agents]


def _unswap(size: Float[np.ndarray, "T 3"]) -> None:
    """Makes the larger one of length and width the length, in place."""
    size[:, :2] = np.sort(size[:, :2], axis=1)[:, ::-1]


def _agent_type(track: Any, name: str) -> int:
    kind = member(track, "type", str, f"tracks.{name[:40]}").lower()
    return AGENT_TYPE_NAMES.index(kind) if kind in AGENT_TYPE_NAMES else OTHER
