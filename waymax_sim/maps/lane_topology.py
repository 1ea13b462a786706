"""Lane connectivity inferred from geometry, for relations that a source does not state. Runs on the host."""

import numpy as np
from jaxtyping import Bool, Float, Int

from waymax_sim.datatypes.roadmap import LEFT_NEIGHBOR, RIGHT_NEIGHBOR, SUCCESSOR
from waymax_sim.maps.centerlines import Centerlines, pairs_within_radius

# Maximal distance between the end of a lane and the start of its successor, m. Recorded lanes are connected exactly.
MAX_JOINT_GAP = 0.5
# Maximal change of direction between a lane and its successor, rad.
MAX_JOINT_ANGLE = np.radians(45)
# Spacing of the stations at which lanes are compared, m.
STATION_SPACING = 2.0
# Maximal number of stations per segment.
MAX_STATIONS = 5
# Maximal difference of direction between neighboring lanes, rad.
MAX_NEIGHBOR_ANGLE = np.radians(20)
# Range of the distance between the centers of neighboring lanes, m.
MIN_NEIGHBOR_DISTANCE = 2.0
MAX_NEIGHBOR_DISTANCE = 5.0
# Maximal distance of stations of lanes that the source names as neighbors, m.
MAX_NAMED_NEIGHBOR_DISTANCE = 8.0
# Maximal height difference of lanes on the same level, m.
MAX_LEVEL_DIFFERENCE = 2.0
# Maximal distance from a station to a crossing in the direction of its lane, m: half a spacing, and some for bends.
MAX_CROSSING_DISTANCE = 0.55 * STATION_SPACING
# Minimal angle between the lines of lanes that cross, rad.
MIN_LANE_CROSSING_ANGLE = np.radians(30)

Links = Int[np.ndarray, "L 3"]


def infer_successors(lines: Centerlines, is_bike: Bool[np.ndarray, " F"]) -> Links:
    """Links (lane, successor, `SUCCESSOR`): lanes that begin at the end of another lane and in its direction."""
    lanes = np.flatnonzero(lines.num_segments)
    last, first = lines.last_segment[lanes], lines.first_segment[lanes]
    end, start = lines.start[last] + lines.along[last], lines.start[first]
    a, b = pairs_within_radius(end[:, :2], start[:, :2], MAX_JOINT_GAP)
    turn = angle_between(lines.yaw[last[a]], lines.yaw[first[b]])
    is_level = np.abs(end[a, 2] - start[b, 2]) < MAX_LEVEL_DIFFERENCE
    is_same_kind = is_bike[lanes[a]] == is_bike[lanes[b]]
    is_successor = (turn <= MAX_JOINT_ANGLE) & is_level & (a != b) & is_same_kind
    return _links(lanes[a[is_successor]], lanes[b[is_successor]], SUCCESSOR)


def crossed_lanes(lines: Centerlines) -> Bool[np.ndarray, " F"]:
    """Lanes that cross another lane on their level."""
    station = _Stations(lines)
    a, b = pairs_within_radius(station.xyz[:, :2], station.xyz[:, :2], 2 * MAX_CROSSING_DISTANCE)
    turn = station.yaw[b] - station.yaw[a]
    crosses = np.abs(np.sin(turn)) >= np.sin(MIN_LANE_CROSSING_ANGLE)
    a, b, turn = a[crosses], b[crosses], turn[crosses]
    # Intersection of the tangents: lanes that fork or merge have theirs farther away.
    longitudinal, lateral = in_frame(station.xyz[a], station.yaw[a], station.xyz[b])
    crosses = np.abs(lateral / np.sin(turn)) <= MAX_CROSSING_DISTANCE
    crosses &= np.abs(longitudinal - lateral / np.tan(turn)) <= MAX_CROSSING_DISTANCE
    crosses &= np.abs(station.xyz[a, 2] - station.xyz[b, 2]) < MAX_LEVEL_DIFFERENCE
    crosses &= station.lane[a] != station.lane[b]
    return np.bincount(station.lane[a[crosses]], minlength=len(lines.num_segments)) > 0


def junction_lanes(crossed: Bool[np.ndarray, " F"], successors: Links) -> Bool[np.ndarray, " F"]:
    """Lanes over a junction: those that cross another lane, and those that fork from or merge with such a lane.

    Args:
      crossed: Lanes that cross another one, from `crossed_lanes`.
      successors: Links between lanes.
    """
    before, after = successors[:, 0], successors[:, 1]
    forks, merges = np.zeros((2, len(crossed)), bool)
    forks[before[crossed[after]]], merges[after[crossed[before]]] = True, True
    on_junction = crossed.copy()
    on_junction[after[forks[before]]] = True
    on_junction[before[merges[after]]] = True
    return on_junction


