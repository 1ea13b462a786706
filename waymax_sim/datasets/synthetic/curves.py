"""Curves of synthetic roads: polylines of points `SAMPLE_SPACING` apart, m."""

import numpy as np
from jaxtyping import Float

SAMPLE_SPACING = 0.5  # m between map samples, as in WOMD
Polyline = Float[np.ndarray, "_ 3"]
Point = Float[np.ndarray, " 3"]
Vector = Float[np.ndarray, " 2"]


def arc_length(xyz: Float[np.ndarray, "K d"]) -> Float[np.ndarray, " K"]:
    """Distance of each point from the first along the polyline, m, in the plane."""
    steps = np.hypot(*np.diff(xyz[:, :2], axis=0).T)
    return np.concatenate([[0.0], np.cumsum(steps)])


def yaw_along(xyz: Float[np.ndarray, "K d"]) -> Float[np.ndarray, " K"]:
    """Direction at each point, rad, unwrapped."""
    ahead = np.gradient(xyz[:, :2], axis=0)
    return np.unwrap(np.arctan2(ahead[:, 1], ahead[:, 0]))


def subcurve(xyz: Polyline, start: float, end: float) -> Polyline:
    """The part between two arc lengths, resampled at equal steps of about `SAMPLE_SPACING`.

    Args:
      xyz: The polyline.
      start: Arc length of its first point, m.
      end: Arc length of its last point, m.
    """
    arc = arc_length(xyz)
    at = np.linspace(start, end, max(2, round((end - start) / SAMPLE_SPACING) + 1))
    return np.stack([np.interp(at, arc, column) for column in xyz.T], axis=-1)


def resample(xyz: Polyline) -> Polyline:
    """The same polyline at equal steps of about `SAMPLE_SPACING`, including both ends."""
    return subcurve(xyz, 0.0, arc_length(xyz)[-1])


def line_through(*points: tuple[float, float]) -> Polyline:
    """A polyline through points (x, y) at z = 0."""
    return resample(np.array([(*point, 0.0) for point in points]))


def unit_vector(angle: float) -> Vector:
    """The unit vector in a direction (rad)."""
    return np.array([np.cos(angle), np.sin(angle)])


def cross(a: Float[np.ndarray, "*b 2"], b: Float[np.ndarray, "*b 2"]) -> Float[np.ndarray, "*b"] | np.float64:
    """Cross product; positive if b points to the left of a."""
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def rotate(xyz: Float[np.ndarray, "*b 3"], angle: float) -> Float[np.ndarray, "*b 3"]:
    """Points rotated counterclockwise about the origin by `angle` (rad)."""
    cos, sin = np.cos(angle), np.sin(angle)
    x, y, z = np.moveaxis(xyz, -1, 0)
    return np.stack([cos * x - sin * y, sin * x + cos * y, z], axis=-1)


def offset_left(xyz: Polyline, left: Float[np.ndarray, " K"] | float) -> Polyline:
    """Each point moved to the left by `left` (m)."""
    yaw = yaw_along(xyz)
    return xyz + np.stack([-np.sin(yaw) * left, np.cos(yaw) * left, np.zeros(len(yaw))], axis=-1)


def parallel_curve(xyz: Polyline, left: float) -> Polyline:
    """The parallel curve at a lateral offset, m, positive to the left."""
    return resample(offset_left(xyz, left))


def curve_from_curvature(length: float, curvature: Float[np.ndarray, " K"]) -> Polyline:
    """A curve from the origin along +x with its curvature (1/m) at equal steps, positive to the left."""
    arc = np.linspace(0.0, length, round(length / SAMPLE_SPACING) + 1)
    step = arc[1]
    yaw = np.cumsum(np.interp(arc, np.linspace(0.0, length, len(curvature)), curvature)) * step
    ahead = np.stack([np.cos(yaw), np.sin(yaw), np.zeros(len(yaw))], axis=-1)[:-1] * step
    return np.concatenate([np.zeros((1, 3)), np.cumsum(ahead, axis=0)])


def arc(center: Vector, radius: float, start: float, end: float) -> Polyline:
    """A circular arc.

    Args:
      center: Center, m.
      radius: m.
      start: Angle of its first point, rad.
      end: Angle of its last point, rad; counterclockwise if larger than `start`.
    """
    angle = np.linspace(start, end, max(2, round(abs(end - start) * radius / SAMPLE_SPACING) + 1))
    x, y = center[0] + radius * np.cos(angle), center[1] + radius * np.sin(angle)
    return resample(np.stack([x, y, np.zeros(len(angle))], axis=-1))


def bezier_curve(start: Point, leave: Vector, end: Point, arrive: Vector) -> Polyline:
    """A cubic Bézier curve with given tangents; if they intersect ahead, it approximates a circular arc.

    Args:
      start: First point, m.
      leave: Unit tangent at the first point.
      end: Last point, m.
      arrive: Unit tangent at the last point.
    """
    chord = (end - start)[:2]
    turn = cross(leave, arrive)
    handles = np.full(2, 0.4 * np.hypot(*chord))
    if abs(turn) > 0.1:
        legs = np.array([cross(chord, arrive), cross(leave, chord)]) / turn
        angle = np.arctan2(abs(turn), leave @ arrive)
        if legs.min() > 0.0:
            handles = legs * 4 / 3 * np.tan(angle / 4) / np.tan(angle / 2)
    first_control, second_control = start[:2] + handles[0] * leave, end[:2] - handles[1] * arrive
    t = np.linspace(0.0, 1.0, 81)[:, None]
    xy = (1 - t) ** 3 * start[:2] + 3 * t * (1 - t) ** 2 * first_control
    xy = xy + 3 * t**2 * (1 - t) * second_control + t**3 * end[:2]
    fraction = arc_length(xy) / arc_length(xy)[-1]
    return resample(np.column_stack([xy, start[2] + fraction * (end[2] - start[2])]))


def fillet(start: Point, leave: Vector, end: Point, arrive: Vector) -> Polyline:
    """Straight lines joined by the largest tangent arc; a `bezier_curve` if they do not intersect ahead.

    Args:
      start: First point, m.
      leave: Unit tangent at the first point.
      end: Last point, m.
      arrive: Unit tangent at the last point.
    """
    chord, turn = (end - start)[:2], cross(leave, arrive)
    if abs(turn) < 0.1:
        return bezier_curve(start, leave, end, arrive)
    legs = np.array([cross(chord, arrive), cross(leave, chord)]) / turn
    if legs.min() <= 0.0:
        return bezier_curve(start, leave, end, arrive)
    tangent = legs.min()
    a = start[:2] + (legs[0] - tangent) * leave
    b = end[:2] - (legs[1] - tangent) * arrive
    bend = bezier_curve(np.array([*a, start[2]]), leave, np.array([*b, end[2]]), arrive)
    ends = [point[None] for point, leg in ((start, legs[0]), (end, legs[1])) if leg - tangent > SAMPLE_SPACING]
    first = ends[:1] if legs[0] - tangent > SAMPLE_SPACING else []
    return resample(np.concatenate([*first, bend, *ends[len(first) :]]))


def distance_along(xyz: Polyline, points: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, " N"]:
    """Arc length (m) of the sample nearest to each point."""
    apart = np.sum((points[:, None] - xyz[None, :, :2]) ** 2, axis=-1)
    return arc_length(xyz)[np.argmin(apart, axis=1)]
