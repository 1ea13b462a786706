"""Streets with lanes, markings, road edges, islands, sidewalks, driveways and parking, for traffic on the right."""

import dataclasses
import itertools
from typing import Literal

import numpy as np

from waymax_sim.datasets.synthetic.curves import (
    Polyline,
    Vector,
    arc_length,
    bezier_curve,
    cross,
    offset_left,
    parallel_curve,
    resample,
    subcurve,
    unit_vector,
    yaw_along,
)
from waymax_sim.datasets.synthetic.world import Crosswalk, Parking, RightOfWayRule, World
from waymax_sim.datatypes import roadmap

# Feature types of WOMD tf.Examples.
BROKEN_WHITE = 6
SOLID_WHITE = 7
BROKEN_YELLOW = 9
SOLID_YELLOW = 11
DOUBLE_YELLOW = 12
Strip = Literal["none", "bike", "parking", "shoulder"]
STRIP_WIDTHS = {"none": 0.5, "bike": 1.8, "parking": 2.5, "shoulder": 2.0}  # m
BIKE_SPEED = 5.0  # m/s
SIDEWALK_DISTANCE = 2.0  # m from the curb to the nearest line that pedestrians walk along
SIDEWALK_SPACING = 1.4  # m between the lines of the two directions
END_CLEARANCE = 14.0  # m without driveways at both ends of a street
PARKING_LOT_PROBABILITY = 0.5  # of a parking lot between two driveways
PARKING_LOT_DISTANCE = 14.0  # m from the curb to the parked cars
BUMP_PROBABILITY = 0.2  # of a speed bump on a driveway


@dataclasses.dataclass(frozen=True)
class Section:
    """Cross section of a street. Widths in m, speed in m/s.

    Attributes:
      forward: Number of lanes in the direction of the center line, on its right.
      backward: Number of lanes in the other direction, on its left.
      lane: Width of a lane.
      median: Width between the two directions.
      right: Strip between the lanes on the right and the curb.
      left: Strip between the lanes on the left and the curb.
      speed: Speed limit.
      lane_type: Type of all lanes.
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
        """Strip between the lanes and the curb of a side."""
        return self.right if side < 0 else self.left

    def half(self, side: int) -> float:
        """Distance from the center line to the curb of a side."""
        return self.median / 2 + self.lanes(side) * self.lane + STRIP_WIDTHS[self.strip(side)]

    def strip_center(self, side: int) -> float:
        """Distance from the center line to the center of the strip of a side."""
        return self.half(side) - STRIP_WIDTHS[self.strip(side)] / 2


@dataclasses.dataclass(frozen=True, eq=False)
class Arm:
    """An arm of a junction: the end of a street, in the direction away from the junction.

    Attributes:
      point: End of the center line, m.
      out: Unit vector away from the junction.
      incoming: Lanes toward the junction, innermost first.
      outgoing: Lanes away from it, innermost first.
      bike_in: Bike lane toward it, -1 without one.
      bike_out: Bike lane away from it, -1 without one.
      left: Distance from the center line to the curb on the left, the side of incoming lanes, m.
      right: Distance from the center line to the curb on the right, m.
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
    """A street of a world.

    Attributes:
      middle: Center line, m.
      section: Cross section.
      lanes: Rows of the consecutive parts of each lane by side, -1 right and 1 left, innermost lane first.
      bikes: Rows of the parts of the bike lane of each side; empty without one.
    """

    middle: Polyline
    section: Section
    lanes: dict[int, list[list[int]]]
    bikes: dict[int, list[int]]

    def arm(self, end: Literal["start", "end"]) -> Arm:
        """The arm of a junction at the start or end of the street."""
        outbound, inbound = (-1, 1) if end == "start" else (1, -1)
        yaw = yaw_along(self.middle)
        return Arm(
            point=self.middle[0] if end == "start" else self.middle[-1],
            out=unit_vector(yaw[0]) if end == "start" else -unit_vector(yaw[-1]),
            incoming=[rows[-1] for rows in self.lanes[inbound]],
            outgoing=[rows[0] for rows in self.lanes[outbound]],
            bike_in=self.bikes[inbound][-1] if self.bikes[inbound] else -1,
            bike_out=self.bikes[outbound][0] if self.bikes[outbound] else -1,
            left=self.section.half(inbound),
            right=self.section.half(outbound),
            speed=self.section.speed,
            lane_type=self.section.lane_type,
        )


