"""Map elements: short pieces of map features, as policies see them."""

from jaxtyping import Float, Int

from waymax_sim.pytree import Array, pytree

# Points of one element at most: about 4 m of a line sampled every half metre.
NUM_ELEMENT_POINTS = 8
# Elements of one group.
GROUP = 4


@pytree
class MapElements:
    """Elements of a map, as references into its points, with an index of which are near.

    An element is a run of up to 8 consecutive points of one feature of any type. Four elements that lie close
    together are a group. A grid covers the map; each of its C cells lists the W groups nearest to its centre: the 34
    nearest ones, the next one, 29 more and, last, the one after these. The two that stand alone tell how far the list
    reaches up to them. The others ascend from lot to lot by their number, not by distance: cells side by side are then
    alike, which a store of scenes makes use of.

    Attributes:
      first: First point of each element of the G groups.
      count: Number of its points, 0 for padding.
      points: x, then y, of the points of each group, m, local frame: point by point, of its four elements side by side,
        as a search reads them. Infinite where an element has fewer points.
      box: Smallest and largest x and y of the points of each group, m, local frame.
      cells: Groups that a cell lists, by the distance of their boxes, -1 where there are no more. The cell in row i
        and column j of the grid is number `i * columns + j`.
      low: Smallest x and y of the grid, m, local frame.
      side: Side of a cell, m.
      rows: Number of cells along x.
      columns: Number of cells along y.
    """

    first: Int[Array, "G 4"]
    count: Int[Array, "G 4"]
    points: Float[Array, "G 2 8 4"]
    box: Float[Array, "G 4"]
    cells: Int[Array, "C W"]
    low: Float[Array, " 2"]
    side: Float[Array, ""]
    rows: Int[Array, ""]
    columns: Int[Array, ""]
