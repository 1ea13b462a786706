"""Which segment is nearest, and on which side of it a point lies."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Shaped

from waymax_sim import geometry
from waymax_sim.datatypes.roadmap import CHUNK, SegmentIndex, Segments
from waymax_sim.maps.index import LEVELS, SHORT, Z_STRETCH
from waymax_sim.ops.bank import flatten_rows, gather_maps, gather_rows, index_maps
from waymax_sim.ops.batched_lookup import batch_over_maps, map_masked, update_masked
from waymax_sim.ops.bottom_k import pack_value_index
from waymax_sim.pytree import Array

# Points whose list is looked at together on a CPU, whose caches hold so much.
LISTED_BATCH = 32
# Points that are worked off at once when their list is long, and when no list holds for them: so many, or such a part
# of all, so that many questions take few turns.
LONG_BATCH, LONG_PART, NOWHERE_BATCH, NOWHERE_PART = 8, 64, 8, 2048


def nearest_segment(
    segments: Segments, points: Float[Array, "*q 3"], asked: Bool[Array, "*q"]
) -> tuple[Int[Array, "*q"], Bool[Array, "*q"]]:
    """The segment nearest to each point (m), with heights stretched, and whether there is any.

    The answer is that of a scan over all segments; ties go to the lower index. Most points are settled by a short list
    of the index. What is left is worked off in small batches: points with a long list, and points for which no list
    holds (far outside the map, high above it), which are compared with every segment. That is done only for points
    that are `asked`; the answer for others means nothing. No gradient flows.
    """
    return _ask(_nearest_segment, segments, points, asked)


def right_of(
    segments: Segments, points: Float[Array, "*q 3"], asked: Bool[Array, "*q"]
) -> tuple[Bool[Array, "*q"], Bool[Array, "*q"]]:
    """Whether points (m) lie to the right of the nearest segment, and whether there is any.

    True exactly where `signed_distance` is positive, but several times faster: the index knows of most places that
    all of them lie on one side. The answer for points that are not `asked` means nothing.
    """
    return _ask(_right_of, segments, points, asked)


# Compiled even where the caller is not: loops are traced anew at every call outside of jit.
@functools.partial(jax.jit, static_argnums=0)
def _ask(question, segments, points, asked):
    segments, points = jax.lax.stop_gradient((segments, points))
    # Valid segments come first.
    some = segments.valid[0, 0]
    answer = question(segments, points.reshape(-1, 3), asked.reshape(-1) & some)
    return answer.reshape(asked.shape), jnp.broadcast_to(some, asked.shape)


@batch_over_maps
def _nearest_segment(
    segments: Segments, which: Int[Array, " Q"], points: Float[Array, "Q 3"], asked: Bool[Array, " Q"]
) -> Int[Array, " Q"]:
    row, holds = _look_up(segments.index, which, points)
    nothing = jnp.zeros(asked.shape, jnp.int32)
    return _found(segments, which, points, row, asked & holds, asked & ~holds, nothing, lambda index, item: index)


@batch_over_maps
def _right_of(
    segments: Segments, which: Int[Array, " Q"], points: Float[Array, "Q 3"], asked: Bool[Array, " Q"]
) -> Bool[Array, " Q"]:
    row, holds = _look_up(segments.index, which, points)
    side = gather_rows(segments.index.side, which, row)

    def decide(index, item):
        return _signed_distance(segments, which[item], index, points[item]) > 0

    return _found(segments, which, points, row, asked & holds & (side == 0), asked & ~holds, side > 0, decide)


def _found(
    segments: Segments,
    which: Int[Array, " Q"],
    points: Float[Array, "Q 3"],
    row: Int[Array, " Q"],
    listed: Bool[Array, " Q"],
    nowhere: Bool[Array, " Q"],
    answers: Shaped[Array, " Q"],
    answer: Callable[[Int[Array, " b"], Int[Array, " b"]], Shaped[Array, " b"]],
) -> Shaped[Array, " Q"]:
    """Replaces the answers of points whose nearest segments are listed in a row, or are known nowhere.

    `answer` is given nearest segments and which points they are of.
    """

    def by_list(item):
        lists = gather_rows(segments.index.lists, which[item], row[item]).astype(jnp.int32)
        index = _nearest_listed(segments, which[item], lists[:, :SHORT], points[item])
        return answer(index, item), lists[:, SHORT] != lists[:, 0]

    def by_long_list(item):
        lists = gather_rows(segments.index.lists, which[item], row[item]).astype(jnp.int32)
        return answer(_nearest_listed(segments, which[item], lists, points[item]), item)

    def by_scan(item):
        # Behind the barrier nothing is prepared for all segments before it is known that any point needs it.
        item, ends = jax.lax.optimization_barrier((item, segments.ends))
        apart2 = distance2(gather_maps(ends, which[item]), points[item, None])
        return answer(first_smallest(apart2.reshape(len(item), -1)), item)

    size = listed.shape[0]
    answers, long = map_masked((answers, jnp.zeros(listed.shape, bool)), listed, LISTED_BATCH, by_list)
    answers = update_masked(answers, long, max(LONG_BATCH, size // LONG_PART), by_long_list)
    return update_masked(answers, nowhere, max(NOWHERE_BATCH, size // NOWHERE_PART), by_scan)


def first_smallest(values: Float[Array, "*q W"]) -> Int[Array, "*q"]:
    """Index of the smallest of each row, the first of equal ones; unlike `argmin` many are compared at a time."""
    number = jax.lax.broadcasted_iota(jnp.int32, values.shape, values.ndim - 1)
    return _number_of_smallest(values, number, values.shape[-1])


def _number_of_smallest(values: Float[Array, "*q W"], number: Int[Array, "*q W"], num_numbers: int) -> Int[Array, "*q"]:
    """The number that goes with the smallest of each row, the lowest one where several are equal."""
    # By how far they are behind the smallest, not by whether they equal it: compilers may work the values out twice,
    # rounded differently, and then none would.
    least = jnp.min(values, axis=-1, keepdims=True)
    behind = jnp.where(values <= least, 0.0, values - least)
    key, last_bits = pack_value_index(behind, number, num_numbers)
    return jnp.min(key, axis=-1) & last_bits


def distance2_to_all(segments: Segments, points: Float[Array, "Q 3"]) -> Float[Array, "Q E"]:
    """Squared distance (m^2) of each point to every segment, heights stretched; padding is very far."""
    return distance2(segments.ends[None], points[:, None]).reshape(points.shape[0], -1)


def distance2(ends: Float[Array, "*#q 6 W"], point: Float[Array, "*#q 3"]) -> Float[Array, "*#q W"]:
    """Squared distance (m^2) of points to segments, where they are nearest in the plane; heights stretched."""
    # One coordinate at a time, segments innermost: that is what compilers vectorise.
    px, py, pz = (point[..., axis, None] - ends[..., axis, :] for axis in range(3))
    ax, ay, az = (ends[..., axis + 3, :] - ends[..., axis, :] for axis in range(3))
    length2 = ax * ax + ay * ay
    t = jnp.clip((px * ax + py * ay) / jnp.where(length2 > 0, length2, 1.0), 0.0, 1.0)
    dx, dy, dz = px - t * ax, py - t * ay, Z_STRETCH * (pz - t * az)
    return dx * dx + dy * dy + dz * dz


def _nearest_listed(
    segments: Segments, which: Int[Array, " Q"], lists: Int[Array, "Q K"], points: Float[Array, "Q 3"]
) -> Int[Array, " Q"]:
    """The nearest segment of a few chunks per point; lists ascend."""

    # One chunk after another, its segments side by side, which are compared at the end: an argmin over all of them
    # would be one comparison at a time. The barrier keeps XLA from gathering anew for every use of a coordinate.
    def look(row):
        return distance2(jax.lax.optimization_barrier(gather_rows(segments.ends, which, lists[:, row])), points)

    best, chunk = look(0), jnp.broadcast_to(lists[:, :1], (points.shape[0], CHUNK))
    for row in range(1, lists.shape[1]):
        apart2 = look(row)
        nearer = apart2 < best
        best, chunk = jnp.where(nearer, apart2, best), jnp.where(nearer, lists[:, row, None], chunk)
    index = chunk * CHUNK + jnp.arange(CHUNK, dtype=jnp.int32)[None]
    return _number_of_smallest(best, index, segments.ends.shape[1] * CHUNK)


def _look_up(
    index: SegmentIndex, which: Int[Array, " Q"], points: Float[Array, "Q 3"]
) -> tuple[Int[Array, " Q"], Bool[Array, " Q"]]:
    """Row of the list of the cell around each point, and whether it holds at the point's height."""
    place = (points[:, :2] - gather_maps(index.corner, which)) / gather_maps(index.size, which)[:, None]
    side = index.root.shape[1]
    inside = jnp.all((place >= 0) & (place < side), axis=-1)
    # Whole numbers of the smallest cells: their bits are the way down the tree.
    fine = jnp.floor(jnp.where(inside[:, None], place, 0.0) * 2**LEVELS).astype(jnp.int32)
    x, y = jax.lax.optimization_barrier((fine[:, 0], fine[:, 1]))
    # Codes are stored small, but an index must be able to count the whole axis.
    code = gather_rows(flatten_rows(index.root), which, (x >> LEVELS) * side + (y >> LEVELS)).astype(jnp.int32)
    for level in range(LEVELS - 1, -1, -1):
        quarter = 2 * ((x >> level) & 1) + ((y >> level) & 1)
        below = gather_rows(flatten_rows(index.nodes), which, 4 * jnp.maximum(code, 0) + quarter)
        code = jnp.where(code >= 0, below.astype(jnp.int32), code)
    row = jax.lax.optimization_barrier(jnp.where(inside, ~jnp.minimum(code, -1), 0))
    z = points[:, 2]
    return row, (z >= gather_rows(index.low, which, row)) & (z <= gather_rows(index.high, which, row))


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
    return jnp.where(found, _signed_distance(segments, None, index, points), 0.0), found


