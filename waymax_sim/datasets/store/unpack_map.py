"""What is known of a map, from small integers."""

import functools

import numpy as np
from jaxtyping import Float, Int, UInt8

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.store.integers import Row
from waymax_sim.datasets.store.layout import (
    LONG_LIST,
    SHORT_LIST,
    SPLIT,
    Shape,
    Table,
    block_of_cell,
    elements_of,
    from_z_order,
)
from waymax_sim.datatypes.elements import GROUP, MapElements
from waymax_sim.datatypes.roadmap import CHUNK, FAR, SegmentIndex, Segments
from waymax_sim.maps.index import HEADROOM, Z_STRETCH


def segments_from(
    row: Row,
    chunks: Table,
    joints: Float[np.ndarray, "3 n"],
    feature: Int[np.ndarray, " runs"],
    corner: Float[np.ndarray, " 3"],
    shape: Shape,
    room: dict[str, int],
) -> Segments:
    """Segments and their index.

    Args:
      row: Integers, of which those of these segments are next.
      chunks: Where the segments are.
      joints: x, y and z of all joints, m.
      feature: Row of the feature table of each run that has segments.
      corner: Lowest x and y of the index and the side of its cells, m.
      shape: Sizes of the index.
      room: Lengths of the axes C, G, Q and L to make room for.
    """
    used, total = len(chunks.first), room["C"]
    ends = np.full((total, 6, CHUNK), FAR, np.float32)
    ends[:used] = joints.reshape(-1).take(chunks.first[:, None, None] + _corners(joints.shape[1]), mode="clip")
    ends[chunks.hollow // CHUNK, :, chunks.hollow % CHUNK] = FAR
    tails, loops = chunks.head + chunks.count - 1, row.take(len(chunks.head)) > 0
    of, valid = np.zeros((total, CHUNK), np.int32), np.zeros((total, CHUNK), bool)
    of[:used] = feature.repeat(-(-chunks.count // CHUNK))[:, None]
    of.reshape(-1)[chunks.hollow] = 0
    valid[:used] = True
    valid.reshape(-1)[chunks.hollow] = False
    return Segments(
        ends=ends,
        previous=_neighbors(-1, chunks, total, chunks.head, np.where(loops, tails, -1)),
        next=_neighbors(1, chunks, total, tails, np.where(loops, chunks.head, -1)),
        feature=of,
        valid=valid,
        index=_index(row, _heights(row, chunks, joints[2]), corner, shape, room),
    )


@functools.lru_cache(maxsize=8)
def _corners(stride: int) -> Int[np.ndarray, "6 8"]:
    """Where the ends of the segments of a chunk are from its first joint, coordinates being `stride` apart."""
    start = stride * np.arange(3)[:, None] + np.arange(CHUNK)
    return np.concatenate([start, start + 1])


def _neighbors(offset: int, chunks: Table, total: int, at_ends, others) -> Int[np.ndarray, "C W"]:
    """Every segment's neighbour on one side: the one beside it, except at the ends of features."""
    used = len(chunks.first) * CHUNK
    neighbor = np.full(total * CHUNK, -1, np.int32)
    neighbor[:used] = np.arange(offset, used + offset, dtype=np.int32)
    neighbor[chunks.hollow] = -1
    neighbor[at_ends] = others
    return neighbor.reshape(total, CHUNK)


def _heights(row: Row, chunks: Table, z: Float[np.ndarray, " n"]) -> Float[np.ndarray, "C 2"]:
    """Lowest height at which a list of one chunk holds, and the highest one turned around, m."""
    extremes = chunks.first + row.take(2, len(chunks.first)) + 1
    stretched = np.float32(Z_STRETCH) * z.take(extremes, mode="clip")
    stretched[1] *= -1
    stretched -= np.float32(Z_STRETCH * HEADROOM)
    # In float64, as the builder of indexes divides.
    return np.ascontiguousarray((stretched.astype(np.float64) / Z_STRETCH).T, np.float32)


def _index(row: Row, heights: Float[np.ndarray, "C 2"], corner, shape: Shape, room: dict[str, int]) -> SegmentIndex:
    lists, low, high = _lists(row, heights, shape, room["L"])
    side = 2**shape.depth
    steps = row.take(side * side + 4 * (shape.nodes - 1))
    split = steps == SPLIT
    steps += steps < SPLIT
    steps[split] = 0
    which, quartered = np.cumsum(steps, dtype=np.int32), np.cumsum(split, dtype=np.int32)
    if which.min() < 0 or which.max() >= shape.lists or quartered[-1] != shape.nodes - 1:
        raise DataError("cells name lists or quarters that do not exist", field="index")
    codes = np.where(split, quartered - 1, ~which)
    # As wide as the builder of indexes has it, which counts lists before it merges equal ones.
    codes = codes.astype(_small(max(1 + np.count_nonzero(codes < -1), shape.nodes)))
    root, nodes = np.full((room["G"], room["G"]), -1, codes.dtype), np.full((room["Q"], 4), -1, codes.dtype)
    root[:side, :side] = from_z_order(codes[: side * side], shape.depth)
    nodes[: shape.nodes - 1] = codes[side * side :].reshape(-1, 4)
    return SegmentIndex(
        corner=corner[:2].copy(), size=corner[2].copy(), root=root, nodes=nodes, lists=lists, low=low, high=high
    )


def _lists(row: Row, heights: Float[np.ndarray, "C 2"], shape: Shape, total: int):
    """The lists of an index, and the lowest and highest height at which each holds."""
    count = shape.lists - 1
    first = np.cumsum(row.take(count), dtype=np.int32)
    columns = _members(first, first, row.take(SHORT_LIST - 1, count))
    long = np.cumsum(row.take(shape.long))
    more = _members(first[long], columns[-1][long], row.take(LONG_LIST - SHORT_LIST, shape.long))

    lists = np.zeros((total, LONG_LIST), _small(len(heights) if count else 0))
    body = lists[1 : shape.lists]
    body[:] = first[:, None]
    for place, column in enumerate(columns, 1):
        body[:, place] = column
    for place, column in enumerate(more, SHORT_LIST):
        body[long, place] = column
    if count and (body.min() < 0 or body.max() >= len(heights)):
        raise DataError("lists name chunks that do not exist", field="index")
    reach = _lowest(heights, [first, *columns])
    reach[long] = np.minimum(reach[long], _lowest(heights, more))
    low, high = np.zeros((2, total), np.float32)
    low[0], high[0] = np.inf, -np.inf
    low[1 : shape.lists], high[1 : shape.lists] = reach[:, 0], -reach[:, 1]
    return lists, low, high


def _members(first: Int[np.ndarray, " n"], last: Int[np.ndarray, " n"], steps: Int[np.ndarray, "k n"]) -> list:
    """Members of lists that go on from their last one; without a step they repeat the first."""
    members = []
    for step in steps:
        last = np.where(step == 0, first, last + step)
        members.append(last)
    return members


def _lowest(heights: Float[np.ndarray, "C 2"], members: list) -> Float[np.ndarray, "n 2"]:
    """The lesser heights of the members of lists; both numbers are fetched as one."""
    both = heights.view(np.int64).reshape(-1)
    fetched = [both.take(member, mode="clip").view(np.float32).reshape(-1, 2) for member in members]
    return functools.reduce(np.minimum, fetched)


def elements_from(
    row: Row,
    length: Int[np.ndarray, " runs"],
    points: Float[np.ndarray, "3 n"],
    places: UInt8[np.ndarray, "C W"],
    grid: Float[np.ndarray, " 3"],
    shape: tuple[int, int, int, int],
    room: dict[str, int],
) -> MapElements:
    """Elements and the index of which are near.

    Args:
      row: Integers, of which those of the elements are next.
      length: Number of points of each run.
      points: x, y and z, m; those of the map first.
      places: What cells list, as places in the table of their block.
      grid: Lowest x and y of the grid and the side of its cells, m.
      shape: Groups, rows, columns and the side of a block.
      room: Lengths of the axes G and C to make room for.
    """
    num_groups, rows, columns, side = shape
    start, size = elements_of(length)
    order = np.cumsum(row.take(num_groups * GROUP), dtype=np.int32)
    if num_groups and (order.min() < 0 or order.max() >= len(start)):
        raise DataError("groups name elements that do not exist", field="elements")
    first, count = np.zeros((2, room["G"], GROUP), np.int32)
    box = np.zeros((room["G"], 4), np.float32)
    if num_groups:
        first[:num_groups] = start[order].reshape(-1, GROUP)
        size = size[order]
        size[len(start) :] = 0
        count[:num_groups] = size.reshape(-1, GROUP)
        num_points = int(length.sum())
        for place, (axis, extreme) in enumerate(((0, np.minimum), (1, np.minimum), (0, np.maximum), (1, np.maximum))):
            of_groups = extreme.reduceat(points[axis, :num_points], start)[order].reshape(-1, GROUP)
            box[:num_groups, place] = extreme.reduce(of_groups, axis=1)
    block = block_of_cell(rows, columns, side)
    sizes = row.take(int(block[-1]) + 1 if len(block) else 0)
    begin = np.cumsum(sizes) - sizes
    groups = np.cumsum(row.take(int(sizes.sum())), dtype=np.int32).astype(_small(num_groups))
    if len(groups) and (groups.min() < -1 or groups.max() >= num_groups or sizes.min() < 1):
        raise DataError("cells list groups that do not exist", field="elements")
    cells = np.full((room["C"], places.shape[1]), -1, groups.dtype)
    if len(groups):
        groups.take(begin[block][:, None] + places, out=cells[: len(places)], mode="clip")
    return MapElements(
        first=first,
        count=count,
        box=box,
        cells=cells,
        low=grid[:2].copy(),
        side=grid[2].copy(),
        rows=np.asarray(rows, np.int32),
        columns=np.asarray(columns, np.int32),
    )


def _small(count: int) -> type[np.signedinteger]:
    """The type of numbers that count so far, as indexes have them."""
    return np.int16 if count < 2**15 else np.int32
