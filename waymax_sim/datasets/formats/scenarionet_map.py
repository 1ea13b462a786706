"""Reader of maps and traffic lights of ScenarioNet records."""

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from waymax_sim.datasets.encoding.json_fields import member, numbers, row_width
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.formats.scenario_proto import MILE_PER_HOUR
from waymax_sim.datasets.formats.traffic_lights import MAX_CELLS, Lights, lights_by_lane
from waymax_sim.datasets.scene import INT32
from waymax_sim.datatypes.roadmap import (
    CONTROLS,
    CROSSWALK,
    DRIVEWAY,
    LANE_BIKE,
    LANE_FREEWAY,
    LANE_SURFACE_STREET,
    LANE_TYPES,
    LANE_UNDEFINED,
    LEFT_NEIGHBOR,
    RIGHT_NEIGHBOR,
    ROAD_EDGE_BOUNDARY,
    ROAD_EDGE_MEDIAN,
    ROAD_EDGE_UNKNOWN,
    ROAD_LINE_UNKNOWN,
    SPEED_BUMP,
    STOP_SIGN,
    SUCCESSOR,
)
from waymax_sim.datatypes.signals import SIGNAL_STATE_NAMES

SCENARIONET_REMEDY = "give a scene of ScenarioNet"
MAX_ITEMS = 1_000_000  # points or links of a map; recorded scenes have tens of thousands
INTEGER_PATTERN = re.compile(r"0|-?[1-9]\d{0,9}")

FEATURE_TYPES = {
    "LANE_UNKNOWN": LANE_UNDEFINED,
    "LANE_FREEWAY": LANE_FREEWAY,
    "LANE_SURFACE_STREET": LANE_SURFACE_STREET,
    "LANE_SURFACE_UNSTRUCTURE": LANE_SURFACE_STREET,
    "LANE_BIKE_LANE": LANE_BIKE,
    "UNKNOWN_LINE": ROAD_LINE_UNKNOWN,
    "ROAD_LINE_BROKEN_SINGLE_WHITE": 6,
    "ROAD_LINE_SOLID_SINGLE_WHITE": 7,
    "ROAD_LINE_SOLID_DOUBLE_WHITE": 8,
    "ROAD_LINE_BROKEN_SINGLE_YELLOW": 9,
    "ROAD_LINE_BROKEN_DOUBLE_YELLOW": 10,
    "ROAD_LINE_SOLID_SINGLE_YELLOW": 11,
    "ROAD_LINE_SOLID_DOUBLE_YELLOW": 12,
    "ROAD_LINE_PASSING_DOUBLE_YELLOW": 13,
    "UNKNOWN": ROAD_EDGE_UNKNOWN,
    "ROAD_EDGE_BOUNDARY": ROAD_EDGE_BOUNDARY,
    "ROAD_EDGE_MEDIAN": ROAD_EDGE_MEDIAN,
    "STOP_SIGN": STOP_SIGN,
    "CROSSWALK": CROSSWALK,
    "CROSS_WALK": CROSSWALK,
    "SPEED_BUMP": SPEED_BUMP,
    "DRIVEWAY": DRIVEWAY,
}
NOT_OBSERVED = -1
# States of Waymo, of MetaDrive, and the numbers of the older schema.
LIGHT_STATES: dict[Any, int] = {
    **{f"LANE_STATE_{name.upper()}": code for code, name in enumerate(SIGNAL_STATE_NAMES)},
    **{code: code for code in range(len(SIGNAL_STATE_NAMES))},
    "TRAFFIC_LIGHT_UNKNOWN": SIGNAL_STATE_NAMES.index("unknown"),
    "TRAFFIC_LIGHT_RED": SIGNAL_STATE_NAMES.index("stop"),
    "TRAFFIC_LIGHT_YELLOW": SIGNAL_STATE_NAMES.index("caution"),
    "TRAFFIC_LIGHT_GREEN": SIGNAL_STATE_NAMES.index("go"),
    None: NOT_OBSERVED,
}


