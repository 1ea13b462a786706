"""Layouts of synthetic worlds: each function draws a random world of one kind; `LAYOUTS` lists them."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from waymax_sim.datasets.synthetic.curves import arc_length, curve_from_curvature, line_through, rotate, unit_vector
from waymax_sim.datasets.synthetic.freeway import freeway
from waymax_sim.datasets.synthetic.junctions import Control, add_junction, add_roundabout, arm_ends
from waymax_sim.datasets.synthetic.streets import (
    Section,
    Street,
    add_center_line,
    add_crosswalk_across,
    add_roadside,
    add_sidewalks,
    add_street,
)
from waymax_sim.datasets.synthetic.world import World

OVERPASS_HEIGHT = 6.2  # m between the surfaces of the two roads of the overpass
MAX_GRADE = 0.065  # of its ramps, without that of the ground


def road(rng: np.random.Generator) -> World:
    """A winding, hilly road with a crosswalk halfway and parked cars."""
    world = World(vehicle_density=0.024)
    lanes = int(rng.integers(1, 3))
    section = Section(lanes, lanes, rng.uniform(11.0, 15.0), rng.uniform(3.4, 3.7), 1.8, "bike", "parking")
    length = rng.uniform(210.0, 260.0)
    bend = rng.uniform(0.004, 0.011) * rng.choice([-1.0, 1.0])
    curvature = bend * np.sin(np.linspace(0.0, 2 * np.pi, 60)) + rng.uniform(-0.002, 0.002)
    middle = curve_from_curvature(length, curvature)
    built = add_street(world, middle - middle[len(middle) // 2], section, cuts=(0.5 - 4.5 / length, 0.5 + 4.5 / length))
    add_crosswalk_across(world, built, 1, bump=bool(rng.random() < 0.3))
    start = rng.uniform(0.62, 0.7) * length
    add_center_line(world, built, ((start, start + rng.uniform(20.0, 45.0)),))
    add_sidewalks(world, built)
    # No parking near the crosswalk.
    add_roadside(world, built, rng, ranges=((14.0, length / 2 - 16.0), (length / 2 + 16.0, length - 14.0)))
    return world.with_elevation(_hills(rng, 0.04))


def crossing(rng: np.random.Generator) -> World:
    """A junction of four arms with lights; two have bike lanes and the others parked cars."""
    lane, speed = rng.uniform(3.3, 3.6), rng.uniform(11.0, 14.0)
    sections = [
        Section(2, 2, speed, lane, 1.8, strip, strip) for strip in rng.permutation(["bike", "parking"]).tolist() * 2
    ]
    angles = np.arange(4) * np.pi / 2 + np.repeat(rng.uniform(-0.12, 0.12, (1, 2)), 2, axis=0).ravel()
    return _star(World(vehicle_density=0.022), rng, angles, sections, rng.uniform(62.0, 80.0), "lights").with_elevation(
        _hills(rng, 0.02)
    )


def overpass(rng: np.random.Generator) -> World:
    """A narrow road on a bridge over a wide one, so that road edges and traffic cross at different heights."""
    world = World(vehicle_density=0.024)
    below = Section(2, 2, rng.uniform(11.0, 15.0), rng.uniform(3.3, 3.6), 1.8, "bike", "parking")
    above = Section(1, 1, rng.uniform(10.0, 13.0), rng.uniform(3.5, 3.9), 0.6, "shoulder", "shoulder")
    low = add_street(world, line_through((-115.0, 0.0), (115.0, 0.0)), below, cuts=(0.5,))
    # A raised cosine climbs at most pi/2 times its mean grade.
    deck_half_length = rng.uniform(20.0, 26.0)
    ramp = OVERPASS_HEIGHT * np.pi / 2 / MAX_GRADE
    middle = rotate(
        line_through((-deck_half_length - ramp - 8.0, 0.0), (deck_half_length + ramp + 8.0, 0.0)),
        np.pi / 2 + rng.uniform(-0.35, 0.35),
    )
    down = np.clip((np.hypot(middle[:, 0], middle[:, 1]) - deck_half_length) / ramp, 0.0, 1.0)
    middle[:, 2] = OVERPASS_HEIGHT * (1 + np.cos(np.pi * down)) / 2
    high = add_street(world, middle, above, cuts=(0.33, 0.67))
    start = rng.uniform(25.0, 45.0)
    add_center_line(world, low, ((start, start + rng.uniform(20.0, 40.0)),))
    add_center_line(world, high)
    add_sidewalks(world, low)
    add_roadside(world, low, rng)
    return world.with_elevation(_hills(rng, 0.01))


def roundabout_layout(rng: np.random.Generator) -> World:
    """A roundabout of three or four arms."""
    world = World(vehicle_density=0.022)
    count, radius = int(rng.integers(3, 5)), rng.uniform(15.0, 18.0)
    section = Section(1, 1, rng.uniform(9.0, 13.0), rng.uniform(3.4, 3.8), 1.6)
    streets = []
    for index in range(count):
        angle = (index + rng.uniform(-0.12, 0.12)) * 2 * np.pi / count
        arm = _curve_away(radius + 17.0, angle, rng.uniform(60.0, 85.0), rng.uniform(-0.004, 0.004))
        streets.append(add_street(world, arm, section))
    add_roundabout(world, [built.arm("start") for built in streets], radius, rng.uniform(6.5, 7.5))
    _add_details(world, streets, rng)
    return world.with_elevation(_hills(rng, 0.02))


def stop_signs(rng: np.random.Generator) -> World:
    """Two narrow streets with parked cars and stop signs at all arms or at those of the minor street."""
    section = Section(1, 1, rng.uniform(8.0, 11.5), rng.uniform(3.4, 3.7), 0.4, "parking", "parking")
    angles = np.arange(4) * np.pi / 2 + np.repeat(rng.uniform(-0.2, 0.2, (1, 2)), 2, axis=0).ravel()
    main, control = ((), "all_stop") if rng.random() < 0.6 else ((0, 2), "stop")
    world = World(vehicle_density=0.025)
    return _star(world, rng, angles, [section] * 4, rng.uniform(65.0, 85.0), control, main).with_elevation(
        _hills(rng, 0.04)
    )


def t_junction(rng: np.random.Generator) -> World:
    """A side road that joins a main road on a slope, with lights, a stop sign or yielding."""
    main = Section(2, 2, rng.uniform(11.0, 16.0), rng.uniform(3.3, 3.6), 1.6, "none", "none")
    side = Section(1, 1, rng.uniform(9.0, 12.0), rng.uniform(3.4, 3.7), 0.6, "parking", "none")
    angles = np.array([0.0, rng.uniform(1.25, 1.85), np.pi])
    control: Control = ("lights", "stop", "yield")[int(rng.integers(3))]
    world = World(vehicle_density=0.022)
    main_arms = () if control == "lights" else (0, 2)
    built = _star(world, rng, angles, [main, side, main], rng.uniform(75.0, 100.0), control, main_arms, bend=0.003)
    return built.with_elevation(_hills(rng, 0.06))


def arterial(rng: np.random.Generator) -> World:
    """A road of three lanes in each direction and a median, crossed by a street; lights with protected left turns."""
    speed, lane = rng.uniform(15.0, 20.0), rng.uniform(3.4, 3.7)
    wide = Section(3, 3, speed, lane, 3.0, "shoulder", "shoulder")
    narrow = Section(2, 2, rng.uniform(11.0, 14.0), lane, 1.8, "bike", "bike")
    angles = np.arange(4) * np.pi / 2 + np.tile(rng.uniform(-0.08, 0.08, 2), 2)
    world = World(vehicle_density=0.028)
    return _star(world, rng, angles, [wide, narrow, wide, narrow], rng.uniform(95.0, 120.0), "arrows").with_elevation(
        _hills(rng, 0.03)
    )


def downtown(rng: np.random.Generator) -> World:
    """A junction of wide streets with lights, dense traffic, many pedestrians and parked cars."""
    world = World(vehicle_density=0.034, pedestrian_density=3.5)
    lane, speed = rng.uniform(3.3, 3.5), rng.uniform(10.0, 13.0)
    sections = [
        Section(3, 3, speed, lane, 1.8, "parking", "parking"),
        Section(2, 2, speed, lane, 1.8, "bike", "parking"),
    ]
    angles = np.arange(4) * np.pi / 2 + np.tile(rng.uniform(-0.1, 0.1, 2), 2)
    control: Control = "arrows" if rng.random() < 0.5 else "lights"
    return _star(world, rng, angles, sections * 2, rng.uniform(85.0, 105.0), control).with_elevation(_hills(rng, 0.02))


def town(rng: np.random.Generator) -> World:
    """Two streets and two avenues with four junctions of random controls."""
    world = World(vehicle_density=0.026, pedestrian_density=1.5)
    avenue = Section(2, 2, rng.uniform(11.0, 14.0), rng.uniform(3.3, 3.5), 1.6, "none", "none")
    lane = Section(1, 1, rng.uniform(8.0, 11.0), rng.uniform(3.4, 3.7), 0.4, "parking", "parking")
    width, depth = rng.uniform(48.0, 58.0, 2)
    reach = arm_ends(np.arange(4) * np.pi / 2, [avenue.half(1), lane.half(1)] * 2, 6.0)
    streets: dict[tuple, Street] = {}
    for i, j in itertools.product((-1, 1), (-1, 1)):
        x, y = i * width, j * depth
        outer = rng.uniform(45.0, 60.0)
        streets[i, j, "x"] = _straight_street(world, (x + i * reach[0], y), (x + i * (reach[0] + outer), y), avenue)
        streets[i, j, "y"] = _straight_street(world, (x, y + j * reach[1]), (x, y + j * (reach[1] + outer)), lane)
    for j in (-1, 1):
        start = (-width + reach[0], j * depth)
        streets[j, "x"] = _straight_street(world, start, (width - reach[0], j * depth), avenue)
    for i in (-1, 1):
        start = (i * width, -depth + reach[1])
        streets[i, "y"] = _straight_street(world, start, (i * width, depth - reach[1]), lane)
    for i, j in itertools.product((-1, 1), (-1, 1)):
        inner_x, inner_y = streets[j, "x"], streets[i, "y"]
        outer_arm_x, outer_arm_y = streets[i, j, "x"].arm("start"), streets[i, j, "y"].arm("start")
        inner_arm_x, inner_arm_y = inner_x.arm("end" if i > 0 else "start"), inner_y.arm("end" if j > 0 else "start")
        arms = [outer_arm_x, outer_arm_y, inner_arm_x, inner_arm_y]
        if i * j < 0:
            arms = [outer_arm_x, inner_arm_y, inner_arm_x, outer_arm_y]
        control: Control = ("lights", "lights", "stop", "all_stop")[int(rng.integers(4))]
        add_junction(world, arms, control, rng, main=(0, 2) if control == "stop" else ())
    _add_details(world, list(streets.values()), rng, islands=False)
    return world.with_elevation(_hills(rng, 0.03))


def _straight_street(world: World, start: tuple[float, float], end: tuple[float, float], section: Section) -> Street:
    return add_street(world, line_through(start, end), section)


def _star(
    world: World,
    rng: np.random.Generator,
    angles: Float[np.ndarray, " A"],
    sections: Sequence[Section],
    length: float,
    control: Control,
    main: tuple[int, ...] = (),
    *,
    bend: float = 0.0015,
) -> World:
    """Streets that lead away from one junction.

    Args:
      world: The world, which is modified.
      rng: Source of bends and furniture.
      angles: Directions of the streets, counterclockwise, rad.
      sections: Cross sections.
      length: Length of the streets, m.
      control: Control of the junction.
      main: Indices of the arms of the main road.
      bend: Largest curvature, 1/m.
    """
    reach = arm_ends(angles, [max(section.half(-1), section.half(1)) for section in sections], rng.uniform(5.0, 8.0))
    built = [
        add_street(world, _curve_away(out, angle, length, rng.uniform(-bend, bend)), section)
        for angle, section, out in zip(angles, sections, reach, strict=True)
    ]
    add_junction(world, [arm.arm("start") for arm in built], control, rng, main=main)
    _add_details(world, built, rng)
    return world


def _add_details(world: World, streets: Sequence[Street], rng: np.random.Generator, *, islands: bool = True) -> None:
    """Adds medians, sidewalks and roadsides of streets."""
    for built in streets:
        has_island = islands and built.section.median > 1.7
        end = rng.uniform(25.0, 40.0) if built.section.median < 2.5 else arc_length(built.middle)[-1] - 2.0
        add_center_line(world, built, ((1.0, end),) if has_island else ())
        add_sidewalks(world, built)
        add_roadside(world, built, rng)


def _curve_away(reach: float, angle: float, length: float, bend: float) -> Float[np.ndarray, "K 3"]:
    """A curve away from the origin in a direction, from a distance of `reach` (m), straight at first and then bent."""
    middle = rotate(curve_from_curvature(length, np.array([0.0, 0.0, bend, 2 * bend, 2 * bend])), angle)
    return middle + np.array([*(reach * unit_vector(angle)), 0.0])


def _hills(rng: np.random.Generator, grade: float) -> Callable[[np.ndarray], np.ndarray]:
    """A smooth height (m) as a function of positions, with a slope of at most `grade`."""
    waves = [
        (
            rotate(np.array([2 * np.pi / rng.uniform(150.0, 320.0), 0.0, 0.0]), rng.uniform(0.0, 7.0)),
            rng.uniform(0.0, 7.0),
        )
        for _ in range(2)
    ]
    amplitude = rng.uniform(0.3, 1.0) * grade / 2

    def height(xy: np.ndarray) -> np.ndarray:
        parts = [
            amplitude / np.hypot(wave[0], wave[1]) * np.sin(xy[..., 0] * wave[0] + xy[..., 1] * wave[1] + phase)
            for wave, phase in waves
        ]
        return sum(parts, np.zeros(xy.shape[:-1]))

    return height


LAYOUTS = (road, crossing, overpass, roundabout_layout, stop_signs, freeway, t_junction, arterial, downtown, town)
