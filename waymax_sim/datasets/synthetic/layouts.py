"""Made-up places. Each function draws one of its kind; `LAYOUTS` names them all."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from waymax_sim.datasets.synthetic.curves import arc_length, bent, heading, line, turned
from waymax_sim.datasets.synthetic.freeway import freeway
from waymax_sim.datasets.synthetic.junctions import Control, junction, mouths, roundabout
from waymax_sim.datasets.synthetic.streets import (
    Section,
    Street,
    centre_line,
    crosswalk_over,
    pavements,
    roadside,
    street,
)
from waymax_sim.datasets.synthetic.world import World

CLEARANCE = 6.2  # m between the surfaces of two roads at a bridge
MAX_GRADE = 0.065


def road(rng: np.random.Generator) -> World:
    """A road that bends one way and then the other, over a hill, with a crosswalk halfway and parked cars."""
    world = World(density=0.024)
    lanes = int(rng.integers(1, 3))
    section = Section(lanes, lanes, rng.uniform(11.0, 15.0), rng.uniform(3.4, 3.7), 1.8, "bike", "parking")
    length = rng.uniform(210.0, 260.0)
    bend = rng.uniform(0.004, 0.011) * rng.choice([-1.0, 1.0])
    curvature = bend * np.sin(np.linspace(0.0, 2 * np.pi, 60)) + rng.uniform(-0.002, 0.002)
    middle = bent(length, curvature)
    built = street(world, middle - middle[len(middle) // 2], section, cuts=(0.5 - 4.5 / length, 0.5 + 4.5 / length))
    crosswalk_over(world, built, 1, bump=bool(rng.random() < 0.3))
    start = rng.uniform(0.62, 0.7) * length
    centre_line(world, built, ((start, start + rng.uniform(20.0, 45.0)),))
    pavements(world, built)
    # Nobody parks where people cross.
    roadside(world, built, rng, free=((14.0, length / 2 - 16.0), (length / 2 + 16.0, length - 14.0)))
    return world.on_ground(_hills(rng, 0.04))


def crossing(rng: np.random.Generator) -> World:
    """Four arms under traffic lights; two have bike lanes and the two others parked cars."""
    lane, speed = rng.uniform(3.3, 3.6), rng.uniform(11.0, 14.0)
    sections = [
        Section(2, 2, speed, lane, 1.8, strip, strip) for strip in rng.permutation(["bike", "parking"]).tolist() * 2
    ]
    angles = np.arange(4) * np.pi / 2 + np.repeat(rng.uniform(-0.12, 0.12, (1, 2)), 2, axis=0).ravel()
    return _star(World(density=0.022), rng, angles, sections, rng.uniform(62.0, 80.0), "lights").on_ground(
        _hills(rng, 0.02)
    )


def overpass(rng: np.random.Generator) -> World:
    """A narrow road on a bridge over a wide one; their road edges and their traffic cross at two heights."""
    world = World(density=0.024)
    below = Section(2, 2, rng.uniform(11.0, 15.0), rng.uniform(3.3, 3.6), 1.8, "bike", "parking")
    above = Section(1, 1, rng.uniform(10.0, 13.0), rng.uniform(3.5, 3.9), 0.6, "shoulder", "shoulder")
    low = street(world, line((-115.0, 0.0), (115.0, 0.0)), below, cuts=(0.5,))
    # A raised cosine climbs at most pi/2 times its mean grade.
    flat = rng.uniform(20.0, 26.0)
    ramp = CLEARANCE * np.pi / 2 / MAX_GRADE
    middle = turned(line((-flat - ramp - 8.0, 0.0), (flat + ramp + 8.0, 0.0)), np.pi / 2 + rng.uniform(-0.35, 0.35))
    down = np.clip((np.hypot(middle[:, 0], middle[:, 1]) - flat) / ramp, 0.0, 1.0)
    middle[:, 2] = CLEARANCE * (1 + np.cos(np.pi * down)) / 2
    high = street(world, middle, above, cuts=(0.33, 0.67))
    start = rng.uniform(25.0, 45.0)
    centre_line(world, low, ((start, start + rng.uniform(20.0, 40.0)),))
    centre_line(world, high)
    pavements(world, low)
    roadside(world, low, rng)
    return world.on_ground(_hills(rng, 0.01))


def circle(rng: np.random.Generator) -> World:
    """A roundabout of three or four arms."""
    world = World(density=0.022)
    count, radius = int(rng.integers(3, 5)), rng.uniform(15.0, 18.0)
    section = Section(1, 1, rng.uniform(9.0, 13.0), rng.uniform(3.4, 3.8), 1.6)
    for_arms = []
    for index in range(count):
        angle = (index + rng.uniform(-0.12, 0.12)) * 2 * np.pi / count
        arm = _from(radius + 17.0, angle, rng.uniform(60.0, 85.0), rng.uniform(-0.004, 0.004))
        for_arms.append(street(world, arm, section))
    roundabout(world, [built.arm("start") for built in for_arms], radius, rng.uniform(6.5, 7.5))
    _furnish(world, for_arms, rng)
    return world.on_ground(_hills(rng, 0.02))


def stop_signs(rng: np.random.Generator) -> World:
    """Two narrow streets with parked cars that meet where everybody stops first, or all but the main road."""
    section = Section(1, 1, rng.uniform(8.0, 11.5), rng.uniform(3.4, 3.7), 0.4, "parking", "parking")
    angles = np.arange(4) * np.pi / 2 + np.repeat(rng.uniform(-0.2, 0.2, (1, 2)), 2, axis=0).ravel()
    main, control = ((), "all_stop") if rng.random() < 0.6 else ((0, 2), "stop")
    world = World(density=0.025)
    return _star(world, rng, angles, [section] * 4, rng.uniform(65.0, 85.0), control, main).on_ground(_hills(rng, 0.04))


def three_way(rng: np.random.Generator) -> World:
    """A side road that joins a main road on a slope, under lights or giving way."""
    main = Section(2, 2, rng.uniform(11.0, 16.0), rng.uniform(3.3, 3.6), 1.6, "none", "none")
    side = Section(1, 1, rng.uniform(9.0, 12.0), rng.uniform(3.4, 3.7), 0.6, "parking", "none")
    angles = np.array([0.0, rng.uniform(1.25, 1.85), np.pi])
    control: Control = ("lights", "stop", "yield")[int(rng.integers(3))]
    world = World(density=0.022)
    of_main = () if control == "lights" else (0, 2)
    built = _star(world, rng, angles, [main, side, main], rng.uniform(75.0, 100.0), control, of_main, bend=0.003)
    return built.on_ground(_hills(rng, 0.06))


def arterial(rng: np.random.Generator) -> World:
    """Three lanes each way and a median, crossed by a street, under lights with arrows for those who turn left."""
    speed, lane = rng.uniform(15.0, 20.0), rng.uniform(3.4, 3.7)
    wide = Section(3, 3, speed, lane, 3.0, "shoulder", "shoulder")
    narrow = Section(2, 2, rng.uniform(11.0, 14.0), lane, 1.8, "bike", "bike")
    angles = np.arange(4) * np.pi / 2 + np.tile(rng.uniform(-0.08, 0.08, 2), 2)
    world = World(density=0.028)
    return _star(world, rng, angles, [wide, narrow, wide, narrow], rng.uniform(95.0, 120.0), "arrows").on_ground(
        _hills(rng, 0.03)
    )


def downtown(rng: np.random.Generator) -> World:
    """A busy crossing of wide streets under lights, with crowds, full kerbs and car parks."""
    world = World(density=0.034, people=3.5)
    lane, speed = rng.uniform(3.3, 3.5), rng.uniform(10.0, 13.0)
    sections = [
        Section(3, 3, speed, lane, 1.8, "parking", "parking"),
        Section(2, 2, speed, lane, 1.8, "bike", "parking"),
    ]
    angles = np.arange(4) * np.pi / 2 + np.tile(rng.uniform(-0.1, 0.1, 2), 2)
    control: Control = "arrows" if rng.random() < 0.5 else "lights"
    return _star(world, rng, angles, sections * 2, rng.uniform(85.0, 105.0), control).on_ground(_hills(rng, 0.02))


def town(rng: np.random.Generator) -> World:
    """Two streets and two avenues: four junctions, each with a control of its own."""
    world = World(density=0.026, people=1.5)
    avenue = Section(2, 2, rng.uniform(11.0, 14.0), rng.uniform(3.3, 3.5), 1.6, "none", "none")
    lane = Section(1, 1, rng.uniform(8.0, 11.0), rng.uniform(3.4, 3.7), 0.4, "parking", "parking")
    width, depth = rng.uniform(48.0, 58.0, 2)
    reach = mouths(np.arange(4) * np.pi / 2, [avenue.half(1), lane.half(1)] * 2, 6.0)
    streets: dict[tuple, Street] = {}
    for i, j in itertools.product((-1, 1), (-1, 1)):
        x, y = i * width, j * depth
        outer = rng.uniform(45.0, 60.0)
        streets[i, j, "x"] = _built(world, (x + i * reach[0], y), (x + i * (reach[0] + outer), y), avenue)
        streets[i, j, "y"] = _built(world, (x, y + j * reach[1]), (x, y + j * (reach[1] + outer)), lane)
    for j in (-1, 1):
        start = (-width + reach[0], j * depth)
        streets[j, "x"] = _built(world, start, (width - reach[0], j * depth), avenue)
    for i in (-1, 1):
        start = (i * width, -depth + reach[1])
        streets[i, "y"] = _built(world, start, (i * width, depth - reach[1]), lane)
    for i, j in itertools.product((-1, 1), (-1, 1)):
        inner_x, inner_y = streets[j, "x"], streets[i, "y"]
        beyond_x, beyond_y = streets[i, j, "x"].arm("start"), streets[i, j, "y"].arm("start")
        within_x, within_y = inner_x.arm("end" if i > 0 else "start"), inner_y.arm("end" if j > 0 else "start")
        arms = [beyond_x, beyond_y, within_x, within_y]
        if i * j < 0:
            arms = [beyond_x, within_y, within_x, beyond_y]
        control: Control = ("lights", "lights", "stop", "all_stop")[int(rng.integers(4))]
        junction(world, arms, control, rng, main=(0, 2) if control == "stop" else ())
    _furnish(world, list(streets.values()), rng, islands=False)
    return world.on_ground(_hills(rng, 0.03))


def _built(world: World, start: tuple[float, float], end: tuple[float, float], section: Section) -> Street:
    return street(world, line(start, end), section)


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
    """Streets that lead away from one junction in some directions (rad), counter-clockwise."""
    reach = mouths(angles, [max(section.half(-1), section.half(1)) for section in sections], rng.uniform(5.0, 8.0))
    built = [
        street(world, _from(out, angle, length, rng.uniform(-bend, bend)), section)
        for angle, section, out in zip(angles, sections, reach, strict=True)
    ]
    junction(world, [arm.arm("start") for arm in built], control, rng, main=main)
    _furnish(world, built, rng)
    return world


def _furnish(world: World, streets: Sequence[Street], rng: np.random.Generator, *, islands: bool = True) -> None:
    for built in streets:
        wide = islands and built.section.median > 1.7
        end = rng.uniform(25.0, 40.0) if built.section.median < 2.5 else arc_length(built.middle)[-1] - 2.0
        centre_line(world, built, ((1.0, end),) if wide else ())
        pavements(world, built)
        roadside(world, built, rng)


def _from(reach: float, angle: float, length: float, bend: float) -> Float[np.ndarray, "K 3"]:
    """A line away from the origin in some direction, from `reach` metres on, that begins straight and then bends."""
    middle = turned(bent(length, np.array([0.0, 0.0, bend, 2 * bend, 2 * bend])), angle)
    return middle + np.array([*(reach * heading(angle)), 0.0])


def _hills(rng: np.random.Generator, grade: float) -> Callable[[np.ndarray], np.ndarray]:
    """Smooth ground that is nowhere steeper than `grade`."""
    waves = [
        (
            turned(np.array([2 * np.pi / rng.uniform(150.0, 320.0), 0.0, 0.0]), rng.uniform(0.0, 7.0)),
            rng.uniform(0.0, 7.0),
        )
        for _ in range(2)
    ]
    share = rng.uniform(0.3, 1.0) * grade / 2

    def height(xy: np.ndarray) -> np.ndarray:
        parts = [
            share / np.hypot(wave[0], wave[1]) * np.sin(xy[..., 0] * wave[0] + xy[..., 1] * wave[1] + phase)
            for wave, phase in waves
        ]
        return sum(parts, np.zeros(xy.shape[:-1]))

    return height


LAYOUTS = (road, crossing, overpass, circle, stop_signs, freeway, three_way, arterial, downtown, town)
