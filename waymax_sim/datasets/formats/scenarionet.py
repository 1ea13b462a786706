"""ScenarioNet pickles (MetaDrive's ScenarioDescription) to `RawScene`: one scene a file, of any dataset.

Two generations of the schema are read, and how the converters of Waymo Open Motion, nuScenes, nuPlan and Argoverse 2
fill them. The pickle is read as data only, see `safe_pickle`.
"""

import functools
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from waymax_sim.datasets.encoding.json_fields import member, numbers, width_of
from waymax_sim.datasets.encoding.safe_pickle import loads
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.files import read_bytes
from waymax_sim.datasets.formats.scenarionet_map import (
    REMEDY,
    ids_of,
    lane_of,
    lights_of,
    links_of,
    names_of,
    roads_of,
    speed_limit_of,
)
from waymax_sim.datasets.formats.traffic_lights import MAX_CELLS
from waymax_sim.datasets.scene import RawScene
from waymax_sim.datatypes.agents import AGENT_TYPE_NAMES, OTHER
from waymax_sim.datatypes.roadmap import CONTROLS

LARGEST = 64 * 2**20  # bytes
STEP = 0.1  # s, where the file has no times


class Log(NamedTuple):
    """What was recorded of the agents: the fields of a `RawScene`."""

    xyz: Float[np.ndarray, "T N 3"]
    yaw: Float[np.ndarray, "T N"]
    velocity: Float[np.ndarray, "T N 2"]
    size: Float[np.ndarray, "T N 3"]
    valid: Bool[np.ndarray, "T N"]


def scene_from_file(path: str) -> RawScene:
    """Reads a scene from a ScenarioNet pickle.

    Raises:
      DataError: The file cannot be read, holds more than plain data, is no such scene or is damaged.
    """
    return scene_from_record(loads(read_bytes(path, LARGEST)))


def scene_from_record(record: Any) -> RawScene:
    """Reads a scene from what a ScenarioNet pickle holds.

    Ids are text there. They are kept where all of a scene are whole numbers of 32 bits; else agents, and likewise map
    features, are counted from 0 in the order of the file. Agents of types that WOMD does not have are "other"; map
    features of such types, and lanes given by an area alone, are left out. "Now" is step 0 unless the file says so.
    The maps of nuScenes are planar, and the length and width of its ego, which its converter mixes up, are put right.

    Raises:
      DataError: A field is missing or malformed.
    """
    metadata = member(record, "metadata", dict, "")
    tracks_by_key = member(record, "tracks", dict, "")
    tracks = {str(key): track for key, track in tracks_by_key.items()}
    if len(tracks) < len(tracks_by_key):
        raise DataError("has an id twice, as text and as a number", field="tracks", remedy=REMEDY)
    map_features = member(record, "map_features", dict, "")
    light_states = member(record, "dynamic_map_states", dict, "", default={})
    is_nuscenes = member(metadata, "dataset", str, "metadata", default="").startswith("nuscenes")

    has_times = metadata.get("ts") is not None
    num_steps = len(numbers(metadata["ts"], "metadata.ts")) if has_times else member(record, "length", int, "")
    if not 0 <= num_steps * max(len(tracks), 1) <= MAX_CELLS:
        raise DataError(f"{len(tracks)} tracks of {num_steps} steps are too many", field="tracks", remedy=REMEDY)
    log = _log(tracks, num_steps)
    sdc_id = str(member(metadata, "sdc_id", (str, int), "metadata", default=""))
    sdc_index = list(tracks).index(sdc_id) if sdc_id in tracks else -1
    if is_nuscenes and sdc_index >= 0:
        _unswap(log.size[:, sdc_index])

    def named(key: str) -> Bool[np.ndarray, " N"]:
        listed = member(metadata, key, (list, tuple, set, dict), "metadata", default=[])
        chosen = set(names_of(listed, f"metadata.{key}"))
        return np.array([name in chosen for name in tracks], bool)

    roads = roads_of(map_features, planar=is_nuscenes)
    lane_names = [lane_of(key, light) for key, light in light_states.items()]
    feature_ids = ids_of([*(road.name for road in roads), *lane_names])
    lights = lights_of(light_states, num_steps, feature_ids)
    links = links_of(roads)
    speed_limit = np.array([speed_limit_of(road) for road in roads], np.float64)
    agent_ids = ids_of(tracks)
    found = {
        "timestamps": has_times,
        "sdc": sdc_index >= 0,
        "tracks to predict": "tracks_to_predict" in metadata,
        "z": all(road.has_z for road in roads),
        "speed limits": speed_limit.any(),
        "lane links": (links[:, 2] != CONTROLS).any(),
        "lights": len(lights.lane_id) > 0,
        "routes": False,
    }
    return RawScene(
        scenario_id=member(record, "id", str, "", default="unnamed"),
        timestamps=numbers(metadata["ts"], "metadata.ts") if has_times else np.arange(num_steps) * STEP,
        current_step=member(metadata, "current_time_index", int, "metadata", default=0),
        agent_id=np.array([agent_ids[name] for name in tracks], np.int64),
        agent_type=np.array([_agent_type(track, name) for name, track in tracks.items()], np.int64),
        xyz=log.xyz,
        yaw=log.yaw,
        velocity=log.velocity,
        size=log.size,
        valid=log.valid,
        sdc_index=sdc_index,
        to_predict=named("tracks_to_predict"),
        of_interest=named("objects_of_interest"),
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
        lacks=tuple(name for name, is_there in found.items() if not is_there),
    )


def _log(tracks: dict[str, Any], num_steps: int) -> Log:
    shape = (num_steps, len(tracks))
    log = Log(
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
    """Values of a track over time; single numbers may have an axis of their own."""
    values = member(state, key, (np.ndarray, list), field)
    width = width_of(values)
    rows = numbers(values, f"{field}.{key}", width)
    rows = rows[:, None] if width is None else rows
    if len(rows) != num_steps or rows.shape[1] not in widths:
        problem = f"has shape {rows.shape} in a scene of {num_steps} steps"
        raise DataError(problem, field=f"{field}.{key}", remedy=REMEDY)
    return rows


def _unswap(size: Float[np.ndarray, "T 3"]) -> None:
    """Puts the larger of length and width first."""
    size[:, :2] = np.sort(size[:, :2], axis=1)[:, ::-1]


def _agent_type(track: Any, name: str) -> int:
    kind = member(track, "type", str, f"tracks.{name[:40]}").lower()
    return AGENT_TYPE_NAMES.index(kind) if kind in AGENT_TYPE_NAMES else OTHER
