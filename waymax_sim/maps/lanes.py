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
from waymax_sim.maps.centerlines import Centerlines, extract_centerlines
from waymax_sim.maps.lane_topology import crossed_lanes, infer_successors, junction_lanes, lateral_neighbors
from waymax_sim.maps.stop_signs import infer_controls

# Maximal number of successors and of predecessors per lane; recorded lanes have at most 4.
MAX_LINKS = 8
# Maximal number of lanes without segments that are bridged; recorded maps have one or two.
MAX_EMPTY_LANES = 64
# Half of the arc length over which the curvature is averaged, m, which smooths noisy centerlines.
CURVATURE_HALF_WINDOW = 2.5
# Speed limits by lane type where the source has none, m/s: 65, 35 and 15 mph.
DEFAULT_SPEED_LIMITS = {LANE_FREEWAY: 29.06, LANE_SURFACE_STREET: 15.65, LANE_UNDEFINED: 6.71, LANE_BIKE: 6.71}


def build_lane_graph(roadmap: RoadMap, lanes: Segments, signals: Signals) -> LaneGraph:
    """Builds the lane graph of a map. Kinds of links that the source does not state are inferred (`lane_topology`).

    Links over a lane without segments (of a single point) connect its predecessors to its successors. The stop line of
    a light is the projection of its first observed stop point on its lane; that of a stop sign is the projection of the
    sign, which in WOMD is the start of the lane over the junction. Where a lane has both, the light determines it.

    Args:
      roadmap: The map.
      lanes: Its lane segments.
      signals: Traffic lights of the record.
    """
    if not len(roadmap.feature_type):
        # One row without a feature, so that the table is never empty.
        padding = np.array([-1], np.int32)
        roadmap = dataclasses.replace(
            roadmap, feature_type=padding, feature_id=padding, speed_limit=np.zeros(1, np.float32)
        )
    kind, num_features = roadmap.feature_type, len(roadmap.feature_type)
    lines = extract_centerlines(lanes, num_features)
    is_bike = kind == LANE_BIKE
    is_stated = np.isin(range(4), roadmap.links[:, 2])
    successors = infer_successors(lines, is_bike)
    if is_stated[SUCCESSOR]:
        successors = _bridge_empty_lanes(roadmap.links[roadmap.links[:, 2] == SUCCESSOR], lines)
    states_neighbors = is_stated[LEFT_NEIGHBOR] or is_stated[RIGHT_NEIGHBOR]
    left, right = lateral_neighbors(lines, is_bike, roadmap.links if states_neighbors else None)

    crossed = crossed_lanes(lines)
    sign_points = np.flatnonzero(kind[roadmap.feature] == STOP_SIGN)
    signs, first = np.unique(roadmap.feature[sign_points], return_index=True)
    sign_xyz = roadmap.xyz[sign_points[first]].astype(np.float64)
    controls = roadmap.links[roadmap.links[:, 2] == CONTROLS]
    if not is_stated[CONTROLS]:
        controls = infer_controls(lines, signs, sign_xyz, is_bike, successors, crossed)
    has_lane = np.isin(np.flatnonzero(kind == STOP_SIGN), controls[:, 0])
    has_unassigned_sign = not is_stated[CONTROLS] and not has_lane.all()
    stop, light, stop_sign = np.zeros(num_features), np.full(num_features, -1), np.zeros(num_features, bool)
    sign_positions = dict(zip(signs.tolist(), sign_xyz, strict=True))
    for sign, lane, _ in controls.tolist():
        if lines.num_segments[lane] and sign in sign_positions:
            stop[lane], stop_sign[lane] = _project(lines, lane, sign_positions[sign]), True
    lane_by_id = {int(roadmap.feature_id[row]): row for row in np.flatnonzero(lines.num_segments).tolist()}
    for column in np.flatnonzero(signals.valid.any(axis=0)).tolist():
        lane = lane_by_id.get(int(signals.lane_id[column]))
        if lane is not None:
            first_step = np.argmax(signals.valid[:, column])
            stop[lane], light[lane] = _project(lines, lane, signals.stop_point[first_step, column]), column

    last = np.where(lines.num_segments > 0, lines.last_segment, 0)
    yaw = np.append(lines.yaw, 0.0)
    turn = np.abs(np.mod(yaw[last[successors[:, 1]]] - yaw[last[successors[:, 0]]] + np.pi, 2 * np.pi) - np.pi)
    # Successors of another kind come last: a bike lane is not the straight continuation of a car lane.
    turn += np.where(is_bike[successors[:, 0]] == is_bike[successors[:, 1]], 0.0, np.pi)
    return LaneGraph(
        first_segment=np.where(
            lines.num_segments > 0, np.append(lines.segment_index, 0)[lines.first_segment], 0
        ).astype(np.int32),
        num_segments=lines.num_segments.astype(np.int32),
        length=lines.length.astype(np.float32),
        speed_limit=speed_limits(kind, roadmap.speed_limit),
        is_bike=is_bike,
        is_junction=junction_lanes(crossed, successors),
        successors=_link_table(successors[:, 0], successors[:, 1], turn, num_features),
        predecessors=_link_table(successors[:, 1], successors[:, 0], turn, num_features),
        stop=stop.astype(np.float32),
        light=light.astype(np.int32),
        stop_sign=stop_sign,
        stop_lines=_stop_lines(lines, stop, np.flatnonzero((light >= 0) | stop_sign)),
        arc_length=_to_chunks(lines, lanes, lines.segment_start - lines.lane_start[lines.lane], 0),
        curvature=_to_chunks(lines, lanes, _curvature(lines), 0),
        left=_to_chunks(lines, lanes, left, -1),
        right=_to_chunks(lines, lanes, right, -1),
        has_unassigned_sign=np.asarray(has_unassigned_sign),
        inferred=~np.where([False, True, True, False], states_neighbors, is_stated),
    )


