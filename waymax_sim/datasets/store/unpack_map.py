"""What is known of a map, from small integers."""

import functools

import numpy as np
from jaxtyping import Float32, Int, Int32

from waymax_sim.datasets.store.content import Content
from waymax_sim.datasets.store.layout import (
    LONG_LIST,
    POSITION,
    SHORT_LIST,
    SPLIT,
    Chunks,
    block_of_cell,
    elements_of,
    ends_of_elements,
    from_z_order,
    ramp,
)
from waymax_sim.datatypes.elements import GROUP, NUM_ELEMENT_POINTS, MapElements
from waymax_sim.datatypes.roadmap import CHUNK, FAR, SegmentIndex, Segments
from waymax_sim.maps.elements import points_of_groups
from waymax_sim.maps.index import HEADROOM, Z_STRETCH


def segments_from(
    chunks: Chunks,
    loops: Int[np.ndarray, " K"],
    joints: Float32[np.ndarray, "3 n"],
    feature: Int[np.ndarray, " runs"],
    indexes: list[SegmentIndex],
    room: dict[str, int],
) -> list[Segments]:
    """Edges and lanes.

    Args:
      chunks: Where the segments are.
      loops: Which runs of segments are closed.
      joints: x, y and z of all joints, m.
      feature: Row of the feature table of each run.
      indexes: Those of edges and of lanes.
      room: Lengths of axes.
    """
    where = chunks.first.astype(np.int32)[:, None, None] + _corners(joints.shape[1])
    of = feature[chunks.run][:, None]
    tails = chunks.head + chunks.count - 1
    spare = -chunks.count % CHUNK
    hollow = (tails + 1).repeat(spare) + ramp(spare)
    before_lanes = int(np.searchsorted(hollow, chunks.num_edges * CHUNK))
    before, after = np.where(loops > 0, [tails, chunks.head], -1)
    cut = len(chunks.head) - np.count_nonzero(chunks.head >= chunks.num_edges * CHUNK)
    parts = []
    for name, part, runs, holes, index in (
        ("edges", slice(0, chunks.num_edges), slice(0, cut), slice(0, before_lanes), indexes[0]),
        ("lanes", slice(chunks.num_edges, None), slice(cut, None), slice(before_lanes, None), indexes[1]),
    ):
        total, used, offset = room[f"{name}.C"], len(of[part]), part.start * CHUNK
        empty = hollow[holes] - offset
        ends = np.full((total, 6, CHUNK), FAR, np.float32)
        joints.reshape(-1).take(where[part], out=ends[:used], mode="clip")
        ends[empty // CHUNK, :, empty % CHUNK] = FAR
        neighbors = np.full((2, total * CHUNK), -1, np.int32)
        counting = _counting(total * CHUNK + 2)
        for neighbor, start, at, other in ((neighbors[0], 0, chunks.head, before), (neighbors[1], 2, tails, after)):
            neighbor[: used * CHUNK] = counting[start : start + used * CHUNK]
            neighbor[empty] = -1
            neighbor[at[runs] - offset] = np.maximum(other[runs] - offset, -1)
        previous, next_ = neighbors.reshape(2, total, CHUNK)
        feature_of, valid = np.zeros((total, CHUNK), np.int32), np.zeros((total, CHUNK), bool)
        feature_of[:used] = of[part]
        feature_of.reshape(-1)[empty] = 0
        valid[:used] = True
        valid.reshape(-1)[empty] = False
        parts.append(Segments(ends=ends, previous=previous, next=next_, feature=feature_of, valid=valid, index=index))
    return parts


@functools.lru_cache(maxsize=8)
def _corners(stride: int) -> Int32[np.ndarray, "6 8"]:
    """Where the ends of the segments of a chunk are from its first joint, coordinates being `stride` apart."""
    start = np.int32(stride) * np.arange(3, dtype=np.int32)[:, None] + np.arange(CHUNK, dtype=np.int32)
    return np.concatenate([start, start + 1])


@functools.lru_cache(maxsize=8)
def _counting(length: int) -> Int32[np.ndarray, " n"]:
    return np.arange(-1, length - 1, dtype=np.int32)


def indexes_from(
    content: Content,
    chunks: Chunks,
    extremes: Int[np.ndarray, "2 C"],
    z: Float32[np.ndarray, " n"],
    corners: Float32[np.ndarray, "2 3"],
    room: dict[str, int],
) -> list[SegmentIndex]:
    """The indexes of edges and of lanes, decoded together.

    Args:
      content: The packed scene; integers of the indexes are next.
      chunks: Where the segments are.
      extremes: Lowest and highest joint of each chunk, counted from -1.
      z: Heights of all joints, m.
      corners: Lowest x and y of each index and the side of its cells, m.
      room: Lengths of axes.
    """
    edges, lanes, num_long = content.edges, content.lanes, content.counts.num_long
    count = edges.lists + lanes.lists - 2
    first, long = content.rising.take(count), content.rising.take(num_long)
    columns = _members(first, first, content.other.take(SHORT_LIST - 1, count))
    more = _members(first[long], columns[-1][long], content.other.take(LONG_LIST - SHORT_LIST, num_long))
    members = first.repeat(LONG_LIST).reshape(count, LONG_LIST)
    for place, column in enumerate(columns, 1):
        members[:, place] = column
    for place, column in enumerate(more, SHORT_LIST):
        members[long, place] = column
    sides = content.other.take(edges.lists - 1)
    heights = _heights(chunks, extremes, z)
    reach = _lowest(heights, [first, *columns], count)
    reach[long] = np.minimum(reach[long], _lowest(heights, more, num_long))

    sizes = [4**shape.depth + 4 * (shape.nodes - 1) for shape in (edges, lanes)]
    steps = content.other.take(sum(sizes))
    split = steps == SPLIT
    steps += steps < SPLIT
    steps *= ~split
    which, quartered = steps.cumsum(dtype=np.int32), split.cumsum(dtype=np.int32)
    which[sizes[0] :] -= edges.lists
    quartered[sizes[0] :] -= edges.nodes - 1
    np.invert(which, out=which)
    codes = which + (quartered - 1 - which) * split

    num_lanes = len(chunks.run) - chunks.num_edges
    indexes = []
    for name, shape, lists, cells, begin, used, corner in (
        ("edges", edges, slice(0, edges.lists - 1), codes[: sizes[0]], 0, chunks.num_edges, corners[0]),
        ("lanes", lanes, slice(edges.lists - 1, None), codes[sizes[0] :], chunks.num_edges, num_lanes, corners[1]),
    ):
        total, side = room[f"{name}.L"], 2**shape.depth
        kept = np.zeros((total, LONG_LIST), _small(max(used, 1) if shape.lists > 1 else 0))
        np.subtract(members[lists], begin, out=kept[1 : shape.lists], casting="unsafe")
        low, high = np.zeros((2, total), np.float32)
        side_of = np.zeros(total, np.int8)
        if name == "edges":
            side_of[1 : shape.lists] = sides
        low[0], high[0] = np.inf, -np.inf
        low[1 : shape.lists], high[1 : shape.lists] = reach[lists, 0], -reach[lists, 1]
        # As wide as the builder of indexes has it, which counts lists before it merges equal ones.
        small = _small(max(1 + int(np.count_nonzero(cells < -1)), shape.nodes))
        root = np.full((room[f"{name}.G"],) * 2, -1, small)
        nodes = np.full((room[f"{name}.Q"], 4), -1, small)
        root[:side, :side] = from_z_order(cells[: side * side], shape.depth)
        nodes[: shape.nodes - 1] = cells[side * side :].reshape(-1, 4)
        grid = {"corner": corner[:2], "size": corner[2, ...], "root": root, "nodes": nodes}
        indexes.append(SegmentIndex(**grid, lists=kept, side=side_of, low=low, high=high))
    return indexes


def _heights(
    chunks: Chunks, extremes: Int[np.ndarray, "2 C"], z: Float32[np.ndarray, " n"]
) -> Float32[np.ndarray, "C 2"]:
    """Lowest height at which a list of one chunk holds, and the highest one turned around, m."""
    stretched = np.float32(Z_STRETCH) * z.take(extremes + (chunks.first + 1), mode="clip")
    stretched[1] *= -1
    stretched -= np.float32(Z_STRETCH * HEADROOM)
    # In float64, as the builder of indexes divides.
    return np.ascontiguousarray((stretched.astype(np.float64) / Z_STRETCH).T, np.float32)


def _members(first: Int[np.ndarray, " n"], last: Int[np.ndarray, " n"], steps: Int[np.ndarray, "k n"]) -> list:
    """Members of lists that go on from their last one; without a step they repeat the first."""
    members = []
    for step in steps:
        last = last + step
        # Not `where`: which ones repeat is hard to predict, and a product does not ask.
        last += (first - last) * (step == 0)
        members.append(last)
    return members


def _lowest(heights: Float32[np.ndarray, "C 2"], members: list, count: int) -> Float32[np.ndarray, "n 2"]:
    """The lesser heights of the members of lists; both numbers are fetched as one."""
    if not count:
        return np.zeros((0, 2), np.float32)
    both = heights.view(np.int64).reshape(-1)
    fetched = [both.take(member, mode="clip").view(np.float32).reshape(-1, 2) for member in members]
    return functools.reduce(np.minimum, fetched)


def elements_from(
    content: Content,
    length: Int[np.ndarray, " runs"],
    points: Int32[np.ndarray, "3 n"],
    xy: Float32[np.ndarray, "2 m"],
    grid: Float32[np.ndarray, " 3"],
    room: dict[str, int],
) -> MapElements:
    """Elements and the index of which are near.

    Args:
      content: The packed scene; integers of the elements are next.
      length: Number of points of each run.
      points: x, y and z in whole units; those of the map first.
      xy: The same points in m, and more points after them.
      grid: Lowest x and y of the grid and the side of its cells, m.
      room: Lengths of axes.
    """
    n = content.counts
    start, size = elements_of(length)
    order, groups = content.rising.take(n.num_groups * GROUP), content.rising.take(n.num_listed)
    block = block_of_cell(n.rows, n.columns, n.block)
    sizes = content.other.take(int(block[-1]) + 1 if len(block) else 0)
    first, count = np.zeros((2, room["elements.G"], GROUP), np.int32)
    first_of, size_of = start[order], size[order]
    first[: n.num_groups] = first_of.reshape(-1, GROUP)
    box = np.zeros((room["elements.G"], 4), np.float32)
    extent = content.other.take(4, n.num_groups)
    extent += np.concatenate(ends_of_elements(points, first_of, size_of))
    np.multiply(extent.T, np.float32(POSITION), out=box[: n.num_groups], casting="unsafe", dtype=np.float32)
    # The last group may be filled up with what is no element.
    size_of[len(start) :] = 0
    count[: n.num_groups] = size_of.reshape(-1, GROUP)
    near = np.full((room["elements.G"], 2, NUM_ELEMENT_POINTS, GROUP), np.inf, np.float32)
    near[: n.num_groups] = points_of_groups(xy, first[: n.num_groups], count[: n.num_groups])
    cells = np.full((room["elements.C"], n.width), -1, _small(n.num_groups))
    if len(block):
        begin = sizes.cumsum() - sizes
        groups.astype(cells.dtype).take(begin[block][:, None] + content.places, out=cells[: len(block)], mode="clip")
    return MapElements(
        first=first,
        count=count,
        points=near,
        box=box,
        cells=cells,
        low=grid[:2],
        side=grid[2, ...],
        rows=np.asarray(n.rows, np.int32),
        columns=np.asarray(n.columns, np.int32),
    )


def _small(count: int) -> type[np.signedinteger]:
    """The type of numbers that count so far, as indexes have them."""
    return np.int16 if count < 2**15 else np.int32
