"""Map polylines: short pieces of map features, the elements of observations (as in VectorNet)."""

from jaxtyping import Float, Int

from waymax_sim.pytree import Array, pytree

# Maximal number of points per polyline: about 4 m of a line sampled every half meter.
POINTS_PER_POLYLINE = 8
# Number of polylines per group of the index.
POLYLINES_PER_GROUP = 4


@pytree
class Polylines:
    """Polylines of a map as references to its points, with a grid index for nearest-neighbor queries.

    A polyline is a run of up to 8 consecutive points of one feature of any type. Four polylines that lie close together
    form a group. A grid covers the map; each of its C cells lists the W groups nearest to its center: the 34 nearest,
    the next one, 29 more and the one after these. The two single groups bound the distance of all groups that are not
    in the list before them. The other groups are sorted by index, not by distance, so that the lists of adjacent cells
    are similar and compress well.

    Attributes:
      first_point: Index of the first point of each polyline of the G groups.
      num_points: Number of points of each polyline, 0 for padding.
      points: x, then y, of the points of each group, m, local frame, in the order in which queries read them: point by
        point, the four polylines side by side. Infinite where a polyline has fewer points.
      bounding_box: Smallest x and y, then largest x and y, of the points of each group, m, local frame.
      cell_groups: Groups listed by each cell, by the distance of their bounding boxes; -1 for padding. The index of
        the cell in row i and column j of the grid is `i * num_columns + j`.
      grid_corner: Smallest x and y of the grid, m, local frame.
      cell_size: Side of a cell, m.
      num_rows: Number of cells along x.
      num_columns: Number of cells along y.
    """

    first_point: Int[Array, "G 4"]
    num_points: Int[Array, "G 4"]
    points: Float[Array, "G 2 8 4"]
    bounding_box: Float[Array, "G 4"]
    cell_groups: Int[Array, "C W"]
    grid_corner: Float[Array, " 2"]
    cell_size: Float[Array, ""]
    num_rows: Int[Array, ""]
    num_columns: Int[Array, ""]
