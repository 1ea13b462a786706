"""The lane graph: how lanes continue, what lies beside them, where to stop; and ways along it."""

from typing import NamedTuple

from jaxtyping import Bool, Float, Int

from waymax_sim.pytree import Array, pytree


@pytree
class StopLines:
    """Where lanes with a light or a stop sign are to be stopped at.

    Attributes:
      lane: The lane, a row of the feature table; -1 for padding.
      xyz: Where the line crosses the centre of the lane, m, local frame.
      yaw: Direction of the lane there, rad.
    """

    lane: Int[Array, " Z"]
    xyz: Float[Array, "Z 3"]
    yaw: Float[Array, " Z"]


@pytree
class LaneGraph:
    """What is known of lanes besides their `Segments`. A lane is named by its row F of the feature table.

    Rows that are no lanes have no segments. Without any feature there is one such row.

    Attributes:
      first: Its first segment in `Scenario.lanes`; the others follow it.
      count: Number of its segments.
      length: Arc length in the plane, m.
      speed_limit: m/s; by the type of the lane where the source has none.
      is_bike: Whether it is a bike lane.
      successors: Lanes that begin where it ends, the straightest first; -1 for padding.
      predecessors: Lanes that end where it begins; -1 for padding.
      stop: Arc length of its stop line, m; says nothing without a light or stop sign.
      light: Column of its traffic light in `Signals`, -1 without one.
      stop_sign: Whether it has a stop sign.
      stop_lines: The stop lines of lanes that have a light or a stop sign.
      arc_length: Where each segment begins on its lane, m.
      curvature: Of the lane at the middle of each segment, 1/m; positive to the left.
      left: Segment of the lane on the left that lies beside the middle of each segment, -1 without one.
      right: The same on the right.
      inferred: By kind of link (successor, left, right, stop sign): found by geometry, since the source has none.
    """

    first: Int[Array, " F"]
    count: Int[Array, " F"]
    length: Float[Array, " F"]
    speed_limit: Float[Array, " F"]
    is_bike: Bool[Array, " F"]
    successors: Int[Array, "F D"]
    predecessors: Int[Array, "F D"]
    stop: Float[Array, " F"]
    light: Int[Array, " F"]
    stop_sign: Bool[Array, " F"]
    stop_lines: StopLines
    arc_length: Float[Array, "C W"]
    curvature: Float[Array, "C W"]
    left: Int[Array, "C W"]
    right: Int[Array, "C W"]
    inferred: Bool[Array, " 4"]


@pytree
class LanePath:
    """A way along consecutive lanes, sampled at equal steps. The leading axes are free.

    Where its lanes end it goes straight on, so that it has a direction everywhere. It means nothing where its first
    lane is -1.

    Attributes:
      xyz: Points, m, local frame. Point i lies at arc length i * spacing.
      yaw: Direction, rad.
      curvature: 1/m; positive to the left.
      speed_limit: m/s.
      spacing: Arc length between points, m.
      length: Arc length at which its last lane ends, m.
      goes_on: Whether other lanes begin there, which are not part of the path.
      lanes: The lanes in order (rows of the feature table), -1 after the last one.
      begins: Arc length at which each lane begins, m: not positive for the first, infinite for padding.
      stop: Arc length of the stop line of each lane, m; infinite where there is none ahead.
      light: Column of the light of each lane in `Signals`, -1 without one.
      stop_sign: Whether each lane has a stop sign.
    """

    xyz: Float[Array, "*lead R 3"]
    yaw: Float[Array, "*lead R"]
    curvature: Float[Array, "*lead R"]
    speed_limit: Float[Array, "*lead R"]
    spacing: Float[Array, "*lead"]
    length: Float[Array, "*lead"]
    goes_on: Bool[Array, "*lead"]
    lanes: Int[Array, "*lead Q"]
    begins: Float[Array, "*lead Q"]
    stop: Float[Array, "*lead Q"]
    light: Int[Array, "*lead Q"]
    stop_sign: Bool[Array, "*lead Q"]


class Frenet(NamedTuple):
    """A pose seen from a line: arc length (m), offset to the left (m), and heading relative to the line (rad)."""

    arc_length: Float[Array, "*q"]
    lateral: Float[Array, "*q"]
    heading: Float[Array, "*q"]
