"""Nearest segments, and the side on which a point lies, by an exact quadtree index."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Shaped

from waymax_sim import geometry
from waymax_sim.datatypes.roadmap import CHUNK_SIZE, SegmentIndex, Segments
from waymax_sim.maps.index import LEAF_CAPACITY, MAX_DEPTH, Z_STRETCH
from waymax_sim.ops import backend
from waymax_sim.ops.bank import flatten_rows, gather_maps, gather_rows, index_maps
from waymax_sim.ops.batched_lookup import batch_over_maps, map_masked, update_masked
from waymax_sim.ops.bottom_k import argmin_index, first_argmin
from waymax_sim.pytree import Array

# Queries per batch on a CPU whose leaf holds at most `LEAF_CAPACITY` candidates.
SHORT_LIST_BATCH = 32
# Batch size for queries whose leaf holds more than `LEAF_CAPACITY` candidates: at least this number, or this fraction
# of all queries, which bounds the number of iterations.
LONG_LIST_BATCH = 8
LONG_LIST_FRACTION = 64
# The same for queries outside of the index, which are compared with every segment.
SCAN_BATCH = 8
SCAN_FRACTION = 2048


def nearest_segment(
    segments: Segments, points: Float[Array, "*q 3"], query_mask: Bool[Array, "*q"]
) -> tuple[Int[Array, "*q"], Bool[Array, "*q"]]:
    """The segment nearest to each point, and whether there is any segment. Gradients do not flow.

    The result equals a scan over all segments with stretched heights; ties go to the lower index. Most queries are
    resolved by the short candidate list of their quadtree leaf. Leaves with long lists, and points outside of the
    height range or the extent of the index, are processed in small batches; the latter are compared with all segments.

    Args:
      segments: Segments with their index.
      points: Query points, m, local frame.
      query_mask: Points to query. The results of the others are undefined.
    """
    return _query(_nearest_segment, segments, points, query_mask)


def is_on_right_side(
    segments: Segments, points: Float[Array, "*q 3"], query_mask: Bool[Array, "*q"]
) -> tuple[Bool[Array, "*q"], Bool[Array, "*q"]]:
    """Whether points lie to the right of the nearest segment, and whether there is any segment.

    True exactly where `signed_distance` is positive. Where a leaf lies on one side of all its candidates, the index
    stores that side and no distance is computed.

    Args:
      segments: Segments with their index.
      points: Query points, m, local frame.
      query_mask: Points to query. The results of the others are undefined.
    """
    return _query(_is_on_right_side, segments, points, query_mask)


# Compiled for callers outside of `jit` too, which would trace the loops at every call.
@functools.partial(jax.jit, static_argnums=0)
def _query(query, segments, points, query_mask):
    segments, points = jax.lax.stop_gradient((segments, points))
    # Valid segments come first.
    has_segment = segments.valid[0, 0]
    result = query(segments, points.reshape(-1, 3), query_mask.reshape(-1) & has_segment)
    return result.reshape(query_mask.shape), jnp.broadcast_to(has_segment, query_mask.shape)


@batch_over_maps
def _nearest_segment(
    segments: Segments, map_index: Int[Array, " Q"], points: Float[Array, "Q 3"], query_mask: Bool[Array, " Q"]
) -> Int[Array, " Q"]:
    leaf, height_in_range = _find_leaf(segments.index, map_index, points)
    initial = jnp.zeros(query_mask.shape, jnp.int32)
    in_leaf, outside_index = query_mask & height_in_range, query_mask & ~height_in_range
    return _resolve(segments, map_index, points, leaf, in_leaf, outside_index, initial, lambda index, item: index)


@batch_over_maps
def _is_on_right_side(
    segments: Segments, map_index: Int[Array, " Q"], points: Float[Array, "Q 3"], query_mask: Bool[Array, " Q"]
) -> Bool[Array, " Q"]:
    leaf, height_in_range = _find_leaf(segments.index, map_index, points)
    side = gather_rows(segments.index.side, map_index, leaf)

    def is_right(index, item):
        return _signed_distance(segments, map_index[item], index, points[item]) > 0

    in_leaf, outside_index = query_mask & height_in_range & (side == 0), query_mask & ~height_in_range
    return _resolve(segments, map_index, points, leaf, in_leaf, outside_index, side > 0, is_right)


def _resolve(
    segments: Segments,
    map_index: Int[Array, " Q"],
    points: Float[Array, "Q 3"],
    leaf: Int[Array, " Q"],
    in_leaf: Bool[Array, " Q"],
    outside_index: Bool[Array, " Q"],
    results: Shaped[Array, " Q"],
    compute: Callable[[Int[Array, " b"], Int[Array, " b"]], Shaped[Array, " b"]],
) -> Shaped[Array, " Q"]:
    """Replaces the results of queries by `compute(nearest segments, query indices)`.

    Queries of `in_leaf` compare the candidates of their leaf, those of `outside_index` all segments.
    """

    def compare_short_list(item):
        candidates = gather_rows(segments.index.lists, map_index[item], leaf[item]).astype(jnp.int32)
        index = _nearest_candidate(segments, map_index[item], candidates[:, :LEAF_CAPACITY], points[item])
        return compute(index, item), candidates[:, LEAF_CAPACITY] != candidates[:, 0]

    def compare_long_list(item):
        candidates = gather_rows(segments.index.lists, map_index[item], leaf[item]).astype(jnp.int32)
        return compute(_nearest_candidate(segments, map_index[item], candidates, points[item]), item)

    def compare_all(item):
        # Nothing is prepared for all segments unless a query needs it (bench rows `transition`, `rollout80_replay`).
        item, endpoints = backend.materialize((item, segments.endpoints))
        distance2 = squared_distance(gather_maps(endpoints, map_index[item]), points[item, None])
        return compute(first_argmin(distance2.reshape(len(item), -1)), item)

    size = in_leaf.shape[0]
    initial = results, jnp.zeros(in_leaf.shape, bool)
    results, has_long_list = map_masked(initial, in_leaf, SHORT_LIST_BATCH, compare_short_list)
    batch = max(LONG_LIST_BATCH, size // LONG_LIST_FRACTION)
    results = update_masked(results, has_long_list, batch, compare_long_list)
    return update_masked(results, outside_index, max(SCAN_BATCH, size // SCAN_FRACTION), compare_all)


def squared_distance_to_all(segments: Segments, points: Float[Array, "Q 3"]) -> Float[Array, "Q E"]:
    """Squared distance (m^2) of each point to every segment, with stretched heights; padding is very far."""
    return squared_distance(segments.endpoints[None], points[:, None]).reshape(points.shape[0], -1)


def squared_distance(endpoints: Float[Array, "*#q 6 W"], point: Float[Array, "*#q 3"]) -> Float[Array, "*#q W"]:
    """Squared distance (m^2) between points and their projections on segments in the plane, with stretched heights."""
    px, py, pz = (point[..., axis, None] - endpoints[..., axis, :] for axis in range(3))
    ax, ay, az = (endpoints[..., axis + 3, :] - endpoints[..., axis, :] for axis in range(3))
    length2 = ax * ax + ay * ay
    t = jnp.clip((px * ax + py * ay) / jnp.where(length2 > 0, length2, 1.0), 0.0, 1.0)
    dx, dy, dz = px - t * ax, py - t * ay, Z_STRETCH * (pz - t * az)
    return dx * dx + dy * dy + dz * dz


def _nearest_candidate(
    segments: Segments, map_index: Int[Array, " Q"], chunks: Int[Array, "Q K"], points: Float[Array, "Q 3"]
) -> Int[Array, " Q"]:
    """The nearest segment of K candidate chunks per point, in ascending order."""

    def chunk_distance(column):
        endpoints = gather_rows(segments.endpoints, map_index, chunks[:, column])
        return squared_distance(endpoints, points)

    # The minimum over chunks first, segment by segment; then one argmin over the segments of a chunk.
    best, chunk = chunk_distance(0), jnp.broadcast_to(chunks[:, :1], (points.shape[0], CHUNK_SIZE))
    for column in range(1, chunks.shape[1]):
        distance2 = chunk_distance(column)
        is_nearer = distance2 < best
        best = jnp.where(is_nearer, distance2, best)
        chunk = jnp.where(is_nearer, chunks[:, column, None], chunk)
    index = chunk * CHUNK_SIZE + jnp.arange(CHUNK_SIZE, dtype=jnp.int32)[None]
    return argmin_index(best, index, segments.endpoints.shape[1] * CHUNK_SIZE)


def _find_leaf(
    index: SegmentIndex, map_index: Int[Array, " Q"], points: Float[Array, "Q 3"]
) -> tuple[Int[Array, " Q"], Bool[Array, " Q"]]:
    """List of the quadtree leaf of each point, and whether the height of the point is in its range."""
    cell = (points[:, :2] - gather_maps(index.corner, map_index)) / gather_maps(index.cell_size, map_index)[:, None]
    num_cells = index.root.shape[1]
    is_inside = jnp.all((cell >= 0) & (cell < num_cells), axis=-1)
    # Coordinates in units of the smallest cells: their bits are the path from the root to the leaf.
    fine = jnp.floor(jnp.where(is_inside[:, None], cell, 0.0) * 2**MAX_DEPTH).astype(jnp.int32)
    x, y = fine[:, 0], fine[:, 1]
    # Codes are stored as int16 where possible, which is too small for the rows of all maps.
    root_cell = (x >> MAX_DEPTH) * num_cells + (y >> MAX_DEPTH)
    code = gather_rows(flatten_rows(index.root), map_index, root_cell).astype(jnp.int32)
    for level in range(MAX_DEPTH - 1, -1, -1):
        quarter = 2 * ((x >> level) & 1) + ((y >> level) & 1)
        child = gather_rows(flatten_rows(index.nodes), map_index, 4 * jnp.maximum(code, 0) + quarter)
        code = jnp.where(code >= 0, child.astype(jnp.int32), code)
    leaf = jnp.where(is_inside, ~jnp.minimum(code, -1), 0)
    z = points[:, 2]
    above, below = gather_rows(index.min_z, map_index, leaf), gather_rows(index.max_z, map_index, leaf)
    return leaf, (z >= above) & (z <= below)


def signed_distance(
    segments: Segments, points: Float[Array, "*q 3"], query_mask: Bool[Array, "*q"]
) -> tuple[Float[Array, "*q"], Bool[Array, "*q"]]:
    """Signed planar distance to the nearest segment (m): positive to the right of it, negative to the left.

    For road edges, left is road. Beyond the end of a segment the side depends on the adjacent segment too: at a convex
    corner a point is outside if it is to the right of either, at a concave one if it is to the right of both
    (Waymo Open Sim Agents Challenge, distance to road edge). In a closed loop the last segment precedes the first.

    Args:
      segments: Segments with their index.
      points: Query points, m, local frame.
      query_mask: Points to query. The results of the others are undefined.

    Returns:
      Distances, 0 if there is no segment, and whether there is any.
    """
    index, has_segment = nearest_segment(segments, points, query_mask)
    return jnp.where(has_segment, _signed_distance(segments, None, index, points), 0.0), has_segment


def _signed_distance(
    segments: Segments, map_index: Int[Array, "*q"] | None, index: Int[Array, "*q"], points: Float[Array, "*q 3"]
) -> Float[Array, "*q"]:
    """Signed distance (m) of points to given segments of the map of each query, or of one map."""
    start, along, previous, next_ = _in_plane(segments, map_index, index)
    offset = points[..., :2] - start
    length2 = jnp.sum(along * along, axis=-1)
    t = geometry.dot(offset, along) / jnp.where(length2 > 0, length2, 1.0)
    distance = geometry.norm(offset - jnp.clip(t, 0.0, 1.0)[..., None] * along)

    # Only the segment adjacent to the nearer end matters.
    is_before, is_after = (t < 0) & (previous >= 0), (t > 1) & (next_ >= 0)
    adjacent = jnp.maximum(jnp.where(is_before, previous, next_), 0)
    adjacent_start, adjacent_along, _, _ = _in_plane(segments, map_index, adjacent)
    side = jnp.sign(geometry.cross(offset, along))
    adjacent_side = jnp.sign(geometry.cross(points[..., :2] - adjacent_start, adjacent_along))
    turn = geometry.cross(along, adjacent_along)
    is_convex = jnp.where(is_before, -turn, turn) > 0
    corner_side = jnp.where(is_convex, jnp.maximum(side, adjacent_side), jnp.minimum(side, adjacent_side))
    return jnp.where(is_before | is_after, corner_side, side) * distance


def _in_plane(segments: Segments, map_index: Int[Array, "*q"] | None, index: Int[Array, "*q"]):
    """First endpoints and vectors to the second (m, [..., 2]) of segments, and the indices of adjacent segments."""
    chunk, row = index // CHUNK_SIZE, index % CHUNK_SIZE
    endpoints = index_maps(segments.endpoints, map_index, chunk, slice(None), row)
    previous, next_ = (index_maps(arrays, map_index, chunk, row) for arrays in (segments.previous, segments.next))
    return endpoints[..., :2], endpoints[..., 3:5] - endpoints[..., :2], previous, next_


def segment_endpoints(segments: Segments, index: Int[Array, "*q"]) -> Float[Array, "*q 6"]:
    """x, y and z of the first endpoint of segments, then of the second, m."""
    return segments.endpoints[index // CHUNK_SIZE, :, index % CHUNK_SIZE]
