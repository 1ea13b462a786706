"""Curves of made-up roads: polylines of points half a metre apart, in metres, in one frame."""

import numpy as np
from jaxtyping import Float

SPACING = 0.5  # m between map samples, as in WOMD
Polyline = Float[np.ndarray, "_ 3"]
Vector = Float[np.ndarray, " 2"]


def arc_length(xyz: Float[np.ndarray, "K d"]) -> Float[np.ndarray, " K"]:
    """Distance of each point from the first along the polyline, m, in the plane."""
    steps = np.hypot(*np.diff(xyz[:, :2], axis=0).T)
    return np.concatenate([[0.0], np.cumsum(steps)])


def yaw_along(xyz: Float[np.ndarray, "K d"]) -> Float[np.ndarray, " K"]:
    """Direction at each point, rad, unwrapped."""
    ahead = np.gradient(xyz[:, :2], axis=0)
    return np.unwrap(np.arctan2(ahead[:, 1], ahead[:, 0]))


def stretch(xyz: Polyline, start: float, end: float) -> Polyline:
    """The part between two arc lengths (m), sampled anew at equal steps of about `SPACING`."""
    arc = arc_length(xyz)
    at = np.linspace(start, end, max(2, round((end - start) / SPACING) + 1))
    return np.stack([np.interp(at, arc, column) for column in xyz.T], axis=-1)


def resample(xyz: Polyline) -> Polyline:
    """The same line at equal steps of about `SPACING`, both ends included."""
    return stretch(xyz, 0.0, arc_length(xyz)[-1])


def line(*points: tuple[float, float]) -> Polyline:
    """A polyline through points (x, y) at height 0."""
    return resample(np.array([(*point, 0.0) for point in points]))


def heading(angle: float) -> Vector:
    """The unit vector in a direction (rad)."""
    return np.array([np.cos(angle), np.sin(angle)])


def cross(a: Float[np.ndarray, "*b 2"], b: Float[np.ndarray, "*b 2"]) -> Float[np.ndarray, "*b"] | np.float64:
    """How far b points to the left of a, times both lengths."""
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def turned(xyz: Float[np.ndarray, "*b 3"], angle: float) -> Float[np.ndarray, "*b 3"]:
    """Turned counter-clockwise about the origin by `angle` (rad)."""
    cos, sin = np.cos(angle), np.sin(angle)
    x, y, z = np.moveaxis(xyz, -1, 0)
    return np.stack([cos * x - sin * y, sin * x + cos * y, z], axis=-1)


def offset(xyz: Polyline, left: Float[np.ndarray, " K"] | float) -> Polyline:
    """Each point moved `left` metres to the left."""
    yaw = yaw_along(xyz)
    return xyz + np.stack([-np.sin(yaw) * left, np.cos(yaw) * left, np.zeros(len(yaw))], axis=-1)


def shifted(xyz: Polyline, left: float) -> Polyline:
    """The parallel curve at `left` metres to the left."""
    return resample(offset(xyz, left))


def bent(length: float, curvature: Float[np.ndarray, " K"]) -> Polyline:
    """A curve from the origin along +x whose curvature (1/m) is given at equal steps, rising to the left."""
    arc = np.linspace(0.0, length, round(length / SPACING) + 1)
    step = arc[1]
    yaw = np.cumsum(np.interp(arc, np.linspace(0.0, length, len(curvature)), curvature)) * step
    ahead = np.stack([np.cos(yaw), np.sin(yaw), np.zeros(len(yaw))], axis=-1)[:-1] * step
    return np.concatenate([np.zeros((1, 3)), np.cumsum(ahead, axis=0)])


def arc(centre: Vector, radius: float, start: float, end: float) -> Polyline:
    """Part of a circle between two angles (rad), counter-clockwise where `end` is larger."""
    angle = np.linspace(start, end, max(2, round(abs(end - start) * radius / SPACING) + 1))
    x, y = centre[0] + radius * np.cos(angle), centre[1] + radius * np.sin(angle)
    return resample(np.stack([x, y, np.zeros(len(angle))], axis=-1))


def blend(start: Float[np.ndarray, " 3"], leave: Vector, end: Float[np.ndarray, " 3"], arrive: Vector) -> Polyline:
    """A smooth curve from `start` in direction `leave` to `end` in direction `arrive`.

    A cubic Bézier curve. Where the two tangents meet ahead, its handles are those of a circle.
    """
    chord = (end - start)[:2]
    turn = cross(leave, arrive)
    handles = np.full(2, 0.4 * np.hypot(*chord))
    if abs(turn) > 0.1:
        legs = np.array([cross(chord, arrive), cross(leave, chord)]) / turn
        angle = np.arctan2(abs(turn), leave @ arrive)
        if legs.min() > 0.0:
            handles = legs * 4 / 3 * np.tan(angle / 4) / np.tan(angle / 2)
    near, far = start[:2] + handles[0] * leave, end[:2] - handles[1] * arrive
    t = np.linspace(0.0, 1.0, 81)[:, None]
    plane = (1 - t) ** 3 * start[:2] + 3 * t * (1 - t) ** 2 * near + 3 * t**2 * (1 - t) * far + t**3 * end[:2]
    share = arc_length(plane) / arc_length(plane)[-1]
    return resample(np.column_stack([plane, start[2] + share * (end[2] - start[2])]))


def fillet(start: Float[np.ndarray, " 3"], leave: Vector, end: Float[np.ndarray, " 3"], arrive: Vector) -> Polyline:
    """As `blend`, but straight except for the widest circle that touches both tangents."""
    chord, turn = (end - start)[:2], cross(leave, arrive)
    if abs(turn) < 0.1:
        return blend(start, leave, end, arrive)
    legs = np.array([cross(chord, arrive), cross(leave, chord)]) / turn
    if legs.min() <= 0.0:
        return blend(start, leave, end, arrive)
    used = legs.min()
    a = start[:2] + (legs[0] - used) * leave
    b = end[:2] - (legs[1] - used) * arrive
    bend = blend(np.array([*a, start[2]]), leave, np.array([*b, end[2]]), arrive)
    ends = [point[None] for point, leg in ((start, legs[0]), (end, legs[1])) if leg - used > SPACING]
    first = ends[:1] if legs[0] - used > SPACING else []
    return resample(np.concatenate([*first, bend, *ends[len(first) :]]))


def distance_along(xyz: Polyline, points: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, " N"]:
    """Arc length (m) of the sample nearest to each point."""
    apart = np.sum((points[:, None] - xyz[None, :, :2]) ** 2, axis=-1)
    return arc_length(xyz)[np.argmin(apart, axis=1)]
