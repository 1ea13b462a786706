"""Routes derived from the lane graph: the possible paths of an agent. Runs on the host."""

import heapq
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from waymax_sim.datatypes.agents import CYCLIST, AgentInfo, AgentState
from waymax_sim.datatypes.lanes import LaneGraph
from waymax_sim.datatypes.roadmap import Segments
from waymax_sim.datatypes.route import Routes
from waymax_sim.datatypes.scenario import TIME_STEP
from waymax_sim.maps.centerlines import Centerlines, extract_centerlines
from waymax_sim.maps.index import Z_STRETCH
from waymax_sim.maps.lane_topology import MAX_LEVEL_DIFFERENCE

# Maximal distance between an agent and a lane on which its routes begin, m.
MAX_START_DISTANCE = 10.0
# Maximal difference between the heading of the agent and the direction of that lane, rad.
MAX_START_ANGLE = np.pi / 3
# Maximal excess of the distance of a lane over that of the nearest one, m.
MAX_DISTANCE_EXCESS = 1.5
# Number of lanes to either side on which routes begin too.
MAX_SIDE_LANES = 4
# The length of routes is the distance that the agent covers at a speed that exceeds its present one by this value, m/s,
SPEED_MARGIN = 10.0
# within the remaining time of the record plus this value, s,
TIME_MARGIN = 2.0
# or within this time if that is longer, s.
MIN_DURATION = 10.0
# Maximal numbers of routes, of points per route and of lanes per route.
NUM_ROUTES = 32
NUM_POINTS = 128
MAX_LANES = 64
# Maximal distance of the log from the nearest route for a log position to be evaluated, m.
MAX_EVALUATED_DISTANCE = 5.0
# Maximal distance of the log from a route that agrees with it, m: routes on one carriageway do.
MAX_AGREEING_DISTANCE = 9.0
# Stride of the log positions that are evaluated, steps, and their maximal number.
LOG_STRIDE = 2
MAX_LOG_POSITIONS = 128
# Number of distances per batch, which bounds the memory.
DISTANCE_BATCH = 1_000_000
# Minimal distance between points of a logged path, and minimal length of a route, m.
MIN_SPACING = 2.0

Points = Float[np.ndarray, "R 3"]


