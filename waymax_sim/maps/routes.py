"""The ways an agent could take from where it is now, on the host."""

import heapq
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from waymax_sim.datatypes.agents import CYCLIST, AgentInfo, AgentState
from waymax_sim.datatypes.lanes import LaneGraph
from waymax_sim.datatypes.roadmap import Segments
from waymax_sim.datatypes.route import Routes
from waymax_sim.maps.centrelines import Centrelines, centrelines
from waymax_sim.maps.index import Z_STRETCH
from waymax_sim.maps.links import LEVEL

# An agent may be on lanes up to this far from it (m), whose direction is within this angle of its heading (rad), and
# which are at most so much further away than the nearest one (m).
REACH, MAX_ANGLE, SPREAD = 10.0, np.pi / 3, 1.5
# Lanes to either side from which routes begin too.
SIDE_LANES = 4
# Routes are as long as an agent gets that is so much faster than now (m/s), in at least so long (s), or in so much more
# than is left of the record (s) at a time step of 0.1 s.
FASTER, AT_LEAST, LONGER, TIME_STEP = 10.0, 10.0, 2.0, 0.1
# Every agent has as many routes of as many points, padding included, so that all scenes have one shape; and a route has
# at most so many lanes.
NUM_ROUTES, NUM_POINTS, MOST_LANES = 32, 128, 64
# Where the log is within this distance of some route it is judged (m); it agrees with those within the second one: they
# lead along the same carriageway.
ON_ROAD, SAME_ROAD = 5.0, 9.0
# Logged steps between places that are compared, and most such places; distances that are compared at once.
STRIDE, MOST_PLACES, AT_ONCE = 2, 128, 1_000_000
# Distance between points of a logged way (m). Routes are not shorter.
SPACING = 2.0

Points = Float[np.ndarray, "R 3"]


