"""Reader of vector maps of Argoverse 2 (`log_map_archive_*.json`).

Lanes are centerlines at the mean height of the two boundaries, because the centerlines of the source have height 0.
Boundaries with a painted mark are road lines; a boundary of several lanes appears once. Boundaries of drivable areas
are road edges, except where the road continues: sides that two areas share, and sides that a lane crosses.
"""

import json
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.formats.map_features import (
    MAX_PAIRS,
    PAIRS_PER_BATCH,
    MapFeature,
    relative_arc_length,
    resample,
)
from waymax_sim.datatypes.roadmap import (
    CROSSWALK,
    LANE_BIKE,
    LANE_SURFACE_STREET,
    LANE_UNDEFINED,
    LEFT_NEIGHBOR,
    RIGHT_NEIGHBOR,
    ROAD_EDGE_BOUNDARY,
    ROAD_LINE_UNKNOWN,
    SUCCESSOR,
)
from waymax_sim.maps.driveways import signed_area

Polyline = Float[np.ndarray, "_ 3"]
ARGOVERSE2_MAP_REMEDY = "give a map of Argoverse 2 motion forecasting"

ARGOVERSE2_LANE_TYPES = {"VEHICLE": LANE_SURFACE_STREET, "BUS": LANE_SURFACE_STREET, "BIKE": LANE_BIKE}
# WOMD has no code for blue, double dashed white and half dashed white lines.
ARGOVERSE2_LINE_TYPES = {
    "DASHED_WHITE": 6,
    "SOLID_WHITE": 7,
    "DOUBLE_SOLID_WHITE": 8,
    "DASHED_YELLOW": 9,
    "DOUBLE_DASH_YELLOW": 10,
    "SOLID_YELLOW": 11,
    "DOUBLE_SOLID_YELLOW": 12,
    "DASH_SOLID_YELLOW": 13,
    "SOLID_DASH_YELLOW": 13,
}
LANE_EXTENSION = 0.2  # m; lanes end within centimeters of the edge at which the map was cut
MIN_CROSSING_SINE = 0.5  # sine of the angle between a lane and an edge that it crosses rather than follows


def read_map(data: bytes) -> tuple[list[MapFeature], set[tuple[int, int, int]]]:
    """Features, and links as ids (from, to, kind) of lanes.

    Raises:
      DataError: The data are not a map of Argoverse 2.
    """
    try:
        archive = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"is not JSON: {error}", remedy=ARGOVERSE2_MAP_REMEDY) from None
    try:
        lanes = list(archive["lane_segments"].values())
        areas = [_points(area["area_boundary"]) for area in archive["drivable_areas"].values()]
        crossings = [_crossing(item) for item in archive["pedestrian_crossings"].values()]
        features = [_lane(lane) for lane in lanes]
        links = _links(lanes, features)
        marks = _marks(lanes)
    # The members have other types than expected.
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, IndexError) as error:
        problem = f"is damaged: {type(error).__name__} {error}"[:200]
        raise DataError(problem, field="map", remedy=ARGOVERSE2_MAP_REMEDY) from None
    if len({lane.id for lane in features}) < len(features):
        raise DataError("has an id twice", field="lane_segments", remedy=ARGOVERSE2_MAP_REMEDY)
    unnamed = [*marks, *((ROAD_EDGE_BOUNDARY, edge) for edge in _edges(areas, [lane.xyz for lane in features]))]
    features += crossings
    free = 1 + max((feature.id for feature in features), default=-1)
    features += [MapFeature(free + index, kind, xyz) for index, (kind, xyz) in enumerate(unnamed)]
    return features, links


def _points(items: list[dict[str, Any]]) -> Polyline:
    points = np.array([[item["x"], item["y"], item["z"]] for item in items], np.float64).reshape(-1, 3)
    if not (np.abs(points) < 1e7).all():
        raise ValueError("has points that are not finite or too large")
    return points


def _lane(lane: dict[str, Any]) -> MapFeature:
    center, left, right = (_points(lane[name]) for name in ("centerline", "left_lane_boundary", "right_lane_boundary"))
    fractions = relative_arc_length(center)
    center[:, 2] = (resample(left, fractions)[:, 2] + resample(right, fractions)[:, 2]) / 2
    return MapFeature(int(lane["id"]), ARGOVERSE2_LANE_TYPES.get(lane["lane_type"], LANE_UNDEFINED), center)