def speed_limits(kind: Int[np.ndarray, " F"], speed_limit: Float[np.ndarray, " F"]) -> Float32[np.ndarray, " F"]:
    """Speed limits of features (m/s): by lane type where the source has none."""
    by_type = np.select([kind == lane_type for lane_type in DEFAULT_SPEED_LIMITS], list(DEFAULT_SPEED_LIMITS.values()))
    return np.where(speed_limit > 0, speed_limit, by_type).astype(np.float32)


def _stop_lines(lines: Centerlines, stop: Float[np.ndarray, " F"], lane: Int[np.ndarray, " Z"]) -> StopLines:
    """The stop lines of lanes at the arc lengths `stop`, m."""
    position = lines.lane_start[lane] + stop[lane]
    xyz, yaw = lines.point(position, lane), np.append(lines.yaw, 0.0)[lines.find_segment(position, lane)]
    return StopLines(lane=lane.astype(np.int32), xyz=xyz.astype(np.float32), yaw=yaw.astype(np.float32))


def _bridge_empty_lanes(links: Int[np.ndarray, "L 3"], lines: Centerlines) -> Int[np.ndarray, "K 3"]:
    """Successor links among lanes with segments; the predecessors of a lane without segments get its successors."""
    empty_lanes = np.unique(links[:, :2][lines.num_segments[links[:, :2]] == 0])
    for lane in empty_lanes[:MAX_EMPTY_LANES]:
        before, after = (links[links[:, 1 - side] == lane, side][:MAX_LINKS] for side in (0, 1))
        bridges = [(a, b, SUCCESSOR) for a in before for b in after if lane not in (a, b)]
        others = links[(links[:, 0] != lane) & (links[:, 1] != lane)]
        links = np.unique(np.concatenate([others, np.array(bridges, links.dtype).reshape(-1, 3)]), axis=0)
    return links[(lines.num_segments[links[:, :2]] > 0).all(axis=1)]


def _link_table(lane: np.ndarray, other: np.ndarray, turn: np.ndarray, num_features: int) -> Int[np.ndarray, "F D"]:
    """The linked lanes of each lane, in ascending order of turn."""
    order = np.lexsort([other, turn, lane])
    lane, other = lane[order], other[order]
    slot = np.arange(len(lane)) - np.searchsorted(lane, lane)
    table = np.full((num_features, MAX_LINKS), -1, np.int32)
    fits = slot < MAX_LINKS
    table[lane[fits], slot[fits]] = other[fits]
    return table


def _project(lines: Centerlines, lane: int, xyz: Float[np.ndarray, " 3"]) -> float:
    """Arc length (m) of the point of a lane that is nearest in the plane."""
    segments = slice(lines.first_segment[lane], lines.last_segment[lane] + 1)
    fraction, squared_distance = lines.project(segments, xyz[:1], xyz[1:2])
    nearest = np.argmin(squared_distance)
    along = fraction[nearest] * lines.segment_length[segments][nearest]
    return lines.segment_start[segments][nearest] - lines.lane_start[lane] + along


def _curvature(lines: Centerlines) -> Float[np.ndarray, " E"]:
    """Curvature at the middle of each segment, 1/m: change of direction within `CURVATURE_HALF_WINDOW`, per length."""
    turn = np.diff(lines.yaw, prepend=0.0)
    direction = np.cumsum(np.mod(turn + np.pi, 2 * np.pi) - np.pi)
    middle = lines.segment_start + lines.segment_length / 2
    half = CURVATURE_HALF_WINDOW
    lowest, highest = middle[lines.first_segment[lines.lane]], middle[lines.last_segment[lines.lane]]
    before, after = np.maximum(middle - half, lowest), np.minimum(middle + half, highest)
    if not len(middle):
        return middle
    change = np.interp(after, middle, direction) - np.interp(before, middle, direction)
    return np.where(after > before, change / np.where(after > before, after - before, 1.0), 0.0)


def _to_chunks(
    lines: Centerlines, lanes: Segments, values: Shaped[np.ndarray, " E"], padding: int
) -> Shaped[np.ndarray, "C W"]:
    """Values of valid segments in the layout of `Segments`, as 32-bit numbers."""
    chunked = np.full(lanes.valid.size, padding, np.float32 if values.dtype.kind == "f" else np.int32)
    chunked[lines.segment_index] = values
    return chunked.reshape(lanes.valid.shape)