class Road(NamedTuple):
    """One map feature.

    Attributes:
      name: Id in the file.
      type: WOMD tf.Example code (see `datatypes.roadmap`).
      points: m; at height 0 if the file has no heights.
      has_z: Whether the file has heights.
      fields: Members of the feature in the file.
    """

    name: str
    type: int
    points: Float[np.ndarray, "P 3"]
    has_z: bool
    fields: dict


def read_roads(map_features: dict, planar: bool) -> list[Road]:
    """The features of types that WOMD has, except lanes, lines and edges that have a polygon only.

    Args:
      map_features: As in the file.
      planar: Use only x and y, because the third number of a lane point of nuScenes is a heading.

    Raises:
      DataError: A feature is malformed, or there are more than `MAX_ITEMS` points.
    """
    roads, num_points = [], 0
    for key, fields in map_features.items():
        name = f"map_features.{str(key)[:40]}"
        word = member(fields, "type", str, name)
        if word not in FEATURE_TYPES:
            continue
        code = LANE_UNDEFINED if word == "UNKNOWN" and "entry_lanes" in fields else FEATURE_TYPES[word]
        values = _shape(fields, code, name)
        if values is None:
            continue
        width = row_width(values)
        points = numbers(values, name, width)
        if len(points) and width not in (2, 3):
            raise DataError("has points that are not rows of 2 or 3 numbers", field=name, remedy=SCENARIONET_REMEDY)
        num_points += len(points)
        if num_points > MAX_ITEMS:
            raise DataError(f"has more than {MAX_ITEMS} points", field="map_features", remedy=SCENARIONET_REMEDY)
        has_z = not planar and (width == 3 or not len(points))
        roads.append(Road(str(key), code, _in_space(points, has_z), has_z, fields))
    return roads


def _shape(fields: dict, code: int, name: str) -> Any:
    """The points of a feature as in the file; None if it has none of the expected kind."""
    if code == STOP_SIGN:
        return numbers(fields.get("position"), f"{name}.position")[None]
    if code in (CROSSWALK, SPEED_BUMP, DRIVEWAY):
        return fields.get("polygon", fields.get("polyline"))
    return fields.get("polyline")


def _in_space(points: np.ndarray, has_z: bool) -> Float[np.ndarray, "P 3"]:
    xyz = np.zeros((len(points), 3))
    axes = 3 if has_z else 2
    if len(points):
        xyz[:, :axes] = points[:, :axes]
    return xyz


def integer_ids(names: Iterable[str]) -> dict[str, int]:
    """An integer id for each name: its value if all names are 32-bit integers, else its position."""
    distinct = list(dict.fromkeys(names))
    if all(INTEGER_PATTERN.fullmatch(name) and INT32.min <= int(name) <= INT32.max for name in distinct):
        return {name: int(name) for name in distinct}
    return {name: position for position, name in enumerate(distinct)}


def id_strings(values: Iterable, field: str) -> list[str]:
    """Ids in a list, set or dict, as strings."""
    if not all(isinstance(value, (str, int)) for value in values):
        raise DataError("is not a list of ids", field=field, remedy=SCENARIONET_REMEDY)
    return [str(value) for value in values]


def read_speed_limit(road: Road) -> float:
    """Speed limit of a lane, m/s; 0 if unknown."""
    miles = member(road.fields, "speed_limit_mph", (int, float), road.name, default=0)
    km_per_hour = member(road.fields, "speed_limit_kmh", (int, float), road.name, default=0)
    return float(miles * MILE_PER_HOUR or km_per_hour / 3.6)


LANE_LINKS = (
    ("entry_lanes", SUCCESSOR),
    ("exit_lanes", SUCCESSOR),
    ("left_neighbor", LEFT_NEIGHBOR),
    ("right_neighbor", RIGHT_NEIGHBOR),
)
SIGN_LINKS = (("lane", CONTROLS),)


