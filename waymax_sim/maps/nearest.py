"""Which segment is nearest, and on which side of it a point lies."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from waymax_sim import geometry
from waymax_sim.datatypes.roadmap import CHUNK, SegmentIndex, Segments
from waymax_sim.maps.batching import scene_by_scene, work_off
from waymax_sim.maps.index import LEVELS, SHORT, Z_STRETCH
from waymax_sim.pytree import Array

# Points that are worked off at once when their list is long, and when no list holds for them.
LONG_BATCH, NOWHERE_BATCH = 32, 8


def nearest_segment(
    segments: Segments, points: Float[Array, "*q 3"], asked: Bool[Array, "*q"]
) -> tuple[Int[Array, "*q"], Bool[Array, "*q"]]:
    """The segment nearest to each point (m), with heights stretched, and whether there is any.

    The answer is that of a scan over all segments; ties go to the lower index. Most points are settled by a short list
    of the index. What is left is worked off in small batches: points with a long list, and points for which no list
    holds (far outside the map, high above it), which are compared with every segment. That is done only for points
    that are `asked`; the answer for others means nothing. No gradient flows.
    """
    return _nearest_segment(*jax.lax.stop_gradient((segments, points, asked)))


# Compiled even where the caller is not: loops are traced anew at every call outside of jit.
@jax.jit
@scene_by_scene
def _nearest_segment(
    segments: Segments, points: Float[Array, "*q 3"], asked: Bool[Array, "*q"]
) -> tuple[Int[Array, "*q"], Bool[Array, "*q"]]:
    flat, ask = points.reshape(-1, 3), asked.reshape(-1)
    # Valid segments come first.
    some = segments.valid[0, 0]
    ask = ask & some
    row, holds = _look_up(segments.index, flat)
    lists = segments.index.lists[row].astype(jnp.int32)
    long = holds & (lists[:, SHORT] != lists[:, 0])
    nearest = _nearest_listed(segments, lists[:, :SHORT], flat)
    nearest = work_off(
        nearest, ask & long, LONG_BATCH, lambda which: _nearest_listed(segments, lists[which], flat[which])
    )
    nearest = work_off(
        nearest,
        ask & ~holds,
        NOWHERE_BATCH,
        lambda which: jnp.argmin(distance2_to_all(segments, flat[which]), axis=-1).astype(jnp.int32),
    )
    return nearest.reshape(asked.shape), jnp.broadcast_to(some, asked.shape)


def distance2_to_all(segments: Segments, points: Float[Array, "Q 3"]) -> Float[Array, "Q E"]:
    """Squared distance (m^2) of each point to every segment, heights stretched; padding is very far."""
    return _distance2(segments.ends[None], points[:, None]).reshape(points.shape[0], -1)


def _distance2(ends: Float[Array, "*#q 6 W"], point: Float[Array, "*#q 3"]) -> Float[Array, "*#q W"]:
    """Squared distance (m^2) of points to segments, where they are nearest in the plane; heights stretched."""
    # One coordinate at a time, segments innermost: that is what compilers vectorise.
    px, py, pz = (point[..., axis, None] - ends[..., axis, :] for axis in range(3))
    ax, ay, az = (ends[..., axis + 3, :] - ends[..., axis, :] for axis in range(3))
    length2 = ax * ax + ay * ay
    t = jnp.clip((px * ax + py * ay) / jnp.where(length2 > 0, length2, 1.0), 0.0, 1.0)
    dx, dy, dz = px - t * ax, py - t * ay, Z_STRETCH * (pz - t * az)
    return dx * dx + dy * dy + dz * dz


def _nearest_listed(segments: Segments, lists: Int[Array, "Q K"], points: Float[Array, "Q 3"]) -> Int[Array, " Q"]:
    """The nearest segment of a few chunks per point; lists ascend."""

    # One chunk after another, its segments side by side, which are compared at the end: an argmin over all of them
    # would be one comparison at a time. The barrier keeps XLA from gathering anew for every use of a coordinate.
    def look(row):
        return _distance2(jax.lax.optimization_barrier(segments.ends[lists[:, row]]), points)

    best, which = look(0), jnp.broadcast_to(lists[:, :1], (points.shape[0], CHUNK))
    for row in range(1, lists.shape[1]):
        distance2 = look(row)
        nearer = distance2 < best
        best, which = jnp.where(nearer, distance2, best), jnp.where(nearer, lists[:, row, None], which)
    index = which * CHUNK + jnp.arange(CHUNK, dtype=jnp.int32)[None]
    ties = best <= jnp.min(best, axis=-1, keepdims=True)
    return jnp.min(jnp.where(ties, index, jnp.iinfo(jnp.int32).max), axis=-1)


def _look_up(index: SegmentIndex, points: Float[Array, "Q 3"]) -> tuple[Int[Array, " Q"], Bool[Array, " Q"]]:
    """Row of the list of the cell around each point, and whether it holds at the point's height."""
    place = (points[:, :2] - index.corner[None]) / index.size
    cell = jnp.floor(place)
    inside = jnp.all((cell >= 0) & (cell < index.root.shape[0]), axis=-1)
    cell = jnp.where(inside[:, None], cell, 0.0)
    # Codes are stored small, but an index must be able to count the whole axis.
    code = index.root[cell[:, 0].astype(jnp.int32), cell[:, 1].astype(jnp.int32)].astype(jnp.int32)
    within = place - cell
    for _ in range(LEVELS):
        within = within * 2
        upper = within >= 1
        within = jnp.where(upper, within - 1, within)
        quarter = 2 * upper[:, 0].astype(jnp.int32) + upper[:, 1].astype(jnp.int32)
        code = jnp.where(code >= 0, index.nodes[jnp.maximum(code, 0), quarter].astype(jnp.int32), code)
    row = jnp.where(inside, ~jnp.minimum(code, -1), 0)
    z = points[:, 2]
    return row, (z >= index.low[row]) & (z <= index.high[row])


