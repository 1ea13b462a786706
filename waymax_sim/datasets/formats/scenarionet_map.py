"""Reader of maps of ScenarioNet records."""

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from waymax_sim.datasets.encoding.json_fields import member, numbers, row_width
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.formats.drivable_area import is_ring, orient_rings
from waymax_sim.datasets.formats.map_features import left_out_features
from waymax_sim.datasets.formats.scenario_proto import MILE_PER_HOUR
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

SCENARIONET_REMEDY = "give a scene of ScenarioNet"
MAX_ITEMS = 1_000_000  # points or links of a map; recorded scenes have tens of thousands
OUTLINE_PATTERN = re.compile(r"boundary_\d{1,6}")
# Member of a lane with its speed limit, and the unit in m/s; the first one counts.
SPEED_LIMIT_UNITS = (("speed_limit_mps", 1.0), ("speed_limit_mph", MILE_PER_HOUR), ("speed_limit_kmh", 1 / 3.6))
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


def read_roads(
    map_features: dict, *, planar: bool, has_outlines: bool, max_points: int = MAX_ITEMS
) -> tuple[list[Road], list[str]]:
    """The features of types that WOMD has, except lanes, lines and edges that have a polygon only.

    Args:
      map_features: As in the file.
      planar: Use only x and y, because the third number of a lane point of nuScenes is a heading.
      has_outlines: Lines named "boundary_0" and so on are the outlines of the drivable area; they become road edges.
      max_points: Largest accepted number of points.

    Returns:
      The features, and a description of the features that are left out, one for each type.

    Raises:
      DataError: A feature is malformed, or there are more than `max_points` points.
    """
    roads, num_points, left_out = [], 0, []
    for key, fields in map_features.items():
        name = f"map_features.{str(key)[:40]}"
        word = member(fields, "type", str, name)
        if word not in FEATURE_TYPES:
            left_out.append(word)
            continue
        is_lane = word == "UNKNOWN" and not fields.keys().isdisjoint(("entry_lanes", "entry"))
        code = LANE_UNDEFINED if is_lane else FEATURE_TYPES[word]
        values = _shape(fields, code, name)
        if values is None:
            left_out.append(f"{word} without polyline")
            continue
        width = row_width(values)
        points = numbers(values, name, width)
        if len(points) and width not in (2, 3):
            raise DataError("has points that are not rows of 2 or 3 numbers", field=name, remedy=SCENARIONET_REMEDY)
        num_points += len(points)
        if num_points > max_points:
            raise DataError(f"has more than {max_points} points", field="map_features", remedy=SCENARIONET_REMEDY)
        has_z = not planar and (width == 3 or not len(points))
        roads.append(Road(str(key), code, to_xyz(points, has_z), has_z, fields))
    return (_outlines_as_edges(roads) if has_outlines else roads), left_out_features(left_out)


def _outlines_as_edges(roads: list[Road]) -> list[Road]:
    """Roads, with closed outlines of the drivable area as road edges."""
    rows = [row for row, road in enumerate(roads) if OUTLINE_PATTERN.fullmatch(road.name) and is_ring(road.points)]
    rings = orient_rings([roads[row].points for row in rows])
    if rings is None:
        return roads
    edges = dict(zip(rows, rings, strict=True))
    return [
        road._replace(type=ROAD_EDGE_BOUNDARY, points=edges[row]) if row in edges else road
        for row, road in enumerate(roads)
    ]


def _shape(fields: dict, code: int, name: str) -> Any:
    """The points of a feature as in the file; None if it has none of the expected kind."""
    if code == STOP_SIGN:
        return numbers(fields.get("position"), f"{name}.position")[None]
    if code in (CROSSWALK, SPEED_BUMP, DRIVEWAY):
        return fields.get("polygon", fields.get("polyline"))
    return fields.get("polyline")


def to_xyz(points: np.ndarray, has_z: bool) -> Float[np.ndarray, "P 3"]:
    """Points as rows of three numbers, at height 0 if they have no heights."""
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
    limits = (
        float(member(road.fields, key, (int, float), road.name, default=0)) * unit for key, unit in SPEED_LIMIT_UNITS
    )
    return next((limit for limit in limits if limit), 0.0)


def read_route(roads: list[Road]) -> Bool[np.ndarray, " F"] | None:
    """Mask of the lanes that the file marks as the route of the ego, as the converter of nuPlan does; None without."""
    on_route = np.array([road.type in LANE_TYPES and road.fields.get("is_sdc_route") is True for road in roads], bool)
    return on_route if on_route.any() else None


# The older generation has "entry" and "exit".
ENTRY_KEYS = ("entry_lanes", "entry")
LANE_LINKS = (
    *((key, SUCCESSOR) for key in ENTRY_KEYS),
    ("exit_lanes", SUCCESSOR),
    ("exit", SUCCESSOR),
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
                links.add((other, row, kind) if key in ENTRY_KEYS else (row, other, kind))
    return np.array(sorted(links), np.int64).reshape(-1, 3)
