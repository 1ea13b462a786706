"""Streets: lanes, lines, kerbs, islands, and what stands beside them. Traffic drives on the right."""

import dataclasses
import itertools
from typing import Literal

import numpy as np

from waymax_sim.datasets.synthetic.curves import (
    Polyline,
    Vector,
    arc_length,
    blend,
    cross,
    heading,
    offset,
    resample,
    shifted,
    stretch,
    yaw_along,
)
from waymax_sim.datasets.synthetic.world import Crosswalk, Gate, Parking, World
from waymax_sim.datatypes import roadmap

BROKEN_WHITE, SOLID_WHITE, BROKEN_YELLOW, DOUBLE_YELLOW, SOLID_YELLOW = 6, 7, 9, 12, 11  # WOMD tf.Example codes
Strip = Literal["none", "bike", "parking", "shoulder"]
STRIP_WIDTHS = {"none": 0.5, "bike": 1.8, "parking": 2.5, "shoulder": 2.0}  # m
BIKE_SPEED = 5.0  # m/s
PAVEMENT = 2.0  # m from the kerb to where people walk
CLEAR = 14.0  # m without driveways at both ends of a street
CAR_PARKS = 0.5  # share of the places between driveways with cars parked off the street


@dataclasses.dataclass(frozen=True)
class Section:
    """What lies across a street. Widths in m, speed in m/s.

    Attributes:
      forward: Lanes along the street, right of the middle.
      backward: Lanes against it, left of the middle.
      lane: Width of a lane.
      median: Width between the two directions.
      right: What lies between the lanes on the right and the kerb.
      left: The same on the left.
      speed: Speed limit.
      lane_type: Of all lanes.
    """

    forward: int
    backward: int
    speed: float
    lane: float = 3.5
    median: float = 0.4
    right: Strip = "none"
    left: Strip = "none"
    lane_type: int = roadmap.LANE_SURFACE_STREET

    def lanes(self, side: int) -> int:
        """Number of lanes on a side: -1 right, 1 left."""
        return self.forward if side < 0 else self.backward

    def strip(self, side: int) -> Strip:
        """What lies beside the lanes of a side."""
        return self.right if side < 0 else self.left

    def half(self, side: int) -> float:
        """From the middle to the kerb of a side."""
        return self.median / 2 + self.lanes(side) * self.lane + STRIP_WIDTHS[self.strip(side)]

    def strip_centre(self, side: int) -> float:
        """From the middle to the centre of the strip of a side."""
        return self.half(side) - STRIP_WIDTHS[self.strip(side)] / 2


@dataclasses.dataclass(frozen=True, eq=False)
class Arm:
    """The end of a street, seen from the junction there.

    Attributes:
      point: Where the middle of the street ends, m.
      out: Direction away from the junction.
      incoming: Lanes towards the junction, innermost first.
      outgoing: Lanes away from it, innermost first.
      bike_in: Bike lane towards it, -1 where there is none.
      bike_out: Bike lane away from it.
      left: From the middle to the kerb on the left, m, where incoming lanes are.
      right: The same on the right.
      speed: Speed limit, m/s.
      lane_type: Type of its lanes.
    """

    point: np.ndarray
    out: Vector
    incoming: list[int]
    outgoing: list[int]
    bike_in: int
    bike_out: int
    left: float
    right: float
    speed: float
    lane_type: int


@dataclasses.dataclass(frozen=True, eq=False)
class Street:
    """A street that was built: its lanes by side, -1 right and 1 left, innermost first, each in order of travel."""

    middle: Polyline
    section: Section
    lanes: dict[int, list[list[int]]]
    bikes: dict[int, list[int]]

    def arm(self, end: Literal["start", "end"]) -> Arm:
        """The street seen from a junction at its start or end."""
        away, towards = (-1, 1) if end == "start" else (1, -1)
        yaw = yaw_along(self.middle)
        return Arm(
            point=self.middle[0] if end == "start" else self.middle[-1],
            out=heading(yaw[0]) if end == "start" else -heading(yaw[-1]),
            incoming=[rows[-1] for rows in self.lanes[towards]],
            outgoing=[rows[0] for rows in self.lanes[away]],
            bike_in=self.bikes[towards][-1] if self.bikes[towards] else -1,
            bike_out=self.bikes[away][0] if self.bikes[away] else -1,
            left=self.section.half(towards),
            right=self.section.half(away),
            speed=self.section.speed,
            lane_type=self.section.lane_type,
        )


