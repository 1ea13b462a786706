"""Parts of made-up streets: curves, cross-sections, kerbs, islands. One local frame, metres, right-hand traffic."""

import dataclasses
import itertools
from collections.abc import Sequence
from functools import cached_property
from typing import TypeVar

import numpy as np
from jaxtyping import Float, Int

from waymax_sim.datatypes import roadmap

T = TypeVar("T")

NUM_STEPS, TIME_STEP = 91, 0.1  # s
SPACING = 0.5  # m between map samples, as in WOMD
BROKEN_WHITE, SOLID_WHITE, DOUBLE_YELLOW = 6, 7, 12  # road line codes of WOMD tf.Examples
PAVEMENT = 1.8  # m from the kerb to where people walk


@dataclasses.dataclass(frozen=True, eq=False)
class Way:
    """A line that somebody follows from its first point to its last.

    Attributes:
      xyz: Points on the ground, m.
      lane: Row of the lane on which the way begins, -1 off the lanes.
      speed: Speed limit, m/s.
      stop: Arc length of the stop line (m), infinite where there is none.
      light: Column of the light to obey, -1 where there is none.
    """

    xyz: Float[np.ndarray, "K 3"]
    lane: int = -1
    speed: float = 0.0
    stop: float = np.inf
    light: int = -1

    @cached_property
    def arc(self) -> Float[np.ndarray, " K"]:
        """Distance of each point from the first, m, in the plane."""
        return arc_length(self.xyz)

    @cached_property
    def yaw(self) -> Float[np.ndarray, " K"]:
        """Direction at each point, rad, unwrapped."""
        along = np.gradient(self.xyz[:, :2], self.arc, axis=0)
        return np.unwrap(np.arctan2(along[:, 1], along[:, 0]))

    @cached_property
    def curvature(self) -> Float[np.ndarray, " K"]:
        """How tightly it bends at each point, 1/m, never negative."""
        return np.abs(np.gradient(self.yaw, self.arc))


@dataclasses.dataclass(frozen=True)
class Section:
    """What lies across a street: a median, lanes each way and a side strip each way; widths in m."""

    num_lanes: int
    lane: float
    median: float
    strip: float
    speed: float

    @property
    def half(self) -> float:
        """From the middle to the kerb."""
        return self.median / 2 + self.num_lanes * self.lane + self.strip

    @property
    def strip_centre(self) -> float:
        """From the middle to the centre of the side strip."""
        return self.half - self.strip / 2

    def lane_centre(self, index: int) -> float:
        """From the middle to the centre of a lane; the innermost has index 0."""
        return self.median / 2 + (index + 0.5) * self.lane


@dataclasses.dataclass
class Place:
    """A map under construction, and the ways on which its traffic moves.

    `lights` holds (lane row, column of `light_state`) per controlled lane; its stop point is the lane's end.
    `crossings` are crosswalks with the column of the light that traffic there obeys. `overpass` names two
    drives, the lower one first, that cross at different heights, and the arc length of each where they do.
    """

    features: list[tuple[int, np.ndarray, float]] = dataclasses.field(default_factory=list)
    links: list[tuple[int, int, int]] = dataclasses.field(default_factory=list)
    drives: list[Way] = dataclasses.field(default_factory=list)
    rides: list[Way] = dataclasses.field(default_factory=list)
    walks: list[Way] = dataclasses.field(default_factory=list)
    crossings: list[Way] = dataclasses.field(default_factory=list)
    parking: list[Way] = dataclasses.field(default_factory=list)
    lights: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    light_state: Int[np.ndarray, "T G"] = dataclasses.field(default_factory=lambda: np.zeros((NUM_STEPS, 0), int))
    overpass: tuple[tuple[Way, float], tuple[Way, float]] | None = None

    def add(self, feature_type: int, xyz: np.ndarray, speed: float = 0.0) -> int:
        """Adds a feature and returns its row."""
        self.features.append((feature_type, xyz, speed))
        return len(self.features) - 1


def pick(items: Sequence[T], rng: np.random.Generator) -> T:
    """One of the items."""
    return items[int(rng.integers(len(items)))]


def arc_length(xyz: Float[np.ndarray, "K d"]) -> Float[np.ndarray, " K"]:
    """Distance of each point from the first along the polyline, m, in the plane."""
    steps = np.hypot(*np.diff(xyz[:, :2], axis=0).T)
    return np.concatenate([[0.0], np.cumsum(steps)])


def resample(xyz: Float[np.ndarray, "K 3"]) -> Float[np.ndarray, "P 3"]:
    """Points at equal steps of about `SPACING`, both ends included."""
    arc = arc_length(xyz)
    at = np.linspace(0.0, arc[-1], max(2, round(arc[-1] / SPACING) + 1))
    return np.stack([np.interp(at, arc, column) for column in xyz.T], axis=-1)


def line(*points: tuple[float, float]) -> Float[np.ndarray, "P 3"]:
    """A polyline through points (x, y) at height 0."""
    return resample(np.array([(*point, 0.0) for point in points]))


def fillet(a: tuple[float, float], corner: tuple[float, float], b: tuple[float, float], radius: float) -> np.ndarray:
    """From `a` to `b` around a right-angled `corner`, rounded by a circle that touches both legs, [P, 3]."""
    tip = np.array(corner)
    before, after = ((np.array(end) - tip) / np.linalg.norm(np.array(end) - tip) for end in (a, b))
    angle = np.linspace(0.0, np.pi / 2, 40)[:, None]
    arc = tip + radius * ((1 - np.sin(angle)) * before + (1 - np.cos(angle)) * after)
    plane = np.concatenate([[a], arc, [b]])
    return resample(np.column_stack([plane, np.zeros(len(plane))]))


