"""Lane centerlines on the host, concatenated along one axis, and fixed-radius neighbor search."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from waymax_sim.datatypes.roadmap import Segments
from waymax_sim.ops.polyline import segment_projection

# Maximal number of pairs of neighbors; none are listed beyond, for maps with all points at one position. Recorded maps
# have a tenth of it.
MAX_NEIGHBOR_PAIRS = 2_000_000


@dataclasses.dataclass(frozen=True)
class Centerlines:
    """Valid lane segments in order, float64. The lanes are concatenated along one axis, on which positions are in m.

    Attributes:
      segment_index: Index of each segment in `Segments`.
      lane: Lane of each segment, a row of the feature table.
      start: First endpoint, m.
      along: Vector to the second endpoint, m.
      segment_length: Length in the plane, m.
      segment_start: Position at which each segment begins, m.
      first_segment: First segment of each row of the feature table.
      num_segments: Number of segments of each row of the feature table.
      lane_start: Position at which each row of the feature table begins, m.
      length: Length of each row of the feature table, m.
    """

    segment_index: Int[np.ndarray, " E"]
    lane: Int[np.ndarray, " E"]
    start: Float[np.ndarray, "E 3"]
    along: Float[np.ndarray, "E 3"]
    segment_length: Float[np.ndarray, " E"]
    segment_start: Float[np.ndarray, " E"]
    first_segment: Int[np.ndarray, " F"]
    num_segments: Int[np.ndarray, " F"]
    lane_start: Float[np.ndarray, " F"]
    length: Float[np.ndarray, " F"]

    @property
    def yaw(self) -> Float[np.ndarray, " E"]:
        """Direction of each segment, rad."""
        return np.arctan2(self.along[:, 1], self.along[:, 0])

    @property
    def last_segment(self) -> Int[np.ndarray, " F"]:
        """Last segment of each row of the feature table."""
        return self.first_segment + self.num_segments - 1

    def find_segment(self, position: Float[np.ndarray, "*q"], lane: Int[np.ndarray, "*q"]) -> Int[np.ndarray, "*q"]:
        """The segment of a lane at a position; its first or last one beyond the ends of the lane."""
        segment = np.searchsorted(self.segment_start, position, side="right") - 1
        return np.clip(segment, self.first_segment[lane], self.last_segment[lane])

    def point(self, position: Float[np.ndarray, "*q"], lane: Int[np.ndarray, "*q"]) -> Float[np.ndarray, "*q 3"]:
        """The point of a lane at a position, m."""
        segment = self.find_segment(position, lane)
        fraction = (position - self.segment_start[segment]) / self.segment_length[segment]
        return self.start[segment] + np.clip(fraction, 0.0, 1.0)[..., None] * self.along[segment]

    def project(
        self, segments: slice, x: Float[np.ndarray, "*q 1"], y: Float[np.ndarray, "*q 1"]
    ) -> tuple[Float[np.ndarray, "*q E"], Float[np.ndarray, "*q E"]]:
        """Position of the nearest point on each segment of a range, from 0 to 1, and its squared distance, m^2.

        Args:
          segments: Range of segments.
          x: Query points, m.
          y: The same.
        """
        start, along, length = self.start[segments], self.along[segments], self.segment_length[segments]
        return segment_projection((start[:, 0], start[:, 1]), (along[:, 0], along[:, 1]), (x, y), length**2, xp=np)


def extract_centerlines(lanes: Segments, num_features: int) -> Centerlines:
    """The centerlines of lane segments; `num_features` is the number of rows of the feature table."""
    segment_index = np.flatnonzero(lanes.valid)
    lane = lanes.feature.reshape(-1)[segment_index]
    start = lanes.start[segment_index].astype(np.float64)
    along = lanes.end[segment_index] - start
    # Not `hypot`, which rounds differently: a store recomputes these sums and must get equal bits.
    length = np.sqrt(along[:, 0] * along[:, 0] + along[:, 1] * along[:, 1])
    first_rows = np.flatnonzero(np.diff(lane, prepend=-1))
    first, count = np.zeros(num_features, int), np.bincount(lane, minlength=num_features)
    first[lane[first_rows]] = first_rows
    joints = np.append(0.0, np.cumsum(length))
    lane_start = joints[first]
    lane_length = joints[first + count] - lane_start
    return Centerlines(
        segment_index, lane, start, along, length, joints[:-1], first, count, lane_start, length=lane_length
    )


def pairs_within_radius(
    a: Float[np.ndarray, "A 2"], b: Float[np.ndarray, "B 2"], radius: float
) -> tuple[Int[np.ndarray, " P"], Int[np.ndarray, " P"]]:
    """Pairs of rows of `a` and `b` within a radius of each other, by a uniform grid.

    Args:
      a: Points, m.
      b: Points, m.
      radius: Maximal distance, m.

    Returns:
      The rows of `a` and of `b`; none if there are more than `MAX_NEIGHBOR_PAIRS` candidates.
    """
    none = np.zeros(0, int)
    if not len(a) or not len(b):
        return none, none
    low = b.min(axis=0)
    cell_a, cell_b = (np.floor((xy - low) / radius).astype(np.int64) for xy in (a, b))
    # Cells are ordered by x, then by y, so a cell and its two neighbors along y are one run of keys.
    width = cell_b[:, 1].max() + 3
    key = cell_b[:, 0] * width + cell_b[:, 1]
    order = np.argsort(key, kind="stable")
    is_inside = (cell_a[:, 1] >= -1) & (cell_a[:, 1] < width - 1)
    middle = cell_a[:, 0] * width + cell_a[:, 1]
    middle = np.stack([middle - width, middle, middle + width])
    run_start = np.searchsorted(key[order], middle - 1)
    run_end = np.searchsorted(key[order], middle + 1, side="right")
    count = np.where(is_inside, run_end - run_start, 0)
    if count.sum() > MAX_NEIGHBOR_PAIRS:
        return none, none
    count, run_start = count.reshape(-1), run_start.reshape(-1)
    row = np.repeat(np.tile(np.arange(len(a)), 3), count)
    position = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(run_start, count)
    other = order[position]
    is_near = ((a[row] - b[other]) ** 2).sum(axis=-1) <= radius**2
    return row[is_near], other[is_near]
