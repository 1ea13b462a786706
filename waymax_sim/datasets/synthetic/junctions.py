"""Junctions of any number of arms, with lights, stop signs or a priority road, and roundabouts."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float

from waymax_sim.datasets.synthetic.curves import arc, bezier_curve, fillet, resample
from waymax_sim.datasets.synthetic.streets import Arm, add_crosswalk, connect_lanes, signed_turn
from waymax_sim.datasets.synthetic.world import RightOfWayRule, World, signal_program
from waymax_sim.datatypes import roadmap

Control = Literal["lights", "arrows", "all_stop", "stop", "yield"]
MAX_STRAIGHT_ANGLE = np.radians(40.0)  # largest turn of a straight connection
STOP_LINE_SETBACK = 5.2  # m from the end of the rounded curb to the stop line; the crosswalk is between_arms them
CROSSWALK_WIDTH = 3.4  # m
ROUNDABOUT_HALF_WIDTH = 2.6  # m from the center of the circulating lane to its edges
ROUNDABOUT_JOIN_DISTANCE = 8.5  # m along the circulating lane from the axis of an arm to its entry and exit


def arm_ends(angles: Float[np.ndarray, " A"], halves: Sequence[float], radius: float) -> Float[np.ndarray, " A"]:
    """Distance from the center of a junction to the end of each arm, m.

    Args:
      angles: Directions of the arms, counterclockwise, rad.
      halves: Half width of each arm, m.
      radius: Radius of the curbs at the corners, m.
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
    return reach + STOP_LINE_SETBACK


def add_junction(
    world: World,
    arms: Sequence[Arm],
    control: Control,
    rng: np.random.Generator,
    *,
    main: tuple[int, ...] = (),
    crosswalks: bool = True,
) -> None:
    """Adds a junction: connecting lanes, road edges, crosswalks and right of way.

    Args:
      world: The world, which is modified.
      arms: The arms, counterclockwise; they end at their stop lines.
      control: `arrows` are lights with a protected left turn; `stop` and `yield` apply to all but the main road.
      rng: Source of the signal program.
      main: Indices of the arms of the main road.
      crosswalks: Whether the arms have crosswalks.
    """
    junction, world.num_junctions = world.num_junctions, world.num_junctions + 1
    axis = [0 if abs(abs(signed_turn(arms[0].out, arm.out)) - np.pi / 2) > np.pi / 4 else 1 for arm in arms]
    first = len(world.light_states)
    has_lights = control in ("lights", "arrows")
    if has_lights:
        world.light_states += _lights(control == "arrows", rng)
    for a, arm in enumerate(arms):
        has_stop_sign = control == "all_stop" or (control == "stop" and a not in main)
        for b, other in enumerate(arms):
            if a == b:
                continue
            turn = signed_turn(-arm.out, other.out)
            pairs = _turn_lanes(arm, other, turn)
            left = int(turn > MAX_STRAIGHT_ANGLE)
            column = axis[a] + (2 * left if control == "arrows" else 0)
            priority = 1 if control == "all_stop" else (4 if a in main else 2) - left
            for start, end in pairs:
                kind = roadmap.LANE_BIKE if start == arm.bike_in else arm.lane_type
                row = connect_lanes(world, start, end, kind, min(arm.speed, world.features[start][2]))
                world.rules.append(
                    RightOfWayRule(row, priority, has_stop_sign, first + column if has_lights else -1, junction)
                )
                if has_lights and kind != roadmap.LANE_BIKE:
                    world.lights.append((row, first + column))
        _add_corner(world, arm, arms[(a + 1) % len(arms)])
        if crosswalks:
            _add_arm_crosswalk(world, arm, first + axis[a] if has_lights else -1, junction)
        if has_stop_sign:
            world.add(roadmap.STOP_SIGN, _offset_end(arm, arm.left + 0.7)[None])


def _lights(arrows: bool, rng: np.random.Generator) -> list:
    """Signal program of two axes (columns 0 and 1), whose left-turn arrows (columns 2 and 3) precede them."""
    green_time = rng.uniform(9.0, 22.0, 2)
    if not arrows:
        return signal_program([({0}, green_time[0]), ({1}, green_time[1])], set(), rng)
    left_green_time = rng.uniform(5.0, 8.0, 2)
    phases = [({2}, left_green_time[0]), ({0}, green_time[0]), ({3}, left_green_time[1]), ({1}, green_time[1])]
    return signal_program(phases, {2, 3}, rng)


def _turn_lanes(arm: Arm, other: Arm, turn: float) -> list[tuple[int, int]]:
    """Pairs of incoming lanes and the outgoing lanes of another arm that they connect to."""
    if not arm.incoming or not other.outgoing:
        return []
    if turn > MAX_STRAIGHT_ANGLE:
        return [(arm.incoming[0], other.outgoing[0])]
    if turn < -MAX_STRAIGHT_ANGLE:
        return [(arm.incoming[-1], other.outgoing[-1])]
    # If one arm has fewer lanes, the outermost lanes of both are connected.
    count = min(len(arm.incoming), len(other.outgoing))
    bikes = [(arm.bike_in, other.bike_out)] if arm.bike_in >= 0 and other.bike_out >= 0 else []
    return [*zip(arm.incoming[-count:], other.outgoing[-count:], strict=True), *bikes]


