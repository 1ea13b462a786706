"""Where agents are on lanes, and the ways ahead of them. Pure and jittable; batch over scenes with `vmap`."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from waymax_sim import geometry
from waymax_sim.datatypes.lanes import Frenet, LaneGraph, LanePath
from waymax_sim.datatypes.roadmap import CHUNK, Segments
from waymax_sim.maps.nearest import distance2, distance2_to_all, ends_of, first_smallest, nearest_segment
from waymax_sim.ops.batched_lookup import update_masked
from waymax_sim.pytree import Array

# Agents follow lanes whose direction differs from their heading by at most this angle (rad).
MAX_ANGLE = jnp.pi / 3
# Agents that are compared with every lane at once.
BATCH = 8


# Compiled even where the caller is not: loops are traced anew at every call outside of jit.
@jax.jit
def nearest_lane(
    lanes: Segments,
    graph: LaneGraph,
    points: Float[Array, "O 3"],
    yaw: Float[Array, " O"],
    rides: Bool[Array, " O"],
    asked: Bool[Array, " O"],
    reach: Float[Array, " O"] | None = None,
) -> tuple[Int[Array, " O"], Bool[Array, " O"]]:
    """The nearest segment of a lane that an agent could be following, with heights stretched; ties to the lower index.

    Its direction differs from the heading by at most 60 degrees, and it is no bike lane unless the agent rides. The
    answer is exact. Where the nearest segment of all is such a one, the index gives it. Other agents, as on a junction
    under crossing lanes, are compared with every segment, a few at a time: about a tenth of the traffic in recorded
    scenes.

    Args:
      lanes: Lane segments.
      graph: Their graph.
      points: On the ground, m.
      yaw: Headings, rad.
      rides: Whether bike lanes will do.
      asked: Agents whose answer matters.
      reach: Agents further than this from the nearest segment of all, in the plane, are not compared with others (m):
        there is none for them if that one will not do. Everybody is by default.

    Returns:
      Segments, and whether there is one. How near it is, `frenet` tells.
    """
    lanes, points, yaw = jax.lax.stop_gradient((lanes, points, yaw))
    for_all = ~graph.is_bike[lanes.feature].reshape(1, -1) & lanes.valid.reshape(1, -1)

    def agrees(yaw, ends):
        x, y = ends[..., 3, :] - ends[..., 0, :], ends[..., 4, :] - ends[..., 1, :]
        ahead = jnp.cos(yaw)[..., None] * x + jnp.sin(yaw)[..., None] * y
        return ahead >= jnp.cos(MAX_ANGLE) * jnp.sqrt(x * x + y * y)

    def compared(which):
        """The definition, against every segment; -1 where none will do."""
        ends = lanes.ends.swapaxes(0, 1).reshape(1, 6, -1)
        usable = for_all | (rides[which][:, None] & lanes.valid.reshape(1, -1))
        apart2 = jnp.where(agrees(yaw[which], ends) & usable, distance2_to_all(lanes, points[which]), jnp.inf)
        return jnp.where(jnp.isfinite(jnp.min(apart2, axis=-1)), first_smallest(apart2), -1)

    nearest, found = nearest_segment(lanes, points, asked)
    ends = ends_of(lanes, nearest)[..., None]
    good = agrees(yaw, ends)[:, 0] & (for_all[0, nearest] | rides)
    near = jnp.ones(asked.shape, bool)
    if reach is not None:
        plane = jnp.asarray([1.0, 1.0, 0.0])
        near = distance2(jnp.tile(plane, 2)[None, :, None] * ends, plane[None] * points)[:, 0] <= reach**2
    nearest = update_masked(nearest, asked & found & ~good & near, BATCH, compared)
    found = found & (nearest >= 0) & (good | near)
    return jnp.where(found, nearest, 0), found


def lane_of(lanes: Segments, segment: Int[Array, "*q"]) -> Int[Array, "*q"]:
    """The lane of segments, as a row of the feature table."""
    return lanes.feature[segment // CHUNK, segment % CHUNK]


def frenet(
    lanes: Segments, graph: LaneGraph, segment: Int[Array, "*q"], xy: Float[Array, "*q 2"], yaw: Float[Array, "*q"]
) -> Frenet:
    """Poses (m, rad) seen from segments of lanes: arc length is that on the lane, and ends where the segment does."""
    ends = ends_of(lanes, segment)
    arc = graph.arc_length[segment // CHUNK, segment % CHUNK]
    return _project(ends[..., :2], ends[..., 3:5], arc, xy, yaw)


def _project(start, end, arc, xy, yaw) -> Frenet:
    along, offset = end - start, xy - start
    length2 = geometry.dot(along, along)
    length2 = jnp.where(length2 > 0, length2, 1.0)
    length = jnp.sqrt(length2)
    part = jnp.clip(geometry.dot(offset, along) / length2, 0.0, 1.0)
    return Frenet(
        arc_length=arc + part * length,
        lateral=geometry.cross(along, offset) / length,
        heading=geometry.wrap_angle(yaw - geometry.direction(along, yaw)),
    )


def segment_at(graph: LaneGraph, lane: Int[Array, "*q"], arc_length: Float[Array, "*q"]) -> Int[Array, "*q"]:
    """The segment of a lane at an arc length (m); its first or last one beyond its ends."""
    first = graph.first[lane]
    # The answer is in [low, low + 2^k): halves are cut off until one is left.
    low, arcs = first, graph.arc_length.reshape(-1)
    last = first + jnp.maximum(graph.count[lane], 1) - 1
    for power in reversed(range(max(1, (arcs.shape[0] - 1).bit_length()))):
        probe = low + 2**power
        below = (probe <= last) & (arcs[jnp.minimum(probe, last)] <= arc_length)
        low = jnp.where(below, probe, low)
    return low


def walk(
    graph: LaneGraph, lane: Int[Array, "*q"], turns: Int[Array, "*q K"]
) -> tuple[Int[Array, "*q Q"], Bool[Array, "*q"]]:
    """The lanes that follow one another from `lane` on.

    Args:
      graph: The lane graph.
      lane: Where to begin, rows of the feature table; negative for nowhere.
      turns: Which way to take at the end of each lane: 0 is the straightest; counted modulo the number of ways.

    Returns:
      K + 1 lanes, -1 after a lane that ends, and whether the last one goes on.
    """

    def ways(lane):
        return jnp.where((lane >= 0)[..., None], graph.successors[lane], -1)

    visited = [lane]
    for index in range(turns.shape[-1]):
        successors = ways(lane)
        number = jnp.sum(successors >= 0, axis=-1).astype(jnp.int32)
        chosen = turns[..., index] % jnp.maximum(number, 1)
        lane = jnp.take_along_axis(successors, chosen[..., None], axis=-1)[..., 0]
        visited.append(lane)
    return jnp.stack(visited, axis=-1), jnp.any(ways(lane) >= 0, axis=-1)


def along_lanes(
    lanes: Segments,
    graph: LaneGraph,
    sequence: Int[Array, "*q Q"],
    begin: Float[Array, "*q"],
    goes_on: Bool[Array, "*q"],
    num_points: int,
    spacing: float,
) -> LanePath:
    """The path over lanes in a row.

    Args:
      lanes: Lane segments.
      graph: Their graph.
      sequence: Lanes in order, -1 after the last.
      begin: Arc length on the first lane at which the path begins, m.
      goes_on: Whether there are more lanes than listed.
      num_points: Points R of the path.
      spacing: Arc length between them, m.
    """
    there = sequence >= 0
    size = jnp.where(there, graph.length[sequence], 0.0)
    ends = jnp.cumsum(size, axis=-1) - begin[..., None]
    begins = jnp.where(there, ends - size, jnp.inf)

    arc = jnp.broadcast_to(spacing * jnp.arange(num_points, dtype=jnp.float32), (*begin.shape, num_points))
    position = jnp.sum(arc[..., :, None] >= begins[..., None, :], axis=-1).astype(jnp.int32) - 1
    position = jnp.maximum(position, 0)
    lane = jnp.maximum(jnp.take_along_axis(sequence, position, axis=-1), 0)
    arc = arc - jnp.take_along_axis(jnp.where(there, begins, 0.0), position, axis=-1)
    segment = segment_at(graph, lane, arc)
    place = segment // CHUNK, segment % CHUNK
    corners = ends_of(lanes, segment)
    start, step = corners[..., :3], corners[..., 3:] - corners[..., :3]
    length2 = geometry.dot(step[..., :2], step[..., :2])
    part = (arc - graph.arc_length[place]) / jnp.sqrt(jnp.where(length2 > 0, length2, 1.0))
    return LanePath(
        xyz=start + part[..., None] * step,
        yaw=geometry.direction(step[..., :2], jnp.zeros_like(part)),
        curvature=jnp.where(arc <= graph.length[lane], graph.curvature[place], 0.0),
        speed_limit=graph.speed_limit[lane],
        spacing=jnp.full(begin.shape, spacing, jnp.float32),
        length=ends[..., -1],
        goes_on=goes_on,
        lanes=sequence,
        begins=begins,
        **_stops(graph, sequence, begins),
    )


def _stops(graph: LaneGraph, sequence: Int[Array, "*q Q"], begins: Float[Array, "*q Q"]) -> dict:
    light = jnp.where(sequence >= 0, graph.light[sequence], -1)
    stop_sign = (sequence >= 0) & graph.stop_sign[sequence]
    stop = begins + graph.stop[sequence]
    ahead = ((light >= 0) | stop_sign) & (stop >= 0)
    return {"stop": jnp.where(ahead, stop, jnp.inf), "light": light, "stop_sign": stop_sign}


def path_ahead(
    lanes: Segments,
    graph: LaneGraph,
    segment: Int[Array, "*q"],
    begin: Float[Array, "*q"],
    turns: Int[Array, "*q K"],
    num_points: int,
    spacing: float,
) -> LanePath:
    """The way ahead of agents on lanes: R points at equal steps along the lanes and their successors.

    Args:
      lanes: Lane segments.
      graph: Their graph.
      segment: Where each agent is, from `nearest_lane`.
      begin: Arc length of the agent on that lane, m, from `frenet`.
      turns: Which way to take at the end of each of K lanes; zeros for straight on (see `walk`).
      num_points: Points R of the path.
      spacing: Arc length between them, m.
    """
    sequence, goes_on = walk(graph, lane_of(lanes, segment), turns)
    return along_lanes(lanes, graph, sequence, begin, goes_on, num_points, spacing)


def project(path: LanePath, xy: Float[Array, "*q 2"], yaw: Float[Array, "*q"]) -> Frenet:
    """Poses (m, rad) seen from their paths. Differentiable but for the choice of the nearest piece."""
    # One coordinate at a time, points innermost: that is what compilers vectorise.
    x, y = path.xyz[..., 0], path.xyz[..., 1]
    along_x, along_y = x[..., 1:] - x[..., :-1], y[..., 1:] - y[..., :-1]
    off_x, off_y = xy[..., 0, None] - x[..., :-1], xy[..., 1, None] - y[..., :-1]
    length2 = along_x**2 + along_y**2
    part = jnp.clip((off_x * along_x + off_y * along_y) / jnp.where(length2 > 0, length2, 1.0), 0.0, 1.0)
    distance2 = (off_x - part * along_x) ** 2 + (off_y - part * along_y) ** 2
    index = first_smallest(jax.lax.stop_gradient(distance2))
    rows = jnp.stack([index, index + 1], axis=-1)
    ends = jnp.take_along_axis(path.xyz[..., :2], rows[..., None], axis=-2)
    seen = _project(ends[..., 0, :], ends[..., 1, :], jnp.zeros_like(path.spacing), xy, yaw)
    # Between points arc length is that of the lanes, which a chord cuts short in a bend.
    chord = geometry.norm(ends[..., 1, :] - ends[..., 0, :])
    part = seen.arc_length / jnp.where(chord > 0, chord, 1.0)
    return seen._replace(arc_length=(index.astype(jnp.float32) + part) * path.spacing)


def point_at(path: LanePath, arc_length: Float[Array, "*q"]) -> tuple[Float[Array, "*q 3"], Float[Array, "*q"]]:
    """Points (m) and directions (rad) of paths at arc lengths (m); straight on beyond the ends."""
    at = arc_length / path.spacing
    index = jnp.clip(jnp.floor(at), 0, path.yaw.shape[-1] - 2)
    rows = jnp.stack([index, index + 1], axis=-1).astype(jnp.int32)
    ends = jnp.take_along_axis(path.xyz, rows[..., None], axis=-2)
    step = ends[..., 1, :] - ends[..., 0, :]
    xyz = ends[..., 0, :] + (at - index)[..., None] * step
    return xyz, geometry.direction(step[..., :2], jnp.zeros_like(at))
