"""Slow and obvious float64 versions of the Sim Agents features, one agent and one step at a time, in the world frame.

Written from the definitions, quirks included. Tracks are [T, 3], headings and masks [T].
"""

import itertools
import math

import numpy as np

from tests.oracle import corners, cross, wrap


def halved_difference(values: np.ndarray) -> np.ndarray:
    """(next - previous) / 2, NaN at the ends."""
    found = np.full(len(values), np.nan)
    for t in range(1, len(values) - 1):
        found[t] = (values[t + 1] - values[t - 1]) / 2
    return found


def speed(xyz: np.ndarray) -> np.ndarray:
    return np.sqrt(sum(halved_difference(xyz[:, axis]) ** 2 for axis in range(xyz.shape[1]))) / 0.1


def turned(heading: np.ndarray) -> np.ndarray:
    """Halved differences of headings over two steps, the shorter way."""
    return np.array([math.nan if math.isnan(d) else wrap(2 * d) / 2 for d in halved_difference(heading)])


def motion(xyz: np.ndarray, heading: np.ndarray) -> dict[str, np.ndarray]:
    linear, turn = speed(xyz), turned(heading)
    return {
        "linear_speed": linear,
        "linear_acceleration": halved_difference(linear) / 0.1,
        "angular_speed": turn / 0.1,
        "angular_acceleration": turned(turn) / 0.01,
    }


def polygons_apart(a: np.ndarray, b: np.ndarray) -> float:
    """Signed distance of two convex polygons: the origin against the hull of all differences of their corners."""
    points = sorted({(x, y) for x, y in (a[:, None] - b[None]).reshape(-1, 2).tolist()})

    def half(points):
        chain = []
        for point in points:
            while len(chain) > 1 and cross(np.subtract(chain[-1], chain[-2]), np.subtract(point, chain[-1])) <= 0:
                chain.pop()
            chain.append(point)
        return chain[:-1]

    hull = np.array(half(points) + half(points[::-1]))
    outside, nearest = -math.inf, math.inf
    for start, end in zip(hull, np.roll(hull, -1, axis=0), strict=True):
        along = end - start
        t = min(max(np.dot(-start, along) / np.dot(along, along), 0.0), 1.0)
        nearest = min(nearest, math.hypot(*(start + t * along)))
        outside = max(outside, -cross(along, -start))
    return nearest if outside > 0 else -nearest


def nearest_object(boxes: list[tuple], there: np.ndarray, i: int) -> float:
    """Distance from box i to the nearest other; boxes are (x, y, heading, length, width)."""

    def core(box):
        radius = 0.7 * min(box[3:]) / 2
        return corners(*box[:3], box[3] - 2 * radius, box[4] - 2 * radius), radius

    best = 1e10
    for j, other in enumerate(boxes):
        if j != i and there[i] and there[j]:
            (a, radius_a), (b, radius_b) = core(boxes[i]), core(other)
            best = min(best, polygons_apart(a, b) - radius_a - radius_b)
    return best


def time_to_collision(boxes: list[tuple], there: np.ndarray, speeds: np.ndarray, i: int, wrapped: bool) -> float:
    x, y, heading, length, width = boxes[i]
    gaps = []
    for j, (xj, yj, hj, lj, wj) in enumerate(boxes):
        turn = abs(wrap(hj - heading)) if wrapped else abs(hj - heading)
        rx = math.cos(heading) * (xj - x) + math.sin(heading) * (yj - y)
        ry = math.cos(heading) * (yj - y) - math.sin(heading) * (xj - x)
        gap = rx - length / 2 - lj / 2 * abs(math.cos(turn)) - wj / 2 * abs(math.sin(turn))
        overlap = abs(ry) - width / 2 - lj / 2 * abs(math.sin(turn)) - wj / 2 * abs(math.cos(turn))
        follows = gap > 0 and turn <= math.radians(75) and overlap < 0
        follows = follows and (overlap < -0.5 or turn <= math.radians(10)) and there[j]
        gaps.append((gap if follows else math.inf, j))
    gap, leader = min(gaps)
    closing = speeds[i] - speeds[leader]
    return min(gap / closing, 5.0) if gap < math.inf and closing > 0 else 5.0


