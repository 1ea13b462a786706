"""Reader of lanelets of CommonRoad."""

from collections.abc import Iterator
from xml.etree.ElementTree import Element

import numpy as np
from jaxtyping import Float

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.formats.commonroad_xml import (
    COMMONROAD_REMEDY,
    child,
    child_number,
    child_text,
    parse_id,
    parse_points,
)
from waymax_sim.datasets.formats.map_features import MapFeature, resample
from waymax_sim.datatypes.roadmap import (
    CROSSWALK,
    LANE_BIKE,
    LANE_FREEWAY,
    LANE_SURFACE_STREET,
    LANE_UNDEFINED,
    LEFT_NEIGHBOR,
    RIGHT_NEIGHBOR,
    ROAD_LINE_UNKNOWN,
    SUCCESSOR,
)

# Lanelet type -> feature type. Of several types, the first one of the table counts. Sidewalks are dropped.
LANELET_TYPES = {
    "sidewalk": None,
    "crosswalk": CROSSWALK,
    "bicycleLane": LANE_BIKE,
    "interstate": LANE_FREEWAY,
    "highway": LANE_FREEWAY,
    "urban": LANE_SURFACE_STREET,
    "country": LANE_SURFACE_STREET,
}
# The format has no colors; markings are white. 2018b has no markings, only bounds.
COMMONROAD_LINE_TYPES = {"dashed": 6, "broad_dashed": 6, "solid": 7, "broad_solid": 7}
SPEED_SIGNS = ("274", "R2-1", "r301")  # Germany and Zamunda, USA, Spain; values in m/s


def read_map(root: Element) -> tuple[list[MapFeature], set[tuple[int, int, int]]]:
    """Features, and links as ids (from, to, kind) of lanelets.

    Raises:
      DataError: A lanelet is damaged, or its id is used twice.
    """
    limits = {sign.get("id"): limit for sign in root.iterfind("trafficSign") for limit in _limits(sign)}
    features, links, lines = {}, set(), {}
    for lanelet in root.iterfind("lanelet"):
        lane_id, kind = parse_id(lanelet, "id"), _kind(lanelet)
        if kind is None:
            continue
        if lane_id in features:
            raise DataError(f"has id {lane_id} twice", field="lanelet.id", remedy=COMMONROAD_REMEDY)
        bounds = {name: parse_points(child(lanelet, name)) for name in ("leftBound", "rightBound")}
        left, right = bounds.values()
        if not (len(left) and len(right)):
            raise DataError(f"lanelet {lane_id} has no points", field="leftBound", remedy=COMMONROAD_REMEDY)
        if kind == CROSSWALK:
            features[lane_id] = MapFeature(lane_id, kind, np.concatenate([left, right[::-1]]))
            continue
        signs = [limits[ref] for sign in lanelet.iterfind("trafficSignRef") if (ref := sign.get("ref")) in limits]
        limit = min(signs, default=child_number(lanelet, "speedLimit", "0"))
        features[lane_id] = MapFeature(lane_id, kind, _midway(left, right), limit)
        links |= set(_links(lanelet, lane_id))
        for name, xyz in bounds.items():
            mark = child_text(lanelet, f"{name}/lineMarking")
            if mark != "no_marking":
                key, code = min(xyz.tobytes(), xyz[::-1].tobytes()), COMMONROAD_LINE_TYPES.get(mark, ROAD_LINE_UNKNOWN)
                # Lanelets may disagree about a shared bound; a known marking counts.
                lines[key] = max(code, lines.get(key, (0, xyz))[0]), xyz
    free = 1 + max(features, default=-1)
    unnamed = [MapFeature(free + index, code, xyz) for index, (code, xyz) in enumerate(lines.values())]
    return [*features.values(), *unnamed], links


def is_sidewalk(lanelet: Element) -> bool:
    """Whether a lanelet is a sidewalk, which is dropped."""
    return _kind(lanelet) is None


def _kind(lanelet: Element) -> int | None:
    """Feature type of a lanelet; None to drop it."""
    types = {kind.text for kind in lanelet.iterfind("laneletType")}
    default = LANE_SURFACE_STREET if types else LANE_UNDEFINED
    return next((LANELET_TYPES[name] for name in LANELET_TYPES if name in types), default)


def _limits(sign: Element) -> Iterator[float]:
    """The speed limits of a traffic sign, m/s; empty if it is another sign."""
    for element in sign.iterfind("trafficSignElement"):
        if child_text(element, "trafficSignID") in SPEED_SIGNS:
            yield child_number(element, "additionalValue")


def _midway(left: Float[np.ndarray, "L 3"], right: Float[np.ndarray, "R 3"]) -> Float[np.ndarray, "P 3"]:
    """The centerline of two bounds, by points if they have equally many, else by relative arc length."""
    if len(left) != len(right):
        fractions = np.linspace(0.0, 1.0, max(len(left), len(right)))
        left, right = resample(left, fractions), resample(right, fractions)
    return (left + right) / 2


def _links(lanelet: Element, lane_id: int) -> Iterator[tuple[int, int, int]]:
    for before in lanelet.iterfind("predecessor"):
        yield parse_id(before, "ref"), lane_id, SUCCESSOR
    for after in lanelet.iterfind("successor"):
        yield lane_id, parse_id(after, "ref"), SUCCESSOR
    for tag, kind in (("adjacentLeft", LEFT_NEIGHBOR), ("adjacentRight", RIGHT_NEIGHBOR)):
        for neighbor in lanelet.iterfind(tag):
            if neighbor.get("drivingDir") == "same":
                yield lane_id, parse_id(neighbor, "ref"), kind
