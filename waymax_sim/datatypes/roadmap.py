"""The map: sampled features, their table, and indexed segments of road edges and lanes."""

from jaxtyping import Bool, Float, Int

from waymax_sim.pytree import Array, pytree

# Feature types are the codes of WOMD tf.Examples; 20 is the code of driveways in later releases.
LANE_UNDEFINED = 0
LANE_FREEWAY = 1
LANE_SURFACE_STREET = 2
LANE_BIKE = 3
ROAD_LINE_UNKNOWN = 5
ROAD_EDGE_UNKNOWN = 14
ROAD_EDGE_BOUNDARY = 15
ROAD_EDGE_MEDIAN = 16
STOP_SIGN = 17
CROSSWALK = 18
SPEED_BUMP = 19
DRIVEWAY = 20

LANE_TYPES = (LANE_UNDEFINED, LANE_FREEWAY, LANE_SURFACE_STREET, LANE_BIKE)
ROAD_LINE_TYPES = tuple(range(5, 14))
ROAD_EDGE_TYPES = (ROAD_EDGE_UNKNOWN, ROAD_EDGE_BOUNDARY, ROAD_EDGE_MEDIAN)

# Number of segments per chunk.
CHUNK_SIZE = 8
# Coordinates of padding segments, m: so far away that padding is never nearest.
PADDING_COORDINATE = 1e8

# Kinds of links: from a lane to another lane, and from a stop sign to a lane.
SUCCESSOR = 0
LEFT_NEIGHBOR = 1
RIGHT_NEIGHBOR = 2
CONTROLS = 3


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
      links: Rows (from, to, kind) between rows of the feature table; kind 0 successor, 1 left neighbor,
        2 right neighbor, 3 lane that a stop sign controls; -1 for padding.
      driveways: Sides of driveway polygons, counter-clockwise: x and y of the first endpoint, then of the second, m;
        far away for padding.
    """

    xyz: Float[Array, "P 3"]
    feature: Int[Array, " P"]
    valid: Bool[Array, " P"]
    feature_id: Int[Array, " F"]
    feature_type: Int[Array, " F"]
    speed_limit: Float[Array, " F"]
    links: Int[Array, "L 3"]
    driveways: Float[Array, "D 4"]


@pytree
class SegmentIndex:
    """A quadtree in the plane whose leaves list the chunks that may contain the nearest segment.

    A code of at least 0 is the row of the four children of a cell in `nodes`; a negative code is `~row` of the list of
    a leaf in `lists`. List 0, for points outside of the tree, is valid at no height.

    Attributes:
      corner: Smallest x and y of the root cells, m, local frame.
      cell_size: Side of a root cell, m.
      root: Codes of the root cells, by x and y.
      nodes: Codes of the quarters of a cell: low x low y, low x high y, high x low y, high x high y.
      lists: Candidate chunks in ascending order; a list that is not full repeats its first chunk.
      side: Side of the nearest segment on which all points of a leaf lie: 1 right, -1 left, 0 differs.
      min_z: Smallest height at which a list is valid, m.
      max_z: Largest height at which a list is valid, m.
    """

    corner: Float[Array, " 2"]
    cell_size: Float[Array, ""]
    root: Int[Array, "G G"]
    nodes: Int[Array, "Q 4"]
    lists: Int[Array, "L W"]
    side: Int[Array, " L"]
    min_z: Float[Array, " L"]
    max_z: Float[Array, " L"]


@pytree
class Segments:
    """Straight pieces between consecutive points of map features, in C chunks of W = `CHUNK`, each of one feature.

    Segment i is number `i % W` of chunk `i // W`.

    Attributes:
      endpoints: x, y and z of the first endpoint, then of the second, m, local frame. Padding lies far away.
      previous: Index of the segment that ends where this one starts, -1 where there is none. The first
        segment of a closed loop has the last one here.
      next: Index of the segment that starts where this one ends, -1 where there is none.
      feature: Row of the feature table.
      valid: False for padding, at the end of chunks and of the array. There is at least one chunk.
      index: Index for nearest-segment queries.
    """

    endpoints: Float[Array, "C 6 W"]
    previous: Int[Array, "C W"]
    next: Int[Array, "C W"]
    feature: Int[Array, "C W"]
    valid: Bool[Array, "C W"]
    index: SegmentIndex

    @property
    def start(self) -> Float[Array, "E 3"]:
        """First endpoints of all segments, m."""
        return self.endpoints[:, :3].swapaxes(1, 2).reshape(-1, 3)

    @property
    def end(self) -> Float[Array, "E 3"]:
        """Second endpoints of all segments, m."""
        return self.endpoints[:, 3:].swapaxes(1, 2).reshape(-1, 3)
