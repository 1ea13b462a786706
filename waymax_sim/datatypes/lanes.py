"""The lane graph, paths along it, and poses in Frenet frames."""

from typing import NamedTuple

from jaxtyping import Bool, Float, Int

from waymax_sim.pytree import Array, pytree


@pytree
class StopLines:
    """Stop lines of lanes with a light or a stop sign.

    Attributes:
      lane: The lane, a row of the feature table; -1 for padding.
      xyz: Intersection of the line with the centerline of the lane, m, local frame.
      yaw: Direction of the lane at that point, rad.
    """

    lane: Int[Array, " Z"]
    xyz: Float[Array, "Z 3"]
    yaw: Float[Array, " Z"]


@pytree
class LaneGraph:
    """Connectivity and attributes of lanes. The index of a lane is its row F of the feature table.

    Rows of other features have no segments. A map without features has one such row.

    Attributes:
      first_segment: First segment of each lane in `Scenario.lanes`; the others follow it.
      num_segments: Number of segments of each lane.
      length: Arc length of each lane in the plane, m.
      speed_limit: Speed limit, m/s; by lane type where the source has none.
      is_bike: Whether a lane is a bike lane.
      is_junction: Whether a lane leads over a junction: it crosses another lane, or forks from or merges with such one.
      successors: Lanes that begin where a lane ends, the straightest first; -1 for padding.
      predecessors: Lanes that end where a lane begins; -1 for padding.
      stop: Arc length of the stop line, m; undefined without a light or stop sign.
      light: Column of the traffic light of a lane in `Signals`, -1 without one.
      stop_sign: Whether a lane has a stop sign.
      stop_lines: Stop lines of the lanes with a light or a stop sign.
      arc_length: Arc length on its lane at which each segment begins, m.
      curvature: Curvature of the lane at the middle of each segment, 1/m; positive to the left.
      left: Adjacent segment of the lane to the left, at the middle of each segment; -1 without one.
      right: The same to the right.
      has_unassigned_sign: Whether a stop sign has no lane although its lanes are inferred.
      inferred: By kind of link (successor, left, right, stop sign): inferred from geometry, since the source has none.
    """

    first_segment: Int[Array, " F"]
    num_segments: Int[Array, " F"]
    length: Float[Array, " F"]
    speed_limit: Float[Array, " F"]
    is_bike: Bool[Array, " F"]
    is_junction: Bool[Array, " F"]
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
    has_unassigned_sign: Bool[Array, ""]
    inferred: Bool[Array, " 4"]


@pytree
class LanePath:
    """A path along consecutive lanes, sampled at equal steps. The leading axes are free.

    Beyond its last lane a path continues straight, so it has a direction everywhere. It is undefined where its first
    lane is -1.

    Attributes:
      xyz: Points, m, local frame. Point i lies at arc length i * spacing.
      yaw: Direction at each point, rad.
      curvature: Curvature at each point, 1/m; positive to the left.
      speed_limit: Speed limit at each point, m/s.
      spacing: Arc length between points, m.
      length: Arc length at which the last lane ends, m.
      continues: Whether the last lane has a successor that is not part of the path.
      lanes: The lanes in order (rows of the feature table), -1 after the last one.
      lane_start: Arc length at which each lane begins, m: not positive for the first, infinite for padding.
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
    continues: Bool[Array, "*lead"]
    lanes: Int[Array, "*lead Q"]
    lane_start: Float[Array, "*lead Q"]
    stop: Float[Array, "*lead Q"]
    light: Int[Array, "*lead Q"]
    stop_sign: Bool[Array, "*lead Q"]


class Frenet(NamedTuple):
    """A pose in the frame of a path: arc length (m), lateral offset to the left (m), and relative heading (rad)."""

    arc_length: Float[Array, "*q"]
    lateral: Float[Array, "*q"]
    heading: Float[Array, "*q"]