def _links(lanes: list[dict[str, Any]], features: list[MapFeature]) -> set[tuple[int, int, int]]:
    """Links as ids. Only neighbors of the same direction count; Argoverse lists oncoming ones too."""
    direction = {lane.id: lane.xyz[-1, :2] - lane.xyz[0, :2] for lane in features}
    links = set()
    for lane, feature in zip(lanes, features, strict=True):
        links |= {(feature.id, int(other), SUCCESSOR) for other in lane["successors"]}
        links |= {(int(other), feature.id, SUCCESSOR) for other in lane["predecessors"]}
        for side, kind in (("left_neighbor_id", LEFT_NEIGHBOR), ("right_neighbor_id", RIGHT_NEIGHBOR)):
            other = lane[side]
            if other in direction and direction[feature.id] @ direction[other] > 0:
                links.add((feature.id, int(other), kind))
    return links


def _marks(lanes: list[dict[str, Any]]) -> list[tuple[int, Polyline]]:
    """Type and points of the distinct painted boundaries."""
    lines = {}
    for lane in lanes:
        for side in ("left", "right"):
            mark, xyz = lane[f"{side}_lane_mark_type"], _points(lane[f"{side}_lane_boundary"])
            if mark != "NONE":
                key = min(xyz.tobytes(), xyz[::-1].tobytes())
                lines.setdefault(key, (ARGOVERSE2_LINE_TYPES.get(mark, ROAD_LINE_UNKNOWN), xyz))
    return list(lines.values())


def _crossing(item: dict[str, Any]) -> MapFeature:
    """A crosswalk polygon; the two edges of the source have the same direction."""
    return MapFeature(
        int(item["id"]), CROSSWALK, np.concatenate([_points(item["edge1"]), _points(item["edge2"])[::-1]])
    )


def _edges(areas: list[Polyline], lanes: list[Polyline]) -> list[Polyline]:
    """Road edges with the road on their left; a ring without gaps is closed."""
    rings = [area if signed_area(area) > 0 else area[::-1] for area in areas if len(area)]
    sides = {side for ring in rings for side in _sides(ring)}
    edges = []
    for ring in rings:
        shared = [(*side[2:], *side[:2]) in sides and side[:2] != side[2:] for side in _sides(ring)]
        gap = np.array(shared) | _crossed(ring, lanes)
        if not gap.any():
            edges.append(np.concatenate([ring, ring[:1]]))
            continue
        # Rotated to start at a gap, so that no edge is split at the start of the ring.
        first = int(np.argmax(gap)) + 1
        pieces = np.split(np.roll(ring, -first, axis=0), np.flatnonzero(np.roll(gap, -first)) + 1)
        edges += [piece for piece in pieces if len(piece) > 1]
    return edges


def _sides(ring: Polyline) -> list[tuple[float, float, float, float]]:
    """Endpoints of the straight sides of a ring, in the plane."""
    return [(a[0], a[1], b[0], b[1]) for a, b in zip(ring.tolist(), np.roll(ring, -1, axis=0).tolist(), strict=True)]


def _crossed(ring: Polyline, lanes: list[Polyline]) -> Bool[np.ndarray, " E"]:
    """Mask of the sides of a ring that a lane crosses."""
    start, side = ring[:, None, :2], (np.roll(ring, -1, axis=0) - ring)[:, None, :2]
    piece_start = np.concatenate([np.zeros((0, 2)), *(lane[:-1, :2] for lane in lanes)])
    piece = np.concatenate([np.zeros((0, 2)), *(np.diff(lane[:, :2], axis=0) for lane in lanes)])
    pairs = len(ring) * len(piece)
    if pairs > MAX_PAIRS:
        raise DataError("has too many points", field="drivable_areas", remedy=ARGOVERSE2_MAP_REMEDY)
    crossed = np.zeros(len(ring), bool)
    for batch in np.array_split(np.arange(len(piece)), 1 + pairs // PAIRS_PER_BATCH):
        length = np.linalg.norm(piece[batch], axis=-1)
        sine = _cross(side, piece[batch])
        across = np.abs(sine) > MIN_CROSSING_SINE * np.linalg.norm(side, axis=-1) * length
        sine, margin = np.where(across, sine, 1.0), LANE_EXTENSION / np.where(length > 0, length, 1.0)
        offset = piece_start[batch] - start
        along_side, along_lane = _cross(offset, piece[batch]) / sine, _cross(offset, side) / sine
        intersects = (along_side >= 0) & (along_side <= 1) & (along_lane >= -margin) & (along_lane <= 1 + margin)
        crossed |= (across & intersects).any(axis=-1)
    return crossed


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
