"""Which segment is nearest, and on which side of it a point lies."""

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from waymax_sim import geometry
from waymax_sim.datatypes.roadmap import Segments
from waymax_sim.pytree import Array

# Heights count three times when the nearest segment is chosen: a bridge is not the road below it (WOSAC).
Z_STRETCH = 3.0


def nearest_segment(segments: Segments, points: Float[Array, "*q 3"]) -> tuple[Int[Array, "*q"], Bool[Array, "*q"]]:
    """The segment nearest to each point, with heights stretched, and whether there is any.

    Ties go to the lower index. With no valid segment the index is 0 and the mask False.
    """
    if segments.valid.shape[0] == 0:
        nothing = jnp.zeros(points.shape[:-1], jnp.int32)
        return nothing, nothing > 0
    index = jnp.argmin(stretched_distance2(segments, points), axis=-1).astype(jnp.int32)
    return index, jnp.broadcast_to(jnp.any(segments.valid), index.shape)


def stretched_distance2(segments: Segments, points: Float[Array, "*q 3"]) -> Float[Array, "*q E"]:
    """Squared distance (m^2) of every point to every segment, heights stretched; infinite for padding."""
    lead = (None,) * (points.ndim - 1)
    along = segments.end - segments.start
    length2 = jnp.sum(along[:, :2] ** 2, axis=-1)
    inverse = jnp.where(length2 > 0, 1.0 / jnp.where(length2 > 0, length2, 1.0), 0.0)
    # One coordinate at a time: XLA fuses these into the reduction, so no [q, E, 3] array exists.
    px, py, pz = (points[..., axis, None] - segments.start[lead + (slice(None), axis)] for axis in range(3))
    ax, ay, az = (along[lead + (slice(None), axis)] for axis in range(3))
    t = jnp.clip((px * ax + py * ay) * inverse[lead], 0.0, 1.0)
    dx, dy, dz = px - t * ax, py - t * ay, Z_STRETCH * (pz - t * az)
    return jnp.where(segments.valid[lead], dx * dx + dy * dy + dz * dz, jnp.inf)


def signed_distance(segments: Segments, points: Float[Array, "*q 3"]) -> tuple[Float[Array, "*q"], Bool[Array, "*q"]]:
    """Signed planar distance to the nearest segment (m): positive to the right of it, negative to the left.

    For road edges, left is road. Beyond the end of a segment the side is decided together with the
    neighbour that shares the corner: outside of either one at a convex corner, of both at a concave one
    (Waymo Open Sim Agents Challenge, distance to road edge). The neighbour of the first segment of a
    closed loop is the last one.

    Returns:
      Distances, and whether there was any segment; the distance is 0 where there was none.
    """
    index, found = nearest_segment(segments, points)
    if segments.valid.shape[0] == 0:
        return jnp.zeros(points.shape[:-1], jnp.float32), found
    start, along = _plane(segments, index)
    offset = points[..., :2] - start
    length2 = jnp.sum(along * along, axis=-1)
    t = geometry.dot(offset, along) / jnp.where(length2 > 0, length2, 1.0)
    distance = geometry.norm(offset - jnp.clip(t, 0.0, 1.0)[..., None] * along)

    previous, next_ = segments.previous[index], segments.next[index]
    previous_start, previous_along = _plane(segments, previous)
    next_start, next_along = _plane(segments, next_)
    side = jnp.sign(geometry.cross(offset, along))
    previous_side = jnp.sign(geometry.cross(points[..., :2] - previous_start, previous_along))
    next_side = jnp.sign(geometry.cross(points[..., :2] - next_start, next_along))

    before = _corner(side, previous_side, geometry.cross(previous_along, along))
    after = _corner(side, next_side, geometry.cross(along, next_along))
    side = jnp.where((t < 0) & (previous >= 0), before, jnp.where((t > 1) & (next_ >= 0), after, side))
    return jnp.where(found, side * distance, 0.0), found


def _plane(segments: Segments, index: Int[Array, "*q"]) -> tuple[Float[Array, "*q 2"], Float[Array, "*q 2"]]:
    start = segments.start[index, :2]
    return start, segments.end[index, :2] - start


def _corner(a: Float[Array, "*q"], b: Float[Array, "*q"], turn: Float[Array, "*q"]) -> Float[Array, "*q"]:
    return jnp.where(turn > 0, jnp.maximum(a, b), jnp.minimum(a, b))
