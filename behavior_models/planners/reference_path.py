"""The reference path of the ego: the centerline of its route, from behind the ego on."""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from waymax_sim import geometry
from waymax_sim.datatypes.agents import CYCLIST, AgentInfo, AgentState
from waymax_sim.datatypes.lanes import LaneGraph
from waymax_sim.datatypes.roadmap import Segments
from waymax_sim.datatypes.route import Routes
from waymax_sim.env import Observation
from waymax_sim.maps.nearest import nearest_segment, segment_endpoints
from waymax_sim.maps.paths import MAX_HEADING_DIFFERENCE, lane_path, nearest_lane, segment_frenet, segment_lane
from waymax_sim.metrics.route import project_on_routes
from waymax_sim.ops import polyline
from waymax_sim.ops.bottom_k import first_argmin
from waymax_sim.pytree import Array, pytree, static_record, tree_index


@static_record
class ReferencePathParams:
    """Construction of the reference path. The values are choices of this package.

    Attributes:
      num_points: Points R.
      spacing: Arc length between points, m.
      length_behind: Arc length from the first point to the ego, m; the ego stays on the path while it brakes.
      route_tie_distance: Routes whose distance exceeds that of the nearest one by less are equally near, m.
      max_lane_distance: Lateral distance up to which the ego follows a lane in scenes without routes, m.
      num_lanes: Lanes of such a path.
      limit_stride: Points between two searches for the speed limit.
      default_speed_limit: Speed limit where no lane has one, m/s.
      fallback_speed: Speed limit without route and lane, m/s.
      max_line_distance: Lateral distance up to which a stop line is on the path, m.
      max_line_height: Height difference up to which it is, m.
      max_line_angle: Angle between its lane and the path up to which it is, rad.
    """

    num_points: int = 100
    spacing: float = 2.0
    length_behind: float = 10.0
    route_tie_distance: float = 0.5
    max_lane_distance: float = 5.0
    num_lanes: int = 12
    limit_stride: int = 4
    default_speed_limit: float = 15.0
    fallback_speed: float = 2.0
    max_line_distance: float = 1.5
    max_line_height: float = 2.5
    max_line_angle: float = math.pi / 6


REFERENCE_PATH = ReferencePathParams()


