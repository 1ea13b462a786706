"""How lanes hang together, by geometry, on the host: what sources do not say."""

import numpy as np
from jaxtyping import Bool, Float, Int

from waymax_sim.datatypes.roadmap import CONTROLS, LEFT_NEIGHBOR, RIGHT_NEIGHBOR, SUCCESSOR
from waymax_sim.maps.centrelines import Centrelines, near_pairs

# A lane goes on in one that begins within this distance of its end (m), turned by at most this angle (rad). Recorded
# lanes meet exactly.
JOINT, KINK = 0.5, np.radians(45)
# Lanes are compared every so many metres, a segment at most so many times.
STEP, MOST_STATIONS = 2.0, 5
# Lanes lie side by side where their directions differ by at most this angle (rad) and their centres are this far apart
# (m), on one level (m). Where the source names neighbours, only they are looked at, within the last distance (m).
PARALLEL, NARROWEST, WIDEST, LEVEL, REACH = np.radians(20), 2.0, 5.0, 2.0, 8.0
# A stop sign stands to the right of where the lane begins that it controls: so far beside it and along it (m).
SIGN_ASIDE, SIGN_ALONG = 6.0, 3.0

Links = Int[np.ndarray, "L 3"]


def infer_successors(lines: Centrelines, is_bike: Bool[np.ndarray, " F"]) -> Links:
    """Links (lane, next lane, `SUCCESSOR`) where one lane ends at the beginning of another and in its direction."""
    lanes = np.flatnonzero(lines.count)
    last, first = lines.last[lanes], lines.first[lanes]
    end, start = lines.start[last] + lines.along[last], lines.start[first]
    a, b = near_pairs(end[:, :2], start[:, :2], JOINT)
    turn = _angle(lines.yaw[last[a]], lines.yaw[first[b]])
    level = np.abs(end[a, 2] - start[b, 2]) < LEVEL
    meet = (turn <= KINK) & level & (a != b) & (is_bike[lanes[a]] == is_bike[lanes[b]])
    return _links(lanes[a[meet]], lanes[b[meet]], SUCCESSOR)


def infer_controls(
    lines: Centrelines, signs: Int[np.ndarray, " G"], xyz: Float[np.ndarray, "G 3"], is_bike: Bool[np.ndarray, " F"]
) -> Links:
    """Links (stop sign, lane, `CONTROLS`): lanes whose common beginning is nearest to the left of a sign.

    Args:
      lines: Lane centres.
      signs: Rows of the stop signs in the feature table.
      xyz: Where they stand, m.
      is_bike: Which rows are bike lanes, which no sign is taken to be meant for.
    """
    lanes = np.flatnonzero((lines.count > 0) & ~is_bike)
    first = lines.first[lanes]
    start, yaw = lines.start[first], lines.yaw[first]
    sign, near = near_pairs(xyz[:, :2], start[:, :2], SIGN_ASIDE + SIGN_ALONG)
    along, aside = _seen_from(start[near], yaw[near], xyz[sign])
    fits = (np.abs(along) <= SIGN_ALONG) & (aside < 0) & (aside >= -SIGN_ASIDE)
    # Signs stand on posts.
    fits &= np.abs(xyz[sign, 2] - start[near, 2]) < 2 * LEVEL
    sign, near, aside = sign[fits], near[fits], aside[fits]
    nearest = np.full(len(xyz), -np.inf)
    np.maximum.at(nearest, sign, aside)
    chosen = aside >= nearest[sign] - JOINT
    return _links(signs[sign[chosen]], lanes[near[chosen]], CONTROLS)


