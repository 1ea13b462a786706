"""Small maps of lanes for tests."""

import itertools
from typing import NamedTuple

import numpy as np

from waymax_sim.datatypes.lanes import LaneGraph
from waymax_sim.datatypes.roadmap import LANE_SURFACE_STREET, LANE_TYPES, STOP_SIGN, RoadMap, Segments
from waymax_sim.datatypes.signals import Signals
from waymax_sim.maps.centerlines import Centerlines, extract_centerlines
from waymax_sim.maps.lanes import build_lane_graph
from waymax_sim.maps.segments import build_segments


class LaneMap(NamedTuple):
    roadmap: RoadMap
    lanes: Segments
    graph: LaneGraph
    signals: Signals

    @property
    def lines(self) -> Centerlines:
        return extract_centerlines(self.lanes, len(self.roadmap.feature_type))


def straight(start, end, spacing: float = 0.5) -> np.ndarray:
    """Points from `start` to `end`, (x, y) or (x, y, z), [n, 3]."""
    start, end = ((*point, 0.0)[:3] for point in (start, end))
    return np.linspace(start, end, max(2, round(np.linalg.norm(np.subtract(end, start)) / spacing) + 1))


def arc(center, radius: float, begin: float, finish: float, spacing: float = 0.5) -> np.ndarray:
    """Points of a circle from one angle to another (degrees), [n, 3]."""
    begin, finish = np.radians(begin), np.radians(finish)
    angle = np.linspace(begin, finish, round(abs(finish - begin) * radius / spacing) + 1)
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle), 0 * angle], axis=-1)
    return points + (*center, 0.0)


def lane_map(*lines, types=None, links=(), limits=0.0, signs=(), lights=()) -> LaneMap:
    """A map of lanes [n, 3], then of stop signs at positions (x, y, z).

    `lights` are pairs of a lane and a stop point (x, y, z). A lane has the row of its line; its id is 100 more.
    """
    lines = [np.asarray(line, float) for line in [*lines, *([sign] for sign in signs)]]
    kinds = [LANE_SURFACE_STREET] * (len(lines) - len(signs)) if types is None else list(types)
    kinds = np.array([*kinds, *[STOP_SIGN] * len(signs)], np.int32)
    points = np.concatenate(lines).astype(np.float32) if lines else np.zeros((0, 3), np.float32)
    feature = np.repeat(np.arange(len(lines), dtype=np.int32), [len(line) for line in lines])
    roadmap = RoadMap(
        xyz=points,
        feature=feature,
        valid=np.ones(len(points), bool),
        feature_id=100 + np.arange(len(lines), dtype=np.int32),
        feature_type=kinds,
        speed_limit=np.broadcast_to(np.float32(limits), len(lines)).copy(),
        links=np.array(links, np.int32).reshape(-1, 3),
        driveways=np.zeros((0, 4), np.float32),
    )
    signals = Signals(
        lane_id=np.array([100 + lane for lane, _ in lights], np.int32),
        state=np.full((1, len(lights)), 4, np.int32),
        stop_point=np.array([point for _, point in lights], np.float32).reshape(1, -1, 3),
        valid=np.ones((1, len(lights)), bool),
    )
    lanes = build_segments(points, feature, kinds, LANE_TYPES)
    return LaneMap(roadmap, lanes, build_lane_graph(roadmap, lanes, signals), signals)


def fork() -> list[np.ndarray]:
    """A lane of 20 m along x, and its three successors: left, straight, right, in the rows after the lane."""
    return [
        straight((0, 0), (20, 0)),
        arc((20, 10), 10, -90, 0),
        straight((20, 0), (40, 0)),
        arc((20, -10), 10, 90, 0),
    ]


def random_lines(rng: np.random.Generator, count: int = 12) -> list[np.ndarray]:
    """Bent lines, some of which begin where another ends."""
    lines = []
    for index in range(count):
        start, yaw = np.append(rng.uniform(-40, 40, 2), rng.choice([0.0, 6.0])), rng.uniform(-3, 3)
        if lines and index % 3:
            before = lines[rng.integers(len(lines))]
            start, ahead = before[-1], before[-1] - before[-2]
            yaw = np.arctan2(ahead[1], ahead[0]) + rng.normal(0, 0.3)
        yaw = yaw + np.append(0, np.cumsum(rng.normal(0, 0.1, rng.integers(2, 30))))
        steps = rng.uniform(0.3, 4, (len(yaw), 1)) * np.stack([np.cos(yaw), np.sin(yaw), 0 * yaw], axis=-1)
        lines.append(start + np.append(np.zeros((1, 3)), np.cumsum(steps, axis=0), axis=0))
    return [np.float32(line).astype(float) for line in lines]


def length(line: np.ndarray) -> float:
    """In the plane, m."""
    return sum(float(np.hypot(*(b - a)[:2])) for a, b in itertools.pairwise(line))