def _offset_end(arm: Arm, left: float) -> np.ndarray:
    """The end of an arm, moved to the left (m) of its outward direction."""
    return arm.point + left * np.array([-arm.out[1], arm.out[0], 0.0])


def _add_corner(world: World, arm: Arm, following: Arm) -> None:
    """Adds the road edge from the left of an arm to the right of the next one."""
    edge = fillet(_offset_end(arm, arm.left), -arm.out, _offset_end(following, -following.right), following.out)
    world.add(roadmap.ROAD_EDGE_BOUNDARY, edge)


def _add_arm_crosswalk(world: World, arm: Arm, light: int, junction: int) -> None:
    """Adds a crosswalk in front of the stop line of an arm."""
    inward = np.array([*arm.out, 0.0]) * (0.8 + CROSSWALK_WIDTH / 2)
    line = resample(np.stack([_offset_end(arm, -arm.right) - inward, _offset_end(arm, arm.left) - inward]))
    add_crosswalk(world, line, CROSSWALK_WIDTH, light=light, junction=junction)


def add_roundabout(world: World, arms: Sequence[Arm], radius: float, speed: float) -> None:
    """Adds a roundabout around the origin, with one circulating lane that has the right of way.

    Args:
      world: The world, which is modified.
      arms: Arms with one lane in each direction, counterclockwise.
      radius: Radius of the circulating lane, m.
      speed: Speed limit on the circulating lane, m/s.
    """
    junction, world.num_junctions = world.num_junctions, world.num_junctions + 1
    center, half = np.zeros(2), ROUNDABOUT_HALF_WIDTH
    angles = np.unwrap([np.arctan2(arm.out[1], arm.out[0]) for arm in arms])
    join_angle = ROUNDABOUT_JOIN_DISTANCE / radius
    at_arms, between_arms = [], []
    for a, angle in enumerate(angles):
        following = angles[(a + 1) % len(angles)] + (2 * np.pi if a + 1 == len(angles) else 0.0)
        ring = [(angle - join_angle, angle + join_angle), (angle + join_angle, following - join_angle)]
        rows = [world.add(roadmap.LANE_SURFACE_STREET, arc(center, radius, *part), speed) for part in ring]
        at_arms.append(rows[0])
        between_arms.append(rows[1])
        world.rules.append(RightOfWayRule(rows[0], 5, False, -1, junction))
    for a, arm in enumerate(arms):
        world.add_successors(between_arms[a - 1], at_arms[a], between_arms[a])
        enter = connect_lanes(world, arm.incoming[0], between_arms[a], roadmap.LANE_SURFACE_STREET, speed)
        leave = connect_lanes(world, between_arms[a - 1], arm.outgoing[0], roadmap.LANE_SURFACE_STREET, speed)
        world.rules += [RightOfWayRule(enter, 1, False, -1, junction), RightOfWayRule(leave, 6, False, -1, junction)]
        following = arms[(a + 1) % len(arms)]
        turn = (angles[(a + 1) % len(angles)] - angles[a]) % (2 * np.pi)
        begin, end = angles[a] + join_angle * 1.1, angles[a] + turn - join_angle * 1.1
        edge = arc(center, radius + half, begin, end)
        tangents = [np.array([-np.sin(angle), np.cos(angle)]) for angle in (begin, end)]
        first = bezier_curve(_offset_end(arm, arm.left), -arm.out, edge[0], tangents[0])
        last = bezier_curve(edge[-1], tangents[1], _offset_end(following, -following.right), following.out)
        world.add(roadmap.ROAD_EDGE_BOUNDARY, resample(np.concatenate([first, edge[1:-1], last])))
        _add_splitter_island(world, arm, radius + half)
        _add_arm_crosswalk(world, arm, -1, junction)
    island = arc(center, radius - half, 0.0, -2 * np.pi)
    world.add(roadmap.ROAD_EDGE_MEDIAN, np.concatenate([island[:-1], island[:1]]))
    world.internal_lanes |= {*at_arms, *between_arms}


def _add_splitter_island(world: World, arm: Arm, ring: float) -> None:
    """Adds a splitter island between_arms the lanes of an arm of a roundabout."""
    out = np.array([*arm.out, 0.0])
    center, left = arm.point + out * 4.0, np.array([-arm.out[1], arm.out[0], 0.0])
    corners = np.stack([center - 3.0 * out, center + 0.35 * left, center + 6.0 * out, center - 0.35 * left])
    # Clockwise: the road is to the left of an edge.
    loop = corners[[0, 1, 2, 3, 0]]
    world.add(roadmap.ROAD_EDGE_MEDIAN, resample(loop))
