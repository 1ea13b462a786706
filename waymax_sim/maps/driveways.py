"""Driveway polygons: their sides on the host, and whether points lie inside."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from waymax_sim import geometry
from waymax_sim.datatypes.roadmap import DRIVEWAY
from waymax_sim.pytree import Array


def driveway_sides(
    xyz: Float[np.ndarray, "P 3"], feature: Int[np.ndarray, " P"], feature_type: Int[np.ndarray, " F"]
) -> Float32[np.ndarray, "D 4"]:
    """Sides of all driveway polygons, counter-clockwise: x and y of the first endpoint, then of the second, m.

    Polygons of fewer than three points are left out.

    Args:
      xyz: Points, contiguous and in order per feature, m.
      feature: Row of each point in the feature table.
      feature_type: The type column of the table.
    """
    sides = []
    rows = np.flatnonzero(feature_type[feature] == DRIVEWAY) if len(feature) else np.zeros(0, int)
    for polygon in np.split(xyz[rows, :2], np.flatnonzero(np.diff(feature[rows])) + 1):
        if len(polygon) < 3:
            continue
        following = np.roll(polygon, -1, axis=0)
        sides.append(np.hstack([following, polygon] if signed_area(polygon) < 0 else [polygon, following]))
    return np.concatenate([*sides, np.zeros((0, 4))]).astype(np.float32)


def signed_area(polygon: Float[np.ndarray, "P d"]) -> float:
    """Area of a polygon in the plane, m^2; positive if it is counter-clockwise. Its last point may repeat the first."""
    # Relative to the first point, since areas far from the origin lose digits.
    x, y = (polygon[:, :2].astype(np.float64) - polygon[0, :2]).T
    return float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2)


def is_in_driveway(sides: Float[Array, "D 4"], xy: Float[Array, "Q 2"], margin: float) -> Bool[Array, " Q"]:
    """Whether points are inside a driveway polygon or at most `margin` from one, by winding numbers.

    All polygons are counter-clockwise, so the sum of their winding numbers is the number of polygons around a point.

    Args:
      sides: Sides of the polygons, m.
      xy: Points, m.
      margin: Largest distance from a polygon, m.
    """
    start, along = sides[None, :, :2], sides[None, :, 2:] - sides[None, :, :2]
    offset = xy[:, None] - start
    side = geometry.cross(along, offset)
    is_above, end_is_above = start[..., 1] > xy[:, None, 1], sides[None, :, 3] > xy[:, None, 1]
    upward, downward = ~is_above & end_is_above & (side > 0), is_above & ~end_is_above & (side < 0)
    winding = jnp.sum(upward.astype(jnp.int32) - downward.astype(jnp.int32), axis=-1)
    squared_length = geometry.dot(along, along)
    fraction = geometry.dot(offset, along) / jnp.where(squared_length > 0, squared_length, 1.0)
    gap = offset - jnp.clip(fraction, 0.0, 1.0)[..., None] * along
    return (winding > 0) | jnp.any(geometry.dot(gap, gap) <= margin**2, axis=-1)
