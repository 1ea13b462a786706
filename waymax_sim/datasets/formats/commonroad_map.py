"""Lanelets of CommonRoad to map features."""

from collections.abc import Iterator
from xml.etree.ElementTree import Element

import numpy as np
from jaxtyping import Float

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.formats.commonroad_xml import REMEDY, child, id_of, number_of, points_of, text_of
from waymax_sim.datasets.formats.map_features import Feature, resampled
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

# By the types of a lanelet; the first that is here counts. Sidewalks are left out.
LANELETS = {
    "sidewalk": None,
    "crosswalk": CROSSWALK,
    "bicycleLane": LANE_BIKE,
    "interstate": LANE_FREEWAY,
    "highway": LANE_FREEWAY,
    "urban": LANE_SURFACE_STREET,
    "country": LANE_SURFACE_STREET,
}
# Colours are not said; markings are white. 2018b has no markings at all, only bounds.
MARKS = {"dashed": 6, "broad_dashed": 6, "solid": 7, "broad_solid": 7}
SPEED_SIGNS = ("274", "R2-1", "r301")  # Germany and Zamunda, USA, Spain; all of them in m/s


def read_map(root: Element) -> tuple[list[Feature], set[tuple[int, int, int]]]:
    """Features, and links as ids (from, to, kind) of lanelets.

    Raises:
      DataError: A lanelet is damaged, or its id is used twice.
    """
    limits = {sign.get("id"): limit for sign in root.iterfind("trafficSign") for limit in _limits(sign)}
    features, links, lines = {}, set(), {}
    for lanelet in root.iterfind("lanelet"):
        lane_id, kind = id_of(lanelet, "id"), _kind(lanelet)
        if kind is None:
            continue
        if lane_id in features:
            raise DataError(f"{lane_id} is used twice", field="lanelet.id", remedy=REMEDY)
        bounds = {name: points_of(child(lanelet, name)) for name in ("leftBound", "rightBound")}
        left, right = bounds.values()
        if not (len(left) and len(right)):
            raise DataError(f"lanelet {lane_id} has no points", field="leftBound", remedy=REMEDY)
        if kind == CROSSWALK:
            features[lane_id] = Feature(lane_id, kind, np.concatenate([left, right[::-1]]))
            continue
        signs = [limits[ref] for sign in lanelet.iterfind("trafficSignRef") if (ref := sign.get("ref")) in limits]
        limit = min(signs, default=number_of(lanelet, "speedLimit", "0"))
        features[lane_id] = Feature(lane_id, kind, _midway(left, right), limit)
        links |= set(_links(lanelet, lane_id))
        for name, xyz in bounds.items():
            mark = text_of(lanelet, f"{name}/lineMarking")
            if mark != "no_marking":
                key, code = min(xyz.tobytes(), xyz[::-1].tobytes()), MARKS.get(mark, ROAD_LINE_UNKNOWN)
                # Where lanelets disagree about a bound, a known marking counts.
                lines[key] = max(code, lines.get(key, (0, xyz))[0]), xyz
    free = 1 + max(features, default=-1)
    unnamed = [Feature(free + index, code, xyz) for index, (code, xyz) in enumerate(lines.values())]
    return [*features.values(), *unnamed], links


def _kind(lanelet: Element) -> int | None:
    """Feature type of a lanelet, None where it is to be left out."""
    types = {kind.text for kind in lanelet.iterfind("laneletType")}
    default = LANE_SURFACE_STREET if types else LANE_UNDEFINED
    return next((LANELETS[name] for name in LANELETS if name in types), default)


def _limits(sign: Element) -> Iterator[float]:
    """The speed limit of a traffic sign, m/s, if it is one."""
    for element in sign.iterfind("trafficSignElement"):
        if text_of(element, "trafficSignID") in SPEED_SIGNS:
            yield number_of(element, "additionalValue")


def _midway(left: Float[np.ndarray, "L 3"], right: Float[np.ndarray, "R 3"]) -> Float[np.ndarray, "P 3"]:
    """The line between two bounds: point by point where they have as many, by share of their length otherwise."""
    if len(left) != len(right):
        where = np.linspace(0.0, 1.0, max(len(left), len(right)))
        left, right = resampled(left, where), resampled(right, where)
    return (left + right) / 2


def _links(lanelet: Element, lane_id: int) -> Iterator[tuple[int, int, int]]:
    for before in lanelet.iterfind("predecessor"):
        yield id_of(before, "ref"), lane_id, SUCCESSOR
    for after in lanelet.iterfind("successor"):
        yield lane_id, id_of(after, "ref"), SUCCESSOR
    for tag, kind in (("adjacentLeft", LEFT_NEIGHBOR), ("adjacentRight", RIGHT_NEIGHBOR)):
        for beside in lanelet.iterfind(tag):
            if beside.get("drivingDir") == "same":
                yield lane_id, id_of(beside, "ref"), kind
