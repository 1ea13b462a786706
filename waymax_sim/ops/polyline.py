"""Projection on polylines in the plane, and interpolation along them. Segments are the last axis."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from waymax_sim.ops.bottom_k import first_argmin
from waymax_sim.pytree import Array

# x and y components, of shapes that broadcast. Separate components keep the segments on the innermost axis.
Components = tuple[Float[Array, "*#b"], Float[Array, "*#b"]]


def components(vectors: Float[Array, "*b d"]) -> Components:
    """x and y of vectors."""
    return vectors[..., 0], vectors[..., 1]


class Projection(NamedTuple):
    """The point of a polyline nearest to a query point.

    Attributes:
      index: Its segment; the first of equally near ones.
      fraction: Position on that segment, from 0 at its start to 1 at its end.
      squared_distance: Squared distance to the query point, m^2; infinite if no segment is valid.
    """

    index: Int[Array, "*q"]
    fraction: Float[Array, "*q"]
    squared_distance: Float[Array, "*q"]


def project(
    start: Components,
    step: Components,
    point: Components,
    valid: Bool[Array, "*#b"] | None = None,
    squared_length: Float[Array, "*#b"] | None = None,
) -> Projection:
    """Projects points on polylines. Differentiable except for the choice of the segment.

    Args:
      start: First endpoints of segments, m, [..., K].
      step: Vectors from the first to the second endpoint, m, [..., K].
      point: Query points, m, [..., 1].
      valid: Segments that are part of the polyline; all by default.
      squared_length: Squared length of the segments, m^2, as in `segment_projection`.
    """
    fraction, squared_distance = segment_projection(start, step, point, squared_length)
    if valid is not None:
        squared_distance = jnp.where(valid, squared_distance, jnp.inf)
    index = first_argmin(jax.lax.stop_gradient(squared_distance))
    values = (jnp.take_along_axis(values, index[..., None], axis=-1)[..., 0] for values in (fraction, squared_distance))
    return Projection(index, *values)


def segment_projection(
    start: Components,
    step: Components,
    point: Components,
    squared_length: Float[Array, "*#b"] | None = None,
    *,
    xp: Any = jnp,
) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
    """Position of the nearest point on each segment, from 0 to 1, and its squared distance (m^2). Inputs broadcast.

    Args:
      start: First endpoints, m.
      step: Vectors from the first to the second endpoint, m.
      point: Query points, m.
      squared_length: Squared lengths, m^2, where the caller has them; of `step` by default. Where zero, the nearest
        point is the first endpoint.
      xp: The array module: `numpy` on the host, in the precision of the inputs.
    """
    offset_x, offset_y = point[0] - start[0], point[1] - start[1]
    length2 = step[0] * step[0] + step[1] * step[1] if squared_length is None else squared_length
    along = offset_x * step[0] + offset_y * step[1]
    fraction = xp.clip(along / xp.where(length2 > 0, length2, 1.0), 0.0, 1.0)
    gap_x, gap_y = offset_x - fraction * step[0], offset_y - fraction * step[1]
    return fraction, gap_x * gap_x + gap_y * gap_y


class RayProjection(NamedTuple):
    """The nearest point on a part of a line.

    Attributes:
      arc_length: Distance from the origin of the line, m.
      lateral: Offset of the query point to the left of the line, m.
      squared_distance: Squared distance to the query point, m^2.
    """

    arc_length: Float[Array, "*q"]
    lateral: Float[Array, "*q"]
    squared_distance: Float[Array, "*q"]


def ray_projection(
    origin: Components,
    direction: Components,
    point: Components,
    min_arc: Float[Array, "*#b"],
    max_arc: Float[Array, "*#b"],
) -> RayProjection:
    """Projects points on parts of lines. Inputs broadcast.

    Differs from `segment_projection` where directions of unit length and individual bounds are known: end segments may
    extend to infinity, and the distance follows from the lateral offset without a division.

    Args:
      origin: Points at arc length 0, m.
      direction: Unit vectors.
      point: Query points, m.
      min_arc: Arc length at which each part begins, m.
      max_arc: Arc length at which each part ends, m.
    """
    offset_x, offset_y = point[0] - origin[0], point[1] - origin[1]
    along = direction[0] * offset_x + direction[1] * offset_y
    lateral = direction[0] * offset_y - direction[1] * offset_x
    arc_length = jnp.clip(along, min_arc, max_arc)
    return RayProjection(arc_length, lateral, (along - arc_length) ** 2 + lateral**2)


def interpolation_index(
    position: Float[Array, "*q"], num_points: int, *, extrapolate: bool
) -> tuple[Int[Array, "*q"], Float[Array, "*q"]]:
    """The point before each position, and the position between it and the next one, from 0 to 1.

    Args:
      position: Positions in units of the spacing of the points: i is point i.
      num_points: Number of points, at least 2.
      extrapolate: Positions beyond the ends lie on the extended end segments, with a value below 0 or above 1;
        otherwise they are clipped to the ends.
    """
    if not extrapolate:
        # Slightly less than the last point, whose index has no successor.
        position = jnp.clip(position, 0.0, num_points - 1.001)
    index = jnp.clip(jax.lax.stop_gradient(jnp.floor(position)), 0, num_points - 2).astype(jnp.int32)
    return index, position - index.astype(jnp.float32)


def interpolate(values: Float[Array, "*lead R"], position: Float[Array, "*q"]) -> Float[Array, "*q"]:
    """Linear interpolation of values at equally spaced points; positions beyond the ends get the value of the end.

    Args:
      values: Values at R points: one row for all positions, [R], or one row per position.
      position: Positions in units of the spacing: i is point i.
    """
    index, fraction = interpolation_index(position, values.shape[-1], extrapolate=False)
    if values.ndim == 1:
        before, after = values[index], values[index + 1]
    else:
        pair = jnp.take_along_axis(values, jnp.stack([index, index + 1], axis=-1), axis=-1)
        before, after = pair[..., 0], pair[..., 1]
    return before + fraction * (after - before)
