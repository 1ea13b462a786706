"""Simple float64 implementations of the computations of the simulator, written from the definitions.

Every function handles one item (one box, one point, one agent), with plain loops.
"""

import itertools
import math

import numpy as np

LOOP_GAP = 1.0
DEAD_BAND = 0.6


def wrap(angle: float) -> float:
    """An angle in [-pi, pi)."""
    while angle < -math.pi:
        angle += 2 * math.pi
    while angle >= math.pi:
        angle -= 2 * math.pi
    return angle


def corners(x: float, y: float, yaw: float, length: float, width: float) -> np.ndarray:
    """Front left, rear left, rear right and front right corner of a box, [4, 2]."""
    turn = np.array([[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]])
    signs = [(1, 1), (-1, 1), (-1, -1), (1, -1)]
    return np.array([turn @ (a * length / 2, b * width / 2) + (x, y) for a, b in signs])


def separation(a: tuple, b: tuple) -> float:
    """Largest gap between the shadows of two boxes (x, y, yaw, length, width) on their axes; negative: they overlap."""
    corners_a, corners_b = corners(*a), corners(*b)
    gaps = []
    for yaw in (a[2], a[2] + math.pi / 2, b[2], b[2] + math.pi / 2):
        axis = np.array([math.cos(yaw), math.sin(yaw)])
        shadow_a, shadow_b = corners_a @ axis, corners_b @ axis
        gaps.append(max(shadow_a.min() - shadow_b.max(), shadow_b.min() - shadow_a.max()))
    # A box without an area has shadows without a length: it touches, but shares nothing.
    return 0.0 if 0 in (*a[3:], *b[3:]) and max(gaps) < 0 else max(gaps)