def signed_distance(
    segments: Segments, points: Float[Array, "*q 3"], asked: Bool[Array, "*q"]
) -> tuple[Float[Array, "*q"], Bool[Array, "*q"]]:
    """Signed planar distance to the nearest segment (m): positive to the right of it, negative to the left.

    For road edges, left is road. Beyond the end of a segment the side is decided together with the
    neighbour that shares the corner: outside of either one at a convex corner, of both at a concave one
    (Waymo Open Sim Agents Challenge, distance to road edge). The neighbour of the first segment of a
    closed loop is the last one.

    Args:
      segments: Segments with their index.
      points: Where to ask, m.
      asked: Points whose answer matters.

    Returns:
      Distances, and whether there was any segment; the distance is 0 where there was none.
    """
    index, found = nearest_segment(segments, points, asked)
    start, along, previous, next_ = _in_plane(segments, index)
    offset = points[..., :2] - start
    length2 = jnp.sum(along * along, axis=-1)
    t = geometry.dot(offset, along) / jnp.where(length2 > 0, length2, 1.0)
    distance = geometry.norm(offset - jnp.clip(t, 0.0, 1.0)[..., None] * along)

    # Only one neighbour matters: the one at the end beyond which the point lies.
    before, after = (t < 0) & (previous >= 0), (t > 1) & (next_ >= 0)
    other_start, other_along, _, _ = _in_plane(segments, jnp.maximum(jnp.where(before, previous, next_), 0))
    side = jnp.sign(geometry.cross(offset, along))
    other_side = jnp.sign(geometry.cross(points[..., :2] - other_start, other_along))
    turn = geometry.cross(along, other_along)
    convex = jnp.where(before, -turn, turn) > 0
    corner = jnp.where(convex, jnp.maximum(side, other_side), jnp.minimum(side, other_side))
    side = jnp.where(before | after, corner, side)
    return jnp.where(found, side * distance, 0.0), found


def _in_plane(segments: Segments, index: Int[Array, "*q"]):
    """Start and direction with length (m, [..., 2]) of segments, and the indices of their neighbours."""
    ends, place = ends_of(segments, index), (index // CHUNK, index % CHUNK)
    return ends[..., :2], ends[..., 3:5] - ends[..., :2], segments.previous[place], segments.next[place]


def ends_of(segments: Segments, index: Int[Array, "*q"]) -> Float[Array, "*q 6"]:
    """x, y and z of the first end of segments, then of the second, m."""
    return segments.ends[index // CHUNK, :, index % CHUNK]
