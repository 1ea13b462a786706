"""Builds the lane graph, once per scene, on the host."""

import dataclasses

import numpy as np
from jaxtyping import Float, Float32, Int, Shaped

from waymax_sim.datatypes.lanes import LaneGraph, StopLines
from waymax_sim.datatypes.roadmap import (
    CONTROLS,
    LANE_BIKE,
    LANE_FREEWAY,
    LANE_SURFACE_STREET,
    LANE_UNDEFINED,
    LEFT_NEIGHBOR,
    RIGHT_NEIGHBOR,
    STOP_SIGN,
    SUCCESSOR,
    RoadMap,
    Segments,
)
from waymax_sim.datatypes.signals import Signals
from waymax_sim.maps.centrelines import Centrelines, centrelines
from waymax_sim.maps.links import beside, infer_controls, infer_successors

# Successors and predecessors kept per lane; recorded lanes have at most 4.
NUM_LINKS = 8
# Lanes without a segment that are led over, at most; recorded maps have one or two.
MOST_BARE = 64
# Curvature is the change of direction from so far before to so far after (m), which evens out jagged lines.
ARM = 2.5
# Speed limits where the source has none: 65, 35 and 15 mph in m/s.
SPEED_LIMIT = {LANE_FREEWAY: 29.06, LANE_SURFACE_STREET: 15.65, LANE_UNDEFINED: 6.71, LANE_BIKE: 6.71}


def build_lane_graph(roadmap: RoadMap, lanes: Segments, signals: Signals) -> LaneGraph:
    """The lane graph of a map. Links of a kind that the source has none of are inferred (see `maps.links`).

    A link over a lane without a segment (of a single point) leads on to the lanes behind it. A light stops traffic
    where its stop point, first seen, projects on its lane; a stop sign where the sign does, which in WOMD is the
    beginning of the lane over the junction. Where a lane has both, the place is that of the light.
    """
    if not len(roadmap.feature_type):
        # One row of nothing, so that nothing has to ask for that case.
        nothing = np.array([-1], np.int32)
        roadmap = dataclasses.replace(
            roadmap, feature_type=nothing, feature_id=nothing, speed_limit=np.zeros(1, np.float32)
        )
    kind, num_features = roadmap.feature_type, len(roadmap.feature_type)
    lines = centrelines(lanes, num_features)
    is_bike = kind == LANE_BIKE
    given = np.isin(range(4), roadmap.links[:, 2])
    successors = infer_successors(lines, is_bike)
    if given[SUCCESSOR]:
        successors = _over_bare_lanes(roadmap.links[roadmap.links[:, 2] == SUCCESSOR], lines)
    neighbors = given[LEFT_NEIGHBOR] or given[RIGHT_NEIGHBOR]
    left, right = beside(lines, is_bike, roadmap.links if neighbors else None)

    at_sign = np.flatnonzero(kind[roadmap.feature] == STOP_SIGN)
    signs, first = np.unique(roadmap.feature[at_sign], return_index=True)
    sign_xyz = roadmap.xyz[at_sign[first]].astype(np.float64)
    controls = roadmap.links[roadmap.links[:, 2] == CONTROLS]
    if not given[CONTROLS]:
        controls = infer_controls(lines, signs, sign_xyz, is_bike)
    stop, light, stop_sign = np.zeros(num_features), np.full(num_features, -1), np.zeros(num_features, bool)
    xyz_of = dict(zip(signs.tolist(), sign_xyz, strict=True))
    for sign, lane, _ in controls.tolist():
        if lines.count[lane] and sign in xyz_of:
            stop[lane], stop_sign[lane] = _project(lines, lane, xyz_of[sign]), True
    lane_of = {int(roadmap.feature_id[row]): row for row in np.flatnonzero(lines.count).tolist()}
    for column in np.flatnonzero(signals.valid.any(axis=0)).tolist():
        lane = lane_of.get(int(signals.lane_id[column]))
        if lane is not None:
            seen = np.argmax(signals.valid[:, column])
            stop[lane], light[lane] = _project(lines, lane, signals.stop_point[seen, column]), column

    last = np.where(lines.count > 0, lines.last, 0)
    yaw = np.append(lines.yaw, 0.0)
    turn = np.abs(np.mod(yaw[last[successors[:, 1]]] - yaw[last[successors[:, 0]]] + np.pi, 2 * np.pi) - np.pi)
    # A bike lane is no way straight on for a car.
    turn += np.where(is_bike[successors[:, 0]] == is_bike[successors[:, 1]], 0.0, np.pi)
    return LaneGraph(
        first=np.where(lines.count > 0, np.append(lines.index, 0)[lines.first], 0).astype(np.int32),
        count=lines.count.astype(np.int32),
        length=lines.length.astype(np.float32),
        speed_limit=speed_limits(kind, roadmap.speed_limit),
        is_bike=is_bike,
        successors=_table(successors[:, 0], successors[:, 1], turn, num_features),
        predecessors=_table(successors[:, 1], successors[:, 0], turn, num_features),
        stop=stop.astype(np.float32),
        light=light.astype(np.int32),
        stop_sign=stop_sign,
        stop_lines=_stop_lines(lines, stop, np.flatnonzero((light >= 0) | stop_sign)),
        arc_length=_laid_out(lines, lanes, lines.begin - lines.origin[lines.lane], 0),
        curvature=_laid_out(lines, lanes, _curvature(lines), 0),
        left=_laid_out(lines, lanes, left, -1),
        right=_laid_out(lines, lanes, right, -1),
        inferred=~np.where([False, True, True, False], neighbors, given),
    )


