"""Reader of GPUDrive and Nocturne JSON: one scene per file, converted from Waymo Open Motion Scenario protos.

The schema changed without version numbers; all known versions are supported. Nocturne has no heights, ids and metadata;
early versions of GPUDrive have some of these. Values of invalid states are ignored; depending on the version they are
-10000, 0.0001 or 0. Sizes are those of the last valid state.
"""

import json
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from waymax_sim.datasets.encoding.json_fields import integers, member, numbers
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.files import read_bytes
from waymax_sim.datasets.formats.map_features import left_out_features
from waymax_sim.datasets.formats.traffic_lights import Lights, lights_by_lane
from waymax_sim.datasets.scenario_id import content_id
from waymax_sim.datasets.scene import INT32, RawScene
from waymax_sim.datatypes.agents import AGENT_TYPE_NAMES
from waymax_sim.datatypes.roadmap import (
    CROSSWALK,
    DRIVEWAY,
    LANE_UNDEFINED,
    ROAD_EDGE_UNKNOWN,
    ROAD_LINE_UNKNOWN,
    SPEED_BUMP,
    STOP_SIGN,
    kind_name,
)
from waymax_sim.datatypes.scenario import TIME_STEP
from waymax_sim.datatypes.signals import SIGNAL_STATE_NAMES

MAX_GPUDRIVE_BYTES = 32 * 2**20  # parsed JSON takes up to about twenty times the size of the file
GPUDRIVE_REMEDY = "give a scene of GPUDrive or Nocturne"
DEFAULT_CURRENT_STEP = 10  # that of WOMD
# rad; recorded unwrapped headings are smaller. A scene with a larger heading is in degrees, if motion does not tell.
MAX_HEADING = 20.0
# Smallest displacement in one step whose direction is compared with the heading, m: 3 m/s.
MIN_DISPLACEMENT = 0.3
# Smallest difference between the mean cosines of both units that is evidence for one of them.
MIN_EVIDENCE = 0.1
# Road type -> feature type of roads without `map_element_id`.
DEFAULT_FEATURE_TYPES = {
    "lane": LANE_UNDEFINED,
    "road_line": ROAD_LINE_UNKNOWN,
    "road_edge": ROAD_EDGE_UNKNOWN,
    "stop_sign": STOP_SIGN,
    "crosswalk": CROSSWALK,
    "speed_bump": SPEED_BUMP,
    "driveway": DRIVEWAY,
}


def scene_from_file(path: str) -> RawScene:
    """Reads a scene from a JSON file of GPUDrive or Nocturne.

    Raises:
      DataError: The file cannot be read, is not a GPUDrive or Nocturne scene or is damaged.
    """
    data = read_bytes(path, MAX_GPUDRIVE_BYTES)
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"is not JSON: {str(error)[:80]}", file=path, remedy=GPUDRIVE_REMEDY) from None
    return scene_from_record(record)