def lateral_neighbors(
    lines: Centerlines, is_bike: Bool[np.ndarray, " F"], links: Links | None
) -> tuple[Int[np.ndarray, " E"], Int[np.ndarray, " E"]]:
    """The segments to the left and to the right of the middle of each segment, -1 without one.

    Args:
      lines: Lane centerlines.
      is_bike: Bike lanes.
      links: Neighbors named by the source; None infers them from all lanes.
    """
    station = _Stations(lines)
    radius = MAX_NEIGHBOR_DISTANCE + STATION_SPACING if links is None else MAX_NAMED_NEIGHBOR_DISTANCE
    a, b = pairs_within_radius(station.xyz[:, :2], station.xyz[:, :2], radius)
    lane_a, lane_b = station.lane[a], station.lane[b]
    fits = (lane_a != lane_b) & (angle_between(station.yaw[a], station.yaw[b]) <= MAX_NEIGHBOR_ANGLE)
    fits &= np.abs(station.xyz[a, 2] - station.xyz[b, 2]) < MAX_LEVEL_DIFFERENCE
    a, b, lane_a, lane_b = a[fits], b[fits], lane_a[fits], lane_b[fits]
    longitudinal, lateral = in_frame(station.xyz[a], station.yaw[a], station.xyz[b])
    kind = np.where(lateral > 0, LEFT_NEIGHBOR, RIGHT_NEIGHBOR)
    fits = np.abs(longitudinal) <= 0.6 * STATION_SPACING
    if links is None:
        distance = np.abs(lateral)
        fits &= (distance >= MIN_NEIGHBOR_DISTANCE) & (distance <= MAX_NEIGHBOR_DISTANCE)
        fits &= is_bike[lane_a] == is_bike[lane_b]
    else:
        size = len(lines.num_segments)
        fits &= np.isin((lane_a * size + lane_b) * 4 + kind, (links[:, 0] * size + links[:, 1]) * 4 + links[:, 2])
    a, b, longitudinal, lateral, kind = a[fits], b[fits], longitudinal[fits], lateral[fits], kind[fits]

    # The nearest lane of each side, and of its stations the one with the smallest longitudinal offset.
    order = np.lexsort([np.abs(longitudinal), np.round(np.abs(lateral)), a])
    a, b, longitudinal, kind = a[order], b[order], longitudinal[order], kind[order]
    middle = lines.segment_start + lines.segment_length / 2
    own = station.nearest(lines, middle)
    pairs = a, b, longitudinal
    left = _adjacent_segments(lines, station, own, middle, pairs, kind == LEFT_NEIGHBOR)
    return left, _adjacent_segments(lines, station, own, middle, pairs, kind == RIGHT_NEIGHBOR)


def _adjacent_segments(lines, station, own, middle, pairs, on_side) -> Int[np.ndarray, " E"]:
    """Segments of the first neighbor of each station among the pairs on one side, at the middle of each segment."""
    a, b, longitudinal = pairs
    rows, first = np.unique(a[on_side], return_index=True)
    pair_index = np.full(len(station.lane), -1)
    pair_index[rows] = np.flatnonzero(on_side)[first]
    pair = pair_index[own]
    if not len(a):
        return pair
    across = b[pair]
    position = station.position[across] - longitudinal[pair] + middle - station.position[own]
    segment = lines.segment_index[lines.find_segment(position, station.lane[across])]
    return np.where(pair < 0, -1, segment)


class _Stations:
    """Equally spaced points along every lane."""

    def __init__(self, lines: Centerlines):
        max_stations = MAX_STATIONS * lines.num_segments
        count = np.minimum(np.ceil(lines.length / STATION_SPACING), max_stations).astype(int)
        self.count, self.first = count, np.cumsum(count) - count
        self.lane = np.repeat(np.arange(len(count)), count)
        number = np.arange(len(self.lane)) - self.first[self.lane] + 0.5
        spacing = (lines.length / np.maximum(count, 1))[self.lane]
        self.position = lines.lane_start[self.lane] + number * spacing
        self.xyz = lines.point(self.position, self.lane)
        self.yaw = lines.yaw[lines.find_segment(self.position, self.lane)]

    def nearest(self, lines: Centerlines, position: Float[np.ndarray, " E"]) -> Int[np.ndarray, " E"]:
        """The nearest station on the lane of each segment to a position on that lane."""
        lane = lines.lane
        number = (position - lines.lane_start[lane]) / lines.length[lane] * self.count[lane]
        return self.first[lane] + np.clip(number.astype(int), 0, self.count[lane] - 1)


def in_frame(origin: np.ndarray, yaw: np.ndarray, xyz: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Longitudinal and lateral offsets (m) of points in the frames of poses.

    Args:
      origin: Positions of the poses, m.
      yaw: Headings of the poses, rad.
      xyz: Points, m.
    """
    x, y = xyz[:, 0] - origin[:, 0], xyz[:, 1] - origin[:, 1]
    cos, sin = np.cos(yaw), np.sin(yaw)
    return cos * x + sin * y, cos * y - sin * x


def angle_between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Absolute difference of directions, rad, from 0 to pi."""
    return np.abs(np.mod(a - b + np.pi, 2 * np.pi) - np.pi)


def _links(a: np.ndarray, b: np.ndarray, kind: int) -> Links:
    return np.stack([a, b, np.full_like(a, kind)], axis=-1)
