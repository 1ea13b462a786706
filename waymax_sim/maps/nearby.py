"""Which map elements are nearest, exactly, without looking at the whole map."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from waymax_sim import geometry
from waymax_sim.datatypes.elements import GROUP, NUM_ELEMENT_POINTS, MapElements
from waymax_sim.datatypes.roadmap import RoadMap
from waymax_sim.maps.batching import in_batches, of_many_maps, work_off
from waymax_sim.pytree import Array

# Points answered together from the lists, on a CPU, and from the whole map, where the lists do not reach far enough.
LISTED_BATCH, WHOLE_BATCH = 32, 4
# Rounding of the distances that are compared with the reach of a list (m).
SLACK = 1e-2


def smallest(values: Float[Array, "Q W"], k: int) -> tuple[Int[Array, "Q k"], Bool[Array, "Q k"]]:
    """Indices of the k smallest finite values of each row, in rising order of index, and whether there are that many.

    Of equal values the first ones are taken. Values must not be negative. This is several times faster on a CPU than
    sorting: the k-th smallest value is found bit by bit, counting.
    """
    num_rows, width = values.shape

    def set_bit(bit: Int[Array, ""], kth: Int[Array, " Q"]) -> Int[Array, " Q"]:
        # Floats that are not negative are ordered as their bits are.
        tried = kth | (1 << (30 - bit))
        below = values < jax.lax.bitcast_convert_type(tried, jnp.float32)[:, None]
        return jnp.where(jnp.sum(below, axis=-1, dtype=jnp.float32) < k, tried, kth)

    bits = jax.lax.fori_loop(0, 31, set_bit, jnp.zeros(num_rows, jnp.int32))
    kth = jax.lax.bitcast_convert_type(bits, jnp.float32)[:, None]
    # With fewer than k finite values all bits are set, which is not a number: then all of them are below.
    below = (values < kth) | (jnp.isnan(kth) & jnp.isfinite(values))
    equal = values == kth
    # One sum counts both: what is below in the low half, what is equal in the high half.
    counts = jnp.cumsum(below.astype(jnp.int32) + (equal.astype(jnp.int32) << 16), axis=-1)
    num_below = counts[:, -1:] & 0xFFFF
    place = jnp.minimum(counts >> 16, k - num_below) + (counts & 0xFFFF) - 1
    taken = below | (equal & ((counts >> 16) <= k - num_below))
    row = jnp.broadcast_to(jnp.arange(num_rows, dtype=jnp.int32)[:, None], values.shape)
    column = jnp.broadcast_to(jnp.arange(width, dtype=jnp.int32)[None], values.shape)
    index = jnp.zeros((num_rows, k), jnp.int32).at[row, jnp.where(taken, place, k)].set(column, mode="drop")
    num_taken = jnp.sum(taken, axis=-1, dtype=jnp.int32)
    return index, jnp.arange(k, dtype=jnp.int32)[None] < num_taken[:, None]


def element_points(
    elements: MapElements, roadmap: RoadMap, element: Int[Array, "*q"]
) -> tuple[Int[Array, "*q 8"], Bool[Array, "*q 8"]]:
    """Indices of the points of elements and whether they exist; element g * 4 + i is element i of group g."""
    first = elements.first.reshape(-1)[element]
    count = elements.count.reshape(-1)[element]
    offset = jnp.arange(NUM_ELEMENT_POINTS, dtype=jnp.int32)[(None,) * element.ndim]
    index = jnp.minimum(first[..., None] + offset, max(roadmap.valid.shape[0] - 1, 0))
    return index, offset < count[..., None]


def nearest_elements(
    elements: MapElements, roadmap: RoadMap, points: Float[Array, "*q 2"], asks: Bool[Array, "*q"], k: int
) -> tuple[Int[Array, "*q k"], Bool[Array, "*q k"]]:
    """The k elements nearest to each point, in no particular order, and whether there are that many.

    The distance of an element is that of its nearest point in the plane. Equal to a search of the whole map: a list
    of a cell is trusted only if no group left out of it can hold one of the k nearest. Gradients do not flow through
    the choice.

    Args:
      elements: Elements of the map.
      roadmap: The map.
      points: Places, m, local frame.
      asks: Which places matter; the others get no elements.
      k: How many to find. Up to 64 are as a rule found through the index; more are found too, slowly.
    """
    if elements.first.shape[0] == 0 or k == 0:
        nothing = jnp.zeros((*asks.shape, k), jnp.int32)
        return nothing, nothing > 0
    road, places = jax.lax.stop_gradient(((elements, roadmap.xyz), points.reshape(-1, 2)))
    find = of_many_maps(functools.partial(_nearest_elements, k=k))
    found, exists = find(road, places, asks.reshape(-1))
    return found.reshape(*asks.shape, k), exists.reshape(*asks.shape, k)


def _nearest_elements(
    road: tuple[MapElements, Float[Array, "M P 3"]],
    which: Int[Array, " Q"],
    points: Float[Array, "Q 2"],
    asks: Bool[Array, " Q"],
    k: int,
) -> tuple[Int[Array, "Q k"], Bool[Array, "Q k"]]:
    elements, xyz = road
    nothing = jnp.zeros((asks.shape[0], k), jnp.int32)
    answers = nothing, nothing > 0, jnp.zeros(asks.shape, bool)

    def by_lists(item):
        groups, reach = _listed(elements, which[item], points[item], k)
        found, exists, furthest = _search(elements, xyz, which[item], points[item], groups, k)
        return found, exists, furthest + SLACK <= reach

    found, exists, settled = in_batches(answers, asks, LISTED_BATCH, by_lists)
    all_groups = jnp.arange(elements.first.shape[1], dtype=jnp.int32)[None]

    def by_map(item):
        return _search(elements, xyz, which[item], points[item], all_groups, k)[:2]

    return work_off((found, exists), asks & ~settled, WHOLE_BATCH, by_map)


def _listed(
    elements: MapElements, which: Int[Array, " Q"], points: Float[Array, "Q 2"], k: int
) -> tuple[Int[Array, "Q W"], Float[Array, " Q"]]:
    """Groups listed by the cells of points, -1 for none, and how far from a point no group is left out (m)."""
    low, side, columns = elements.low[which], elements.side[which, None], elements.columns[which]
    limit = jnp.maximum(jnp.stack([elements.rows[which], columns], axis=-1) - 1, 0)
    cell = jnp.clip(jnp.floor((points - low) / side).astype(jnp.int32), 0, limit)
    centre = low + side * (cell.astype(jnp.float32) + 0.5)
    # Fewer neighbours need fewer groups; the first one that is not looked at says how far the list reaches.
    width = min(elements.cells.shape[-1] - 1, 24 + 5 * k // 8)
    listed = elements.cells[which, cell[:, 0] * columns + cell[:, 1], : width + 1].astype(jnp.int32)
    box = elements.box[which, listed[:, -1]]
    gap = jnp.maximum(jnp.maximum(box[:, :2] - centre, centre - box[:, 2:]), 0.0)
    first_left_out = jnp.where(listed[:, -1] >= 0, geometry.norm(gap), jnp.inf)
    return listed[:, :-1], first_left_out - geometry.norm(points - centre)


def _search(
    elements: MapElements,
    xyz: Float[Array, "M P 3"],
    which: Int[Array, " Q"],
    points: Float[Array, "Q 2"],
    groups: Int[Array, "#Q W"],
    k: int,
) -> tuple[Int[Array, "Q k"], Bool[Array, "Q k"], Float[Array, " Q"]]:
    """The k nearest elements of some groups, whether there are that many, and the distance of the furthest (m)."""
    element = groups[..., None] * GROUP + jnp.arange(GROUP, dtype=jnp.int32)[None, None]
    element = element.reshape(groups.shape[0], -1)
    # Rows of the whole, for they are many; where there is none, the element does not matter.
    place = which[:, None] * (elements.first.shape[1] * GROUP) + jnp.maximum(element, 0)
    first, count = (part.reshape(-1)[place] for part in (elements.first, elements.count))
    count = jnp.where(element >= 0, count, 0)

    flat = xyz.reshape(xyz.shape[0] * xyz.shape[1], 3)
    first = first + which[:, None] * xyz.shape[1]

    def nearer(offset: Int[Array, ""], distance2: Float[Array, "Q E"]) -> Float[Array, "Q E"]:
        index = jnp.minimum(first + offset, flat.shape[0] - 1)
        x, y = (flat[:, axis].at[index].get(mode="promise_in_bounds") for axis in range(2))
        dx, dy = x - points[:, :1], y - points[:, 1:]
        return jnp.minimum(distance2, jnp.where(offset < count, dx * dx + dy * dy, jnp.inf))

    # One point of all elements at a time, x and y apart: half of the time and memory of gathering whole elements.
    nothing = jnp.full((points.shape[0], element.shape[1]), jnp.inf)
    distance2 = jax.lax.fori_loop(0, NUM_ELEMENT_POINTS, nearer, nothing)
    place, found = smallest(distance2, k)
    furthest2 = jnp.max(jnp.where(found, jnp.take_along_axis(distance2, place, axis=1), 0.0), axis=-1)
    furthest = jnp.where(found[:, -1], jnp.sqrt(furthest2), jnp.inf)
    element = jnp.broadcast_to(element, distance2.shape)
    return jnp.where(found, jnp.take_along_axis(element, place, axis=1), 0), found, furthest
