"""Closed outlines in the plane: road edges from drivable areas, and centroids."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from waymax_sim.datasets.formats.map_features import MAX_PAIRS
from waymax_sim.maps.driveways import signed_area

Ring = Float[np.ndarray, "_ 3"]


def is_ring(points: Float[np.ndarray, "P 3"]) -> bool:
    """Whether a polyline encloses an area: at least three points, the first one repeated at the end."""
    return len(points) > 3 and bool((points[0] == points[-1]).all())


def orient_rings(rings: Sequence[Ring]) -> list[Ring] | None:
    """Rings of a drivable area with the road on their left: outer ones counter-clockwise, those of holes clockwise.

    Rings do not intersect, so a ring inside an odd number of other rings is that of a hole. None if there are more than
    `MAX_PAIRS` pairs of rings and points.
    """
    if len(rings) * sum(map(len, rings)) > MAX_PAIRS:
        return None
    oriented = []
    for index, ring in enumerate(rings):
        others = [other for row, other in enumerate(rings) if row != index]
        is_hole = sum(_contains(other, ring[0, :2]) for other in others) % 2 == 1
        oriented.append(ring[::-1] if (signed_area(ring) < 0) != is_hole else ring)
    return oriented


def centroid(ring: Float[np.ndarray, "P 2"]) -> Float[np.ndarray, " 2"]:
    """Centroid of the area of a ring in the plane, m; the mean of its points if it has no area."""
    local = ring - ring[0]
    after = np.roll(local, -1, axis=0)
    cross = local[:, 0] * after[:, 1] - after[:, 0] * local[:, 1]
    if abs(cross.sum()) < 1e-9:
        return ring.mean(axis=0)
    return ring[0] + ((local + after) * cross[:, None]).sum(axis=0) / (3 * cross.sum())


def _contains(ring: Ring, point: Float[np.ndarray, " 2"]) -> bool:
    """Whether a ring contains a point, by the parity of its sides that cross the ray from the point along x."""
    x, y = (ring[:, :2] - point).T
    start, end = slice(None, -1), slice(1, None)
    spans = (y[start] > 0) != (y[end] > 0)
    rise = np.where(spans, y[end] - y[start], 1.0)
    return bool(np.count_nonzero(spans & (x[start] - y[start] * (x[end] - x[start]) / rise > 0)) % 2)
