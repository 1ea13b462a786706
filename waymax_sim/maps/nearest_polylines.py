"""Exact k-nearest-neighbor queries of map polylines."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from waymax_sim import geometry
from waymax_sim.datatypes.polylines import POINTS_PER_POLYLINE, POLYLINES_PER_GROUP, Polylines
from waymax_sim.datatypes.roadmap import RoadMap
from waymax_sim.maps.polylines import NUM_LISTED_GROUPS, NUM_NEAR_GROUPS
from waymax_sim.ops import backend
from waymax_sim.ops.bank import BankArray, existing_rows, flatten_rows, gather_maps, gather_rows, index_maps, map_start
from waymax_sim.ops.batched_lookup import batch_over_maps, map_masked, update_masked
from waymax_sim.ops.bottom_k import bottom_k
from waymax_sim.pytree import Array

# Points per batch that are resolved by the lists of their cells, on a CPU.
LIST_BATCH = 32
# Points per batch that are compared with the whole map, on accelerators and on a CPU.
MAP_BATCH = 16
MAP_BATCH_ON_CPU = 1
# Largest k for which the nearer part of a list is usually sufficient.
MAX_NEAR_K = 16
# Number of low bits of a polyline index that are its position in its group.
GROUP_BITS = (POLYLINES_PER_GROUP - 1).bit_length()
# Tolerance for rounding of distances that are compared with the radius covered by a list, m.
DISTANCE_TOLERANCE = 1e-2


def polyline_points(
    polylines: Polylines, roadmap: RoadMap, index: Int[Array, " Q"]
) -> tuple[Int[Array, " Q"], Int[Array, " Q"], Float[Array, "Q 8 3"]]:
    """Points of polylines. Gradients do not flow.

    Args:
      polylines: Polylines of the map.
      roadmap: The map.
      index: Polylines; g * 4 + i is polyline i of group g.

    Returns:
      Index of the first point of each polyline, its number of points, and 8 points (m) of which it has that many.
    """
    maps = jax.lax.stop_gradient((polylines.first_point, polylines.num_points, roadmap.xyz))
    return _polyline_points(maps, index)


@batch_over_maps
def _polyline_points(
    maps: tuple[Int[Array, "M G 4"], Int[Array, "M G 4"], Float[Array, "M P 3"]] | tuple[BankArray, ...],
    map_index: Int[Array, " Q"],
    index: Int[Array, " Q"],
) -> tuple[Int[Array, " Q"], Int[Array, " Q"], Float[Array, "Q 8 3"]]:
    *tables, xyz = maps
    first, count = (gather_rows(flatten_rows(table), map_index, index) for table in tables)
    # A slice of eight points per polyline; padding covers the end of the map.
    map_first, rows = map_start(xyz, map_index)
    padded = jnp.pad(rows, ((0, POINTS_PER_POLYLINE - 1), (0, 0)))
    points = jax.vmap(lambda start: jax.lax.dynamic_slice(padded, (start, 0), (POINTS_PER_POLYLINE, 3)))
    return first, count, points(map_first + first)


def nearest_polylines(
    polylines: Polylines, points: Float[Array, "*q 2"], query_mask: Bool[Array, "*q"], k: int
) -> tuple[Int[Array, "*q k"], Bool[Array, "*q k"]]:
    """The k polylines nearest to each point, in ascending order of distance, and whether each exists.

    The distance of a polyline is that of its nearest point in the plane. The result equals a search of the whole map:
    the list of a cell is used only if no group outside of the list can contain one of the k nearest. Gradients do not
    flow through the choice.

    Args:
      polylines: Polylines of the map.
      points: Query points, m, local frame.
      query_mask: Points to query; the others get no polylines.
      k: Number of polylines per point. Up to 64 are usually resolved by the index, more by a search of the whole map.
    """
    if k == 0:
        empty = jnp.zeros((*query_mask.shape, k), jnp.int32)
        return empty, empty > 0
    polylines, flat_points = jax.lax.stop_gradient((polylines, points.reshape(-1, 2)))
    query = batch_over_maps(lambda *arguments: _nearest_polylines(*arguments, k=k))
    index, exists = query(polylines, flat_points, query_mask.reshape(-1))
    return index.reshape(*query_mask.shape, k), exists.reshape(*query_mask.shape, k)


def _nearest_polylines(
    polylines: Polylines,
    map_index: Int[Array, " Q"],
    points: Float[Array, "Q 2"],
    query_mask: Bool[Array, " Q"],
    k: int,
) -> tuple[Int[Array, "Q k"], Bool[Array, "Q k"]]:
    groups, radius = _listed_groups(polylines, map_index, points, k)

    def list_distances(item):
        return _squared_distance(polylines, map_index[item], points[item], groups[item])

    unknown = jnp.full((groups.shape[0], groups.shape[1] * POLYLINES_PER_GROUP), jnp.inf)
    distance2 = map_masked(unknown, query_mask, LIST_BATCH, list_distances)
    index, exists, furthest = _select_nearest(groups, distance2, k)
    all_groups = jnp.arange(polylines.first_point.shape[1], dtype=jnp.int32)[None]

    def search_map(item):
        groups = existing_rows(polylines.first_point, map_index[item], all_groups)
        return _select_nearest(groups, _squared_distance(polylines, map_index[item], points[item], groups), k)[:2]

    is_unresolved = query_mask & ~(furthest + DISTANCE_TOLERANCE <= radius)
    batch = MAP_BATCH_ON_CPU if backend.on_cpu() else MAP_BATCH
    return update_masked((index, exists), is_unresolved, batch, search_map)


def _listed_groups(
    polylines: Polylines, map_index: Int[Array, " Q"], points: Float[Array, "Q 2"], k: int
) -> tuple[Int[Array, "Q W"], Float[Array, " Q"]]:
    """Groups listed by the cells of points, -1 for padding, and the radius (m) within which a list is complete."""
    corner, cell_size, num_columns, num_rows = (
        gather_maps(arrays, map_index)
        for arrays in (polylines.grid_corner, polylines.cell_size, polylines.num_columns, polylines.num_rows)
    )
    cell_size = cell_size[:, None]
    last_cell = jnp.maximum(jnp.stack([num_rows, num_columns], axis=-1) - 1, 0)
    cell = jnp.clip(jnp.floor((points - corner) / cell_size).astype(jnp.int32), 0, last_cell)
    center = corner + cell_size * (cell.astype(jnp.float32) + 0.5)
    # The first group that is not compared bounds the distance of all groups outside of the list.
    width = NUM_NEAR_GROUPS if k <= MAX_NEAR_K else NUM_LISTED_GROUPS
    cell_index = cell[:, 0] * num_columns + cell[:, 1]
    groups = index_maps(polylines.cell_groups, map_index, cell_index, slice(width + 1)).astype(jnp.int32)
    box = index_maps(polylines.bounding_box, map_index, groups[:, -1])
    gap = jnp.maximum(jnp.maximum(box[:, :2] - center, center - box[:, 2:]), 0.0)
    next_distance = jnp.where(groups[:, -1] >= 0, geometry.norm(gap), jnp.inf)
    return groups[:, :-1], next_distance - geometry.norm(points - center)


def _squared_distance(
    polylines: Polylines, map_index: Int[Array, " Q"], points: Float[Array, "Q 2"], groups: Int[Array, "#Q W"]
) -> Float[Array, "Q p"]:
    """Squared distances (m^2) of the polylines of some groups, infinite for padding."""
    map_first, table = map_start(polylines.points, map_index)
    group = map_first[:, None] + jnp.maximum(groups, 0)
    table = table.reshape(-1, 2 * POINTS_PER_POLYLINE, POLYLINES_PER_GROUP)

    group_points = table.at[group].get(mode="promise_in_bounds", wrap_negative_indices=False)
    x, y = jnp.split(group_points, 2, axis=-2)
    dx, dy = x - points[:, None, None, :1], y - points[:, None, None, 1:]
    distance2 = backend.min_without_nan(dx * dx + dy * dy, axis=2)
    return jnp.where(groups[..., None] >= 0, distance2, jnp.inf).reshape(group.shape[0], -1)


def _select_nearest(
    groups: Int[Array, "#Q W"], distance2: Float[Array, "Q p"], k: int
) -> tuple[Int[Array, "Q k"], Bool[Array, "Q k"], Float[Array, " Q"]]:
    """The k nearest polylines of groups, whether each exists, and the distance of the furthest (m)."""
    padding = max(k - distance2.shape[1], 0)
    distance2 = jnp.pad(distance2, ((0, 0), (0, padding)), constant_values=jnp.inf)
    nearest, column = bottom_k(distance2, k)
    exists = jnp.isfinite(nearest)
    # A maximum instead of the last column: XLA turns a slice of the result of `top_k` into a sort of all values.
    furthest = jnp.sqrt(jnp.max(nearest, axis=-1))
    groups = jnp.broadcast_to(groups, (column.shape[0], groups.shape[1]))
    group_column, member = jnp.where(exists, column >> GROUP_BITS, 0), column & (POLYLINES_PER_GROUP - 1)
    group = jnp.take_along_axis(groups, group_column, axis=1, mode="promise_in_bounds")
    return jnp.where(exists, group * POLYLINES_PER_GROUP + member, 0), exists, furthest