def speed_limits(kind: Int[np.ndarray, " F"], speed_limit: Float[np.ndarray, " F"]) -> Float32[np.ndarray, " F"]:
    """Speed limits of features (m/s): by the type of the lane where the source has none."""
    by_type = np.select([kind == one for one in SPEED_LIMIT], list(SPEED_LIMIT.values()))
    return np.where(speed_limit > 0, speed_limit, by_type).astype(np.float32)


def _stop_lines(lines: Centrelines, stop: Float[np.ndarray, " F"], lane: Int[np.ndarray, " Z"]) -> StopLines:
    """The lines of some lanes, by where they are to be stopped at."""
    where = lines.origin[lane] + stop[lane]
    xyz, yaw = lines.point(where, lane), np.append(lines.yaw, 0.0)[lines.find(where, lane)]
    return StopLines(lane=lane.astype(np.int32), xyz=xyz.astype(np.float32), yaw=yaw.astype(np.float32))


def _over_bare_lanes(links: Int[np.ndarray, "L 3"], lines: Centrelines) -> Int[np.ndarray, "K 3"]:
    """Successors among lanes that have segments; those of a lane that has none are handed to its predecessors."""
    bare = np.unique(links[:, :2][lines.count[links[:, :2]] == 0])
    for lane in bare[:MOST_BARE]:
        before, after = (links[links[:, 1 - side] == lane, side][:NUM_LINKS] for side in (0, 1))
        bridges = [(a, b, SUCCESSOR) for a in before for b in after if lane not in (a, b)]
        kept = links[(links[:, 0] != lane) & (links[:, 1] != lane)]
        links = np.unique(np.concatenate([kept, np.array(bridges, links.dtype).reshape(-1, 3)]), axis=0)
    return links[(lines.count[links[:, :2]] > 0).all(axis=1)]


def _table(lane: np.ndarray, other: np.ndarray, turn: np.ndarray, num_features: int) -> Int[np.ndarray, "F D"]:
    """The other lanes of each lane, those that turn least first."""
    order = np.lexsort([other, turn, lane])
    lane, other = lane[order], other[order]
    slot = np.arange(len(lane)) - np.searchsorted(lane, lane)
    table = np.full((num_features, NUM_LINKS), -1, np.int32)
    kept = slot < NUM_LINKS
    table[lane[kept], slot[kept]] = other[kept]
    return table


def _project(lines: Centrelines, lane: int, xyz: Float[np.ndarray, " 3"]) -> float:
    """Arc length (m) of the point of a lane that is nearest in the plane."""
    segments = slice(lines.first[lane], lines.last[lane] + 1)
    start, along, size = (values[segments] for values in (lines.start[:, :2], lines.along[:, :2], lines.size))
    part = np.clip(((xyz[:2] - start) * along).sum(axis=-1) / size**2, 0.0, 1.0)
    nearest = np.argmin(((xyz[:2] - start - part[:, None] * along) ** 2).sum(axis=-1))
    return lines.begin[segments][nearest] - lines.origin[lane] + part[nearest] * size[nearest]


def _curvature(lines: Centrelines) -> Float[np.ndarray, " E"]:
    """How much the direction changes around the middle of each segment per metre, 1/m."""
    turn = np.diff(lines.yaw, prepend=0.0)
    direction = np.cumsum(np.mod(turn + np.pi, 2 * np.pi) - np.pi)
    middle = lines.begin + lines.size / 2
    lowest, highest = middle[lines.first[lines.lane]], middle[lines.last[lines.lane]]
    before, after = np.maximum(middle - ARM, lowest), np.minimum(middle + ARM, highest)
    if not len(middle):
        return middle
    turned = np.interp(after, middle, direction) - np.interp(before, middle, direction)
    return np.where(after > before, turned / np.where(after > before, after - before, 1.0), 0.0)


def _laid_out(
    lines: Centrelines, lanes: Segments, values: Shaped[np.ndarray, " E"], padding: int
) -> Shaped[np.ndarray, "C W"]:
    """Values of valid segments in the order of `Segments`, 32 bits wide."""
    laid = np.full(lanes.valid.size, padding, np.float32 if values.dtype.kind == "f" else np.int32)
    laid[lines.index] = values
    return laid.reshape(lanes.valid.shape)
