"""GPUDrive and Nocturne JSON to `RawScene`: one scene a file, made from Waymo Open Motion Scenario protos.

The schema has no version number and has drifted; every version that was found is read. Nocturne's has neither heights
nor ids nor metadata; early ones of GPUDrive have some of these. Nothing is read from invalid states, whose sentinel is
-10000, 0.0001 or 0 depending on the version. Sizes are those of the last valid state.
"""

import json
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from waymax_sim.datasets.encoding.json_fields import member, numbers, whole_numbers
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.files import read_bytes
from waymax_sim.datasets.formats.traffic_lights import Lights, by_lane
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
from waymax_sim.datatypes.signals import SIGNAL_STATE_NAMES

LARGEST = 32 * 2**20  # bytes; parsed, a file takes at most about twenty times its size
REMEDY = "is it a scene of GPUDrive or Nocturne?"
STEP = 0.1  # s
NOW = 10  # by the convention of WOMD
# No recorded heading, unwrapped, is larger; in degrees, all headings of a scene below it would be a coincidence.
MAX_RADIANS = 20.0
# What a road is when the file does not say more.
KINDS = {
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
      DataError: The file cannot be read, is no such scene or is damaged.
    """
    data = read_bytes(path, LARGEST)
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"is not JSON: {str(error)[:80]}", file=path, remedy=REMEDY) from None
    return scene_from_record(record)


def scene_from_record(record: Any) -> RawScene:
    """Reads a scene from the parsed JSON.

    Times are regular steps of 0.1 s; "now" is step 10, or 0 in shorter records. Headings are taken for degrees where a
    valid one exceeds 20. Agents without ids are counted from 0; roads without ids are counted from above the ids of the
    lanes that lights name. Roads of unknown kinds are left out.

    Raises:
      DataError: A field is missing or malformed.
    """
    objects = member(record, "objects", list, "")
    roads = [road for road in member(record, "roads", list, "") if member(road, "type", str, "roads") in KINDS]
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
    in_degrees = np.abs(heading[valid]).max(initial=0) > MAX_RADIANS
    velocity = _points(_over_time(objects, "velocity", num_steps), "xy", "objects.velocity")
    size = [[_size(track, key) for key in ("length", "width", "height")] for track in objects]
    agent_id = _ids(objects, "objects", first=0)
    of_interest = member(metadata, "objects_of_interest", list, "metadata", default=[])
    lights = _lights(tl_states, num_steps, axes)
    return RawScene(
        scenario_id=member(record, "scenario_id", str, "", default=member(record, "name", str, "", default="unnamed")),
        timestamps=np.arange(num_steps) * STEP,
        current_step=NOW if num_steps > NOW else 0,
        agent_id=agent_id,
        agent_type=np.array([_agent_type(track) for track in objects], np.int64),
        xyz=_points(positions, axes, "objects.position").reshape(*shape, 3).swapaxes(0, 1),
        yaw=np.radians(heading) if in_degrees else heading,
        velocity=velocity.reshape(*shape, 3).swapaxes(0, 1)[..., :2],
        size=np.tile(numbers(size, "objects.length", width=3), (num_steps, 1, 1)),
        valid=valid,
        sdc_index=member(metadata, "sdc_track_index", int, "metadata", default=-1),
        to_predict=_to_predict(metadata, len(objects)),
        of_interest=np.isin(agent_id, whole_numbers(of_interest, "metadata.objects_of_interest")),
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
        lacks=_lacks(metadata, objects, roads, has_z=axes == "xyz", has_lights=bool(tl_states)),
    )


def _lacks(metadata: dict, objects: list[dict], roads: list[dict], *, has_z: bool, has_lights: bool) -> tuple[str, ...]:
    found = {
        "sdc": "sdc_track_index" in metadata,
        "tracks to predict": "tracks_to_predict" in metadata,
        "agent ids": all("id" in track for track in objects),
        "z": has_z,
        "heights": all("height" in track for track in objects),
        "map ids": all("id" in road for road in roads),
        "map types": all("map_element_id" in road for road in roads),
        "lights": has_lights,
    }
    never = ("timestamps", "sizes over time", "speed limits", "lane links", "routes")
    return (*never, *(name for name, is_there in found.items() if not is_there))


def _over_time(objects: list, key: str, num_steps: int) -> list:
    """The values of a field at all steps of the first object, at all steps of the second, and so on."""
    found = []
    for i, track in enumerate(objects):
        values = member(track, key, list, f"objects[{i}]")
        if len(values) != num_steps:
            problem = f"has {len(values)} steps where the first object has {num_steps}"
            raise DataError(problem, field=f"objects[{i}].{key}", remedy=REMEDY)
        found += values
    return found


def _points(points: list, axes: str, name: str) -> Float[np.ndarray, "P 3"]:
    """Points {x, y, z} as an array; z is 0 where it is not among the axes."""
    try:
        rows = [[point[axis] for axis in axes] for point in points]
    except (KeyError, TypeError):
        raise DataError(f"has points without {', '.join(axes)}", field=name, remedy=REMEDY) from None
    return np.pad(numbers(rows, name, width=len(axes)), ((0, 0), (0, 3 - len(axes))))


def _size(track: Any, key: str) -> float | int:
    # Nocturne has no heights.
    return member(track, key, (int, float), "objects", default=0.0 if key == "height" else None)


def _agent_type(track: Any) -> int:
    word = member(track, "type", str, "objects")
    if word not in AGENT_TYPE_NAMES:
        problem = f"{word[:40]!r} is none of {', '.join(AGENT_TYPE_NAMES)}"
        raise DataError(problem, field="objects.type", remedy=REMEDY)
    return AGENT_TYPE_NAMES.index(word)


def _road_type(road: Any) -> int:
    """The code in the file where it agrees with the kind: early files give driveways none."""
    kind, code = road["type"], member(road, "map_element_id", int, "roads", default=-1)
    return code if kind_name(code) == kind else KINDS[kind]


def _ids(items: list[dict], name: str, first: int) -> Int[np.ndarray, " n"]:
    if not all("id" in item for item in items):
        return first + np.arange(len(items))
    return whole_numbers([item["id"] for item in items], f"{name}.id")


def _to_predict(metadata: dict, num_tracks: int) -> Bool[np.ndarray, " N"]:
    name = "metadata.tracks_to_predict"
    chosen = np.zeros(num_tracks, bool)
    for item in member(metadata, "tracks_to_predict", list, "metadata", default=[]):
        index = member(item, "track_index", int, name)
        if not 0 <= index < num_tracks:
            raise DataError(f"{index} is not one of {num_tracks} objects", field=name, remedy=REMEDY)
        chosen[index] = True
    return chosen


def _lights(tl_states: dict[str, Any], num_steps: int, axes: str) -> Lights:
    step, lane, state, stop_point = [], [], [], []
    for key, light in tl_states.items():
        name = f"tl_states.{key[:20]}"
        seen = member(light, "time_index", list, name)
        words = member(light, "state", list, name)
        try:
            state += [SIGNAL_STATE_NAMES.index(word) for word in words]
            lane += [int(key)] * len(words)
        except ValueError:
            raise DataError("has unknown states, or no lane as its name", field=name, remedy=REMEDY) from None
        columns = [numbers(member(light, axis, list, name), f"{name}.{axis}") for axis in axes]
        if {len(words), *map(len, columns)} != {len(seen)}:
            raise DataError("has lists of different lengths", field=name, remedy=REMEDY)
        step += seen
        stop_point.append(np.stack([*columns, *[np.zeros(len(seen))] * (3 - len(axes))], axis=-1))
    steps = whole_numbers(step, "tl_states.time_index")
    if ((steps < 0) | (steps >= num_steps)).any():
        raise DataError(f"has steps outside 0..{num_steps - 1}", field="tl_states.time_index", remedy=REMEDY)
    points = np.concatenate(stop_point) if stop_point else np.zeros((0, 3))
    lanes = whole_numbers(lane, "tl_states")
    return by_lane(num_steps, steps, lanes, np.array(state, np.int64), points)