def _signed_distance(
    segments: Segments, which: Int[Array, "*q"] | None, index: Int[Array, "*q"], points: Float[Array, "*q 3"]
) -> Float[Array, "*q"]:
    """Signed distance (m) of points given the nearest segments; `which` is their map where there are many maps."""
    start, along, previous, next_ = _in_plane(segments, which, index)
    offset = points[..., :2] - start
    length2 = jnp.sum(along * along, axis=-1)
    t = geometry.dot(offset, along) / jnp.where(length2 > 0, length2, 1.0)
    distance = geometry.norm(offset - jnp.clip(t, 0.0, 1.0)[..., None] * along)

    # Only one neighbour matters: the one at the end beyond which the point lies.
    before, after = (t < 0) & (previous >= 0), (t > 1) & (next_ >= 0)
    other = jnp.maximum(jnp.where(before, previous, next_), 0)
    other_start, other_along, _, _ = _in_plane(segments, which, other)
    side = jnp.sign(geometry.cross(offset, along))
    other_side = jnp.sign(geometry.cross(points[..., :2] - other_start, other_along))
    turn = geometry.cross(along, other_along)
    convex = jnp.where(before, -turn, turn) > 0
    corner = jnp.where(convex, jnp.maximum(side, other_side), jnp.minimum(side, other_side))
    return jnp.where(before | after, corner, side) * distance


def _in_plane(segments: Segments, which: Int[Array, "*q"] | None, index: Int[Array, "*q"]):
    """Start and direction with length (m, [..., 2]) of segments, and the indices of their neighbors."""
    chunk, place = index // CHUNK, index % CHUNK
    ends = index_maps(segments.ends, which, chunk, slice(None), place)
    previous, next_ = (index_maps(arrays, which, chunk, place) for arrays in (segments.previous, segments.next))
    return ends[..., :2], ends[..., 3:5] - ends[..., :2], previous, next_


def ends_of(segments: Segments, index: Int[Array, "*q"]) -> Float[Array, "*q 6"]:
    """x, y and z of the first end of segments, then of the second, m."""
    return segments.ends[index // CHUNK, :, index % CHUNK]
