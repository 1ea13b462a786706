"""Slow float64 versions of the metrics of traffic rules, for one agent or two.

An agent is a tuple (x, y, z, yaw, vx, vy, length, width, height). Time is marched in small steps where the simulator
has closed forms, and derivatives come from fitted polynomials.
"""

import itertools
import math

import numpy as np

from tests import oracle

MARCH = 0.002


def gaps_over_time(a: tuple, b: tuple, climb: float, times: np.ndarray) -> np.ndarray:
    """Gaps between the projections of two boxes on four axes, and of their heights, at constant velocity, [5, t]."""
    gaps = []
    corners_a, corners_b = (oracle.corners(one[0], one[1], one[3], *one[6:8]) for one in (a, b))
    for yaw in (a[3], a[3] + math.pi / 2, b[3], b[3] + math.pi / 2):
        axis = np.array([math.cos(yaw), math.sin(yaw)])
        shift = times * float(np.dot(np.subtract(b[4:6], a[4:6]), axis))
        projection_a, projection_b = corners_a @ axis, corners_b @ axis
        gaps.append(
            np.maximum(projection_b.min() + shift - projection_a.max(), projection_a.min() - projection_b.max() - shift)
        )
    gaps.append(np.abs(b[2] - a[2] + climb * times) - (a[8] + b[8]) / 2 - 1e-4)
    return np.stack(gaps)


def contact_cosine(a: tuple, b: tuple, climb: float, begin: float, lookback: float = 20.0) -> float:
    """Cosine between the direction of travel of `a` and the contact normal: the projections that met last."""
    times = np.arange(begin - lookback, begin, MARCH)
    gaps = gaps_over_time(a, b, climb, times)[:4]
    apart = [np.flatnonzero(row >= 0) for row in gaps]
    if not any(len(rows) for rows in apart):
        return 0.0
    last = max(range(4), key=lambda axis: apart[axis][-1] if len(apart[axis]) else -1)
    yaw = (a[3], a[3] + math.pi / 2, b[3], b[3] + math.pi / 2)[last]
    axis = np.array([math.cos(yaw), math.sin(yaw)])
    when = times[apart[last][-1]]
    towards = np.dot(np.subtract(b[:2], a[:2]) + when * np.subtract(b[4:6], a[4:6]), axis)
    ahead = np.sign(towards) * np.dot(axis, [math.cos(a[3]), math.sin(a[3])])
    reverses = a[4] * math.cos(a[3]) + a[5] * math.sin(a[3]) < -0.05
    return float(-ahead if reverses else ahead)


def time_to_collision(a: tuple, b: tuple, climb: float) -> tuple[float, float]:
    """Time until two boxes collide (s), 5 at most or for contacts that `a` need not avoid; and the depth (m)."""
    times = np.arange(0, 5 + MARCH, MARCH)
    deepest = gaps_over_time(a, b, climb, times).max(axis=0)
    meets = np.flatnonzero(deepest < 0)
    if not len(meets) or math.hypot(a[4], a[5]) < 0.05:
        return 5.0, float(-deepest.min())
    begin = float(times[meets[0]])
    if contact_cosine(a, b, climb, begin + MARCH) <= -0.7071:
        return 5.0, float(-deepest.min())
    return begin, float(-deepest.min())


def clearance(a: tuple, b: tuple) -> float:
    """Distance between two outlines (m): from every corner to every side, 0 if they overlap."""
    boxes = [oracle.corners(one[0], one[1], one[3], *one[6:8]) for one in (a, b)]
    if oracle.separation((a[0], a[1], a[3], *a[6:8]), (b[0], b[1], b[3], *b[6:8])) < 0:
        return 0.0
    best = math.inf
    for corners, other in (boxes, boxes[::-1]):
        for corner in corners:
            for start, end in zip(other, np.roll(other, -1, axis=0), strict=True):
                t = min(max(np.dot(corner - start, end - start) / np.dot(end - start, end - start), 0.0), 1.0)
                best = min(best, math.dist(corner, start + t * (end - start)))
    return best


def share_space(a: tuple, b: tuple) -> bool:
    """Whether two upright boxes share space."""
    separation = oracle.separation((a[0], a[1], a[3], *a[6:8]), (b[0], b[1], b[3], *b[6:8]))
    return separation < 0 and abs(a[2] - b[2]) <= (a[8] + b[8]) / 2


def comfort_violation(yaw: np.ndarray, velocity: np.ndarray, dt: float) -> float:
    """The largest ratio to a comfort limit, from parabolas fitted to eleven headings and velocities."""
    time = dt * (np.arange(11) - 5)
    bend, rate, _ = np.polyfit(time, np.unwrap(yaw), 2)
    fits = [np.polyfit(time, velocity[:, axis], 2) for axis in range(2)]
    acceleration, jerk = np.array([fit[1] for fit in fits]), np.array([2 * fit[0] for fit in fits])
    along = np.array([math.cos(yaw[5]), math.sin(yaw[5])])
    across = np.array([-along[1], along[0]])
    ahead, aside = acceleration @ along, acceleration @ across
    # The derivative of the components in a rotating frame.
    jerk_ahead, jerk_aside = jerk @ along + rate * aside, jerk @ across - rate * ahead
    return max(
        ahead / 2.40,
        -ahead / 4.05,
        abs(aside) / 4.89,
        math.hypot(jerk_ahead, jerk_aside) / 8.37,
        abs(jerk_ahead) / 4.13,
        abs(rate) / 0.95,
        abs(2 * bend) / 1.93,
    )


def log_progress(log: np.ndarray, before: tuple, now: tuple) -> float | None:
    """Share of a logged path (points [n, 2]) between two poses (x, y, yaw); None without a path."""
    segments, begin = [], 0.0
    for a, b in itertools.pairwise(log):
        if math.dist(a, b) >= 0.01:
            segments.append((a, b, begin, math.dist(a, b)))
            begin += math.dist(a, b)
    if begin < 0.5:
        return None

    def project(pose, near=None):
        xy, heading = np.array(pose[:2]), np.array([math.cos(pose[2]), math.sin(pose[2])])
        allowed = [item for item in segments if near is None or item[2] - 10 <= near <= item[2] + item[3] + 10]
        forward = [item for item in allowed if np.dot(item[1] - item[0], heading) >= 0]
        best = (math.inf, 0.0)
        for a, b, start, length in forward or allowed:
            t = min(max(np.dot(xy - a, b - a) / length**2, 0.0), 1.0)
            distance = math.dist(xy, a + t * (b - a))
            if distance < best[0]:
                best = (distance, start + t * length)
        return best[1]

    previous = project(before)
    return (project(now, previous) - previous) / begin


def crosses(before: tuple, now: tuple, x: float, y: float, z: float) -> bool:
    """Whether the center of a front bumper crosses a line perpendicular to the x axis, 3.6 m wide."""
    fronts = [(one[0] + one[6] / 2 * math.cos(one[3]), one[1] + one[6] / 2 * math.sin(one[3])) for one in (before, now)]
    if not fronts[0][0] < x <= fronts[1][0] or abs(oracle.wrap(now[3])) > math.pi / 3:
        return False
    part = (x - fronts[0][0]) / (fronts[1][0] - fronts[0][0])
    aside = fronts[0][1] + part * (fronts[1][1] - fronts[0][1]) - y
    return abs(aside) <= 1.8 and abs(now[2] - now[8] / 2 - z) <= 2