def add_street(
    world: World,
    middle: Polyline,
    section: Section,
    *,
    cuts: tuple[float, ...] = (),
    curbs: tuple[int, ...] = (-1, 1),
) -> Street:
    """Adds a street: lanes, bike lanes, white markings and road edges.

    Args:
      world: The world, which is modified.
      middle: Center line, m.
      section: Cross section.
      cuts: Fractions of the length at which lanes are divided.
      curbs: Sides that have a road edge, -1 right and 1 left.
    """
    lanes, bikes = {}, {}
    for side in (-1, 1):
        lanes[side] = []
        for index in range(section.lanes(side)):
            lane = side * (section.median / 2 + (index + 0.5) * section.lane)
            lanes[side].append(_lane(world, section.lane_type, parallel_curve(middle, lane), side, section.speed, cuts))
        for inner, outer in itertools.pairwise(lanes[side]):
            for a, b in zip(inner, outer, strict=True):
                world.add_neighbors(a, b)
        bikes[side] = []
        if section.strip(side) == "bike":
            bike_line = parallel_curve(middle, side * section.strip_center(side))
            bikes[side] = _lane(world, roadmap.LANE_BIKE, bike_line, side, BIKE_SPEED, cuts)
        for index in range(1, section.lanes(side)):
            world.add(BROKEN_WHITE, parallel_curve(middle, side * (section.median / 2 + index * section.lane)))
        if section.strip(side) != "none":
            world.add(
                SOLID_WHITE, parallel_curve(middle, side * (section.half(side) - STRIP_WIDTHS[section.strip(side)]))
            )
        if side in curbs:
            curb = parallel_curve(middle, side * section.half(side))
            world.add(roadmap.ROAD_EDGE_BOUNDARY, curb if side < 0 else curb[::-1])
    return Street(middle, section, lanes, bikes)


def _lane(world: World, kind: int, xyz: Polyline, side: int, speed: float, cuts: tuple[float, ...]) -> list[int]:
    """Adds the parts of a lane in the direction of travel of its side and returns their rows."""
    bounds = [round(fraction * (len(xyz) - 1)) for fraction in (0.0, *cuts, 1.0)]
    parts = [xyz[a : b + 1] for a, b in itertools.pairwise(bounds)]
    if side > 0:
        parts = [part[::-1] for part in reversed(parts)]
    rows = [world.add(kind, part, speed) for part in parts]
    world.add_successors(*rows)
    return rows


def add_center_line(world: World, street: Street, islands: tuple[tuple[float, float], ...] = ()) -> None:
    """Adds median islands, and yellow markings between them.

    Args:
      world: The world, which is modified.
      street: The street.
      islands: Arc lengths of the ends of each island, m.
    """
    section, total = street.section, arc_length(street.middle)[-1]
    for start, end in islands:
        world.add(roadmap.ROAD_EDGE_MEDIAN, _island(street.middle, start, end, section.median - 0.4))
    bounds = [0.0, *itertools.chain.from_iterable((start - 1.0, end + 1.0) for start, end in islands), total]
    for start, end in zip(bounds[::2], bounds[1::2], strict=True):
        if end - start > 2.0:
            piece = subcurve(street.middle, start, end)
            if section.median < 1.0:
                world.add(DOUBLE_YELLOW if section.speed > 9.0 else BROKEN_YELLOW, piece)
            else:
                for side in (-1, 1):
                    world.add(SOLID_YELLOW, parallel_curve(piece, side * (section.median / 2 - 0.2)))


def _island(middle: Polyline, start: float, end: float, width: float) -> Polyline:
    """Road edge of a median island: a closed loop, clockwise because the road is to the left of an edge."""
    radius = width / 2
    piece = subcurve(middle, start + radius, end - radius)
    yaw = yaw_along(piece)
    turn = np.linspace(np.pi / 2, -np.pi / 2, 9)

    def cap(center: np.ndarray, angle: float) -> np.ndarray:
        return center + radius * np.column_stack([np.cos(angle + turn), np.sin(angle + turn), np.zeros(len(turn))])

    left, right = parallel_curve(piece, radius)[1:-1], parallel_curve(piece, -radius)[-2:0:-1]
    return resample(np.concatenate([left, cap(piece[-1], yaw[-1]), right, cap(piece[0], yaw[0] + np.pi), left[:1]]))


def add_sidewalks(world: World, street: Street) -> None:
    """Adds sidewalks on both sides, one line per direction; they are no map features, as in recorded maps."""
    for side in (-1, 1):
        for direction, extra in ((1, 0.0), (-1, SIDEWALK_SPACING)):
            distance = street.section.half(side) + SIDEWALK_DISTANCE + extra
            world.sidewalks.append(parallel_curve(street.middle, side * distance)[::direction])