def street(
    world: World,
    middle: Polyline,
    section: Section,
    *,
    cuts: tuple[float, ...] = (),
    kerbs: tuple[int, ...] = (-1, 1),
) -> Street:
    """Adds lanes, their lines and the kerbs of some sides; lanes are cut at some shares of the length."""
    lanes, bikes = {}, {}
    for side in (-1, 1):
        lanes[side] = []
        for index in range(section.lanes(side)):
            lane = side * (section.median / 2 + (index + 0.5) * section.lane)
            lanes[side].append(_lane(world, section.lane_type, shifted(middle, lane), side, section.speed, cuts))
        for inner, outer in itertools.pairwise(lanes[side]):
            for a, b in zip(inner, outer, strict=True):
                world.beside(a, b)
        bikes[side] = []
        if section.strip(side) == "bike":
            ride = shifted(middle, side * section.strip_centre(side))
            bikes[side] = _lane(world, roadmap.LANE_BIKE, ride, side, BIKE_SPEED, cuts)
        for index in range(1, section.lanes(side)):
            world.add(BROKEN_WHITE, shifted(middle, side * (section.median / 2 + index * section.lane)))
        if section.strip(side) != "none":
            world.add(SOLID_WHITE, shifted(middle, side * (section.half(side) - STRIP_WIDTHS[section.strip(side)])))
        if side in kerbs:
            kerb = shifted(middle, side * section.half(side))
            world.add(roadmap.ROAD_EDGE_BOUNDARY, kerb if side < 0 else kerb[::-1])
    return Street(middle, section, lanes, bikes)


def _lane(world: World, kind: int, xyz: Polyline, side: int, speed: float, cuts: tuple[float, ...]) -> list[int]:
    at = [round(share * (len(xyz) - 1)) for share in (0.0, *cuts, 1.0)]
    parts = [xyz[a : b + 1] for a, b in itertools.pairwise(at)]
    if side > 0:
        parts = [part[::-1] for part in reversed(parts)]
    rows = [world.add(kind, part, speed) for part in parts]
    world.follow(*rows)
    return rows


def centre_line(world: World, street: Street, islands: tuple[tuple[float, float], ...] = ()) -> None:
    """Adds islands between pairs of arc lengths (m), and yellow lines where there is none."""
    section, total = street.section, arc_length(street.middle)[-1]
    for start, end in islands:
        world.add(roadmap.ROAD_EDGE_MEDIAN, _island(street.middle, start, end, section.median - 0.4))
    free = [0.0, *itertools.chain.from_iterable((start - 1.0, end + 1.0) for start, end in islands), total]
    for start, end in zip(free[::2], free[1::2], strict=True):
        if end - start > 2.0:
            piece = stretch(street.middle, start, end)
            if section.median < 1.0:
                world.add(DOUBLE_YELLOW if section.speed > 9.0 else BROKEN_YELLOW, piece)
            else:
                for side in (-1, 1):
                    world.add(SOLID_YELLOW, shifted(piece, side * (section.median / 2 - 0.2)))


def _island(middle: Polyline, start: float, end: float, width: float) -> Polyline:
    """The kerb of a median island: a closed loop, clockwise because the road is to the left of an edge."""
    radius = width / 2
    piece = stretch(middle, start + radius, end - radius)
    yaw = yaw_along(piece)
    turn = np.linspace(np.pi / 2, -np.pi / 2, 9)

    def cap(centre: np.ndarray, angle: float) -> np.ndarray:
        return centre + radius * np.column_stack([np.cos(angle + turn), np.sin(angle + turn), np.zeros(len(turn))])

    left, right = shifted(piece, radius)[1:-1], shifted(piece, -radius)[-2:0:-1]
    return resample(np.concatenate([left, cap(piece[-1], yaw[-1]), right, cap(piece[0], yaw[0] + np.pi), left[:1]]))


def pavements(world: World, street: Street) -> None:
    """Adds what people walk on, both sides and both ways; no map feature, as in recorded maps."""
    for side in (-1, 1):
        for way, further in ((1, 0.0), (-1, 1.4)):
            world.walks.append(shifted(street.middle, side * (street.section.half(side) + PAVEMENT + further))[::way])