def beside(
    lines: Centrelines, is_bike: Bool[np.ndarray, " F"], links: Links | None
) -> tuple[Int[np.ndarray, " E"], Int[np.ndarray, " E"]]:
    """For the middle of each segment the segment on the left and on the right of it, -1 where there is none.

    Args:
      lines: Lane centres.
      is_bike: Which rows are bike lanes.
      links: The neighbours that the source names; None where it names none and all lanes are looked at.
    """
    station = _Stations(lines)
    a, b = near_pairs(station.xyz[:, :2], station.xyz[:, :2], WIDEST + STEP if links is None else REACH)
    lane_a, lane_b = station.lane[a], station.lane[b]
    fits = (lane_a != lane_b) & (_angle(station.yaw[a], station.yaw[b]) <= PARALLEL)
    fits &= np.abs(station.xyz[a, 2] - station.xyz[b, 2]) < LEVEL
    a, b, lane_a, lane_b = a[fits], b[fits], lane_a[fits], lane_b[fits]
    ahead, aside = _seen_from(station.xyz[a], station.yaw[a], station.xyz[b])
    kind = np.where(aside > 0, LEFT_NEIGHBOR, RIGHT_NEIGHBOR)
    fits = np.abs(ahead) <= 0.6 * STEP
    if links is None:
        fits &= (np.abs(aside) >= NARROWEST) & (np.abs(aside) <= WIDEST) & (is_bike[lane_a] == is_bike[lane_b])
    else:
        size = len(lines.count)
        fits &= np.isin((lane_a * size + lane_b) * 4 + kind, (links[:, 0] * size + links[:, 1]) * 4 + links[:, 2])
    a, b, ahead, aside, kind = a[fits], b[fits], ahead[fits], aside[fits], kind[fits]

    # The nearest of each side; of one lane the station that lies straight across.
    order = np.lexsort([np.abs(ahead), np.round(np.abs(aside)), a])
    a, b, ahead, kind = a[order], b[order], ahead[order], kind[order]
    middle = lines.begin + lines.size / 2
    mine = station.at(lines, middle)
    found = []
    for side in (LEFT_NEIGHBOR, RIGHT_NEIGHBOR):
        rows, first = np.unique(a[kind == side], return_index=True)
        pair = np.full(len(station.lane), -1)
        pair[rows] = np.flatnonzero(kind == side)[first]
        chosen = pair[mine]
        if not len(a):
            found.append(chosen)
            continue
        across = b[chosen]
        where = station.where[across] - ahead[chosen] + middle - station.where[mine]
        found.append(np.where(chosen < 0, -1, lines.index[lines.find(where, station.lane[across])]))
    return found[0], found[1]


class _Stations:
    """Places at equal steps along every lane."""

    def __init__(self, lines: Centrelines):
        number = np.minimum(np.ceil(lines.length / STEP), MOST_STATIONS * lines.count).astype(int)
        self.number, self.first = number, np.cumsum(number) - number
        self.lane = np.repeat(np.arange(len(number)), number)
        place = np.arange(len(self.lane)) - self.first[self.lane] + 0.5
        self.where = lines.origin[self.lane] + place * (lines.length / np.maximum(number, 1))[self.lane]
        self.xyz = lines.point(self.where, self.lane)
        self.yaw = lines.yaw[lines.find(self.where, self.lane)]

    def at(self, lines: Centrelines, where: Float[np.ndarray, " E"]) -> Int[np.ndarray, " E"]:
        """The station nearest to a place of each segment, on the lane of that segment."""
        lane = lines.lane
        part = (where - lines.origin[lane]) / lines.length[lane] * self.number[lane]
        return self.first[lane] + np.clip(part.astype(int), 0, self.number[lane] - 1)


def _seen_from(origin: np.ndarray, yaw: np.ndarray, xyz: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far points lie ahead and to the left (m) of poses."""
    x, y = xyz[:, 0] - origin[:, 0], xyz[:, 1] - origin[:, 1]
    cos, sin = np.cos(yaw), np.sin(yaw)
    return cos * x + sin * y, cos * y - sin * x


def _angle(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Between directions (rad), from 0 to pi."""
    return np.abs(np.mod(a - b + np.pi, 2 * np.pi) - np.pi)


def _links(a: np.ndarray, b: np.ndarray, kind: int) -> Links:
    return np.stack([a, b, np.full_like(a, kind)], axis=-1)