def scene_from_record(record: Any) -> RawScene:
    """Reads a scene from the parsed JSON.

    The time step is 0.1 s; the current step is 10, or 0 in shorter records. The unit of headings, radians or degrees,
    is the one that agrees with the directions in which agents move; if no agent moves, it is degrees if a valid heading
    exceeds 20. Agents without ids are numbered from 0; roads without ids are numbered from above the lane ids of
    lights. Roads of unknown types are dropped, which `missing_fields` says.

    Raises:
      DataError: A field is missing or malformed.
    """
    objects = member(record, "objects", list, "")
    all_roads = member(record, "roads", list, "")
    roads = [road for road in all_roads if member(road, "type", str, "roads") in DEFAULT_FEATURE_TYPES]
    tl_states = member(record, "tl_states", dict, "", default={})
    metadata = member(record, "metadata", dict, "", default={})
    num_steps = len(member(objects[0], "position", list, "objects[0]")) if objects else 0
    shape = (len(objects), num_steps)
    positions = _over_time(objects, "position", num_steps)
    geometries = [member(road, "geometry", list, "roads") for road in roads]
    points = [point for geometry in geometries for point in geometry]
    first_point = next(iter(positions or points), None)
    axes = "xyz" if isinstance(first_point, dict) and "z" in first_point else "xy"

    valid = numbers(_over_time(objects, "valid", num_steps), "objects.valid").reshape(shape).T == 1
    heading = numbers(_over_time(objects, "heading", num_steps), "objects.heading").reshape(shape).T
    xyz = _points(positions, axes, "objects.position").reshape(*shape, 3).swapaxes(0, 1)
    velocity = _points(_over_time(objects, "velocity", num_steps), "xy", "objects.velocity")
    size = [[_size(track, key) for key in ("length", "width", "height")] for track in objects]
    agent_id = _ids(objects, "objects", first=0)
    of_interest = member(metadata, "objects_of_interest", list, "metadata", default=[])
    lights = _lights(tl_states, num_steps, axes)
    stated_id = member(record, "scenario_id", str, "", default="") or member(record, "name", str, "", default="")
    return RawScene(
        scenario_id=stated_id or content_id(xyz, valid),
        timestamps=np.arange(num_steps) * TIME_STEP,
        current_step=DEFAULT_CURRENT_STEP if num_steps > DEFAULT_CURRENT_STEP else 0,
        agent_id=agent_id,
        agent_type=np.array([_agent_type(track) for track in objects], np.int64),
        xyz=xyz,
        yaw=np.radians(heading) if _in_degrees(heading, xyz, valid) else heading,
        velocity=velocity.reshape(*shape, 3).swapaxes(0, 1)[..., :2],
        size=np.tile(numbers(size, "objects.length", width=3), (num_steps, 1, 1)),
        valid=valid,
        sdc_index=member(metadata, "sdc_track_index", int, "metadata", default=-1),
        to_predict=_to_predict(metadata, len(objects)),
        of_interest=np.isin(agent_id, integers(of_interest, "metadata.objects_of_interest")),
        point_xyz=_points(points, axes, "roads.geometry"),
        point_feature=np.repeat(np.arange(len(roads)), [len(geometry) for geometry in geometries]),
        feature_id=_ids(roads, "roads", first=int(lights.lane_id.clip(max=INT32.max).max(initial=-1)) + 1),
        feature_type=np.array([_road_type(road) for road in roads], np.int64),
        speed_limit=np.zeros(len(roads)),
        links=np.zeros((0, 3), np.int64),
        signal_lane_id=lights.lane_id,
        signal_state=lights.state,
        signal_stop_point=lights.stop_point,
        signal_valid=lights.valid,
        missing_fields=(
            *_missing_fields(metadata, objects, roads, has_z=axes == "xyz", has_lights=bool(tl_states)),
            *left_out_features(road["type"] for road in all_roads if road["type"] not in DEFAULT_FEATURE_TYPES),
        ),
    )


# Invalid states hold any value.
@np.errstate(invalid="ignore", over="ignore")
def _in_degrees(
    heading: Float[np.ndarray, "T N"], xyz: Float[np.ndarray, "T N 3"], valid: Bool[np.ndarray, "T N"]
) -> bool:
    """Whether headings are in degrees: the schema does not tell, and wrapped degrees can be small numbers."""
    both = valid[1:] & valid[:-1]
    step = np.where(both[..., None], np.diff(xyz[..., :2], axis=0), 0.0)
    moves = np.hypot(step[..., 0], step[..., 1]) > MIN_DISPLACEMENT
    course, headings = np.arctan2(step[moves][:, 1], step[moves][:, 0]), heading[:-1][moves]
    if len(course):
        agreement = [np.cos(course - yaw).mean() for yaw in (headings, np.radians(headings))]
        if abs(agreement[1] - agreement[0]) > MIN_EVIDENCE:
            return bool(agreement[1] > agreement[0])
    return bool(np.abs(heading[valid]).max(initial=0) > MAX_HEADING)


def _missing_fields(
    metadata: dict, objects: list[dict], roads: list[dict], *, has_z: bool, has_lights: bool
) -> tuple[str, ...]:
    has_field = {
        "sdc": "sdc_track_index" in metadata,
        "tracks to predict": "tracks_to_predict" in metadata,
        "agent ids": all("id" in track for track in objects),
        "z": has_z,
        "heights": all("height" in track for track in objects),
        "map ids": all("id" in road for road in roads),
        "map types": all("map_element_id" in road for road in roads),
        "lights": has_lights,
    }
    always_missing = ("timestamps", "sizes over time", "speed limits", "lane links", "routes")
    return (*always_missing, *(name for name, present in has_field.items() if not present))