def read_links(roads: list[Road]) -> Int[np.ndarray, "L 3"]:
    """Distinct links between lanes, and from stop signs to lanes, of the map.

    Raises:
      DataError: A list of lanes is malformed, or there are more than `MAX_ITEMS` links.
    """
    lanes = {road.name: row for row, road in enumerate(roads) if road.type in LANE_TYPES}
    signs = {road.name: row for row, road in enumerate(roads) if road.type == STOP_SIGN}
    links, num_links = set(), 0
    for name, row in (lanes | signs).items():
        candidates = []
        for key, kind in SIGN_LINKS if name in signs else LANE_LINKS:
            others = member(roads[row].fields, key, (list, tuple), name, default=[])
            num_links += len(others)
            if num_links > MAX_ITEMS:
                raise DataError(f"has more than {MAX_ITEMS} links", field="map_features", remedy=SCENARIONET_REMEDY)
            # Neighbors of Waymo are dicts with a range along the lane.
            ids = [other.get("feature_id") if isinstance(other, dict) else other for other in others]
            candidates += [
                (lanes.get(other), key, kind) for other in id_strings(ids, f"map_features.{name[:40]}.{key}")
            ]
        for other, key, kind in candidates:
            if other is not None:
                links.add((other, row, kind) if key == "entry_lanes" else (row, other, kind))
    return np.array(sorted(links), np.int64).reshape(-1, 3)


def lane_name(key: Any, light: Any) -> str:
    """The id of the lane of a light in the file."""
    return str(member(light, "lane", (str, int), f"dynamic_map_states.{str(key)[:40]}", default=str(key)))


def read_lights(dynamic_map_states: dict, num_steps: int, ids: dict[str, int]) -> Lights:
    """The lights, whose stop points are constant, or given per step in the older schema.

    Args:
      dynamic_map_states: As in the file.
      num_steps: Steps of the scene.
      ids: Integer ids of all lanes by name.

    Raises:
      DataError: A light is malformed, or steps times lights exceed `MAX_CELLS`.
    """
    if num_steps * len(dynamic_map_states) > MAX_CELLS:
        raise DataError(
            f"has too many lights, {len(dynamic_map_states)} over {num_steps} steps", field="dynamic_map_states"
        )
    lane, codes, points = [], [], []
    for key, light in dynamic_map_states.items():
        name = f"dynamic_map_states.{str(key)[:40]}"
        code = _light_states(member(light, "state", dict, name).get("object_state"), num_steps, name)
        values = member(light, "stop_point", (np.ndarray, list, tuple), name)
        width = row_width(values)
        stop_points = numbers(values, f"{name}.stop_point", width)
        stop_points = stop_points[None] if width is None else stop_points
        if stop_points.shape[1] not in (2, 3) or len(stop_points) not in (1, num_steps):
            raise DataError(
                "is neither a point nor one for each step", field=f"{name}.stop_point", remedy=SCENARIONET_REMEDY
            )
        if width is not None:
            # Steps at which the light was not observed are zero.
            code = np.where((code > 0) | stop_points.any(axis=-1), code, NOT_OBSERVED)
        lane.append(ids[lane_name(key, light)])
        codes.append(code)
        points.append(np.broadcast_to(_in_space(stop_points, stop_points.shape[1] == 3), (num_steps, 3)))
    state = np.array(codes, np.int64).reshape(len(lane), num_steps)
    light_index, step = np.nonzero(state != NOT_OBSERVED)
    stop_point = np.array(points).reshape(len(lane), num_steps, 3)
    return lights_by_lane(
        num_steps, step, np.array(lane, np.int64)[light_index], state[light_index, step], stop_point[light_index, step]
    )


def _light_states(values: Any, num_steps: int, name: str) -> Int[np.ndarray, " T"]:
    words = values.tolist() if isinstance(values, np.ndarray) and values.dtype.kind in "iuf" else values
    if not isinstance(words, (list, tuple)) or len(words) != num_steps:
        raise DataError(
            f"is not a list of {num_steps} states", field=f"{name}.state.object_state", remedy=SCENARIONET_REMEDY
        )
    codes = [LIGHT_STATES.get(word) if isinstance(word, (str, int, float, type(None))) else None for word in words]
    if None in codes:
        raise DataError("has unknown states", field=f"{name}.state.object_state", remedy=SCENARIONET_REMEDY)
    return np.array(codes, np.int64)
