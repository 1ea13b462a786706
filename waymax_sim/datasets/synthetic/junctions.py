"""Where streets meet: crossings of any number of arms, with lights, stop signs or a main road, and roundabouts."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float

from waymax_sim.datasets.synthetic.curves import arc, blend, fillet, resample
from waymax_sim.datasets.synthetic.streets import Arm, connect, crosswalk, turn_of
from waymax_sim.datasets.synthetic.world import Gate, World, light_programme
from waymax_sim.datatypes import roadmap

Control = Literal["lights", "arrows", "all_stop", "stop", "yield"]
STRAIGHT = np.radians(40.0)  # turns by less are straight on
SETBACK = 5.2  # m from where kerbs become parallel to the stop line; the crosswalk lies between
CROSSWALK_WIDTH = 3.4


def mouths(angles: Float[np.ndarray, " A"], halves: Sequence[float], radius: float) -> Float[np.ndarray, " A"]:
    """How far from the middle of a junction its streets begin, m.

    Args:
      angles: Directions of the arms, counter-clockwise, rad.
      halves: From the middle of each arm to its kerbs, m.
      radius: Of the kerbs at the corners, m.
    """
    count = len(angles)
    reach = np.full(count, radius)
    for a in range(count):
        b = (a + 1) % count
        angle = (angles[b] - angles[a]) % (2 * np.pi)
        if angle < np.radians(160.0):
            tangent = radius / np.tan(angle / 2)
            for one, other in ((a, b), (b, a)):
                corner = (halves[other] + halves[one] * np.cos(angle)) / np.sin(angle)
                reach[one] = max(reach[one], corner + tangent)
    return reach + SETBACK


def junction(
    world: World,
    arms: Sequence[Arm],
    control: Control,
    rng: np.random.Generator,
    *,
    main: tuple[int, ...] = (),
    crosswalks: bool = True,
) -> None:
    """Joins the arms, given counter-clockwise: lanes, kerbs, crosswalks, and the right of way.

    Args:
      world: Where to add.
      arms: Ends of streets, whose stop lines they are.
      control: `arrows` are lights with a phase for those who turn left; `stop` and `yield` are for all but the main
        road.
      rng: Draws the lights.
      main: The arms of the main road.
      crosswalks: Whether there are crosswalks over the arms.
    """
    place, world.num_places = world.num_places, world.num_places + 1
    axis = [0 if abs(abs(turn_of(arms[0].out, arm.out)) - np.pi / 2) > np.pi / 4 else 1 for arm in arms]
    first = len(world.light_states)
    lit = control in ("lights", "arrows")
    if lit:
        world.light_states += _lights(control == "arrows", rng)
    for a, arm in enumerate(arms):
        stops = control == "all_stop" or (control == "stop" and a not in main)
        for b, other in enumerate(arms):
            if a == b:
                continue
            turn = turn_of(-arm.out, other.out)
            pairs = _lanes_of_turn(arm, other, turn)
            left = int(turn > STRAIGHT)
            column = axis[a] + (2 * left if control == "arrows" else 0)
            rank = 1 if control == "all_stop" else (4 if a in main else 2) - left
            for start, end in pairs:
                kind = roadmap.LANE_BIKE if start == arm.bike_in else arm.lane_type
                row = connect(world, start, end, kind, min(arm.speed, world.features[start][2]))
                world.gates.append(Gate(row, rank, stops, first + column if lit else -1, place))
                if lit and kind != roadmap.LANE_BIKE:
                    world.lights.append((row, first + column))
        _corner(world, arm, arms[(a + 1) % len(arms)])
        if crosswalks:
            _zebra(world, arm, first + axis[a] if lit else -1, place)
        if stops:
            world.add(roadmap.STOP_SIGN, _beside(arm, arm.left + 0.7)[None])


def _lights(arrows: bool, rng: np.random.Generator) -> list:
    """One axis, then the other; with arrows the left turns (columns 2 and 3) of an axis before the rest of it."""
    long = rng.uniform(9.0, 22.0, 2)
    if not arrows:
        return light_programme([({0}, long[0]), ({1}, long[1])], set(), rng)
    short = rng.uniform(5.0, 8.0, 2)
    phases = [({2}, short[0]), ({0}, long[0]), ({3}, short[1]), ({1}, long[1])]
    return light_programme(phases, {2, 3}, rng)


def _lanes_of_turn(arm: Arm, other: Arm, turn: float) -> list[tuple[int, int]]:
    """Which incoming lanes lead to which outgoing lanes of another arm."""
    if not arm.incoming or not other.outgoing:
        return []
    if turn > STRAIGHT:
        return [(arm.incoming[0], other.outgoing[0])]
    if turn < -STRAIGHT:
        return [(arm.incoming[-1], other.outgoing[-1])]
    # Where one side has fewer lanes, the outermost ones of both fit together.
    count = min(len(arm.incoming), len(other.outgoing))
    bikes = [(arm.bike_in, other.bike_out)] if arm.bike_in >= 0 and other.bike_out >= 0 else []
    return [*zip(arm.incoming[-count:], other.outgoing[-count:], strict=True), *bikes]


def _beside(arm: Arm, left: float) -> np.ndarray:
    """A point beside the end of an arm, to its left as one leaves the junction."""
    return arm.point + left * np.array([-arm.out[1], arm.out[0], 0.0])


def _corner(world: World, arm: Arm, following: Arm) -> None:
    """The kerb from the left of an arm to the right of the one that follows."""
    edge = fillet(_beside(arm, arm.left), -arm.out, _beside(following, -following.right), following.out)
    world.add(roadmap.ROAD_EDGE_BOUNDARY, edge)


def _zebra(world: World, arm: Arm, light: int, place: int) -> None:
    inwards = np.array([*arm.out, 0.0]) * (0.8 + CROSSWALK_WIDTH / 2)
    way = resample(np.stack([_beside(arm, -arm.right) - inwards, _beside(arm, arm.left) - inwards]))
    crosswalk(world, way, CROSSWALK_WIDTH, light=light, place=place)


def roundabout(world: World, arms: Sequence[Arm], radius: float, speed: float) -> None:
    """Joins the arms, given counter-clockwise around the origin, by a ring of one lane with the right of way.

    Args:
      world: Where to add.
      arms: Ends of streets with one lane each way.
      radius: Of the lane of the ring, m.
      speed: On the ring, m/s.
    """
    place, world.num_places = world.num_places, world.num_places + 1
    centre, half = np.zeros(2), 2.6
    angles = np.unwrap([np.arctan2(arm.out[1], arm.out[0]) for arm in arms])
    reach = 8.5 / radius  # from the middle of an arm to where its lanes touch the ring, as an angle
    passing, between = [], []
    for a, angle in enumerate(angles):
        following = angles[(a + 1) % len(angles)] + (2 * np.pi if a + 1 == len(angles) else 0.0)
        ring = [(angle - reach, angle + reach), (angle + reach, following - reach)]
        rows = [world.add(roadmap.LANE_SURFACE_STREET, arc(centre, radius, *part), speed) for part in ring]
        passing.append(rows[0])
        between.append(rows[1])
        world.gates.append(Gate(rows[0], 5, False, -1, place))
    for a, arm in enumerate(arms):
        world.follow(between[a - 1], passing[a], between[a])
        enter = connect(world, arm.incoming[0], between[a], roadmap.LANE_SURFACE_STREET, speed)
        leave = connect(world, between[a - 1], arm.outgoing[0], roadmap.LANE_SURFACE_STREET, speed)
        world.gates += [Gate(enter, 1, False, -1, place), Gate(leave, 6, False, -1, place)]
        following = arms[(a + 1) % len(arms)]
        turn = (angles[(a + 1) % len(angles)] - angles[a]) % (2 * np.pi)
        bow = arc(centre, radius + half, angles[a] + reach * 1.1, angles[a] + turn - reach * 1.1)
        ahead = [
            np.array([-np.sin(at), np.cos(at)]) for at in (angles[a] + reach * 1.1, angles[a] + turn - reach * 1.1)
        ]
        first = blend(_beside(arm, arm.left), -arm.out, bow[0], ahead[0])
        last = blend(bow[-1], ahead[1], _beside(following, -following.right), following.out)
        world.add(roadmap.ROAD_EDGE_BOUNDARY, resample(np.concatenate([first, bow[1:-1], last])))
        _splitter(world, arm, radius + half)
        _zebra(world, arm, -1, place)
    island = arc(centre, radius - half, 0.0, -2 * np.pi)
    world.add(roadmap.ROAD_EDGE_MEDIAN, np.concatenate([island[:-1], island[:1]]))
    world.inner |= {*passing, *between}


def _splitter(world: World, arm: Arm, ring: float) -> None:
    """A small island between the lanes of an arm, from the crosswalk on outwards."""
    out = np.array([*arm.out, 0.0])
    centre, left = arm.point + out * 4.0, np.array([-arm.out[1], arm.out[0], 0.0])
    corners = np.stack([centre - 3.0 * out, centre + 0.35 * left, centre + 6.0 * out, centre - 0.35 * left])
    # Clockwise: the road is to the left of an edge.
    loop = corners[[0, 1, 2, 3, 0]]
    world.add(roadmap.ROAD_EDGE_MEDIAN, resample(loop))
