"""Lane centres as the host sees them: one after the other on one long line. Also, which places are near."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from waymax_sim.datatypes.roadmap import Segments

# Pairs of places beyond which none are listed: a map with everything in one spot. Recorded maps need a tenth of it.
MOST_PAIRS = 2_000_000


@dataclasses.dataclass(frozen=True)
class Centrelines:
    """Valid lane segments in order, float64. Lanes lie end to end on one line, where `begin` says how far along.

    Attributes:
      index: Number of each segment in `Segments`.
      lane: Row of the feature table.
      start: m.
      along: From start to end, m.
      size: Length in the plane, m.
      begin: Where each segment begins on the line, m.
      first: By row of the table: the first of its segments here.
      count: By row of the table: the number of its segments.
      origin: By row of the table: where it begins on the line, m.
      length: By row of the table, m.
    """

    index: Int[np.ndarray, " E"]
    lane: Int[np.ndarray, " E"]
    start: Float[np.ndarray, "E 3"]
    along: Float[np.ndarray, "E 3"]
    size: Float[np.ndarray, " E"]
    begin: Float[np.ndarray, " E"]
    first: Int[np.ndarray, " F"]
    count: Int[np.ndarray, " F"]
    origin: Float[np.ndarray, " F"]
    length: Float[np.ndarray, " F"]

    @property
    def yaw(self) -> Float[np.ndarray, " E"]:
        """Direction of each segment, rad."""
        return np.arctan2(self.along[:, 1], self.along[:, 0])

    @property
    def last(self) -> Int[np.ndarray, " F"]:
        """By row of the table: the last of its segments."""
        return self.first + self.count - 1

    def find(self, where: Float[np.ndarray, "*q"], lane: Int[np.ndarray, "*q"]) -> Int[np.ndarray, "*q"]:
        """The segment of a lane at a place on the line."""
        found = np.searchsorted(self.begin, where, side="right") - 1
        return np.clip(found, self.first[lane], self.last[lane])

    def point(self, where: Float[np.ndarray, "*q"], lane: Int[np.ndarray, "*q"]) -> Float[np.ndarray, "*q 3"]:
        """The point of a lane at a place on the line, m."""
        segment = self.find(where, lane)
        part = (where - self.begin[segment]) / self.size[segment]
        return self.start[segment] + np.clip(part, 0.0, 1.0)[..., None] * self.along[segment]


def centrelines(lanes: Segments, num_features: int) -> Centrelines:
    """Reads lane segments off the record; `num_features` is the number of rows of the feature table."""
    index = np.flatnonzero(lanes.valid)
    lane = lanes.feature.reshape(-1)[index]
    start = lanes.start[index].astype(np.float64)
    along = lanes.end[index] - start
    # Not `hypot`, whose last bit differs: a store makes these sums anew, and must find the same.
    size = np.sqrt(along[:, 0] * along[:, 0] + along[:, 1] * along[:, 1])
    finish = np.cumsum(size)
    heads = np.flatnonzero(np.diff(lane, prepend=-1))
    first, count = np.zeros(num_features, int), np.bincount(lane, minlength=num_features)
    first[lane[heads]] = heads
    line = np.append(0.0, finish)
    origin = line[first]
    return Centrelines(
        index, lane, start, along, size, line[:-1], first, count, origin, length=line[first + count] - origin
    )


def near_pairs(
    a: Float[np.ndarray, "A 2"], b: Float[np.ndarray, "B 2"], radius: float
) -> tuple[Int[np.ndarray, " P"], Int[np.ndarray, " P"]]:
    """Rows of `a` and of `b` that lie within `radius` (m) of each other; none if there are absurdly many."""
    none = np.zeros(0, int)
    if not len(a) or not len(b):
        return none, none
    low = b.min(axis=0)
    cell_a, cell_b = (np.floor((xy - low) / radius).astype(np.int64) for xy in (a, b))
    # Cells are ordered by x, then by y, so a cell and the two beside it are one run.
    width = cell_b[:, 1].max() + 3
    key = cell_b[:, 0] * width + cell_b[:, 1]
    order = np.argsort(key, kind="stable")
    inside = (cell_a[:, 1] >= -1) & (cell_a[:, 1] < width - 1)
    middle = cell_a[:, 0] * width + cell_a[:, 1]
    middle = np.stack([middle - width, middle, middle + width])
    begins = np.searchsorted(key[order], middle - 1)
    ends = np.searchsorted(key[order], middle + 1, side="right")
    count = np.where(inside, ends - begins, 0)
    if count.sum() > MOST_PAIRS:
        return none, none
    first = np.tile(np.arange(len(a)), 3)
    count, begins = count.reshape(-1), begins.reshape(-1)
    row = np.repeat(first, count)
    place = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(begins, count)
    other = order[place]
    near = ((a[row] - b[other]) ** 2).sum(axis=-1) <= radius**2
    return row[near], other[near]
