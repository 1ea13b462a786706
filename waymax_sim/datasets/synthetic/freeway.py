"""A freeway layout with an exit ramp, an entrance ramp and a road that crosses it on a bridge."""

import dataclasses

import numpy as np

from waymax_sim.datasets.synthetic.curves import (
    Polyline,
    arc_length,
    bezier_curve,
    curve_from_curvature,
    line_through,
    parallel_curve,
    resample,
    rotate,
    unit_vector,
    yaw_along,
)
from waymax_sim.datasets.synthetic.streets import BROKEN_WHITE, Section, add_center_line, add_street
from waymax_sim.datasets.synthetic.world import World
from waymax_sim.datatypes import roadmap

BRIDGE_HEIGHT = 6.5  # m between the surfaces of the two roads
RAMP_HALF_WIDTH = 2.4  # m from the center of a ramp to its curbs
RAMP_SPEED = 15.0  # m/s
RAMP_ANGLE = 0.32  # rad between ramp and freeway
RAMP_LENGTH = 85.0  # m along the freeway
RAMP_OFFSET = 15.0  # m across the freeway
TAPER_LENGTH = 40.0  # m over which the acceleration lane ends


def freeway(rng: np.random.Generator) -> World:
    """A freeway of two or three lanes in each direction, with an exit, a bridge and an entrance in this order."""
    world = World(vehicle_density=0.02)
    lanes = int(rng.integers(2, 4))
    section = Section(
        lanes, lanes, rng.uniform(24.0, 29.0), 3.6, 3.0, "shoulder", "shoulder", lane_type=roadmap.LANE_FREEWAY
    )
    half, reach = section.half(-1), rng.uniform(185.0, 205.0)
    leave, enter, merged = 25.0 - reach, rng.uniform(25.0, 40.0), rng.uniform(135.0, 150.0)
    cuts = tuple((x + reach) / (2 * reach) for x in (leave, enter, merged))
    built = add_street(world, line_through((-reach, 0.0), (reach, 0.0)), section, cuts=cuts, curbs=(1,))
    add_center_line(world, built, ((0.5, 2 * reach - 0.5),))
    outer = built.lanes[-1][-1]

    start = world.features[outer[0]][1][-1]
    down, up = unit_vector(-RAMP_ANGLE), unit_vector(RAMP_ANGLE)
    exit_ramp = bezier_curve(
        start, unit_vector(0.0), np.array([leave + RAMP_LENGTH, start[1] - RAMP_OFFSET, 0.0]), down
    )
    row = world.add(roadmap.LANE_FREEWAY, exit_ramp, RAMP_SPEED)
    world.add_successors(outer[0], row)
    world.internal_lanes.add(row)

    lane_y = -half + 2.0 - section.lane / 2  # the acceleration lane replaces the shoulder
    entrance = bezier_curve(
        np.array([enter - RAMP_LENGTH, lane_y - RAMP_OFFSET, 0.0]), up, np.array([enter, lane_y, 0.0]), unit_vector(0.0)
    )
    added = line_through((enter, lane_y), (merged, lane_y))
    ramp = world.add(roadmap.LANE_FREEWAY, entrance, RAMP_SPEED)
    extra = world.add(roadmap.LANE_FREEWAY, added, section.speed)
    world.add_successors(ramp, extra)
    world.add_neighbors(outer[2], extra)
    world.ending_lanes.add(extra)
    world.add(BROKEN_WHITE, parallel_curve(added, section.lane / 2))
    _add_right_edges(world, exit_ramp, entrance, -half, reach, (merged, lane_y - RAMP_HALF_WIDTH))

    _add_bridge(world, rng.uniform(-75.0, -50.0), rng)
    curvature = rng.uniform(-1 / 900, 1 / 900)
    return _curve_world(world, curvature, reach)


def _add_right_edges(
    world: World, exit_ramp: Polyline, entrance: Polyline, curb: float, reach: float, taper: tuple[float, float]
) -> None:
    """Adds the road edges on the right: into the exit, between exit and entrance, and after the entrance.

    Args:
      world: The world, which is modified.
      exit_ramp: Center line of the exit ramp.
      entrance: Center line of the entrance ramp.
      curb: y of the edge of the shoulder, m.
      reach: Half the length of the freeway, m.
      taper: x and y at which the acceleration lane begins to taper, m.
    """
    out = parallel_curve(exit_ramp, -RAMP_HALF_WIDTH)
    out = out[out[:, 1] < curb]
    world.add(roadmap.ROAD_EDGE_BOUNDARY, _concatenate(np.array([[-reach, curb, 0.0]]), out))
    gores = [parallel_curve(ramp, RAMP_HALF_WIDTH)[::-1] for ramp in (exit_ramp, entrance)]
    gores = [gore[gore[:, 1] < curb] for gore in gores]
    noses = np.array([[gores[0][-1, 0], curb, 0.0], [gores[1][0, 0], curb, 0.0]])
    world.add(roadmap.ROAD_EDGE_BOUNDARY, _concatenate(gores[0], noses, gores[1]))
    end, low = taper
    rest = np.array([[end, low, 0.0], [end + TAPER_LENGTH, curb, 0.0], [reach, curb, 0.0]])
    world.add(roadmap.ROAD_EDGE_BOUNDARY, _concatenate(parallel_curve(entrance, -RAMP_HALF_WIDTH), rest))


def _concatenate(*parts: Polyline) -> Polyline:
    return resample(np.concatenate(parts))


def _add_bridge(world: World, x: float, rng: np.random.Generator) -> None:
    """Adds a road on a bridge that crosses the freeway at x (m)."""
    section = Section(1, 1, rng.uniform(12.0, 15.0), 3.7, 0.6, "shoulder", "shoulder")
    middle = rotate(line_through((-105.0, 0.0), (105.0, 0.0)), np.pi / 2 + rng.uniform(-0.3, 0.3)) + np.array(
        [x, 0.0, 0.0]
    )
    beyond = np.clip(np.abs(middle[:, 1]) - 40.0, 0.0, None)
    middle[:, 2] = BRIDGE_HEIGHT - beyond**2 / 1600
    add_center_line(world, add_street(world, middle, section, cuts=(0.3, 0.7)))


def _curve_world(world: World, curvature: float, reach: float) -> World:
    """The same world with its x axis mapped to a circular arc.

    Args:
      world: The world.
      curvature: Curvature of the arc, 1/m.
      reach: Half the length of the freeway, m.
    """
    axis = curve_from_curvature(4 * reach, np.full(2, curvature))
    arcs, yaws = arc_length(axis), yaw_along(axis)

    def transform(xyz: Polyline) -> Polyline:
        at = xyz[:, 0] + 2 * reach
        yaw = np.interp(at, arcs, yaws)
        x, y = (np.interp(at, arcs, axis[:, column]) for column in (0, 1))
        return np.column_stack([x - xyz[:, 1] * np.sin(yaw), y + xyz[:, 1] * np.cos(yaw), xyz[:, 2]])

    return dataclasses.replace(world, features=[(kind, transform(xyz), speed) for kind, xyz, speed in world.features])