@pytree
class ReferencePath:
    """A polyline of equal steps; the ego is near arc length `length_behind`. It continues straight beyond its ends.

    Attributes:
      xyz: Points on the ground, m, local frame.
      cos: Direction from each point to the next.
      sin: Direction from each point to the next.
      curvature: 1/m; positive to the left.
      speed_limit: m/s.
      length: Arc length at which the known route ends, m.
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


class PathPoint(NamedTuple):
    """Points of a reference path: position (m), direction and curvature (1/m)."""

    x: Float[Array, "*q"]
    y: Float[Array, "*q"]
    z: Float[Array, "*q"]
    cos: Float[Array, "*q"]
    sin: Float[Array, "*q"]
    curvature: Float[Array, "*q"]


def build_reference_path(observation: Observation, ego_index: Int[Array, ""]) -> ReferencePath:
    """The reference path of an agent: along the nearest route with `on_route`. No gradient flows.

    Of routes at the same distance it is the longest. In scenes without routes the path follows the lane of the agent,
    straight on at forks. Without either it is straight, at `fallback_speed`.
    """
    params, observation = REFERENCE_PATH, jax.lax.stop_gradient(observation)
    now, info = tree_index(observation.agents, ego_index), tree_index(observation.info, ego_index)
    lanes, graph = observation.lanes, observation.graph
    points, length, exists = _path_points(observation, now, info)
    step = points[1:, :2] - points[:-1, :2]
    yaw = geometry.heading_angle(step, jnp.broadcast_to(now.yaw, step.shape[:1]))
    # The last point continues the last piece.
    yaw = jnp.append(yaw, yaw[-1])
    # Points of the map are noisy: the curvature is the mean over three pieces.
    turn = jnp.pad(geometry.wrap_angle(yaw[1:] - yaw[:-1]) / params.spacing, (2, 1), mode="edge")
    curvature = (turn[:-2] + turn[1:-1] + turn[2:]) / 3
    line_lane = graph.stop_lines.lane
    reference = ReferencePath(
        xyz=points,
        cos=jnp.cos(yaw),
        sin=jnp.sin(yaw),
        curvature=curvature,
        speed_limit=jnp.where(exists, _speed_limits(lanes, graph, points, yaw), params.fallback_speed),
        length=jnp.where(exists, length, jnp.inf),
        stop=jnp.zeros(line_lane.shape),
        light=jnp.where(line_lane >= 0, graph.light[jnp.maximum(line_lane, 0)], -1),
        stop_sign=(line_lane >= 0) & graph.stop_sign[jnp.maximum(line_lane, 0)],
    )
    return _with_stop_lines(reference, lanes, graph)


def _path_points(
    observation: Observation, now: AgentState, info: AgentInfo
) -> tuple[Float[Array, "R 3"], Float[Array, ""], Bool[Array, ""]]:
    """Points along route or lane, or straight ahead; the length of the route; and whether there is route or lane."""
    routes, straight = observation.routes, _straight_points(now, info)
    if routes is None:
        points, length, exists = _lane_points(observation.lanes, observation.graph, now, info)
    else:
        points, length, exists = _route_points(routes, now.xyz[:2])
    return jnp.where(exists, points, straight), length, exists


def path_point(reference: ReferencePath, arc_length: Float[Array, "*q"]) -> PathPoint:
    """Points of a reference path at arc lengths (m)."""
    position = arc_length / REFERENCE_PATH.spacing
    index, fraction = polyline.interpolation_index(position, REFERENCE_PATH.num_points, extrapolate=True)
    start, end = reference.xyz[index], reference.xyz[index + 1]
    x, y, z = jnp.moveaxis(start + fraction[..., None] * (end - start), -1, 0)
    return PathPoint(x, y, z, reference.cos[index], reference.sin[index], reference.curvature[index])


def project(reference: ReferencePath, x: Float[Array, "*q"], y: Float[Array, "*q"]) -> tuple[Float[Array, "*q"], ...]:
    """Arc length and lateral offset to the left (m) of points, and the direction of the path there (cosine, sine).

    The first and the last piece extend to infinity.

    Args:
      reference: The reference path.
      x: m.
      y: m.
    """
    spacing, num_pieces = REFERENCE_PATH.spacing, REFERENCE_PATH.num_points - 1
    piece = jnp.arange(num_pieces, dtype=jnp.int32)
    min_arc = jnp.where(piece == 0, -jnp.inf, 0.0)
    max_arc = jnp.where(piece == num_pieces - 1, jnp.inf, spacing)
    origin, direction = (reference.xyz[:-1, 0], reference.xyz[:-1, 1]), (reference.cos[:-1], reference.sin[:-1])
    pieces = origin, direction, min_arc, max_arc
    shape = (1,) * x.ndim + (num_pieces,)
    origins, directions, min_arcs, max_arcs = jax.tree.map(lambda leaf: leaf.reshape(shape), pieces)
    distance = polyline.ray_projection(origins, directions, (x[..., None], y[..., None]), min_arcs, max_arcs)
    index = first_argmin(distance.squared_distance)
    # Only the nearest piece is projected on with gradients of arc length and lateral offset.
    origin, direction, min_arc, max_arc = jax.tree.map(lambda leaf: leaf[index], pieces)
    nearest = polyline.ray_projection(origin, direction, (x, y), min_arc, max_arc)
    return index.astype(jnp.float32) * spacing + nearest.arc_length, nearest.lateral, *direction


def interpolate(values: Float[Array, " R"], arc_length: Float[Array, "*q"]) -> Float[Array, "*q"]:
    """Values at the points of a reference path, interpolated linearly at arc lengths (m)."""
    return polyline.interpolate(values, arc_length / REFERENCE_PATH.spacing)


def _route_points(
    routes: Routes, xy: Float[Array, " 2"]
) -> tuple[Float[Array, "R 3"], Float[Array, ""], Bool[Array, ""]]:
    """Points along the nearest route, the arc length at which it ends, and whether there is one."""
    params = REFERENCE_PATH
    distance, ego_arc_length, usable = project_on_routes(routes, xy)
    usable = usable & routes.on_route
    distance = jnp.where(usable, distance, jnp.inf)
    # Of routes that share the lane of the ego, the longest one leads furthest.
    remaining = jnp.max(jnp.where(routes.valid, routes.arc_length, 0.0), axis=-1) - ego_arc_length
    is_near = usable & (distance <= jnp.min(distance) + params.route_tie_distance)
    route = jnp.argmax(jnp.where(is_near, remaining, -jnp.inf))
    arc_length = jnp.where(routes.valid[route], routes.arc_length[route], jnp.inf)
    # Samples before the start of the route extend its first segment.
    samples = ego_arc_length[route] - params.length_behind
    samples = samples + params.spacing * jnp.arange(params.num_points, dtype=jnp.float32)
    last = jnp.maximum(jnp.sum(routes.valid[route]) - 2, 0)
    index = jnp.clip(jnp.searchsorted(arc_length, samples, side="right") - 1, 0, last)
    start, end = routes.xyz[route, index], routes.xyz[route, index + 1]
    length = geometry.norm((end - start)[:, :2])
    fraction = (samples - arc_length[index]) / jnp.where(length > 0, length, 1.0)
    points = start + fraction[:, None] * (end - start)
    return points, remaining[route] + params.length_behind, jnp.any(usable)


def _lane_points(
    lanes: Segments, graph: LaneGraph, now: AgentState, info: AgentInfo
) -> tuple[Float[Array, "R 3"], Float[Array, ""], Bool[Array, ""]]:
    """Points along the lane of an agent, straight on at forks; its length, and whether the agent is on a lane."""
    params, is_cyclist, xy, yaw = REFERENCE_PATH, info.type == CYCLIST, now.xyz[None, :2], now.yaw[None]
    # Only the height of the ground is needed: lanes of bridges are above it.
    ground = jnp.concatenate([xy, _straight_points(now, info)[:1, 2:]], axis=-1)
    segment, has_segment = nearest_lane(lanes, graph, ground, yaw, is_cyclist[None], now.valid[None])
    position = segment_frenet(lanes, graph, segment, xy, yaw)
    # Zero is the straightest successor.
    turns = jnp.zeros((1, params.num_lanes - 1), jnp.int32)
    # A negative arc length extends the lane backwards.
    start = position.arc_length - params.length_behind
    path = lane_path(lanes, graph, segment, start, turns, params.num_points, params.spacing)
    is_near = jnp.abs(position.lateral[0]) < params.max_lane_distance
    return path.xyz[0], path.length[0], has_segment[0] & is_near


def _straight_points(now: AgentState, info: AgentInfo) -> Float[Array, "R 3"]:
    """Points on the ground along the heading of an agent, ahead and behind."""
    params = REFERENCE_PATH
    arc_length = params.spacing * jnp.arange(params.num_points, dtype=jnp.float32) - params.length_behind
    xy = now.xyz[None, :2] + arc_length[:, None] * geometry.unit_vector(now.yaw)[None]
    ground = jnp.broadcast_to(now.xyz[2] - info.size[2] / 2, (params.num_points, 1))
    return jnp.concatenate([xy, ground], axis=-1)


def _speed_limits(
    lanes: Segments, graph: LaneGraph, points: Float[Array, "R 3"], yaw: Float[Array, " R"]
) -> Float[Array, " R"]:
    """Speed limits (m/s) of the lanes under points; without a lane, that of the last point before, else of the first.

    Lanes in other directions are those that cross the path on a junction; their limits do not apply.
    """
    stride = REFERENCE_PATH.limit_stride
    samples, direction = points[::stride], yaw[::stride]
    segment, has_segment = nearest_segment(lanes, samples, jnp.ones(samples.shape[0], bool))
    ends, lane = segment_endpoints(lanes, segment), segment_lane(lanes, segment)
    turn = geometry.wrap_angle(geometry.heading_angle((ends[:, 3:5] - ends[:, :2]), direction) - direction)
    # Bike lanes at the side of the road have lower limits.
    usable = has_segment & (jnp.abs(turn) < MAX_HEADING_DIFFERENCE) & ~graph.is_bike[lane]
    last = jax.lax.cummax(jnp.where(usable, jnp.arange(samples.shape[0]), -1))
    # On a junction between two lanes the limit of the lane before holds.
    limit = graph.speed_limit[lane]
    limit = jnp.where(last >= 0, limit[jnp.maximum(last, 0)], limit[jnp.argmax(usable)])
    return jnp.repeat(jnp.where(jnp.any(usable), limit, REFERENCE_PATH.default_speed_limit), stride)


def _with_stop_lines(reference: ReferencePath, lanes: Segments, graph: LaneGraph) -> ReferencePath:
    """The path with the arc lengths of the stop lines on it.

    A line counts if its lane ends on the path as well: at the entry of a junction, lanes that turn off start on it.
    """
    params, lines, lane = REFERENCE_PATH, graph.stop_lines, jnp.maximum(graph.stop_lines.lane, 0)
    last_segment = graph.first_segment[lane] + jnp.maximum(graph.num_segments[lane], 1) - 1
    # [Z, 2]: the stop line and the end of its lane.
    xyz = jnp.stack([lines.xyz, segment_endpoints(lanes, last_segment)[:, 3:]], axis=1)
    arc_length, lateral, cos, sin = project(reference, xyz[..., 0], xyz[..., 1])
    height = path_point(reference, arc_length).z
    # Beyond the known route it is unknown where the lane ends, so the stop line counts.
    is_beyond = arc_length >= jnp.minimum(reference.length, params.spacing * (params.num_points - 1))
    is_near = jnp.abs(lateral) < params.max_line_distance
    is_near = is_near & (jnp.abs(xyz[..., 2] - height) < params.max_line_height)
    cosine = cos[:, 0] * jnp.cos(lines.yaw) + sin[:, 0] * jnp.sin(lines.yaw)
    is_aligned = cosine > jnp.cos(params.max_line_angle)
    is_on_path = is_aligned & is_near[:, 0] & (is_near | is_beyond)[:, 1] & (arc_length[:, 0] > 0)
    return dataclasses.replace(reference, stop=jnp.where((lines.lane >= 0) & is_on_path, arc_length[:, 0], jnp.inf))
