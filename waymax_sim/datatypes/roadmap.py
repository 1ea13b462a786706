"""The map: sampled features, their table, and the segments the simulator asks questions of."""

from jaxtyping import Bool, Float, Int

from waymax_sim.pytree import Array, pytree

# Feature types are the codes of WOMD tf.Examples; 20 is what later releases use for driveways.
LANE_UNDEFINED, LANE_FREEWAY, LANE_SURFACE_STREET, LANE_BIKE = range(4)
ROAD_LINE_UNKNOWN = 5
ROAD_EDGE_UNKNOWN, ROAD_EDGE_BOUNDARY, ROAD_EDGE_MEDIAN = 14, 15, 16
STOP_SIGN, CROSSWALK, SPEED_BUMP, DRIVEWAY = 17, 18, 19, 20

LANE_TYPES = (LANE_UNDEFINED, LANE_FREEWAY, LANE_SURFACE_STREET, LANE_BIKE)
ROAD_LINE_TYPES = tuple(range(5, 14))
ROAD_EDGE_TYPES = (ROAD_EDGE_UNKNOWN, ROAD_EDGE_BOUNDARY, ROAD_EDGE_MEDIAN)

# Segments are stored in chunks of this many; padding is put this far away (m), so that it is never nearest.
CHUNK, FAR = 8, 1e8

# Kinds of links: from a lane to another lane, and from a stop sign to a lane.
SUCCESSOR, LEFT_NEIGHBOR, RIGHT_NEIGHBOR, CONTROLS = range(4)


def kind_name(feature_type: int) -> str:
    """The kind of a feature type in one word: lane, road_line, road_edge, stop_sign, ..., unknown."""
    for name, types in (("lane", LANE_TYPES), ("road_line", ROAD_LINE_TYPES), ("road_edge", ROAD_EDGE_TYPES)):
        if feature_type in types:
            return name
    names = {STOP_SIGN: "stop_sign", CROSSWALK: "crosswalk", SPEED_BUMP: "speed_bump", DRIVEWAY: "driveway"}
    return names.get(feature_type, "unknown")


@pytree
class RoadMap:
    """Map features as one flat list of points, in order and contiguous per feature.

    Attributes:
      xyz: Points of polylines and polygons (not closed), m, local frame.
      feature: Row of each point in the feature table.
      valid: False for padding points.
      feature_id: Map id of the source.
      feature_type: WOMD tf.Example code (1 freeway ... 15 road-edge boundary ... 20 driveway), -1 for padding.
      speed_limit: Speed limit of lanes, m/s; 0 where unknown.
      links: Rows (from, to, kind) between rows of the feature table; kind 0 successor, 1 left neighbour,
        2 right neighbour, 3 lane that a stop sign controls; -1 for padding.
    """

    xyz: Float[Array, "P 3"]
    feature: Int[Array, " P"]
    valid: Bool[Array, " P"]
    feature_id: Int[Array, " F"]
    feature_type: Int[Array, " F"]
    speed_limit: Float[Array, " F"]
    links: Int[Array, "L 3"]


@pytree
class SegmentIndex:
    """Which chunks of segments may hold the one nearest to a place. A quadtree in the plane.

    Codes name what is known of a cell: a code that is not negative is the row of its quarters in `nodes`, any other is
    `~row` of its list in `lists`. List 0 is that of nowhere: it holds at no height.

    Attributes:
      corner: Lowest x and y of the cells, m, local frame.
      size: Side of the cells that the tree starts from, m.
      root: Codes of the cells that the tree starts from, by x and y.
      nodes: Codes of the quarters of a cell: low x low y, low x high y, high x low y, high x high y.
      lists: Chunks in ascending order; a list that is not full repeats its first chunk.
      side: On which side of the nearest segment all places are for which a list holds: 1 right, -1 left, 0 not the
        same everywhere.
      low: Lowest height at which a list holds, m.
      high: Highest height at which a list holds, m.
    """

    corner: Float[Array, " 2"]
    size: Float[Array, ""]
    root: Int[Array, "G G"]
    nodes: Int[Array, "Q 4"]
    lists: Int[Array, "L W"]
    side: Int[Array, " L"]
    low: Float[Array, " L"]
    high: Float[Array, " L"]


@pytree
class Segments:
    """Straight pieces between consecutive points of map features, in C chunks of W = `CHUNK`, each of one feature.

    Segment i is number `i % W` of chunk `i // W`.

    Attributes:
      ends: x, y and z of the first end, then of the second, m, local frame. Padding lies far away.
      previous: Index of the segment that ends where this one starts, -1 where there is none. The first
        segment of a closed loop has the last one here.
      next: Index of the segment that starts where this one ends, -1 where there is none.
      feature: Row of the feature table.
      valid: False for padding: at the end of a chunk that is not full, and of the whole. There is at least one chunk.
      index: Finds the nearest segment without looking at all of them.
    """

    ends: Float[Array, "C 6 W"]
    previous: Int[Array, "C W"]
    next: Int[Array, "C W"]
    feature: Int[Array, "C W"]
    valid: Bool[Array, "C W"]
    index: SegmentIndex

    @property
    def start(self) -> Float[Array, "E 3"]:
        """First ends of all segments, m."""
        return self.ends[:, :3].swapaxes(1, 2).reshape(-1, 3)

    @property
    def end(self) -> Float[Array, "E 3"]:
        """Second ends of all segments, m."""
        return self.ends[:, 3:].swapaxes(1, 2).reshape(-1, 3)