def overlaps(xyz: np.ndarray, yaw: np.ndarray, size: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Which pairs of upright boxes share space, [N, N]."""
    count = len(yaw)
    hits = np.zeros((count, count), bool)
    for i, j in itertools.permutations(range(count), 2):
        if not (valid[i] and valid[j]):
            continue
        plan = separation((*xyz[i, :2], yaw[i], *size[i, :2]), (*xyz[j, :2], yaw[j], *size[j, :2]))
        low = max(xyz[i, 2] - size[i, 2] / 2, xyz[j, 2] - size[j, 2] / 2)
        high = min(xyz[i, 2] + size[i, 2] / 2, xyz[j, 2] + size[j, 2] / 2)
        hits[i, j] = plan < 0 and low <= high
    return hits


def cross(a, b) -> float:
    """z of the vector product."""
    return a[0] * b[1] - a[1] * b[0]


def signed_distance(polylines: list[np.ndarray], point: np.ndarray) -> float:
    """Signed distance of a point to road edges [n, 3], positive to the right: Sim Agents rules, all loops closed."""
    best, signed = math.inf, 0.0
    for line in polylines:
        line = [p for i, p in enumerate(line) if i == 0 or tuple(p[:2]) != tuple(line[i - 1][:2])]
        pieces = list(itertools.pairwise(line))
        is_loop = len(pieces) > 2 and np.linalg.norm(line[0] - line[-1]) < LOOP_GAP
        for i, (a, b) in enumerate(pieces):
            along = b - a
            t = np.dot((point - a)[:2], along[:2]) / np.dot(along[:2], along[:2])
            gap = point - (a + min(max(t, 0.0), 1.0) * along)
            rank = math.hypot(gap[0], gap[1], 3 * gap[2])
            if rank >= best:
                continue
            best = rank
            other, first, second = None, None, None
            if t < 0 and (i > 0 or is_loop):
                other = pieces[i - 1]
                first, second = other[1] - other[0], along
            elif t > 1 and (i + 1 < len(pieces) or is_loop):
                other = pieces[(i + 1) % len(pieces)]
                first, second = along, other[1] - other[0]
            side = np.sign(cross(point - a, along))
            if other is not None:
                other_side = np.sign(cross(point - other[0], other[1] - other[0]))
                is_convex = cross(first, second) > 0
                side = max(side, other_side) if is_convex else min(side, other_side)
            signed = side * math.hypot(gap[0], gap[1])
    return signed


def bicycle(x, y, yaw, vx, vy, acceleration, curvature, dt, allow_reverse=False) -> tuple:
    """(x, y, yaw, vx, vy) after one step: constant acceleration along the heading until rest, then the turn."""
    speed = vx * math.cos(yaw) + vy * math.sin(yaw)
    duration = dt
    if not allow_reverse:
        if speed * acceleration < 0:
            duration = min(dt, -speed / acceleration)
        elif speed <= 0 and acceleration < 0:
            acceleration = 0.0
    driven = speed * duration + acceleration * duration**2 / 2
    speed = speed + acceleration * duration
    new_yaw = wrap(yaw + curvature * driven)
    return (
        x + driven * math.cos(yaw),
        y + driven * math.sin(yaw),
        new_yaw,
        speed * math.cos(new_yaw),
        speed * math.sin(new_yaw),
    )


def bicycle_inverse(before: tuple, after: tuple, dt: float) -> tuple[float, float]:
    """Unclipped (acceleration, curvature) between two states (yaw, vx, vy)."""
    speeds = [vx * math.cos(yaw) + vy * math.sin(yaw) for yaw, vx, vy in (before, after)]
    acceleration = (speeds[1] - speeds[0]) / dt
    if abs(speeds[0]) < DEAD_BAND or abs(speeds[1]) < DEAD_BAND:
        return acceleration, 0.0
    course = math.atan2(after[2], after[1])
    if speeds[1] < 0:
        course += math.pi
    driven = (speeds[0] + speeds[1]) / 2 * dt
    return acceleration, wrap(course - before[0]) / driven


def is_infeasible(before: tuple, after: tuple, length: float, dt: float) -> bool:
    """Whether no bicycle makes a step between two states (x, y, yaw, vx, vy)."""
    (x0, y0, yaw0, *v0), (x1, y1, yaw1, *v1) = before, after
    speed0, speed1 = v0[0] * math.cos(yaw0) + v0[1] * math.sin(yaw0), v1[0] * math.cos(yaw1) + v1[1] * math.sin(yaw1)
    driven, turn = (speed0 + speed1) / 2 * dt, abs(wrap(yaw1 - yaw0))
    if abs(speed1 - speed0) / dt > 10.401:
        return True
    if abs(speed0) >= DEAD_BAND and abs(speed1) >= DEAD_BAND and turn > 0.301 * abs(driven):
        return True
    # Where the model gets to along a chord in the mean direction, and how far the position is from it.
    middle = yaw0 + wrap(yaw1 - yaw0) / 2
    ahead = (x1 - x0) * math.cos(middle) + (y1 - y0) * math.sin(middle) - driven
    aside = (y1 - y0) * math.cos(middle) - (x1 - x0) * math.sin(middle)
    slip = min(turn, 0.301 * abs(driven))
    if (
        abs(ahead) > 0.1 + 10.4 * dt**2 / 2 + abs(driven) * slip**2 / 8
        or abs(aside) > 0.1 + max(length, abs(driven)) / 2 * slip
    ):
        return True
    return abs(v1[1] * math.cos(yaw1) - v1[0] * math.sin(yaw1)) > 1 + length / 2 * slip / dt


def delta(x, y, yaw, dx, dy, turn, dt, frame) -> tuple:
    """(x, y, yaw, vx, vy) after a displacement."""
    if frame == "body":
        dx, dy = (
            dx * math.cos(yaw) - dy * math.sin(yaw),
            dx * math.sin(yaw) + dy * math.cos(yaw),
        )
    return x + dx, y + dy, wrap(yaw + turn), dx / dt, dy / dt


def grid(low: np.ndarray, high: np.ndarray, bins: tuple[int, ...]) -> np.ndarray:
    """Every point of a regular grid, the last number fastest, [K, A]."""
    levels = [np.linspace(a, b, count + 1) for a, b, count in zip(low, high, bins, strict=True)]
    return np.array(list(itertools.product(*levels)))


def is_wrong_way(lanes: list[np.ndarray], bottom: np.ndarray, yaw: float, junctions: tuple[int, ...] = ()) -> bool:
    """Whether the nearest lane opposes the heading by more than 120 degrees and no lane along the heading is near.

    `junctions` are the lanes whose direction excludes no other.
    """
    pieces = []
    for row, line in enumerate(lanes):
        for a, b in itertools.pairwise(line):
            along = b - a
            t = np.dot((bottom - a)[:2], along[:2]) / np.dot(along[:2], along[:2])
            gap = bottom - (a + min(max(t, 0.0), 1.0) * along)
            angle = math.degrees(abs(wrap(yaw - math.atan2(along[1], along[0]))))
            pieces.append((math.hypot(gap[0], gap[1], 3 * gap[2]), angle, row))
    distance, angle, row = min(pieces, key=lambda piece: piece[0])
    if distance >= 2.0 or angle <= 120 or row in junctions:
        return False
    return not any(distance < 2.0 and angle <= 90 for distance, angle, _ in pieces)


def project(path: np.ndarray, xy: np.ndarray) -> tuple[float, float]:
    """Distance to a path [n, 2] and arc length of the nearest point on it."""
    best, arc, driven = math.inf, 0.0, 0.0
    for a, b in itertools.pairwise(path):
        length = math.dist(a, b)
        t = min(max(np.dot(xy - a, b - a) / length**2, 0.0), 1.0)
        distance = math.dist(xy, a + t * (b - a))
        if distance < best:
            best, arc = distance, driven + t * length
        driven += length
    return best, arc


def summary(value, valid, active, evaluated, over_time: str, over_agents: str) -> tuple[float, bool]:
    """One number for [T, N] values: first over the steps of an agent, then over agents."""
    reduce = {"mean": lambda items: sum(items) / len(items), "max": max, "last": lambda items: items[-1], "onset": max}
    per_agent = []
    for agent in np.flatnonzero(evaluated):
        items = [value[step, agent] for step in range(len(active)) if active[step] and valid[step, agent]]
        if items and not (over_time == "onset" and items[0] > 0):
            per_agent.append(reduce[over_time](items))
    return (reduce[over_agents](per_agent), True) if per_agent else (0.0, False)


def distance_along(pieces: list[tuple], point: np.ndarray, yaw: float, angle: float) -> float:
    """Distance (heights three times) to the nearest piece (from, to) whose direction is within `angle` of `yaw`."""
    best = math.inf
    for a, b in pieces:
        along = b - a
        if abs(wrap(yaw - math.atan2(along[1], along[0]))) > angle:
            continue
        t = np.dot((point - a)[:2], along[:2]) / np.dot(along[:2], along[:2])
        gap = point - (a + min(max(t, 0.0), 1.0) * along)
        best = min(best, math.hypot(gap[0], gap[1], 3 * gap[2]))
    return best
