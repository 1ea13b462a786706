"""Three made-up places: a curved road, a signalised crossing, and a bridge over a road."""

import itertools

import numpy as np

from waymax_sim.datasets import synthetic_roads as roads
from waymax_sim.datasets.synthetic_roads import (
    Place,
    Section,
    Way,
    arc_length,
    fillet,
    line,
    pick,
    shifted,
    stretch,
    turned,
)
from waymax_sim.datatypes import roadmap

STOP, CAUTION, GO = 4, 5, 6  # WOMD light states
CAUTION_TIME = 3.0  # s
CLEARANCE = 6.0  # m between the surfaces of the two roads at the bridge
MAX_GRADE = 0.065
CORNER = 4.0  # radius of the kerb at a junction, m


def curved_road(rng: np.random.Generator) -> Place:
    """A two-way road that bends one way and then the other, with an island, a bike lane and parked cars."""
    place = Place()
    section = Section(2, rng.uniform(3.4, 3.7), 1.8, 2.4, rng.uniform(11.0, 15.0))
    length = rng.uniform(230.0, 270.0)
    arc = np.linspace(0.0, length, round(length / roads.SPACING) + 1)
    bend = rng.uniform(0.005, 0.015) * rng.choice([-1.0, 1.0])
    wobble = rng.uniform(-0.3, 0.3)
    yaw = np.cumsum(bend * (np.sin(2 * np.pi * arc / length) + wobble)) * roads.SPACING
    x, y = (np.cumsum(part) * roads.SPACING for part in (np.cos(yaw), np.sin(yaw)))
    z = rng.uniform(0.5, 1.5) * np.sin(2 * np.pi * arc / length)
    middle = np.stack([x, y, z], axis=-1)
    middle -= middle[len(middle) // 2] * [1.0, 1.0, 0.0]

    ways, _ = roads.street(place, middle, section, pieces=2)
    place.drives += ways[0] + ways[1]
    roads.kerbs(place, middle, section)
    roads.pavements(place, middle, section)
    start = rng.uniform(60.0, 110.0)
    roads.medians(place, middle, section, start, start + rng.uniform(20.0, 45.0))
    _roadside(place, middle, section, rng.uniform(120.0, 150.0))
    return place


def bridge(rng: np.random.Generator) -> Place:
    """A narrow road on a bridge over a wide one; their road edges and their traffic cross at two heights."""
    place = Place()
    below = Section(2, rng.uniform(3.4, 3.7), 1.8, 2.4, rng.uniform(11.0, 14.0))
    above = Section(1, rng.uniform(3.5, 3.9), 0.6, 1.2, rng.uniform(10.0, 13.0))
    lower = line((-115.0, 0.0), (115.0, 0.0))
    # A raised cosine climbs at most pi/2 times its mean grade.
    flat = rng.uniform(20.0, 26.0)
    ramp = CLEARANCE * np.pi / 2 / MAX_GRADE
    upper = turned(line((-flat - ramp - 8.0, 0.0), (flat + ramp + 8.0, 0.0)), np.pi / 2 + rng.uniform(-0.35, 0.35))
    down = np.clip((np.hypot(upper[:, 0], upper[:, 1]) - flat) / ramp, 0.0, 1.0)
    upper[:, 2] = CLEARANCE * (1 + np.cos(np.pi * down)) / 2

    below_ways, _ = roads.street(place, lower, below, pieces=2)
    above_ways, _ = roads.street(place, upper, above, pieces=3)
    place.drives += below_ways[0] + below_ways[1] + above_ways[0] + above_ways[1]
    roads.kerbs(place, lower, below)
    roads.kerbs(place, upper, above)
    place.add(roads.DOUBLE_YELLOW, upper)
    roads.pavements(place, lower, below)
    start = rng.uniform(25.0, 45.0)
    roads.medians(place, lower, below, start, start + rng.uniform(20.0, 40.0))
    _roadside(place, lower, below, rng.uniform(150.0, 190.0))
    place.overpass = _overpass(pick(pick(below_ways, rng), rng), pick(pick(above_ways, rng), rng))
    return place


def crossing(rng: np.random.Generator) -> Place:
    """Four arms that meet at right angles under traffic lights.

    Arm k leads away from the centre at k quarter turns; everything of an arm is laid out along +x and turned.
    Seen from there incoming lanes lie at +y, and the arm to which they turn right is the next one.
    """
    place = Place()
    section = Section(2, rng.uniform(3.4, 3.6), 1.8, 2.4, rng.uniform(11.0, 14.0))
    mouth = section.half + CORNER  # where the kerbs become parallel
    stop, end = mouth + 5.0, rng.uniform(85.0, 100.0)
    place.light_state = _phases(rng)
    arms = [_arm(place, section, stop, end, quarter) for quarter in range(4)]
    for quarter in range(4):
        angle = quarter * np.pi / 2
        kerb = fillet((end, section.half), (section.half, section.half), (section.half, end), CORNER)
        place.add(roadmap.ROAD_EDGE_BOUNDARY, turned(kerb, angle))
        _zebra(place, section, mouth, angle, quarter % 2)
        _connect(place, section, arms, stop, quarter)
    # Two arms have bike lanes and the two others parked cars, on both sides.
    for quarter in (0, 2):
        _bike_through(place, section, stop, end, quarter)
    for quarter in (1, 3):
        for side in (-1.0, 1.0):
            at = side * section.strip_centre
            points = ((stop + 12.0, at), (end - 6.0, at))
            place.parking.append(Way(turned(line(*(points if side < 0 else points[::-1])), quarter * np.pi / 2)))
    roads.driveway(place, turned(line((stop, 0.0), (end, 0.0)), rng.integers(2) * np.pi), section, 40.0)
    return place


def _overpass(lower: Way, upper: Way) -> tuple[tuple[Way, float], tuple[Way, float]]:
    """Both ways with the arc length at which they cross in the plane."""
    apart = np.linalg.norm(lower.xyz[:, None, :2] - upper.xyz[None, :, :2], axis=-1)
    below, above = np.unravel_index(np.argmin(apart), apart.shape)
    return (lower, float(lower.arc[below])), (upper, float(upper.arc[above]))


def _roadside(place: Place, middle: np.ndarray, section: Section, driveway: float) -> None:
    """A bike lane on the right of a street; on the left a driveway, and room to park before and after it."""
    ride = shifted(middle, -section.strip_centre)
    row = place.add(roadmap.LANE_BIKE, ride, 6.0)
    place.rides.append(Way(ride, row, 6.0))
    roads.driveway(place, middle, section, driveway)
    # Traffic on the left comes towards the middle line, and so do parked cars.
    for part in ((4.0, driveway - 3.0), (driveway + 9.0, arc_length(middle)[-1] - 4.0)):
        place.parking.append(Way(shifted(stretch(middle, *part), section.strip_centre)[::-1]))


def _phases(rng: np.random.Generator) -> np.ndarray:
    """Light states of the arms 0 and 2, and of the arms 1 and 3: go and its end for one, then go for the other."""
    seconds = np.arange(roads.NUM_STEPS) * roads.TIME_STEP
    caution = rng.uniform(2.0, 3.2)
    stop = caution + CAUTION_TIME
    other_go = stop + rng.uniform(0.5, 1.0)
    ending = np.where(seconds < caution, GO, np.where(seconds < stop, CAUTION, STOP))
    starting = np.where(seconds < other_go, STOP, GO)
    pair = [ending, starting]
    return np.stack(pair if rng.random() < 0.5 else pair[::-1], axis=-1)


def _arm(place: Place, section: Section, stop: float, end: float, quarter: int) -> tuple[list, list]:
    """Lanes, lines, island and lights of one arm.

    Returns:
      Rows of the lanes that leave the centre and of those that come in, innermost first.
    """
    middle = turned(line((stop, 0.0), (end, 0.0)), quarter * np.pi / 2)
    _, (leaving, incoming) = roads.street(place, middle, section)
    roads.medians(place, middle, section, 1.0, 24.0)
    roads.pavements(place, middle, section)
    bar = line((stop + 0.3, section.median / 2), (stop + 0.3, section.half - section.strip))
    place.add(roads.SOLID_WHITE, turned(bar, quarter * np.pi / 2))
    place.lights += [(row, quarter % 2) for (row,) in incoming]
    return [row for (row,) in leaving], [row for (row,) in incoming]


def _zebra(place: Place, section: Section, mouth: float, angle: float, light: int) -> None:
    """The crosswalk of an arm, and people's ways over it that begin and end well off the road."""
    near, far, half = mouth + 0.5, mouth + 3.5, section.half
    corners = np.array([(near, -half, 0.0), (far, -half, 0.0), (far, half, 0.0), (near, half, 0.0)])
    place.add(roadmap.CROSSWALK, turned(corners, angle))
    for x, sign in ((near + 0.8, 1.0), (far - 0.8, -1.0)):
        walk = line((x, -sign * (half + 12.0)), (x, sign * (half + 12.0)))
        place.crossings.append(Way(turned(walk, angle), light=light))


def _connect(place: Place, section: Section, arms: list, stop: float, quarter: int) -> None:
    """Lanes over the junction from one arm: straight on from both lanes, left from the inner, right from the outer."""
    inner, outer = section.lane_centre(0), section.lane_centre(1)
    moves = (
        (0, 2, line((stop, inner), (-stop, inner))),
        (1, 2, line((stop, outer), (-stop, outer))),
        (0, 3, fillet((stop, inner), (-inner, inner), (-inner, -stop), stop - 4.0)),
        (1, 1, fillet((stop, outer), (outer, outer), (outer, stop), CORNER + section.half - outer)),
    )
    for lane, turn, xyz in moves:
        incoming, leaving = arms[quarter][1][lane], arms[(quarter + turn) % 4][0][lane]
        xyz = turned(xyz, quarter * np.pi / 2)
        row = place.add(roadmap.LANE_SURFACE_STREET, xyz, section.speed)
        place.links += [(incoming, row, roadmap.SUCCESSOR), (row, leaving, roadmap.SUCCESSOR)]
        before, after = place.features[incoming][1], place.features[leaving][1]
        path = np.concatenate([before, xyz[1:], after[1:]])
        place.drives.append(Way(path, incoming, section.speed, arc_length(before)[-1], quarter % 2))


def _bike_through(place: Place, section: Section, stop: float, end: float, quarter: int) -> None:
    """A bike lane from one arm straight over the junction to the opposite one."""
    y, angle, rows = section.strip_centre, quarter * np.pi / 2, []
    for a, b in ((end, stop), (stop, -stop), (-stop, -end)):
        rows.append(place.add(roadmap.LANE_BIKE, turned(line((a, y), (b, y)), angle), 6.0))
    place.links += [(a, b, roadmap.SUCCESSOR) for a, b in itertools.pairwise(rows)]
    ride = turned(line((end, y), (-end, y)), angle)
    place.rides.append(Way(ride, rows[0], 6.0, end - stop, quarter % 2))


LAYOUTS = (curved_road, crossing, bridge)
