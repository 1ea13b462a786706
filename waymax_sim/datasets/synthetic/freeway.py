"""A made-up freeway with an exit, an entrance and a road that crosses it on a bridge."""

import dataclasses

import numpy as np

from waymax_sim.datasets.synthetic.curves import (
    Polyline,
    arc_length,
    bent,
    blend,
    heading,
    line,
    resample,
    shifted,
    turned,
    yaw_along,
)
from waymax_sim.datasets.synthetic.streets import BROKEN_WHITE, Section, centre_line, street
from waymax_sim.datasets.synthetic.world import World
from waymax_sim.datatypes import roadmap

CLEARANCE = 6.5  # m between the surfaces of the two roads
RAMP_HALF = 2.4  # m from the middle of a ramp to its kerbs
RAMP_SPEED, RAMP_ANGLE = 15.0, 0.32  # m/s; rad between ramp and freeway
RAMP_LENGTH, RAMP_WIDTH = 85.0, 15.0  # m along and across the freeway


def freeway(rng: np.random.Generator) -> World:
    """Two or three lanes each way. On the right side the exit comes first, then the bridge, then the entrance."""
    world = World(density=0.02)
    lanes = int(rng.integers(2, 4))
    section = Section(
        lanes, lanes, rng.uniform(24.0, 29.0), 3.6, 3.0, "shoulder", "shoulder", lane_type=roadmap.LANE_FREEWAY
    )
    half, reach = section.half(-1), rng.uniform(185.0, 205.0)
    leave, enter, merged = 25.0 - reach, rng.uniform(25.0, 40.0), rng.uniform(135.0, 150.0)
    cuts = tuple((x + reach) / (2 * reach) for x in (leave, enter, merged))
    built = street(world, line((-reach, 0.0), (reach, 0.0)), section, cuts=cuts, kerbs=(1,))
    centre_line(world, built, ((0.5, 2 * reach - 0.5),))
    outer = built.lanes[-1][-1]

    start = world.features[outer[0]][1][-1]
    down, up = heading(-RAMP_ANGLE), heading(RAMP_ANGLE)
    exit_ramp = blend(start, heading(0.0), np.array([leave + RAMP_LENGTH, start[1] - RAMP_WIDTH, 0.0]), down)
    row = world.add(roadmap.LANE_FREEWAY, exit_ramp, RAMP_SPEED)
    world.follow(outer[0], row)
    world.inner.add(row)

    beside = -half + 2.0 - section.lane / 2  # the added lane takes the place of the shoulder
    entrance = blend(
        np.array([enter - RAMP_LENGTH, beside - RAMP_WIDTH, 0.0]), up, np.array([enter, beside, 0.0]), heading(0.0)
    )
    added = line((enter, beside), (merged, beside))
    ramp = world.add(roadmap.LANE_FREEWAY, entrance, RAMP_SPEED)
    extra = world.add(roadmap.LANE_FREEWAY, added, section.speed)
    world.follow(ramp, extra)
    world.beside(outer[2], extra)
    world.endings.add(extra)
    world.add(BROKEN_WHITE, shifted(added, section.lane / 2))
    _right_kerbs(world, exit_ramp, entrance, -half, reach, (merged, beside - RAMP_HALF))

    _bridge(world, rng.uniform(-75.0, -50.0), rng)
    bend = rng.uniform(-1 / 900, 1 / 900)
    return _bent(world, bend, reach)


def _right_kerbs(
    world: World, exit_ramp: Polyline, entrance: Polyline, kerb: float, reach: float, taper: tuple[float, float]
) -> None:
    """Three edges: into the exit, from the exit to the entrance, and from the entrance on."""
    out = shifted(exit_ramp, -RAMP_HALF)
    out = out[out[:, 1] < kerb]
    world.add(roadmap.ROAD_EDGE_BOUNDARY, _joined(np.array([[-reach, kerb, 0.0]]), out))
    gores = [shifted(ramp, RAMP_HALF)[::-1] for ramp in (exit_ramp, entrance)]
    gores = [gore[gore[:, 1] < kerb] for gore in gores]
    noses = np.array([[gores[0][-1, 0], kerb, 0.0], [gores[1][0, 0], kerb, 0.0]])
    world.add(roadmap.ROAD_EDGE_BOUNDARY, _joined(gores[0], noses, gores[1]))
    end, low = taper
    rest = np.array([[end, low, 0.0], [end + 40.0, kerb, 0.0], [reach, kerb, 0.0]])
    world.add(roadmap.ROAD_EDGE_BOUNDARY, _joined(shifted(entrance, -RAMP_HALF), rest))


def _joined(*parts: Polyline) -> Polyline:
    return resample(np.concatenate(parts))


def _bridge(world: World, x: float, rng: np.random.Generator) -> None:
    section = Section(1, 1, rng.uniform(12.0, 15.0), 3.7, 0.6, "shoulder", "shoulder")
    middle = turned(line((-105.0, 0.0), (105.0, 0.0)), np.pi / 2 + rng.uniform(-0.3, 0.3)) + np.array([x, 0.0, 0.0])
    beyond = np.clip(np.abs(middle[:, 1]) - 40.0, 0.0, None)
    middle[:, 2] = CLEARANCE - beyond**2 / 1600
    centre_line(world, street(world, middle, section, cuts=(0.3, 0.7)))


def _bent(world: World, curvature: float, reach: float) -> World:
    """The same place with its x axis bent to an arc of some curvature (1/m)."""
    axis = bent(4 * reach, np.full(2, curvature))
    arcs, yaws = arc_length(axis), yaw_along(axis)

    def moved(xyz: Polyline) -> Polyline:
        at = xyz[:, 0] + 2 * reach
        yaw = np.interp(at, arcs, yaws)
        x, y = (np.interp(at, arcs, axis[:, column]) for column in (0, 1))
        return np.column_stack([x - xyz[:, 1] * np.sin(yaw), y + xyz[:, 1] * np.cos(yaw), xyz[:, 2]])

    return dataclasses.replace(world, features=[(kind, moved(xyz), speed) for kind, xyz, speed in world.features])
