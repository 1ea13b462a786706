"""Builds an exact index of nearest segments, once per scene, on the host.

A quadtree with dominated-candidate pruning. Each cell has a list of the chunks that may contain the segment nearest to
a point of the cell; a cell with too many candidates is subdivided. A candidate is pruned only if another chunk, the
rival, is provably nearer for all points of the cell: the difference of the squared distances to two points is linear in
the query point, so its maximum over a box is at a corner, and along a segment of length l it exceeds the larger of its
values at the endpoints by at most l^2 / 4. Heights are stretched, so a cell is a box in space, and its list is valid
for a range of heights.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from waymax_sim.datatypes.roadmap import CHUNK_SIZE, SegmentIndex

# Weight of height differences in distances: separates a bridge from the road below it (WOSAC).
Z_STRETCH = 3.0
# Side of the root cells, m; larger if there would be more than MAX_ROOT_CELLS along an axis.
ROOT_CELL_SIZE = 16.0
MAX_ROOT_CELLS = 256
# Maximal number of subdivisions of a root cell.
MAX_DEPTH = 4
# Number of candidates above which a cell is subdivided.
LEAF_CAPACITY = 4
# Maximal number of candidates of a cell that cannot be subdivided.
MAX_LEAF_CAPACITY = 8
# Maximal number of pairs of a cell and a candidate: maps with more get no index. Recorded maps of 25,000 points need a
# fifth of it.
MAX_CANDIDATE_PAIRS = 250_000
# Number of pairs per batch of the pruning, which bounds the memory to about 50 MB.
PRUNING_BATCH = 100_000
# Maximal width of a map with an index, m.
MAX_MAP_EXTENT = 16_000.0
# Width of the indexed area around the map, m.
MAP_MARGIN = 48.0
# Heights above and below the candidates for which lists are valid, m.
HEADROOM = 1.5
# Step to which height ranges are rounded, m: few distinct values compress well.
HEIGHT_STEP = 0.25
# Margins by which a rival must be nearer, so that rounding cannot change the result: absolute (m^2) and relative.
ABSOLUTE_MARGIN = 2e-3
RELATIVE_MARGIN = 1e-6
# Minimal distance of a cell from the line of a segment to lie on one side of it despite rounding, m.
SIDE_MARGIN = 1e-2
# Probe points in a cell, in half sides: the chunk nearest to a probe is the rival of the others.
PROBES = ((0, 0, 0), (1, 1, 1), (-1, -1, 1), (1, -1, -1), (-1, 1, -1))
# Centers of the quarters of a cell, in quarters of its side.
QUARTERS = np.array([(-1, -1), (-1, 1), (1, -1), (1, 1)], np.float32)


@dataclasses.dataclass(frozen=True)
class _Chunks:
    """The vertices of chunks, with stretched heights.

    Attributes:
      vertices: x, y and stretched z, m.
      bulge: The larger l^2 / 4 of the segments at each vertex, m^2.
      rise: The larger height difference of the segments at each vertex, m.
      valid: Valid segments.
    """

    vertices: Float[np.ndarray, "3 C J"]
    bulge: Float[np.ndarray, "C J"]
    rise: Float[np.ndarray, "C J"]
    valid: Bool[np.ndarray, "C W"]


@dataclasses.dataclass(frozen=True)
class _Cells:
    """Square cells of one size, and their candidates: P pairs of a cell and a chunk.

    Attributes:
      center: Centers, m.
      low: Smallest stretched height, m.
      high: Largest stretched height, m.
      side: Side of the cells, m.
      cell: Cell of each pair, ascending.
      chunk: Chunk of each pair.
      is_candidate: Segments of the chunk that may be nearest to a point of the cell.
    """

    center: Float[np.ndarray, "M 2"]
    low: Float[np.ndarray, " M"]
    high: Float[np.ndarray, " M"]
    side: float
    cell: Int[np.ndarray, " P"]
    chunk: Int[np.ndarray, " P"]
    is_candidate: Bool[np.ndarray, "P W"]


class _Leaves(NamedTuple):
    """Leaves of the tree: candidate lists, sides as in `SegmentIndex`, and ranges of stretched heights, m."""

    lists: Int[np.ndarray, "L W"]
    side: Int[np.ndarray, " L"]
    low: Float[np.ndarray, " L"]
    high: Float[np.ndarray, " L"]


def build_index(
    endpoints: Float[np.ndarray, "C 6 W"],
    valid: Bool[np.ndarray, "C W"],
    previous: Int[np.ndarray, "C W"],
    following: Int[np.ndarray, "C W"],
    sided: bool,
) -> SegmentIndex:
    """Builds the index of segments.

    Args:
      endpoints: Endpoints, m, as in `Segments`. The valid segments of a chunk come first and are connected.
      valid: Valid segments.
      previous: Preceding segments, -1 without one.
      following: Following segments, -1 without one.
      sided: Whether to store the sides of leaves. Without them, more lists are equal.
    """
    if not valid.any():
        return _empty_index()
    chunks = _to_chunks(endpoints, valid)
    flat = chunks.vertices.reshape(3, -1)
    lowest, highest = flat.min(axis=1)[:2], flat.max(axis=1)[:2]
    extent = float((highest - lowest).max()) + 2 * MAP_MARGIN
    if extent > MAX_MAP_EXTENT:
        return _empty_index()
    depth = min(max(0, int(np.ceil(np.log2(extent / ROOT_CELL_SIZE)))), int(np.log2(MAX_ROOT_CELLS)))
    side = max(ROOT_CELL_SIZE * 2**depth, extent)
    # Centered, so that the grid exceeds the map equally on all sides.
    corner = np.floor((lowest + highest - side) / 2)
    cells = _Cells(
        center=(corner + np.float32(side / 2))[None],
        low=flat[2].min(keepdims=True) - Z_STRETCH * HEADROOM,
        high=flat[2].max(keepdims=True) + Z_STRETCH * HEADROOM,
        side=side,
        cell=np.zeros(len(chunks.valid), np.int64),
        chunk=np.arange(len(chunks.valid)),
        is_candidate=valid,
    )
    for _ in range(depth):
        cells = _prune_candidates(chunks, cells)
        if len(cells.cell) > MAX_CANDIDATE_PAIRS:
            return _empty_index()
        cells = _subdivide(chunks, cells, np.ones(len(cells.center), bool))
    root_row = np.floor((cells.center - corner) / cells.side).astype(int)
    cell_size = cells.side

    lines = _to_lines(endpoints, previous, following) if sided else None
    codes, leaves, num_lists, num_nodes = [], [], 1, 0
    for level in range(MAX_DEPTH + 1):
        cells = _prune_candidates(chunks, cells)
        num_candidates = np.bincount(cells.cell, minlength=len(cells.center))
        is_last = level == MAX_DEPTH
        is_leaf = num_candidates <= (MAX_LEAF_CAPACITY if is_last else LEAF_CAPACITY)
        is_split = np.zeros_like(is_leaf) if is_last else ~is_leaf
        # Cells with too many candidates at the last level get list 0: queries there compare all segments.
        code = np.full(len(is_leaf), -1, np.int32)
        code[is_leaf] = ~(num_lists + np.arange(is_leaf.sum()))
        code[is_split] = num_nodes + np.arange(is_split.sum())
        codes.append(code)
        low, high = _height_ranges(chunks, cells)
        leaf_side = _leaf_sides(lines, cells, is_leaf) if lines else np.zeros(is_leaf.sum(), int)
        leaves.append(_Leaves(_candidate_lists(cells, is_leaf), leaf_side, low[is_leaf], high[is_leaf]))
        num_lists += int(is_leaf.sum())
        num_nodes += int(is_split.sum())
        if not is_split.any():
            break
        if len(cells.cell) > MAX_CANDIDATE_PAIRS:
            return _empty_index()
        cells = _subdivide(chunks, cells, is_split)
    root = np.full((2**depth, 2**depth), -1)
    root[root_row[:, 0], root_row[:, 1]] = codes[0]
    all_leaves = _Leaves(*map(np.concatenate, zip(*leaves, strict=True)))
    return _to_index(len(chunks.valid), corner, cell_size, root, codes[1:], all_leaves)


def _empty_index() -> SegmentIndex:
    """An index without lists: queries compare all segments."""
    leaves = _Leaves(np.zeros((0, MAX_LEAF_CAPACITY), int), np.zeros(0, int), np.zeros(0), np.zeros(0))
    return _to_index(0, np.zeros(2), ROOT_CELL_SIZE, np.full((1, 1), -1), [], leaves)


def _to_index(num_chunks, corner, cell_size, root, codes, leaves: _Leaves) -> SegmentIndex:
    """Merges equal lists, inserts list 0 for points outside of the tree, and builds the arrays."""
    # Big-endian bytes sort like the rows.
    rows = np.column_stack([leaves.lists, leaves.side + 1]).astype(">u4")
    _, first, merged = np.unique(rows.view(f"V{rows.itemsize * rows.shape[1]}"), return_index=True, return_inverse=True)
    lists, side = leaves.lists[first], leaves.side[first]
    # The height range of a merged list is the intersection of those of its leaves.
    low, high = np.full(len(lists), -np.inf), np.full(len(lists), np.inf)
    np.maximum.at(low, merged.reshape(-1), leaves.low)
    np.minimum.at(high, merged.reshape(-1), leaves.high)
    new_list = np.concatenate([[0], 1 + merged.reshape(-1)])

    # Four children per row, in the order of their parents; one more row, so that the array is never empty.
    nodes = np.concatenate([*(code.reshape(-1, 4) for code in codes), np.full((1, 4), -1)])
    code_type = _index_type(max(len(new_list), len(nodes)))

    def renumber(code):
        return np.where(code < 0, ~new_list[~np.minimum(code, -1)], code).astype(code_type)

    return SegmentIndex(
        corner=np.asarray(corner, np.float32),
        cell_size=np.asarray(cell_size, np.float32),
        root=renumber(root),
        nodes=renumber(nodes),
        lists=np.concatenate([np.zeros((1, MAX_LEAF_CAPACITY), int), lists]).astype(_index_type(num_chunks)),
        side=np.append(0, side).astype(np.int8),
        min_z=np.concatenate([[np.inf], np.ceil(low / Z_STRETCH / HEIGHT_STEP) * HEIGHT_STEP]).astype(np.float32),
        max_z=np.concatenate([[-np.inf], np.floor(high / Z_STRETCH / HEIGHT_STEP) * HEIGHT_STEP]).astype(np.float32),
    )


def _to_chunks(endpoints, valid) -> _Chunks:
    last = np.maximum(valid.sum(axis=1) - 1, 0)
    final = endpoints[np.arange(len(last)), 3:, last][:, None]
    vertices = np.concatenate([endpoints[:, :3].swapaxes(1, 2), final], axis=1)
    # A chunk that is not full is padded with its last vertex.
    vertices = np.where((np.arange(CHUNK_SIZE + 1) <= last[:, None])[..., None], vertices, final)
    vertices[..., 2] *= Z_STRETCH
    edge = np.diff(vertices, axis=1)

    def at_vertices(value):
        """The larger value of the two segments at a vertex."""
        none = np.zeros((len(value), 1), np.float32)
        return np.maximum(np.concatenate([value, none], axis=1), np.concatenate([none, value], axis=1))

    bulge, rise = at_vertices((edge**2).sum(axis=-1) / 4), at_vertices(np.abs(edge[..., 2]))
    return _Chunks(np.ascontiguousarray(np.moveaxis(vertices, 2, 0)), bulge, rise, valid)


def _prune_candidates(chunks: _Chunks, cells: _Cells) -> _Cells:
    """Drops pairs whose chunk cannot contain the segment nearest to a point of the cell; in batches of whole cells."""
    first = np.flatnonzero(np.diff(cells.cell, prepend=-1))
    batches = np.unique(first[np.searchsorted(first, np.arange(0, len(cells.cell), PRUNING_BATCH), side="right") - 1])
    bounds = zip(batches, np.append(batches[1:], len(cells.cell)), strict=True)
    parts = [_prune_batch(chunks, cells, slice(start, end)) for start, end in bounds]
    columns = (np.concatenate(column) for column in zip(*parts, strict=True))
    return dataclasses.replace(cells, **dict(zip(("cell", "chunk", "is_candidate"), columns, strict=True)))


def _prune_batch(chunks: _Chunks, cells: _Cells, pairs: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cell, chunk and candidates of the remaining ones of some pairs, which are all pairs of some cells."""
    cell, chunk, is_candidate = cells.cell[pairs], cells.chunk[pairs], cells.is_candidate[pairs]
    half = np.float32(cells.side / 2)
    center = [*cells.center.T, (cells.low + cells.high) / 2]
    half_height = (cells.high - cells.low) / 2
    # Vertices relative to the center of the cell, one array per coordinate.
    vertices = [chunks.vertices[axis].take(chunk, axis=0) for axis in range(3)]
    for axis in range(3):
        vertices[axis] -= center[axis].take(cell)[:, None]
    # Lower bound of the squared distance from the center to the segments at each vertex.
    own = vertices[0] ** 2 + vertices[1] ** 2 + vertices[2] ** 2 - chunks.bulge.take(chunk, axis=0)
    for x, y, z in PROBES:
        first = np.flatnonzero(np.diff(cell, prepend=-1))
        repeats = np.diff(first, append=len(cell))
        span = half_height[cell[first]]
        probe = [x * half, y * half, np.repeat(z * span, repeats)]
        # The rival is the chunk whose middle vertex is nearest to the probe; every choice gives a correct index.
        squared = sum((vertices[axis][:, CHUNK_SIZE // 2] - probe[axis]) ** 2 for axis in range(3))
        rival = np.flatnonzero(squared == np.repeat(np.minimum.reduceat(squared, first), repeats))
        rival = rival[np.diff(cell[rival], prepend=-1) > 0]
        probe[2] = probe[2][rival, None]
        vertex = np.argmin(sum((vertices[axis][rival] - probe[axis]) ** 2 for axis in range(3)), axis=1)
        point = [vertices[axis][rival, vertex] for axis in range(3)]
        rise = chunks.rise[chunk[rival], vertex]
        # Upper bound of the squared distance to the rival, including the height difference along its segment.
        bound = point[0] ** 2 + point[1] ** 2 + point[2] ** 2 + rise * (2 * (span + np.abs(point[2])) + rise)
        bound += ABSOLUTE_MARGIN + RELATIVE_MARGIN * (bound + np.float32(cells.side) ** 2 + span**2)
        lead = own - np.repeat(bound, repeats)[:, None]
        for axis, extent in enumerate((half, half, np.repeat(span, repeats)[:, None])):
            difference = vertices[axis] - np.repeat(point[axis], repeats)[:, None]
            np.abs(difference, out=difference)
            difference *= 2 * extent
            lead -= difference
        # A segment is nearest to no point of the cell if the rival is nearer than both of its endpoints.
        is_dominated = lead >= 0
        is_candidate = is_candidate & ~(is_dominated[:, :-1] & is_dominated[:, 1:])
        keep = np.any(is_candidate, axis=1)
        keep[rival] = True
        rows = np.flatnonzero(keep)
        if len(rows) < len(keep):
            cell, chunk = cell[rows], chunk[rows]
            is_candidate, own, *vertices = (values.take(rows, axis=0) for values in (is_candidate, own, *vertices))
    return cell, chunk, is_candidate


def _height_ranges(chunks: _Chunks, cells: _Cells) -> tuple[Float[np.ndarray, " M"], Float[np.ndarray, " M"]]:
    """Height ranges of the cells, narrowed to those of their candidates."""
    first = np.flatnonzero(np.diff(cells.cell, prepend=-1))
    z = chunks.vertices[2]
    low = np.minimum.reduceat(z.min(axis=1)[cells.chunk], first) - np.float32(Z_STRETCH * HEADROOM)
    high = np.maximum.reduceat(z.max(axis=1)[cells.chunk], first) + np.float32(Z_STRETCH * HEADROOM)
    return np.maximum(cells.low, low), np.minimum(cells.high, high)


def _subdivide(chunks: _Chunks, cells: _Cells, is_split: Bool[np.ndarray, " M"]) -> _Cells:
    """The quarters of some cells, four per cell in a row, each with the candidates of its parent."""
    low, high = _height_ranges(chunks, cells)
    rows = is_split[cells.cell]
    cell, chunk = (np.cumsum(is_split) - 1)[cells.cell[rows]], cells.chunk[rows]
    begin = np.flatnonzero(np.diff(cell, prepend=-1))
    repeats = np.diff(begin, append=len(cell))
    # Indices of the pairs of each parent, four times.
    first, count = np.repeat(begin, 4), np.repeat(repeats, 4)
    pair = np.arange(4 * len(cell)) + np.repeat(first - np.cumsum(count) + count, count)
    return _Cells(
        center=(cells.center[is_split][:, None] + QUARTERS * np.float32(cells.side / 4)).reshape(-1, 2),
        low=np.repeat(low[is_split], 4),
        high=np.repeat(high[is_split], 4),
        side=cells.side / 2,
        cell=np.repeat(np.arange(len(count)), count),
        chunk=chunk.take(pair),
        is_candidate=cells.is_candidate[rows].take(pair, axis=0),
    )


def _candidate_lists(cells: _Cells, is_leaf: Bool[np.ndarray, " M"]) -> Int[np.ndarray, "L W"]:
    """Candidates of the leaves; a list that is not full repeats its first chunk."""
    rows = is_leaf[cells.cell]
    cell, chunk = cells.cell[rows], cells.chunk[rows]
    first = np.flatnonzero(np.diff(cell, prepend=-1))
    repeats = np.diff(first, append=len(cell))
    lists = np.repeat(chunk[first][:, None], MAX_LEAF_CAPACITY, axis=1)
    lists[np.repeat(np.arange(len(first)), repeats), np.arange(len(cell)) - np.repeat(first, repeats)] = chunk
    return lists


class _Lines(NamedTuple):
    """Segments in the plane.

    Attributes:
      x: First endpoint, m.
      y: First endpoint, m.
      along_x: Unit vector to the second endpoint.
      along_y: The same.
      length: Length, m.
      previous: Preceding segment, -1 without one.
      following: Following segment, -1 without one.
    """

    x: Float[np.ndarray, " E"]
    y: Float[np.ndarray, " E"]
    along_x: Float[np.ndarray, " E"]
    along_y: Float[np.ndarray, " E"]
    length: Float[np.ndarray, " E"]
    previous: Int[np.ndarray, " E"]
    following: Int[np.ndarray, " E"]


def _to_lines(endpoints, previous, following) -> _Lines:
    x, y, _, end_x, end_y, _ = endpoints.swapaxes(0, 1).reshape(6, -1)
    along_x, along_y = end_x - x, end_y - y
    length = np.hypot(along_x, along_y)
    divisor = np.where(length > 0, length, 1)
    return _Lines(x, y, along_x / divisor, along_y / divisor, length, previous.ravel(), following.ravel())


def _leaf_sides(lines: _Lines, cells: _Cells, is_leaf: Bool[np.ndarray, " M"]) -> Int[np.ndarray, " L"]:
    """Side of the nearest segment on which all points of a leaf lie: 1 right, -1 left, 0 differs."""
    rows = is_leaf[cells.cell]
    row, column = np.nonzero(cells.is_candidate[rows])
    cell = (np.cumsum(is_leaf) - 1)[cells.cell[rows]].take(row)
    segment = cells.chunk[rows].take(row) * CHUNK_SIZE + column
    center_x, center_y = cells.center[is_leaf].T.copy()
    half, num_leaves = np.float32(cells.side / 2), int(is_leaf.sum())

    def classify(cell, segment):
        """Whether cells lie to the right of segments, to the left, and partly before or beyond their ends."""
        x, y = center_x.take(cell) - lines.x.take(segment), center_y.take(cell) - lines.y.take(segment)
        along_x, along_y = lines.along_x.take(segment), lines.along_y.take(segment)
        across, ahead = x * along_y - y * along_x, x * along_x + y * along_y
        extent = half * (np.abs(along_x) + np.abs(along_y)) + np.float32(SIDE_MARGIN)
        return across > extent, across < -extent, ahead < extent, ahead > lines.length.take(segment) - extent

    is_right, is_left, is_before, is_beyond = classify(cell, segment)
    parts = [(cell, is_right, is_left)]
    # Before and beyond a segment the side depends on the adjacent segment too.
    for is_outside, adjacent_segment in ((is_before, lines.previous), (is_beyond, lines.following)):
        outside = np.flatnonzero(is_outside)
        adjacent = adjacent_segment.take(segment.take(outside))
        exists = np.flatnonzero(adjacent >= 0)
        outside_cell = cell.take(outside.take(exists))
        parts.append((outside_cell, *classify(outside_cell, adjacent.take(exists))[:2]))
    cell, is_right, is_left = map(np.concatenate, zip(*parts, strict=True))
    not_right, not_left = (np.bincount(cell[~mask], minlength=num_leaves) > 0 for mask in (is_right, is_left))
    return np.where(not_right, np.where(not_left, 0, -1), 1)


def _index_type(count: int) -> type[np.signedinteger]:
    """The smallest type for indices below `count`, which are half of the memory of the index."""
    return np.int16 if count < 2**15 else np.int32