def build_routes(
    lanes: Segments,
    graph: LaneGraph,
    log: AgentState,
    info: AgentInfo,
    agent: int,
    now: int,
    time_step: float = TIME_STEP,
    *,
    marked: Bool[np.ndarray, " F"] | None = None,
) -> Routes:
    """All drivable paths of an agent along the lane graph.

    They begin next to the agent, on the lanes that it may be following and on the neighbors of these. They end where
    the agent may get until the record ends, in WOMD 100 m plus 10 s at its present speed, or at the end of the lanes.
    When there are 31 routes they do not branch further: each follows the log, or its straightest successor.

    `on_route` holds for the routes that agree with the log for the largest number of steps from the current one on:
    those within 9 m of it, which distinguishes turns but not neighboring lanes. Only positions of the log within 5 m of
    a route are evaluated. If the log leaves all of these routes (a driveway, a truncated map), the logged path is an
    additional route, on route too.

    If the source marks the lanes of the route, parallel lanes of a road included, the log does not matter: `on_route`
    holds for the routes that have marked lanes only, and for those that begin with the largest number of marked lanes.
    Routes of an agent that is not on a marked lane are compared with the log.

    Args:
      lanes: Lane segments.
      graph: Their graph, on the host.
      log: The record, [T, N].
      info: Types and sizes of agents.
      agent: Index of the agent; negative for none.
      now: Index of the current step.
      time_step: Duration of a step of the record, s.
      marked: Mask of the features that the source marks as the route; None where it marks none.
    """
    lines = extract_centerlines(lanes, len(graph.num_segments))
    if agent < 0 or not log.valid[now, agent]:
        return _pack_routes(lines, [], 0.0, [], [])
    is_usable = (info.type[agent] == CYCLIST) | ~graph.is_bike
    ground = log.xyz[now:, agent].astype(np.float64) - [0.0, 0.0, info.size[agent, 2] / 2]
    logged = ground[log.valid[now:, agent]]
    stride = max(LOG_STRIDE, -(-len(logged) // MAX_LOG_POSITIONS))
    distances = _LaneDistances(lines, logged[::stride, :2])
    duration = max(MIN_DURATION, TIME_MARGIN + time_step * (len(log.valid) - 1 - now))
    max_length = duration * (SPEED_MARGIN + float(np.hypot(*log.velocity[now, agent])))
    starts = _start_lanes(lines, graph, is_usable, logged[0], float(log.yaw[now, agent]))
    marked = np.zeros(len(graph.num_segments), bool) if marked is None else marked
    routes = _expand(graph, is_usable, starts, max_length, distances, marked)
    on_route, covers_log = _follow_marks(routes, marked), True
    if not on_route.any():
        on_route, covers_log = _agree_with_log(routes, distances)
    return _pack_routes(lines, routes, max_length, on_route, [] if covers_log else _logged_path(logged))


class _LaneDistances:
    """Distances (m) of log positions to lanes, computed on demand."""

    def __init__(self, lines: Centerlines, xy: Float[np.ndarray, "K 2"]):
        self.lines, self.xy = lines, xy
        self.cache: dict[int, Float[np.ndarray, " K"]] = {}

    def lane(self, lane: int) -> Float[np.ndarray, " K"]:
        if lane not in self.cache:
            lines = self.lines
            segments = slice(lines.first_segment[lane], lines.last_segment[lane] + 1)
            num_batches = 1 + len(self.xy) * int(lines.num_segments[lane]) // DISTANCE_BATCH
            batches = np.array_split(self.xy, num_batches)
            self.cache[lane] = np.concatenate([_distance(lines, segments, xy).min(axis=1) for xy in batches])
        return self.cache[lane]


def _distance(lines: Centerlines, segments: slice, xy: Float[np.ndarray, "K 2"]) -> Float[np.ndarray, "K E"]:
    """Distances (m) in the plane of positions to a range of segments."""
    return np.sqrt(lines.project(segments, xy[:, 0, None], xy[:, 1, None])[1])


def _start_lanes(
    lines: Centerlines, graph: LaneGraph, is_usable: Bool[np.ndarray, " F"], xyz: Float[np.ndarray, " 3"], yaw: float
) -> dict[int, float]:
    """Lanes on which routes begin, and the arc length (m) at which they begin there."""
    distance = _distance(lines, slice(None), xyz[None, :2].astype(np.float64))[0]
    turn = np.abs(np.mod(lines.yaw - yaw + np.pi, 2 * np.pi) - np.pi)
    near = np.flatnonzero((distance <= MAX_START_DISTANCE) & (turn <= MAX_START_ANGLE) & is_usable[lines.lane])
    if not len(near):
        return {}
    height = lines.start[near, 2]
    nearest = np.argmin(np.hypot(distance[near], Z_STRETCH * (height - xyz[2])))
    is_close = distance[near] <= distance[near][nearest] + MAX_DISTANCE_EXCESS
    near = near[is_close & (np.abs(height - height[nearest]) < MAX_LEVEL_DIFFERENCE)]
    line_index = np.full(graph.left.size, -1)
    line_index[lines.segment_index] = np.arange(len(lines.segment_index))
    starts: dict[int, int] = {}
    for segment in near[np.argsort(distance[near], kind="stable")]:
        starts.setdefault(int(lines.lane[segment]), int(segment))
    for first in list(starts.values()):
        for neighbor in (graph.left.reshape(-1), graph.right.reshape(-1)):
            segment = first
            for _ in range(MAX_SIDE_LANES):
                adjacent = neighbor[lines.segment_index[segment]]
                if adjacent < 0:
                    break
                segment = int(line_index[adjacent])
                if is_usable[lines.lane[segment]]:
                    starts.setdefault(int(lines.lane[segment]), segment)
    return {lane: _start_arc_length(lines, lane, segment, xyz) for lane, segment in starts.items()}


def _start_arc_length(lines: Centerlines, lane: int, segment: int, xyz: Float[np.ndarray, " 3"]) -> float:
    """Arc length (m) on a lane of the point of one of its segments that is nearest to a position."""
    offset, length = xyz[:2] - lines.start[segment, :2], lines.segment_length[segment]
    along = np.clip(offset @ lines.along[segment, :2] / length, 0.0, length)
    return float(lines.segment_start[segment] - lines.lane_start[lane] + along)


def _expand(
    graph: LaneGraph,
    is_usable: Bool[np.ndarray, " F"],
    starts: dict[int, float],
    max_length: float,
    distances: _LaneDistances,
    marked: Bool[np.ndarray, " F"],
) -> list[tuple[list[int], float]]:
    """Lanes of each route and the arc length on the first one at which it begins, expanding the shortest route first.

    Args:
      graph: The lane graph.
      is_usable: Lanes that the agent may use.
      starts: First lanes, and the arc length at which routes begin there, m.
      max_length: Length at which routes end, m.
      distances: Distances of lanes to the log.
      marked: Mask of the features that the source marks as the route.
    """
    open_routes = [(float(graph.length[lane]) - start, [lane], start) for lane, start in starts.items()]
    open_routes = [route for route in open_routes if route[0] >= MIN_SPACING][: NUM_ROUTES - 1]
    heapq.heapify(open_routes)
    routes: list[tuple[list[int], float]] = []
    while open_routes:
        length, lanes, start = heapq.heappop(open_routes)
        successors = [lane for lane in graph.successors[lanes[-1]].tolist() if lane >= 0]
        successors = [lane for lane in successors if is_usable[lane] and lane not in lanes]
        if length >= max_length or not successors or len(lanes) == MAX_LANES:
            routes.append((lanes, start))
            continue
        capacity = NUM_ROUTES - 1 - len(open_routes) - len(routes)
        if capacity < len(successors):
            successors = sorted(
                successors,
                key=lambda lane: (not marked[lane], np.minimum(distances.lane(lane), MAX_EVALUATED_DISTANCE).sum()),
            )
        for lane in successors[: max(capacity, 1)]:
            heapq.heappush(open_routes, (length + float(graph.length[lane]), [*lanes, lane], start))
    return sorted(routes)


def _follow_marks(routes: list[tuple[list[int], float]], marked: Bool[np.ndarray, " F"]) -> Bool[np.ndarray, " M"]:
    """Whether each route has marked lanes only, or begins with as many as any; false for all if none begins on one."""
    count = np.array([int(np.cumprod(marked[lanes]).sum()) for lanes, _ in routes], int)
    is_marked = np.array([bool(marked[lanes].all()) for lanes, _ in routes], bool)
    return is_marked | ((count == count.max(initial=0)) & (count > 0))


def _agree_with_log(
    routes: list[tuple[list[int], float]], distances: _LaneDistances
) -> tuple[Bool[np.ndarray, " M"], bool]:
    """Whether each route agrees with the log, and whether one of those that do is always near it."""
    if not routes:
        return np.zeros(0, bool), False
    distance = np.stack([np.min([distances.lane(lane) for lane in lanes], axis=0) for lanes, _ in routes])
    is_evaluated = distance.min(axis=0) <= MAX_EVALUATED_DISTANCE
    agreement = np.count_nonzero(is_evaluated & (distance <= MAX_AGREEING_DISTANCE), axis=1)
    agrees = (agreement == agreement.max()) & (agreement > 0)
    nearest = distance.min(axis=0, where=agrees[:, None], initial=np.inf)
    return agrees, bool((nearest <= MAX_EVALUATED_DISTANCE).all())


def _logged_path(logged: Points) -> list[Float[np.ndarray, "K 3"]]:
    """The log positions as a path, unless the agent hardly moves."""
    length = np.hypot(*np.diff(logged[:, :2], axis=0).T).sum()
    spacing, points = max(MIN_SPACING, length / (NUM_POINTS - 1)), [logged[0]]
    for point in logged[1:]:
        if np.hypot(*(point - points[-1])[:2]) >= spacing:
            points.append(point)
    return [np.stack(points)] if len(points) > 1 else []


def _pack_routes(
    lines: Centerlines,
    routes: list[tuple[list[int], float]],
    max_length: float,
    agrees: Sequence[bool] | Bool[np.ndarray, " M"],
    other_paths: list[Float[np.ndarray, "_ 3"]],
) -> Routes:
    """Routes from lane sequences, sampled at equal steps, and from other paths, which are on route.

    Args:
      lines: Lane centerlines.
      routes: Lanes of each route, and the arc length on the first one at which it begins, m.
      max_length: Length at which routes end, m.
      agrees: Whether each of these routes agrees with the log.
      other_paths: Points of other paths, m.
    """
    paths = [_sample_route(lines, np.array(row), start, max_length) for row, start in routes]
    for points in other_paths:
        paths.append((points, np.append(0.0, np.cumsum(np.hypot(*np.diff(points[:, :2], axis=0).T)))))
    shape = len(paths), max((len(arc) for _, arc in paths), default=0)
    xyz, arc_length, valid = np.zeros((*shape, 3), np.float32), np.zeros(shape, np.float32), np.zeros(shape, bool)
    for index, (points, arc) in enumerate(paths):
        xyz[index, : len(arc)], arc_length[index, : len(arc)], valid[index, : len(arc)] = points, arc, True
    on_route = np.array([*agrees, *(True for _ in other_paths)], bool)
    return Routes(xyz=xyz, arc_length=arc_length, valid=valid, on_route=on_route)


def _sample_route(
    lines: Centerlines, lanes: Int[np.ndarray, " Q"], start: float, max_length: float
) -> tuple[Points, Float[np.ndarray, " R"]]:
    """Points of a route along a sequence of lanes, and their arc lengths (m)."""
    lane_end = np.cumsum(lines.length[lanes]) - start
    lane_start, length = lane_end - lines.length[lanes], min(lane_end[-1], max_length)
    arc = np.linspace(0.0, length, int(length / max_length * (NUM_POINTS - 1)) + 1)
    row = np.maximum(np.searchsorted(lane_start, arc, side="right") - 1, 0)
    lane = lanes[row]
    return lines.point(lines.lane_start[lane] + arc - lane_start[row], lane), arc
