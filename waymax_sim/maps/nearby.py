"""Which map elements are nearest, exactly, without looking at the whole map."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from waymax_sim import geometry
from waymax_sim.datatypes.elements import GROUP, NUM_ELEMENT_POINTS, MapElements
from waymax_sim.datatypes.roadmap import RoadMap
from waymax_sim.maps.elements import NUM_LISTED, NUM_NEAR
from waymax_sim.ops.bank import BankArray, existing_rows, flatten_rows, gather_maps, gather_rows, index_maps, map_start
from waymax_sim.ops.batched_lookup import batch_over_maps, map_masked, update_masked
from waymax_sim.ops.bottom_k import bottom_k
from waymax_sim.pytree import Array

# Points answered together from the lists, on a CPU, and from the whole map, where the lists do not reach far enough.
LISTED_BATCH, WHOLE_BATCH, WHOLE_BATCH_ON_CPU = 32, 16, 1
# Elements for which the nearer part of a list is enough, as a rule.
FEW = 16
# A group is a power of two: its number among elements is what stands before these last bits.
GROUP_BITS = (GROUP - 1).bit_length()
# Rounding of the distances that are compared with the reach of a list (m).
SLACK = 1e-2


def element_points(
    elements: MapElements, roadmap: RoadMap, element: Int[Array, " Q"]
) -> tuple[Int[Array, " Q"], Int[Array, " Q"], Float[Array, "Q 8 3"]]:
    """The first point of elements, how many they have, and places (m) of these and of others up to eight.

    Element g * 4 + i is element i of group g. Gradients do not flow.
    """
    maps = jax.lax.stop_gradient((elements.first, elements.count, roadmap.xyz))
    return _element_points(maps, element)


@batch_over_maps
def _element_points(
    maps: tuple[Int[Array, "M G 4"], Int[Array, "M G 4"], Float[Array, "M P 3"]] | tuple[BankArray, ...],
    which: Int[Array, " Q"],
    element: Int[Array, " Q"],
) -> tuple[Int[Array, " Q"], Int[Array, " Q"], Float[Array, "Q 8 3"]]:
    *table, xyz = maps
    first, count = (gather_rows(flatten_rows(of), which, element) for of in table)
    shape = NUM_ELEMENT_POINTS, 3

    def points():
        # Eight points at once are one copy; the last elements may have fewer behind their first.
        begin, rows = map_start(xyz, which)
        room = jnp.pad(rows, ((0, NUM_ELEMENT_POINTS - 1), (0, 0)))
        start = begin + first
        return jax.vmap(lambda begin: jax.lax.dynamic_slice(room, (begin, 0), shape))(start)

    # Behind a branch, because XLA:CPU otherwise copies each number again for every use of it.
    return first, count, jax.lax.cond(jnp.any(count > 0), points, lambda: jnp.zeros((first.size, *shape)))


def nearest_elements(
    elements: MapElements, points: Float[Array, "*q 2"], asks: Bool[Array, "*q"], k: int
) -> tuple[Int[Array, "*q k"], Bool[Array, "*q k"]]:
    """The k elements nearest to each point, the nearest first, and whether there are that many.

    The distance of an element is that of its nearest point in the plane. Equal to a search of the whole map: a list
    of a cell is trusted only if no group left out of it can hold one of the k nearest. Gradients do not flow through
    the choice.

    Args:
      elements: Elements of the map.
      points: Places, m, local frame.
      asks: Which places matter; the others get no elements.
      k: How many to find. Up to 64 are as a rule found through the index; more are found too, slowly.
    """
    if elements.first.shape[0] == 0 or k == 0:
        nothing = jnp.zeros((*asks.shape, k), jnp.int32)
        return nothing, nothing > 0
    elements, places = jax.lax.stop_gradient((elements, points.reshape(-1, 2)))
    find = batch_over_maps(functools.partial(_nearest_elements, k=k))
    found, exists = find(elements, places, asks.reshape(-1))
    return found.reshape(*asks.shape, k), exists.reshape(*asks.shape, k)


def _nearest_elements(
    elements: MapElements,
    which: Int[Array, " Q"],
    points: Float[Array, "Q 2"],
    asks: Bool[Array, " Q"],
    k: int,
) -> tuple[Int[Array, "Q k"], Bool[Array, "Q k"]]:
    groups, reach = _listed(elements, which, points, k)

    def by_lists(item):
        return _distance2(elements, which[item], points[item], groups[item])

    far = jnp.full((groups.shape[0], groups.shape[1] * GROUP), jnp.inf)
    found, exists, furthest = _nearest(groups, map_masked(far, asks, LISTED_BATCH, by_lists), k)
    all_groups = jnp.arange(elements.first.shape[1], dtype=jnp.int32)[None]

    def by_map(item):
        groups = existing_rows(elements.first, which[item], all_groups)
        return _nearest(groups, _distance2(elements, which[item], points[item], groups), k)[:2]

    def search_map(batch):
        return functools.partial(update_masked, batch=batch, find=by_map)

    left = asks & ~(furthest + SLACK <= reach)
    cpu, default = search_map(WHOLE_BATCH_ON_CPU), search_map(WHOLE_BATCH)
    return jax.lax.platform_dependent((found, exists), left, cpu=cpu, default=default)


def _listed(
    elements: MapElements, which: Int[Array, " Q"], points: Float[Array, "Q 2"], k: int
) -> tuple[Int[Array, "Q W"], Float[Array, " Q"]]:
    """Groups listed by the cells of points, -1 for none, and how far from a point no group is left out (m)."""
    low, side, columns, rows = (
        gather_maps(of, which) for of in (elements.low, elements.side, elements.columns, elements.rows)
    )
    side = side[:, None]
    limit = jnp.maximum(jnp.stack([rows, columns], axis=-1) - 1, 0)
    cell = jnp.clip(jnp.floor((points - low) / side).astype(jnp.int32), 0, limit)
    centre = low + side * (cell.astype(jnp.float32) + 0.5)
    # Few elements need fewer groups; the first one that is not looked at says how far the list reaches.
    width = NUM_NEAR if k <= FEW else NUM_LISTED
    listed = index_maps(elements.cells, which, cell[:, 0] * columns + cell[:, 1], slice(width + 1)).astype(jnp.int32)
    box = index_maps(elements.box, which, listed[:, -1])
    gap = jnp.maximum(jnp.maximum(box[:, :2] - centre, centre - box[:, 2:]), 0.0)
    first_left_out = jnp.where(listed[:, -1] >= 0, geometry.norm(gap), jnp.inf)
    return listed[:, :-1], first_left_out - geometry.norm(points - centre)


def _distance2(
    elements: MapElements, which: Int[Array, " Q"], points: Float[Array, "Q 2"], groups: Int[Array, "#Q W"]
) -> Float[Array, "Q e"]:
    """Squared distances (m^2) of the elements of some groups, infinite for none."""
    begin, table = map_start(elements.points, which)
    group = begin[:, None] + jnp.maximum(groups, 0)
    table = table.reshape(-1, 2 * NUM_ELEMENT_POINTS, GROUP)

    def points_of_groups():
        return table.at[group].get(mode="promise_in_bounds", wrap_negative_indices=False)

    # Behind a branch, because XLA:CPU otherwise makes one loop of taking and comparing, which takes twice as long.
    nothing = jnp.zeros((*group.shape, *table.shape[1:]), jnp.float32)
    x, y = jnp.split(jax.lax.cond(jnp.any(groups >= 0), points_of_groups, lambda: nothing), 2, axis=-2)
    dx, dy = x - points[:, None, None, :1], y - points[:, None, None, 1:]
    # Not `min`, which takes twenty times as long there, since it must hand on NaN.
    distance2 = jax.lax.reduce(dx * dx + dy * dy, jnp.float32(jnp.inf), _smaller, (2,))
    return jnp.where(groups[..., None] >= 0, distance2, jnp.inf).reshape(group.shape[0], -1)


def _nearest(
    groups: Int[Array, "#Q W"], distance2: Float[Array, "Q e"], k: int
) -> tuple[Int[Array, "Q k"], Bool[Array, "Q k"], Float[Array, " Q"]]:
    """The k nearest elements of groups, whether there are that many, and the distance of the furthest (m)."""
    missing = max(k - distance2.shape[1], 0)
    distance2 = jnp.pad(distance2, ((0, 0), (0, missing)), constant_values=jnp.inf)
    nearest, place = bottom_k(distance2, k)
    found = jnp.isfinite(nearest)
    # Not the last column: what is sliced again after a `top_k`, XLA finds by sorting all.
    furthest = jnp.sqrt(jnp.max(nearest, axis=-1))
    groups = jnp.broadcast_to(groups, (place.shape[0], groups.shape[1]))
    turn, member = jnp.where(found, place >> GROUP_BITS, 0), place & (GROUP - 1)
    group = jnp.take_along_axis(groups, turn, axis=1, mode="promise_in_bounds")
    return jnp.where(found, group * GROUP + member, 0), found, furthest


def _smaller(a: Float[Array, ""], b: Float[Array, ""]) -> Float[Array, ""]:
    """The smaller of two numbers, neither of which is NaN."""
    return jnp.where(a < b, a, b)