def build_routes(lanes: Segments, graph: LaneGraph, log: AgentState, info: AgentInfo, agent: int, now: int) -> Routes:
    """All drivable ways of an agent along the lane graph.

    They begin beside the agent, on the lanes that it could be following and on the lanes beside these. They go on as
    far as it may get until the record ends, which for WOMD is 100 m and 10 s at its present speed, or to the end of the
    lanes. When there are 31 they do not branch any more: they go on as the log does, or straight on.

    `on_route` is true for the routes that agree with the log, from now on, for longest: they are within 9 m of it,
    which tells one turn from another but not a lane from the next. Only places are counted where the log is within 5 m
    of some route. If the log goes where no such route leads (a driveway, a part of the map that was cut off), the
    logged way is one more route, on route too.

    Args:
      lanes: Lane segments.
      graph: Their graph, on the host.
      log: The record, [T, N].
      info: Types and sizes.
      agent: Whose routes; negative for nobody.
      now: The present step.
    """
    lines = centrelines(lanes, len(graph.count))
    if agent < 0 or not log.valid[now, agent]:
        return _packed(lines, [], 0.0, [], [])
    usable = (info.type[agent] == CYCLIST) | ~graph.is_bike
    ground = log.xyz[now:, agent].astype(np.float64) - [0.0, 0.0, info.size[agent, 2] / 2]
    logged = ground[log.valid[now:, agent]]
    distances = _Distances(lines, logged[:: max(STRIDE, -(-len(logged) // MOST_PLACES)), :2])
    seconds = max(AT_LEAST, LONGER + TIME_STEP * (len(log.valid) - 1 - now))
    horizon = seconds * (FASTER + float(np.hypot(*log.velocity[now, agent])))
    starts = _starts(lines, graph, usable, logged[0], float(log.yaw[now, agent]))
    routes = _grow(graph, usable, starts, horizon, distances)
    agrees, leads_on = _agreeing(routes, distances)
    way = [] if leads_on else _logged_way(logged)
    return _packed(lines, routes, horizon, agrees, way)


class _Distances:
    """Distances (m) of logged places to lanes, found when asked for."""

    def __init__(self, lines: Centrelines, places: Float[np.ndarray, "K 2"]):
        self.lines, self.places = lines, places
        self.known: dict[int, Float[np.ndarray, " K"]] = {}

    def to(self, lane: int) -> Float[np.ndarray, " K"]:
        if lane not in self.known:
            lines = self.lines
            run = slice(lines.first[lane], lines.last[lane] + 1)
            blocks = np.array_split(self.places, 1 + len(self.places) * int(lines.count[lane]) // AT_ONCE)
            self.known[lane] = np.concatenate([_distance(lines, run, block).min(axis=1) for block in blocks])
        return self.known[lane]


def _distance(lines: Centrelines, run: slice, places: Float[np.ndarray, "K 2"]) -> Float[np.ndarray, "K E"]:
    """Distances (m) in the plane of places to a run of segments."""
    start, along = lines.start[run, :2], lines.along[run, :2]
    off_x, off_y = (places[:, axis, None] - start[:, axis] for axis in range(2))
    part = np.clip((off_x * along[:, 0] + off_y * along[:, 1]) / lines.size[run] ** 2, 0.0, 1.0)
    return np.hypot(off_x - part * along[:, 0], off_y - part * along[:, 1])


def _starts(
    lines: Centrelines, graph: LaneGraph, usable: Bool[np.ndarray, " F"], xyz: Float[np.ndarray, " 3"], yaw: float
) -> dict[int, float]:
    """Lanes on which routes begin, and the arc length (m) there."""
    distance = _distance(lines, slice(None), xyz[None, :2].astype(np.float64))[0]
    turn = np.abs(np.mod(lines.yaw - yaw + np.pi, 2 * np.pi) - np.pi)
    near = np.flatnonzero((distance <= REACH) & (turn <= MAX_ANGLE) & usable[lines.lane])
    if not len(near):
        return {}
    height = lines.start[near, 2]
    nearest = np.argmin(np.hypot(distance[near], Z_STRETCH * (height - xyz[2])))
    close = (distance[near] <= distance[near][nearest] + SPREAD) & (np.abs(height - height[nearest]) < LEVEL)
    near = near[close]
    place_of = np.full(graph.left.size, -1)
    place_of[lines.index] = np.arange(len(lines.index))
    starts: dict[int, int] = {}
    for segment in near[np.argsort(distance[near], kind="stable")]:
        starts.setdefault(int(lines.lane[segment]), int(segment))
    for first in list(starts.values()):
        for side in (graph.left.reshape(-1), graph.right.reshape(-1)):
            segment = first
            for _ in range(SIDE_LANES):
                other = side[lines.index[segment]]
                if other < 0:
                    break
                segment = int(place_of[other])
                if usable[lines.lane[segment]]:
                    starts.setdefault(int(lines.lane[segment]), segment)
    begins = {}
    for lane, segment in starts.items():
        off = xyz[:2] - lines.start[segment, :2]
        part = np.clip(off @ lines.along[segment, :2] / lines.size[segment], 0.0, lines.size[segment])
        begins[lane] = float(lines.begin[segment] - lines.origin[lane] + part)
    return begins


def _grow(
    graph: LaneGraph, usable: Bool[np.ndarray, " F"], starts: dict[int, float], horizon: float, distances: _Distances
) -> list[tuple[list[int], float]]:
    """Lanes of each route, and the arc length on the first one at which it begins. The shortest route grows first."""
    growing = [(float(graph.length[lane]) - begin, [lane], begin) for lane, begin in starts.items()]
    growing = [route for route in growing if route[0] >= SPACING][: NUM_ROUTES - 1]
    heapq.heapify(growing)
    done: list[tuple[list[int], float]] = []
    while growing:
        length, lanes, begin = heapq.heappop(growing)
        ways = [lane for lane in graph.successors[lanes[-1]].tolist() if lane >= 0]
        ways = [lane for lane in ways if usable[lane] and lane not in lanes]
        if length >= horizon or not ways or len(lanes) == MOST_LANES:
            done.append((lanes, begin))
            continue
        room = NUM_ROUTES - 1 - len(growing) - len(done)
        if room < len(ways):
            ways = sorted(ways, key=lambda lane: np.minimum(distances.to(lane), ON_ROAD).sum())
        for lane in ways[: max(room, 1)]:
            heapq.heappush(growing, (length + float(graph.length[lane]), [*lanes, lane], begin))
    return sorted(done)


def _agreeing(routes: list[tuple[list[int], float]], distances: _Distances) -> tuple[Bool[np.ndarray, " M"], bool]:
    """Which routes agree with the log, and whether one of them is always near it."""
    if not routes:
        return np.zeros(0, bool), False
    distance = np.stack([np.min([distances.to(lane) for lane in lanes], axis=0) for lanes, _ in routes])
    judged = distance.min(axis=0) <= ON_ROAD
    agreement = np.count_nonzero(judged & (distance <= SAME_ROAD), axis=1)
    agrees = (agreement == agreement.max()) & (agreement > 0)
    return agrees, bool((distance.min(axis=0, where=agrees[:, None], initial=np.inf) <= ON_ROAD).all())


def _logged_way(logged: Points) -> list[Float[np.ndarray, "K 3"]]:
    """The logged places as a line, unless the agent hardly moves."""
    driven = np.hypot(*np.diff(logged[:, :2], axis=0).T).sum()
    spacing, kept = max(SPACING, driven / (NUM_POINTS - 1)), [logged[0]]
    for place in logged[1:]:
        if np.hypot(*(place - kept[-1])[:2]) >= spacing:
            kept.append(place)
    return [np.stack(kept)] if len(kept) > 1 else []


def _packed(
    lines: Centrelines,
    routes: list[tuple[list[int], float]],
    horizon: float,
    agrees: Sequence[bool] | Bool[np.ndarray, " M"],
    ways: list[Float[np.ndarray, "_ 3"]],
) -> Routes:
    """Points of routes at equal steps, the last at the end; then other ways as they are."""
    paths = [_sampled(lines, np.array(row), begin, horizon) for row, begin in routes]
    for way in ways:
        arc = np.append(0.0, np.cumsum(np.hypot(*np.diff(way[:, :2], axis=0).T)))
        paths.append((way, arc))
    shape = len(paths), max((len(arc) for _, arc in paths), default=0)
    xyz, arc_length, valid = np.zeros((*shape, 3), np.float32), np.zeros(shape, np.float32), np.zeros(shape, bool)
    for index, (path, arc) in enumerate(paths):
        xyz[index, : len(arc)], arc_length[index, : len(arc)], valid[index, : len(arc)] = path, arc, True
    on_route = np.array([*agrees, *(True for _ in ways)], bool)
    return Routes(xyz=xyz, arc_length=arc_length, valid=valid, on_route=on_route)


def _sampled(
    lines: Centrelines, row: Int[np.ndarray, " Q"], begin: float, horizon: float
) -> tuple[Points, Float[np.ndarray, " R"]]:
    """Points of a route over lanes in a row, and their arc lengths (m)."""
    ends = np.cumsum(lines.length[row]) - begin
    begins, length = ends - lines.length[row], min(ends[-1], horizon)
    arc = np.linspace(0.0, length, int(length / horizon * (NUM_POINTS - 1)) + 1)
    position = np.maximum(np.searchsorted(begins, arc, side="right") - 1, 0)
    lane = row[position]
    return lines.point(lines.origin[lane] + arc - begins[position], lane), arc
