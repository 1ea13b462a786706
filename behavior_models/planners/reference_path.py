"""The way that the ego is to go, as a line from just behind it."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from behavior_models.traffic.route_following import SLOWEST
from waymax_sim import geometry
from waymax_sim.datatypes.agents import CYCLIST, AgentInfo, AgentState
from waymax_sim.datatypes.lanes import LaneGraph
from waymax_sim.datatypes.roadmap import Segments
from waymax_sim.datatypes.route import Routes
from waymax_sim.env import Observation
from waymax_sim.maps.nearest import ends_of, first_smallest, nearest_segment
from waymax_sim.maps.paths import MAX_ANGLE, frenet, lane_of, nearest_lane, path_ahead
from waymax_sim.metrics.route import project as project_on_routes
from waymax_sim.pytree import Array, pytree

# Points and their distance (m); how far behind the ego the first one lies (m).
NUM_POINTS, SPACING, BEHIND = 100, 2.0, 10.0
# Of routes that are no more than this further away than the nearest one (m) the longest is taken.
AS_NEAR = 0.5
# Where there are no routes, the ego follows a lane within this distance (m), and at most so many.
JOIN, NUM_LANES = 5.0, 12
# Limits are looked up at every so many points. Where no lane says any, this one holds (m/s).
STRIDE, NO_LIMIT = 4, 15.0
# The lane of a stop line lies along the course where it is within this distance (m, height) and angle (rad).
ALONG, LEVEL, ALIGNED = 1.5, 2.5, jnp.pi / 6


@pytree
class Course:
    """A line at equal steps; the ego is near arc length `BEHIND`. Beyond its ends it goes straight on.

    Attributes:
      xyz: Points on the ground, m, local frame.
      cos: Direction from each point to the next.
      sin: The same.
      curvature: 1/m; positive to the left.
      speed_limit: m/s.
      length: Arc length at which what is known ends, m.
      stop: Arc length of each stop line of the scene, m; infinite for those of other lanes, and behind.
      light: Column of its light in `Signals`, -1 without one.
      stop_sign: Whether it has a stop sign.
    """

    xyz: Float[Array, "R 3"]
    cos: Float[Array, " R"]
    sin: Float[Array, " R"]
    curvature: Float[Array, " R"]
    speed_limit: Float[Array, " R"]
    length: Float[Array, ""]
    stop: Float[Array, " Z"]
    light: Int[Array, " Z"]
    stop_sign: Bool[Array, " Z"]


class Place(NamedTuple):
    """A point of a course: where it is (m) and the direction there."""

    x: Float[Array, "*q"]
    y: Float[Array, "*q"]
    z: Float[Array, "*q"]
    cos: Float[Array, "*q"]
    sin: Float[Array, "*q"]
    curvature: Float[Array, "*q"]


def course_of(observation: Observation, ego: Int[Array, ""]) -> Course:
    """The course of an agent: along the nearest route that it is told to take (`on_route`).

    Of routes beside one another it is the one that leads furthest. Where the scene has been given no routes at all, the
    course follows the lane of the agent, straight on. Without any of these it goes straight ahead, at a walking pace.
    No gradient flows.
    """
    observation = jax.lax.stop_gradient(observation)
    now, info = (jax.tree.map(lambda leaf: leaf[ego], record) for record in (observation.agents, observation.info))
    lanes, graph, routes = observation.lanes, observation.graph, observation.routes
    if routes is None:
        points, length, there = _along_lane(lanes, graph, now, info)
    elif routes.valid.shape[0] and routes.valid.shape[1] > 1:
        points, length, there = _along_route(routes, now.xyz[:2])
    else:
        points, length, there = jnp.zeros((NUM_POINTS, 3)), jnp.zeros(()), jnp.asarray(False)
    points = jnp.where(there, points, _straight_on(now, info))
    step = points[1:, :2] - points[:-1, :2]
    yaw = geometry.direction(step, jnp.broadcast_to(now.yaw, step.shape[:1]))
    yaw = jnp.append(yaw, yaw[-1])
    turn = geometry.wrap_angle(yaw[1:] - yaw[:-1]) / SPACING
    # At a point, from the pieces before and after it; noise of single points is evened out.
    turn = jnp.pad(turn, (2, 1), mode="edge")
    curvature = (turn[:-2] + turn[1:-1] + turn[2:]) / 3
    course = Course(
        xyz=points,
        cos=jnp.cos(yaw),
        sin=jnp.sin(yaw),
        curvature=curvature,
        speed_limit=jnp.where(there, _limits(lanes, graph, points, yaw), SLOWEST),
        length=jnp.where(there, length, jnp.inf),
        stop=jnp.zeros(graph.stop_lines.lane.shape),
        light=jnp.where(graph.stop_lines.lane >= 0, _of_line(graph, "light"), -1),
        stop_sign=(graph.stop_lines.lane >= 0) & _of_line(graph, "stop_sign"),
    )
    return _with_stops(course, lanes, graph)


def place_at(course: Course, arc_length: Float[Array, "*q"]) -> Place:
    """Points of a course at arc lengths (m)."""
    at = arc_length / SPACING
    index = jnp.clip(jax.lax.stop_gradient(jnp.floor(at)), 0, NUM_POINTS - 2).astype(jnp.int32)
    part = at - index.astype(jnp.float32)
    start, end = course.xyz[index], course.xyz[index + 1]
    xyz = start + part[..., None] * (end - start)
    return Place(xyz[..., 0], xyz[..., 1], xyz[..., 2], course.cos[index], course.sin[index], course.curvature[index])


def project(course: Course, x: Float[Array, "*q"], y: Float[Array, "*q"]) -> tuple[Float[Array, "*q"], ...]:
    """Arc length and offset to the left (m) of points, and the direction of the course there, as cosine and sine.

    The first and the last piece go on for ever.
    """
    # Pieces innermost: that is what compilers vectorise.
    start_x, start_y = course.xyz[:-1, 0], course.xyz[:-1, 1]
    cos, sin = course.cos[:-1], course.sin[:-1]
    shape = (1,) * x.ndim + (NUM_POINTS - 1,)
    off_x, off_y = x[..., None] - start_x.reshape(shape), y[..., None] - start_y.reshape(shape)
    ahead = cos.reshape(shape) * off_x + sin.reshape(shape) * off_y
    number = jnp.arange(NUM_POINTS - 1, dtype=jnp.int32)
    low = jnp.where(number == 0, -jnp.inf, 0.0).reshape(shape)
    high = jnp.where(number == NUM_POINTS - 2, jnp.inf, SPACING).reshape(shape)
    clipped = jnp.clip(ahead, low, high)
    aside = cos.reshape(shape) * off_y - sin.reshape(shape) * off_x
    distance2 = (ahead - clipped) ** 2 + aside**2
    index = first_smallest(distance2)
    cos, sin = course.cos[index], course.sin[index]
    off_x, off_y = x - start_x[index], y - start_y[index]
    ahead = jnp.clip(cos * off_x + sin * off_y, low.reshape(-1)[index], high.reshape(-1)[index])
    return index.astype(jnp.float32) * SPACING + ahead, cos * off_y - sin * off_x, cos, sin


def along(values: Float[Array, " R"], arc_length: Float[Array, "*q"]) -> Float[Array, "*q"]:
    """Values given at the points of a course, between them."""
    at = jnp.clip(arc_length / SPACING, 0.0, NUM_POINTS - 1.001)
    index = jax.lax.stop_gradient(jnp.floor(at)).astype(jnp.int32)
    return values[index] + (at - index.astype(jnp.float32)) * (values[index + 1] - values[index])


def _along_route(
    routes: Routes, xy: Float[Array, " 2"]
) -> tuple[Float[Array, "R 3"], Float[Array, ""], Bool[Array, ""]]:
    """Points along the route to take, the arc length at which it ends, and whether there is one."""
    distance, arc, usable = project_on_routes(routes, xy)
    usable = usable & routes.on_route
    distance = jnp.where(usable, distance, jnp.inf)
    left = jnp.max(jnp.where(routes.valid, routes.arc_length, 0.0), axis=-1) - arc
    route = jnp.argmax(jnp.where(usable & (distance <= jnp.min(distance) + AS_NEAR), left, -jnp.inf))
    begin = arc[route] - BEHIND
    arcs = jnp.where(routes.valid[route], routes.arc_length[route], jnp.inf)
    wanted = begin + SPACING * jnp.arange(NUM_POINTS, dtype=jnp.float32)
    last = jnp.maximum(jnp.sum(routes.valid[route]) - 2, 0)
    index = jnp.clip(jnp.searchsorted(arcs, wanted, side="right") - 1, 0, last)
    start, end = routes.xyz[route, index], routes.xyz[route, index + 1]
    size = geometry.norm((end - start)[:, :2])
    part = (wanted - arcs[index]) / jnp.where(size > 0, size, 1.0)
    return start + part[:, None] * (end - start), left[route] + BEHIND, jnp.any(usable)


def _along_lane(
    lanes: Segments, graph: LaneGraph, now: AgentState, info: AgentInfo
) -> tuple[Float[Array, "R 3"], Float[Array, ""], Bool[Array, ""]]:
    """Points along the lane of an agent, straight on where it forks; where they end, and whether it is on one."""
    ground, rides = _straight_on(now, info)[:1], info.type == CYCLIST
    ground = jnp.concatenate([now.xyz[None, :2], ground[:, 2:]], axis=-1)
    segment, found = nearest_lane(lanes, graph, ground, now.yaw[None], rides[None], now.valid[None])
    seen = frenet(lanes, graph, segment, now.xyz[None, :2], now.yaw[None])
    turns = jnp.zeros((1, NUM_LANES - 1), jnp.int32)
    path = path_ahead(lanes, graph, segment, seen.arc_length - BEHIND, turns, NUM_POINTS, SPACING)
    return path.xyz[0], path.length[0], found[0] & (jnp.abs(seen.lateral[0]) < JOIN)


def _straight_on(now: AgentState, info: AgentInfo) -> Float[Array, "R 3"]:
    """Points ahead of an agent, and behind it."""
    arc = SPACING * jnp.arange(NUM_POINTS, dtype=jnp.float32) - BEHIND
    xy = now.xyz[None, :2] + arc[:, None] * geometry.heading(now.yaw)[None]
    return jnp.concatenate([xy, jnp.broadcast_to(now.xyz[2] - info.size[2] / 2, (NUM_POINTS, 1))], axis=-1)


def _limits(
    lanes: Segments, graph: LaneGraph, points: Float[Array, "R 3"], yaw: Float[Array, " R"]
) -> Float[Array, " R"]:
    """Speed limits (m/s) of the lanes under points; where there is none, the last one before, else the first."""
    some, direction = points[::STRIDE], yaw[::STRIDE]
    segment, found = nearest_segment(lanes, some, jnp.ones(some.shape[0], bool))
    ends, lane = ends_of(lanes, segment), lane_of(lanes, segment)
    turn = geometry.wrap_angle(geometry.direction((ends[:, 3:5] - ends[:, :2]), direction) - direction)
    usable = found & (jnp.abs(turn) < MAX_ANGLE) & ~graph.is_bike[lane]
    last = jax.lax.cummax(jnp.where(usable, jnp.arange(some.shape[0]), -1))
    limit = graph.speed_limit[lane]
    limit = jnp.where(last >= 0, limit[jnp.maximum(last, 0)], limit[jnp.argmax(usable)])
    return jnp.repeat(jnp.where(jnp.any(usable), limit, NO_LIMIT), STRIDE)


def _of_line(graph: LaneGraph, field: str) -> Array:
    return getattr(graph, field)[jnp.maximum(graph.stop_lines.lane, 0)]


def _with_stops(course: Course, lanes: Segments, graph: LaneGraph) -> Course:
    """Which stop lines the course passes: those of lanes that end on it too."""
    lines, lane = graph.stop_lines, jnp.maximum(graph.stop_lines.lane, 0)
    last = graph.first[lane] + jnp.maximum(graph.count[lane], 1) - 1
    xyz = jnp.stack([lines.xyz, ends_of(lanes, last)[:, 3:]], axis=1)
    reached, lateral, cos, sin = project(course, xyz[..., 0], xyz[..., 1])
    height = place_at(course, reached).z
    beyond = reached >= jnp.minimum(course.length, SPACING * (NUM_POINTS - 1))
    near = (jnp.abs(lateral) < ALONG) & (jnp.abs(xyz[..., 2] - height) < LEVEL)
    aligned = cos[:, 0] * jnp.cos(lines.yaw) + sin[:, 0] * jnp.sin(lines.yaw) > jnp.cos(ALIGNED)
    passes = (lines.lane >= 0) & aligned & near[:, 0] & (near | beyond)[:, 1] & (reached[:, 0] > 0)
    return dataclasses.replace(course, stop=jnp.where(passes, reached[:, 0], jnp.inf))