def roadside(
    world: World, street: Street, rng: np.random.Generator, *, free: tuple[tuple[float, float], ...] | None = None
) -> None:
    """Adds driveways, some with a speed bump, some to a car park, and room to park at the kerb between them.

    Args:
      world: Where to add.
      street: The street.
      rng: Draws where.
      free: Pairs of arc lengths between which there is room (m); by default all but the ends.
    """
    ends = ((CLEAR, arc_length(street.middle)[-1] - CLEAR),)
    for side in (-1, 1):
        kerb = side * street.section.half(side)
        for start, end in free or ends:
            at = start + rng.uniform(0.0, 10.0)
            while at + 18.0 < end:
                room = min(rng.uniform(14.0, 45.0), end - at - 8.0)
                piece = stretch(street.middle, at, at + room)
                if street.section.strip(side) == "parking":
                    spots = shifted(piece, side * street.section.strip_centre(side))
                    world.parking.append(Parking(spots if side < 0 else spots[::-1], False))
                if rng.random() < CAR_PARKS:
                    row = shifted(piece, kerb + side * 14.0)
                    world.parking.append(Parking(row if side < 0 else row[::-1], True))
                _driveway(world, street, at + room + 1.5, kerb, side, bump=bool(rng.random() < 0.2))
                at += room + 7.0


def _driveway(world: World, street: Street, at: float, kerb: float, side: int, *, bump: bool) -> None:
    world.add(roadmap.DRIVEWAY, _patch(street.middle, (at, at + 5.0), (kerb, kerb + side * 8.0)))
    if bump:
        across = kerb + side * 5.0, kerb + side * 5.8
        world.add(roadmap.SPEED_BUMP, _patch(street.middle, (at + 0.5, at + 4.5), across))


def _patch(middle: Polyline, along: tuple[float, float], left: tuple[float, float]) -> Polyline:
    """Corners of a quadrilateral between two arc lengths of a street and two offsets to the left of it, m."""
    piece = stretch(middle, *along)
    near, far = offset(piece, left[0]), offset(piece, left[1])
    return np.stack([near[0], near[-1], far[-1], far[0]])


def crosswalk(world: World, way: Polyline, width: float, *, light: int, place: int) -> None:
    """Adds a crosswalk along a way from kerb to kerb."""
    half = width / 2
    near, far = offset(way, -half), offset(way, half)
    world.add(roadmap.CROSSWALK, np.stack([near[0], near[-1], far[-1], far[0]]))
    world.crosswalks.append(Crosswalk(way, width, light, place))


def crosswalk_over(world: World, street: Street, piece: int, *, bump: bool) -> None:
    """Adds a crosswalk without lights over a piece of the lanes of a street; it may lie on a speed bump."""
    place, world.num_places = world.num_places, world.num_places + 1
    for side, lanes in street.lanes.items():
        rows = [rows[piece if side < 0 else -1 - piece] for rows in (*lanes, street.bikes[side]) if rows]
        world.gates += [Gate(row, 1, False, -1, place) for row in rows]
    first = street.lanes[-1][0][piece]
    xyz = world.features[first][1]
    yaw = yaw_along(xyz)[len(xyz) // 2]
    across = np.array([-np.sin(yaw), np.cos(yaw), 0.0])
    centre = xyz[len(xyz) // 2] + across * (street.section.median + street.section.lane) / 2
    ends = centre - across * street.section.half(-1), centre + across * street.section.half(1)
    way = resample(np.stack(ends))
    if bump:
        wide = offset(way, -2.4), offset(way, 2.4)
        world.add(roadmap.SPEED_BUMP, np.stack([wide[0][0], wide[0][-1], wide[1][-1], wide[1][0]]))
    crosswalk(world, way, 3.4, light=-1, place=place)


def connect(world: World, start: int, end: int, kind: int, speed: float) -> int:
    """Adds a lane from the end of one lane to the beginning of another."""
    a, b = world.features[start][1], world.features[end][1]
    leave, arrive = heading(yaw_along(a)[-1]), heading(yaw_along(b)[0])
    row = world.add(kind, blend(a[-1], leave, b[0], arrive), speed)
    world.follow(start, row, end)
    world.inner |= {row, end}
    return row


def turn_of(a: Vector, b: Vector) -> float:
    """By how much direction b is to the left of direction a, rad in [-pi, pi]."""
    return float(np.arctan2(cross(a, b), a @ b))