def road_edge(polylines: list[np.ndarray], point: np.ndarray, all_loops: bool = False) -> float:
    """Signed distance of a point; of closed lines only those with the most points are closed, unless `all_loops`."""
    longest = max(len(line) for line in polylines)
    best, signed = math.inf, 0.0
    for line in polylines:
        pieces = list(itertools.pairwise(line))
        is_loop = np.linalg.norm(line[0] - line[-1]) < 1.0 and (all_loops or len(line) == longest)
        for k, (a, b) in enumerate(pieces):
            along = b - a
            t = np.dot((point - a)[:2], along[:2]) / np.dot(along[:2], along[:2])
            gap = point - a - min(max(t, 0.0), 1.0) * along
            rank = math.hypot(gap[0], gap[1], 3 * gap[2])
            if rank >= best:
                continue
            side, other = np.sign(cross((point - a)[:2], along[:2])), None
            if t < 0 and (k > 0 or is_loop):
                other = pieces[k - 1]
                convex = cross((other[1] - other[0])[:2], along[:2]) > 0
            elif t > 1 and (k + 1 < len(pieces) or is_loop):
                other = pieces[(k + 1) % len(pieces)]
                convex = cross(along[:2], (other[1] - other[0])[:2]) > 0
            if other is not None:
                other_side = np.sign(cross((point - other[0])[:2], (other[1] - other[0])[:2]))
                side = max(side, other_side) if convex else min(side, other_side)
            best, signed = rank, side * math.hypot(gap[0], gap[1])
    return signed


def most_off_road(polylines: list[np.ndarray], xyz: np.ndarray, heading: float, size: np.ndarray) -> float:
    bottom = xyz[2] - size[2] / 2
    at = corners(*xyz[:2], heading, *size[:2])
    return max(road_edge(polylines, np.array([*corner, bottom])) for corner in at)


def lane_pieces(lanes: dict[int, np.ndarray], official: bool) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Lane, start and end of each piece; officially one to the origin where a lane is shorter than the longest."""
    longest = max(map(len, lanes.values()))
    found = []
    for lane, points in lanes.items():
        padded = [*points[:, :2], np.zeros(2)] if official and len(points) < longest else list(points[:, :2])
        found += [(lane, a, b) for a, b in itertools.pairwise(padded)]
    return found


class RedLights:
    """The lights of a scene; `lights` gives lane -> (state, stop point) for each step.

    Officially lanes have a piece too many, what should be a distance has a plus for a minus, and a light that is not
    seen is at the origin; otherwise it must be seen before and after.
    """

    def __init__(self, lanes: dict[int, np.ndarray], lights: list[dict[int, tuple]], official: bool = True):
        self.lights, self.official = lights, official
        self.pieces = lane_pieces(lanes, official)
        self.signals = sorted({lane for step in lights for lane in step} & lanes.keys())
        self.lines = [{signal: self._line(step, signal) for signal in self.signals} for step in lights]

    def _line(self, step: dict[int, tuple], signal: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The stop point, and the piece of its lane that is nearest to it."""
        stop = step.get(signal, (0, np.zeros(2)))[1]
        own = [piece for piece in self.pieces if piece[0] == signal]
        return stop, *min(own, key=lambda piece: self._away(stop, piece))[1:]

    def _away(self, where: np.ndarray, piece: tuple) -> float:
        u, v = where - piece[1], piece[2] - piece[1]
        t = min(max(np.dot(u, v) / np.dot(v, v), 0.0), 1.0)
        return math.hypot(*(u + t * v if self.official else u - t * v))

    def run_by(self, xy: np.ndarray, there: np.ndarray) -> np.ndarray:
        """Whether an agent [T, 2] runs any of them, at each step."""
        found = np.zeros(len(xy), bool)
        for t in range(1, len(xy)):
            for signal in self.signals:
                seen = signal in self.lights[t - 1] and signal in self.lights[t]
                state = self.lights[t].get(signal, (0, None))[0]
                if not (there[t] and state in (1, 4) and (seen or self.official)):
                    continue
                (line_before, before), (line_now, now) = (self._along(xy[k], k, signal) for k in (t - 1, t))
                if before < line_before and now > line_now:
                    nearest = min(self.pieces, key=lambda piece: self._away(xy[t], piece))
                    found[t] |= nearest[0] == signal
        return found

    def _along(self, xy: np.ndarray, t: int, signal: int) -> tuple[float, float]:
        """How far along the piece of the stop point: the stop point and an agent."""
        stop, a, b = self.lines[t][signal]
        return tuple(np.dot(where - a, b - a) / np.dot(b - a, b - a) for where in (stop, xy))


def bins(values: np.ndarray, low: float, high: float, count: int) -> list[int]:
    """Bin of each value; NaN goes to the last one."""
    ends = [
        np.float32(low) + np.float32(i) * ((np.float32(high) - np.float32(low)) / np.float32(count))
        for i in range(count)
    ]
    found = []
    for value in np.asarray(values, np.float32).ravel():
        if math.isnan(value):
            found.append(count - 1)
        else:
            value = min(max(value, np.float32(low)), np.float32(high))
            found.append(max(i for i in range(count) if value >= ends[i]))
    return found


def histogram(log: np.ndarray, sim: np.ndarray, low: float, high: float, count: int, c: float) -> np.ndarray:
    """Log-probability of each logged value under the simulated ones."""
    counts = [0] * count
    for b in bins(sim, low, high, count):
        counts[b] += 1
    return np.array([math.log((counts[b] + c) / (sim.size + count * c)) for b in bins(log, low, high, count)])