def turned(xyz: Float[np.ndarray, "*b 3"], angle: float) -> Float[np.ndarray, "*b 3"]:
    """Turned counter-clockwise about the origin by `angle` (rad)."""
    cos, sin = np.cos(angle), np.sin(angle)
    return xyz @ np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])


def shifted(xyz: Float[np.ndarray, "K 3"], left: float) -> Float[np.ndarray, "P 3"]:
    """The parallel curve at `left` metres to the left."""
    yaw = Way(xyz).yaw
    return resample(xyz + left * np.stack([-np.sin(yaw), np.cos(yaw), np.zeros(len(yaw))], axis=-1))


def stretch(xyz: Float[np.ndarray, "K 3"], start: float, end: float) -> Float[np.ndarray, "P 3"]:
    """The part between two arc lengths, m."""
    arc = arc_length(xyz)
    at = np.linspace(start, end, max(2, round((end - start) / SPACING) + 1))
    return np.stack([np.interp(at, arc, column) for column in xyz.T], axis=-1)


def patch(middle: np.ndarray, along: tuple[float, float], left: tuple[float, float]) -> Float[np.ndarray, "4 3"]:
    """Corners of a quadrilateral between two arc lengths of a street and two offsets to the left of it, m."""
    piece = stretch(middle, *along)
    near, far = shifted(piece, left[0]), shifted(piece, left[1])
    return np.stack([near[0], near[-1], far[-1], far[0]])


def island(middle: np.ndarray, start: float, end: float, width: float) -> Float[np.ndarray, "P 3"]:
    """The kerb of a median island: a closed loop, clockwise because the road is to the left of an edge."""
    radius = width / 2
    piece = stretch(middle, start + radius, end - radius)
    yaw = Way(piece).yaw
    turn = np.linspace(np.pi / 2, -np.pi / 2, 9)[:, None]

    def cap(centre, angle):
        return centre + radius * np.column_stack([np.cos(angle + turn), np.sin(angle + turn), np.zeros(len(turn))])

    sides = shifted(piece, radius)[1:-1], shifted(piece, -radius)[-2:0:-1]
    loop = np.concatenate([sides[0], cap(piece[-1], yaw[-1]), sides[1], cap(piece[0], yaw[0] + np.pi), sides[0][:1]])
    return resample(loop)


def street(place: Place, middle: np.ndarray, section: Section, *, pieces: int = 1) -> tuple[list[list[Way]], list]:
    """Adds lanes and lane lines along `middle`.

    Returns:
      For traffic along the middle line and for traffic against it: the ways along its lanes, innermost first.
      And in the same shape the rows of each lane's pieces, in the order of travel.
    """
    ways, rows = [], []
    for side in (-1.0, 1.0):
        side_ways, side_rows = [], []
        for index in range(section.num_lanes):
            xyz = shifted(middle, side * section.lane_centre(index))
            cuts = np.linspace(0, len(xyz) - 1, pieces + 1).astype(int)
            parts = [xyz[a : b + 1] for a, b in itertools.pairwise(cuts)]
            if side > 0:
                xyz, parts = xyz[::-1], [part[::-1] for part in reversed(parts)]
            lane = [place.add(roadmap.LANE_SURFACE_STREET, part, section.speed) for part in parts]
            place.links += [(a, b, roadmap.SUCCESSOR) for a, b in itertools.pairwise(lane)]
            side_ways.append(Way(xyz, lane[0], section.speed))
            side_rows.append(lane)
        for inner, outer in itertools.pairwise(side_rows):
            for a, b in zip(inner, outer, strict=True):
                place.links += [(a, b, roadmap.RIGHT_NEIGHBOR), (b, a, roadmap.LEFT_NEIGHBOR)]
        for index in range(1, section.num_lanes):
            place.add(BROKEN_WHITE, shifted(middle, side * (section.median / 2 + index * section.lane)))
        place.add(SOLID_WHITE, shifted(middle, side * (section.half - section.strip)))
        ways.append(side_ways)
        rows.append(side_rows)
    return ways, rows


def kerbs(place: Place, middle: np.ndarray, section: Section) -> None:
    """Adds the road edges of a street; the road is to the left of each."""
    place.add(roadmap.ROAD_EDGE_BOUNDARY, shifted(middle, -section.half))
    place.add(roadmap.ROAD_EDGE_BOUNDARY, shifted(middle, section.half)[::-1])


def pavements(place: Place, middle: np.ndarray, section: Section) -> None:
    """Adds what people walk on, both sides and both ways; no map feature, as in recorded maps."""
    for side in (-1.0, 1.0):
        walk = shifted(middle, side * (section.half + PAVEMENT))
        place.walks += [Way(walk), Way(walk[::-1])]


def medians(place: Place, middle: np.ndarray, section: Section, start: float, end: float) -> None:
    """Adds an island between two arc lengths, and a double yellow line where there is no island."""
    place.add(roadmap.ROAD_EDGE_MEDIAN, island(middle, start, end, section.median - 0.4))
    for a, b in ((0.0, start - 1.0), (end + 1.0, arc_length(middle)[-1])):
        if b - a > 2.0:
            place.add(DOUBLE_YELLOW, stretch(middle, a, b))


def driveway(place: Place, middle: np.ndarray, section: Section, at: float) -> None:
    """Adds a driveway on the left of a street, with a speed bump on it and a stop sign at its mouth."""
    kerb = section.half
    place.add(roadmap.DRIVEWAY, patch(middle, (at, at + 6.0), (kerb, kerb + 9.0)))
    place.add(roadmap.SPEED_BUMP, patch(middle, (at + 0.5, at + 5.5), (kerb + 6.0, kerb + 6.8)))
    place.add(roadmap.STOP_SIGN, patch(middle, (at - 0.7, at), (kerb + 0.6, kerb + 1.0))[:1])