def add_roadside(
    world: World, street: Street, rng: np.random.Generator, *, ranges: tuple[tuple[float, float], ...] | None = None
) -> None:
    """Adds driveways, some with a speed bump, and between them curbside parking and parking lots.

    Args:
      world: The world, which is modified.
      street: The street.
      rng: Source of positions.
      ranges: Pairs of arc lengths between which they are added, m; by default all but the ends.
    """
    ends = ((END_CLEARANCE, arc_length(street.middle)[-1] - END_CLEARANCE),)
    for side in (-1, 1):
        curb = side * street.section.half(side)
        for start, end in ranges or ends:
            arc = start + rng.uniform(0.0, 10.0)
            while arc + 18.0 < end:
                room = min(rng.uniform(14.0, 45.0), end - arc - 8.0)
                piece = subcurve(street.middle, arc, arc + room)
                if street.section.strip(side) == "parking":
                    spots = parallel_curve(piece, side * street.section.strip_center(side))
                    world.parking.append(Parking(spots if side < 0 else spots[::-1], False))
                if rng.random() < PARKING_LOT_PROBABILITY:
                    row = parallel_curve(piece, curb + side * PARKING_LOT_DISTANCE)
                    world.parking.append(Parking(row if side < 0 else row[::-1], True))
                _add_driveway(world, street, arc + room + 1.5, curb, side, bump=bool(rng.random() < BUMP_PROBABILITY))
                arc += room + 7.0


def _add_driveway(world: World, street: Street, arc: float, curb: float, side: int, *, bump: bool) -> None:
    """Adds a driveway at an arc length of a street (m)."""
    world.add(roadmap.DRIVEWAY, _patch(street.middle, (arc, arc + 5.0), (curb, curb + side * 8.0)))
    if bump:
        across = curb + side * 5.0, curb + side * 5.8
        world.add(roadmap.SPEED_BUMP, _patch(street.middle, (arc + 0.5, arc + 4.5), across))


def _patch(middle: Polyline, along: tuple[float, float], left: tuple[float, float]) -> Polyline:
    """Corners of a quadrilateral between two arc lengths of a street and two offsets to the left of it, m."""
    piece = subcurve(middle, *along)
    near, far = offset_left(piece, left[0]), offset_left(piece, left[1])
    return np.stack([near[0], near[-1], far[-1], far[0]])


def add_crosswalk(world: World, line: Polyline, width: float, *, light: int, junction: int) -> None:
    """Adds a crosswalk.

    Args:
      world: The world, which is modified.
      line: Center line from curb to curb, m.
      width: m.
      light: Column of the light of the lanes that it crosses, -1 without a light.
      junction: Index of the junction.
    """
    half = width / 2
    near, far = offset_left(line, -half), offset_left(line, half)
    world.add(roadmap.CROSSWALK, np.stack([near[0], near[-1], far[-1], far[0]]))
    world.crosswalks.append(Crosswalk(line, width, light, junction))


def add_crosswalk_across(world: World, street: Street, piece: int, *, bump: bool) -> None:
    """Adds a crosswalk without lights across a street, as a junction of its own.

    Args:
      world: The world, which is modified.
      street: The street.
      piece: Index of the part of the lanes that it crosses, see `cuts` of `add_street`.
      bump: Whether it is on a speed bump.
    """
    junction, world.num_junctions = world.num_junctions, world.num_junctions + 1
    for side, lanes in street.lanes.items():
        rows = [rows[piece if side < 0 else -1 - piece] for rows in (*lanes, street.bikes[side]) if rows]
        world.rules += [RightOfWayRule(row, 1, False, -1, junction) for row in rows]
    first = street.lanes[-1][0][piece]
    xyz = world.features[first][1]
    yaw = yaw_along(xyz)[len(xyz) // 2]
    across = np.array([-np.sin(yaw), np.cos(yaw), 0.0])
    center = xyz[len(xyz) // 2] + across * (street.section.median + street.section.lane) / 2
    ends = center - across * street.section.half(-1), center + across * street.section.half(1)
    line = resample(np.stack(ends))
    if bump:
        wide = offset_left(line, -2.4), offset_left(line, 2.4)
        world.add(roadmap.SPEED_BUMP, np.stack([wide[0][0], wide[0][-1], wide[1][-1], wide[1][0]]))
    add_crosswalk(world, line, 3.4, light=-1, junction=junction)


def connect_lanes(world: World, start: int, end: int, kind: int, speed: float) -> int:
    """Adds a lane from the end of one lane to the beginning of another and returns its row.

    Args:
      world: The world, which is modified.
      start: Row of the lane where it begins.
      end: Row of the lane where it ends.
      kind: Lane type.
      speed: Speed limit, m/s.
    """
    a, b = world.features[start][1], world.features[end][1]
    leave, arrive = unit_vector(yaw_along(a)[-1]), unit_vector(yaw_along(b)[0])
    row = world.add(kind, bezier_curve(a[-1], leave, b[0], arrive), speed)
    world.add_successors(start, row, end)
    world.internal_lanes |= {row, end}
    return row


def signed_turn(a: Vector, b: Vector) -> float:
    """Signed angle from direction a to direction b, rad in [-pi, pi], positive to the left."""
    return float(np.arctan2(cross(a, b), a @ b))