def _over_time(objects: list, key: str, num_steps: int) -> list:
    """The values of a field at all steps of all objects, in the order [objects, steps]."""
    series = []
    for i, track in enumerate(objects):
        values = member(track, key, list, f"objects[{i}]")
        if len(values) != num_steps:
            problem = f"has {len(values)} steps, the first object has {num_steps}"
            raise DataError(problem, field=f"objects[{i}].{key}", remedy=GPUDRIVE_REMEDY)
        series += values
    return series


def _points(points: list, axes: str, name: str) -> Float[np.ndarray, "P 3"]:
    """Points {x, y, z} as an array; z is 0 if it is not among the axes."""
    try:
        rows = [[point[axis] for axis in axes] for point in points]
    except (KeyError, TypeError):
        raise DataError(f"has points without {', '.join(axes)}", field=name, remedy=GPUDRIVE_REMEDY) from None
    return np.pad(numbers(rows, name, width=len(axes)), ((0, 0), (0, 3 - len(axes))))


def _size(track: Any, key: str) -> float | int:
    # Nocturne has no heights.
    return member(track, key, (int, float), "objects", default=0.0 if key == "height" else None)


def _agent_type(track: Any) -> int:
    word = member(track, "type", str, "objects")
    if word not in AGENT_TYPE_NAMES:
        problem = f"{word[:40]!r} is not one of {', '.join(AGENT_TYPE_NAMES)}"
        raise DataError(problem, field="objects.type", remedy=GPUDRIVE_REMEDY)
    return AGENT_TYPE_NAMES.index(word)


def _road_type(road: Any) -> int:
    """The code in the file if it matches the type of the road; early files have no code for driveways."""
    kind, code = road["type"], member(road, "map_element_id", int, "roads", default=-1)
    return code if kind_name(code) == kind else DEFAULT_FEATURE_TYPES[kind]


def _ids(items: list[dict], name: str, first: int) -> Int[np.ndarray, " n"]:
    if not all("id" in item for item in items):
        return first + np.arange(len(items))
    return integers([item["id"] for item in items], f"{name}.id")


def _to_predict(metadata: dict, num_tracks: int) -> Bool[np.ndarray, " N"]:
    name = "metadata.tracks_to_predict"
    to_predict = np.zeros(num_tracks, bool)
    for item in member(metadata, "tracks_to_predict", list, "metadata", default=[]):
        index = member(item, "track_index", int, name)
        if not 0 <= index < num_tracks:
            raise DataError(f"{index} is not one of {num_tracks} objects", field=name, remedy=GPUDRIVE_REMEDY)
        to_predict[index] = True
    return to_predict


def _lights(tl_states: dict[str, Any], num_steps: int, axes: str) -> Lights:
    step, lane, state, stop_point = [], [], [], []
    for key, light in tl_states.items():
        name = f"tl_states.{key[:20]}"
        steps_of_light = member(light, "time_index", list, name)
        words = member(light, "state", list, name)
        try:
            state += [SIGNAL_STATE_NAMES.index(word) for word in words]
            lane += [int(key)] * len(words)
        except ValueError:
            raise DataError(
                "has unknown states, or its key is not a lane id", field=name, remedy=GPUDRIVE_REMEDY
            ) from None
        columns = [numbers(member(light, axis, list, name), f"{name}.{axis}") for axis in axes]
        if {len(words), *map(len, columns)} != {len(steps_of_light)}:
            raise DataError("has lists of different lengths", field=name, remedy=GPUDRIVE_REMEDY)
        step += steps_of_light
        stop_point.append(np.stack([*columns, *[np.zeros(len(steps_of_light))] * (3 - len(axes))], axis=-1))
    steps = integers(step, "tl_states.time_index")
    if ((steps < 0) | (steps >= num_steps)).any():
        raise DataError(f"has steps outside 0..{num_steps - 1}", field="tl_states.time_index", remedy=GPUDRIVE_REMEDY)
    points = np.concatenate(stop_point) if stop_point else np.zeros((0, 3))
    lanes = integers(lane, "tl_states")
    return lights_by_lane(num_steps, steps, lanes, np.array(state, np.int64), points)
