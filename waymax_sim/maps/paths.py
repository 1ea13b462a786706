"""Lanes of agents, and paths along the lane graph. Pure and jittable; batch over scenarios with `vmap`."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from waymax_sim import geometry
from waymax_sim.datatypes.lanes import Frenet, LaneGraph, LanePath
from waymax_sim.datatypes.roadmap import CHUNK_SIZE, Segments
from waymax_sim.maps.nearest import nearest_segment, segment_endpoints, squared_distance, squared_distance_to_all
from waymax_sim.ops import polyline
from waymax_sim.ops.batched_lookup import update_masked
from waymax_sim.ops.bottom_k import first_argmin
from waymax_sim.pytree import Array

# Largest difference between the heading of an agent and the direction of a lane that it follows, rad.
MAX_HEADING_DIFFERENCE = jnp.pi / 3
# Number of agents that are compared with all lanes per iteration.
LANE_QUERY_BATCH = 8


# Compiled for callers outside of `jit` too, which would trace the loops at every call.
@jax.jit
def nearest_lane(
    lanes: Segments,
    graph: LaneGraph,
    points: Float[Array, "O 3"],
    yaw: Float[Array, " O"],
    may_use_bike_lane: Bool[Array, " O"],
    query_mask: Bool[Array, " O"],
    max_distance: Float[Array, " O"] | None = None,
) -> tuple[Int[Array, " O"], Bool[Array, " O"]]:
    """The nearest lane segment that an agent may follow, with stretched heights; ties go to the lower index.

    Its direction differs from the heading by at most 60 degrees, and it is not part of a bike lane unless the agent may
    use those. The result is exact: where the nearest of all segments qualifies, it comes from the index; other agents,
    such as those on a junction under crossing lanes, are compared with every segment in small batches. In recorded
    scenarios these are about a tenth of the traffic.

    Args:
      lanes: Lane segments.
      graph: Their graph.
      points: Positions on the ground, m, local frame.
      yaw: Headings, rad.
      may_use_bike_lane: Agents that may follow bike lanes.
      query_mask: Agents to query. The results of the others are undefined.
      max_distance: Agents further than this from the nearest of all segments, in the plane (m), have no lane if that
        segment does not qualify; unlimited by default.

    Returns:
      Segments, and whether there is one. `segment_frenet` gives the distance to it.
    """
    lanes, points, yaw = jax.lax.stop_gradient((lanes, points, yaw))
    is_car_lane = ~graph.is_bike[lanes.feature].reshape(1, -1) & lanes.valid.reshape(1, -1)

    def is_aligned(yaw, endpoints):
        x, y = endpoints[..., 3, :] - endpoints[..., 0, :], endpoints[..., 4, :] - endpoints[..., 1, :]
        along_heading = jnp.cos(yaw)[..., None] * x + jnp.sin(yaw)[..., None] * y
        return along_heading >= jnp.cos(MAX_HEADING_DIFFERENCE) * jnp.sqrt(x * x + y * y)

    def compare_all(agent):
        """The definition: the nearest of all segments that qualify, -1 without one."""
        endpoints = lanes.endpoints.swapaxes(0, 1).reshape(1, 6, -1)
        is_usable = is_car_lane | (may_use_bike_lane[agent][:, None] & lanes.valid.reshape(1, -1))
        qualifies = is_aligned(yaw[agent], endpoints) & is_usable
        distance2 = jnp.where(qualifies, squared_distance_to_all(lanes, points[agent]), jnp.inf)
        return jnp.where(jnp.isfinite(jnp.min(distance2, axis=-1)), first_argmin(distance2), -1)

    nearest, has_segment = nearest_segment(lanes, points, query_mask)
    endpoints = segment_endpoints(lanes, nearest)[..., None]
    qualifies = is_aligned(yaw, endpoints)[:, 0] & (is_car_lane[0, nearest] | may_use_bike_lane)
    is_near = jnp.ones(query_mask.shape, bool)
    if max_distance is not None:
        plane = jnp.asarray([1.0, 1.0, 0.0])
        distance2 = squared_distance(jnp.tile(plane, 2)[None, :, None] * endpoints, plane[None] * points)[:, 0]
        is_near = distance2 <= max_distance**2
    nearest = update_masked(nearest, query_mask & has_segment & ~qualifies & is_near, LANE_QUERY_BATCH, compare_all)
    has_lane = has_segment & (nearest >= 0) & (qualifies | is_near)
    return jnp.where(has_lane, nearest, 0), has_lane


def segment_lane(lanes: Segments, segment: Int[Array, "*q"]) -> Int[Array, "*q"]:
    """The lane of segments, as a row of the feature table."""
    return lanes.feature[segment // CHUNK_SIZE, segment % CHUNK_SIZE]


def segment_frenet(
    lanes: Segments, graph: LaneGraph, segment: Int[Array, "*q"], xy: Float[Array, "*q 2"], yaw: Float[Array, "*q"]
) -> Frenet:
    """Poses in the Frenet frames of lane segments. The arc length is that of the lane, within the segment.

    Args:
      lanes: Lane segments.
      graph: Their graph.
      segment: A segment per pose.
      xy: Positions, m.
      yaw: Headings, rad.
    """
    endpoints = segment_endpoints(lanes, segment)
    segment_start = graph.arc_length[segment // CHUNK_SIZE, segment % CHUNK_SIZE]
    return _project(endpoints[..., :2], endpoints[..., 3:5], segment_start, xy, yaw)


def _project(start, end, segment_start, xy, yaw) -> Frenet:
    """Poses in the Frenet frames of segments that begin at an arc length of `segment_start`."""
    along, offset = end - start, xy - start
    squared_length = geometry.dot(along, along)
    length = jnp.sqrt(jnp.where(squared_length > 0, squared_length, 1.0))
    fraction, _ = polyline.segment_projection(
        polyline.components(start), polyline.components(along), polyline.components(xy), squared_length
    )
    return Frenet(
        arc_length=segment_start + fraction * length,
        lateral=geometry.cross(along, offset) / length,
        heading=geometry.wrap_angle(yaw - geometry.heading_angle(along, yaw)),
    )


def segment_at(graph: LaneGraph, lane: Int[Array, "*q"], arc_length: Float[Array, "*q"]) -> Int[Array, "*q"]:
    """The segment of a lane at an arc length, by binary search; the first or last one beyond the ends.

    Args:
      graph: The lane graph.
      lane: Rows of the feature table.
      arc_length: Arc lengths on these lanes, m.
    """
    first = graph.first_segment[lane]
    # The result lies in [low, low + 2^k).
    low, arcs = first, graph.arc_length.reshape(-1)
    last = first + jnp.maximum(graph.num_segments[lane], 1) - 1
    for power in reversed(range(max(1, (arcs.shape[0] - 1).bit_length()))):
        probe = low + 2**power
        is_below = (probe <= last) & (arcs[jnp.minimum(probe, last)] <= arc_length)
        low = jnp.where(is_below, probe, low)
    return low


def follow_successors(
    graph: LaneGraph, lane: Int[Array, "*q"], turns: Int[Array, "*q K"]
) -> tuple[Int[Array, "*q Q"], Bool[Array, "*q"]]:
    """Lane sequences along the lane graph.

    Args:
      graph: The lane graph.
      lane: First lanes, rows of the feature table; negative for none.
      turns: Successor to take at the end of each lane: 0 is the straightest; modulo the number of successors.

    Returns:
      K + 1 lanes, -1 after a lane without a successor, and whether the last one has a successor.
    """

    def successors_or_none(lane):
        return jnp.where((lane >= 0)[..., None], graph.successors[lane], -1)

    sequence = [lane]
    for index in range(turns.shape[-1]):
        successors = successors_or_none(lane)
        num_successors = jnp.sum(successors >= 0, axis=-1).astype(jnp.int32)
        chosen = turns[..., index] % jnp.maximum(num_successors, 1)
        lane = jnp.take_along_axis(successors, chosen[..., None], axis=-1)[..., 0]
        sequence.append(lane)
    return jnp.stack(sequence, axis=-1), jnp.any(successors_or_none(lane) >= 0, axis=-1)


def lane_sequence_path(
    lanes: Segments,
    graph: LaneGraph,
    sequence: Int[Array, "*q Q"],
    start: Float[Array, "*q"],
    continues: Bool[Array, "*q"],
    num_points: int,
    spacing: float,
) -> LanePath:
    """The path along a sequence of lanes.

    Args:
      lanes: Lane segments.
      graph: Their graph.
      sequence: Lanes in order, -1 after the last.
      start: Arc length on the first lane at which the path begins, m.
      continues: Whether the last lane has a successor that is not part of the sequence.
      num_points: Points R of the path.
      spacing: Arc length between them, m.
    """
    is_lane = sequence >= 0
    lane_length = jnp.where(is_lane, graph.length[sequence], 0.0)
    lane_end = jnp.cumsum(lane_length, axis=-1) - start[..., None]
    lane_start = jnp.where(is_lane, lane_end - lane_length, jnp.inf)

    arc = jnp.broadcast_to(spacing * jnp.arange(num_points, dtype=jnp.float32), (*start.shape, num_points))
    position = jnp.sum(arc[..., :, None] >= lane_start[..., None, :], axis=-1).astype(jnp.int32) - 1
    position = jnp.maximum(position, 0)
    lane = jnp.maximum(jnp.take_along_axis(sequence, position, axis=-1), 0)
    arc = arc - jnp.take_along_axis(jnp.where(is_lane, lane_start, 0.0), position, axis=-1)
    segment = segment_at(graph, lane, arc)
    row = segment // CHUNK_SIZE, segment % CHUNK_SIZE
    endpoints = segment_endpoints(lanes, segment)
    origin, step = endpoints[..., :3], endpoints[..., 3:] - endpoints[..., :3]
    length2 = geometry.dot(step[..., :2], step[..., :2])
    fraction = (arc - graph.arc_length[row]) / jnp.sqrt(jnp.where(length2 > 0, length2, 1.0))
    return LanePath(
        xyz=origin + fraction[..., None] * step,
        yaw=geometry.heading_angle(step[..., :2], jnp.zeros_like(fraction)),
        curvature=jnp.where(arc <= graph.length[lane], graph.curvature[row], 0.0),
        speed_limit=graph.speed_limit[lane],
        spacing=jnp.full(start.shape, spacing, jnp.float32),
        length=lane_end[..., -1],
        continues=continues,
        lanes=sequence,
        lane_start=lane_start,
        **_stop_lines(graph, sequence, lane_start),
    )


def _stop_lines(graph: LaneGraph, sequence: Int[Array, "*q Q"], lane_start: Float[Array, "*q Q"]) -> dict:
    light = jnp.where(sequence >= 0, graph.light[sequence], -1)
    stop_sign = (sequence >= 0) & graph.stop_sign[sequence]
    stop = lane_start + graph.stop[sequence]
    is_ahead = ((light >= 0) | stop_sign) & (stop >= 0)
    return {"stop": jnp.where(is_ahead, stop, jnp.inf), "light": light, "stop_sign": stop_sign}


def lane_path(
    lanes: Segments,
    graph: LaneGraph,
    segment: Int[Array, "*q"],
    start: Float[Array, "*q"],
    turns: Int[Array, "*q K"],
    num_points: int,
    spacing: float,
) -> LanePath:
    """The path of agents along their lanes and the successors of these: R equally spaced points.

    Args:
      lanes: Lane segments.
      graph: Their graph.
      segment: Lane segment of each agent, from `nearest_lane`.
      start: Arc length of the agent on that lane, m, from `segment_frenet`.
      turns: Successor to take at the end of each of K lanes; zeros for the straightest (see `follow_successors`).
      num_points: Points R of the path.
      spacing: Arc length between them, m.
    """
    sequence, continues = follow_successors(graph, segment_lane(lanes, segment), turns)
    return lane_sequence_path(lanes, graph, sequence, start, continues, num_points, spacing)


def to_frenet(path: LanePath, xy: Float[Array, "*q 2"], yaw: Float[Array, "*q"]) -> Frenet:
    """Poses in the Frenet frames of their paths. Differentiable except for the choice of the nearest segment.

    Args:
      path: One path per pose.
      xy: Positions, m.
      yaw: Headings, rad.
    """
    x, y = path.xyz[..., 0], path.xyz[..., 1]
    start, step = (x[..., :-1], y[..., :-1]), (x[..., 1:] - x[..., :-1], y[..., 1:] - y[..., :-1])
    index = polyline.project(start, step, (xy[..., 0, None], xy[..., 1, None])).index
    rows = jnp.stack([index, index + 1], axis=-1)
    endpoints = jnp.take_along_axis(path.xyz[..., :2], rows[..., None], axis=-2)
    frenet = _project(endpoints[..., 0, :], endpoints[..., 1, :], jnp.zeros_like(path.spacing), xy, yaw)
    # Arc length between points is that of the lanes; in a bend the chord is shorter.
    chord = geometry.norm(endpoints[..., 1, :] - endpoints[..., 0, :])
    fraction = frenet.arc_length / jnp.where(chord > 0, chord, 1.0)
    return frenet._replace(arc_length=(index.astype(jnp.float32) + fraction) * path.spacing)


def from_arc_length(path: LanePath, arc_length: Float[Array, "*q"]) -> tuple[Float[Array, "*q 3"], Float[Array, "*q"]]:
    """Points (m) and directions (rad) of paths at arc lengths (m); the end segments extend beyond the ends."""
    index, fraction = polyline.interpolation_index(arc_length / path.spacing, path.yaw.shape[-1], extrapolate=True)
    rows = jnp.stack([index, index + 1], axis=-1)
    endpoints = jnp.take_along_axis(path.xyz, rows[..., None], axis=-2)
    step = endpoints[..., 1, :] - endpoints[..., 0, :]
    xyz = endpoints[..., 0, :] + fraction[..., None] * step
    return xyz, geometry.heading_angle(step[..., :2], jnp.zeros_like(fraction))
