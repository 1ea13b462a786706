"""Builds an exact index of nearest segments, once per scene, on the host.

The plane is cut into cells. A cell lists the chunks that may hold the segment nearest to some point in it; a cell that
would list too many is quartered. A chunk is left out only on proof that a rival is nearer everywhere in the cell. For
two points the difference of the squared distances to them is linear in the place, so over a box it is largest at a
corner. Along a segment of length l it exceeds the larger of its values at the ends by at most l^2 / 4. Heights are
stretched, so a cell is a box in space: its list holds for a range of heights.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from waymax_sim.datatypes.roadmap import CHUNK, SegmentIndex

# Heights count three times when the nearest segment is chosen: a bridge is not the road below it (WOSAC).
Z_STRETCH = 3.0
# Side of the cells that the tree starts from (m), unless they would be more than MAX_GRID squared; LEVELS
# quarterings follow at most.
CELL, MAX_GRID, LEVELS = 16.0, 256, 4
# Chunks that a cell lists before it is quartered, and that the smallest cells list at most.
SHORT, WIDTH = 4, 8
# Pairs of a cell and a chunk beyond which no index is made: a map with points absurdly far apart. Recorded maps of
# 25,000 points need a fifth of it. Nor is one made of a map wider than this (m).
MOST_PAIRS, WIDEST = 250_000, 16_000.0
# How far around the map, and how far above and below the segments that matter, lists hold (m).
MARGIN, HEADROOM = 48.0, 1.5
# Ranges of heights are cut to whole steps (m): there are few different ones, which are quickly stored.
HEIGHTS = 0.25
# A rival must win by this much (m^2), and by this part of what is compared, so that rounding decides nothing.
TOLERANCE, ROUNDING = 2e-3, 1e-6
# A cell this far (m) from the lines of all segments that matter is on one side of them, however it is computed.
CLEAR = 1e-2
# Where in a cell, in halves of its sides, the nearest chunk is taken as a rival of the others.
PROBES = ((0, 0, 0), (1, 1, 1), (-1, -1, 1), (1, -1, -1), (-1, 1, -1))
QUARTERS = np.array([(-1, -1), (-1, 1), (1, -1), (1, 1)], np.float32)


@dataclasses.dataclass(frozen=True)
class _Chunks:
    """The joints of chunks, heights stretched; at each how far the segments there bulge (m^2) and climb (m).

    `valid` says which segments exist.
    """

    joints: Float[np.ndarray, "3 C J"]
    bulge: Float[np.ndarray, "C J"]
    rise: Float[np.ndarray, "C J"]
    valid: Bool[np.ndarray, "C W"]


@dataclasses.dataclass(frozen=True)
class _Cells:
    """Square cells of one size with a range of stretched heights each, and pairs of a cell and a chunk it may need.

    `cell` ascends. `open` are the segments of the chunk that may be nearest to some point in the cell.
    """

    middle: Float[np.ndarray, "M 2"]
    low: Float[np.ndarray, " M"]
    high: Float[np.ndarray, " M"]
    side: float
    cell: Int[np.ndarray, " P"]
    chunk: Int[np.ndarray, " P"]
    open: Bool[np.ndarray, "P W"]


def build_index(
    ends: Float[np.ndarray, "C 6 W"],
    valid: Bool[np.ndarray, "C W"],
    previous: Int[np.ndarray, "C W"],
    following: Int[np.ndarray, "C W"],
    sided: bool,
) -> SegmentIndex:
    """Index of segments (m, see `Segments`); the valid ones of a chunk come first and join end to start.

    Where nobody asks for sides, none is known (`sided`): more lists are equal then.
    """
    if not valid.any():
        return _nowhere()
    chunks = _chunks(ends, valid)
    flat = chunks.joints.reshape(3, -1)
    lowest, highest = flat.min(axis=1)[:2], flat.max(axis=1)[:2]
    extent = float((highest - lowest).max()) + 2 * MARGIN
    if extent > WIDEST:
        return _nowhere()
    depth = min(max(0, int(np.ceil(np.log2(extent / CELL)))), int(np.log2(MAX_GRID)))
    side = max(CELL * 2**depth, extent)
    # In the middle, so that what the grid has to spare is around the map.
    corner = np.floor((lowest + highest - side) / 2)
    cells = _Cells(
        middle=(corner + np.float32(side / 2))[None],
        low=flat[2].min(keepdims=True) - Z_STRETCH * HEADROOM,
        high=flat[2].max(keepdims=True) + Z_STRETCH * HEADROOM,
        side=side,
        cell=np.zeros(len(chunks.valid), np.int64),
        chunk=np.arange(len(chunks.valid)),
        open=valid,
    )
    for _ in range(depth):
        cells = _pruned(chunks, cells)
        if len(cells.cell) > MOST_PAIRS:
            return _nowhere()
        cells = _quarters(chunks, cells, np.ones(len(cells.middle), bool))
    place = np.floor((cells.middle - corner) / cells.side).astype(int)
    size = cells.side

    lines = _lines(ends, previous, following) if sided else None
    codes, lists, sides, lows, highs, num_lists, num_nodes = [], [], [], [], [], 1, 0
    for level in range(LEVELS + 1):
        cells = _pruned(chunks, cells)
        needs = np.bincount(cells.cell, minlength=len(cells.middle))
        last = level == LEVELS
        done = needs <= (WIDTH if last else SHORT)
        split = np.zeros_like(done) if last else ~done
        # What no list of a smallest cell can hold is looked up as if it were nowhere.
        code = np.full(len(done), -1, np.int32)
        code[done] = ~(num_lists + np.arange(done.sum()))
        code[split] = num_nodes + np.arange(split.sum())
        codes.append(code)
        low, high = _heights(chunks, cells)
        lows.append(low[done])
        highs.append(high[done])
        lists.append(_lists(cells, done))
        sides.append(_sides(lines, cells, done) if lines else np.zeros(done.sum(), int))
        num_lists += int(done.sum())
        num_nodes += int(split.sum())
        if not split.any():
            break
        if len(cells.cell) > MOST_PAIRS:
            return _nowhere()
        cells = _quarters(chunks, cells, split)
    root = np.full((2**depth, 2**depth), -1)
    root[place[:, 0], place[:, 1]] = codes[0]
    found = map(np.concatenate, (lists, sides, lows, highs))
    return _finish(len(chunks.valid), corner, size, root, codes[1:], *found)


def _nowhere() -> SegmentIndex:
    """An index without a list: every segment is looked at."""
    return _finish(0, np.zeros(2), CELL, np.full((1, 1), -1), [], np.zeros((0, WIDTH), int), np.zeros(0, int), [], [])


def _finish(num_chunks, corner, size, root, codes, lists, side, low, high) -> SegmentIndex:
    """Merges equal lists, puts that of nowhere in front, and turns what was found into arrays."""
    # As bytes, highest first: compared as such, rows are in order.
    rows = np.column_stack([lists, side + 1]).astype(">u4")
    _, first, same = np.unique(rows.view(f"V{rows.itemsize * rows.shape[1]}"), return_index=True, return_inverse=True)
    lists, side = lists[first], side[first]
    # A merged list holds where all its cells' do.
    bottom, top = np.full(len(lists), -np.inf), np.full(len(lists), np.inf)
    np.maximum.at(bottom, same.reshape(-1), np.asarray(low))
    np.minimum.at(top, same.reshape(-1), np.asarray(high))
    new = np.concatenate([[0], 1 + same.reshape(-1)])

    # Cells below the first come in fours, in the order of what they quarter. One row more, so that there is one.
    nodes = np.concatenate([*(code.reshape(-1, 4) for code in codes), np.full((1, 4), -1)])
    small = _small(max(len(new), len(nodes)))

    def merged(code):
        return np.where(code < 0, ~new[~np.minimum(code, -1)], code).astype(small)

    return SegmentIndex(
        corner=np.asarray(corner, np.float32),
        size=np.asarray(size, np.float32),
        root=merged(root),
        nodes=merged(nodes),
        lists=np.concatenate([np.zeros((1, WIDTH), int), lists]).astype(_small(num_chunks)),
        side=np.append(0, side).astype(np.int8),
        low=np.concatenate([[np.inf], np.ceil(bottom / Z_STRETCH / HEIGHTS) * HEIGHTS]).astype(np.float32),
        high=np.concatenate([[-np.inf], np.floor(top / Z_STRETCH / HEIGHTS) * HEIGHTS]).astype(np.float32),
    )


def _chunks(ends, valid) -> _Chunks:
    last = np.maximum(valid.sum(axis=1) - 1, 0)
    final = ends[np.arange(len(last)), 3:, last][:, None]
    joints = np.concatenate([ends[:, :3].swapaxes(1, 2), final], axis=1)
    # A chunk that is not full ends in repetitions of its last joint.
    joints = np.where((np.arange(CHUNK + 1) <= last[:, None])[..., None], joints, final)
    joints[..., 2] *= Z_STRETCH
    edge = np.diff(joints, axis=1)

    def at_joints(value):
        """The larger value of the two segments that meet at a joint."""
        none = np.zeros((len(value), 1), np.float32)
        return np.maximum(np.concatenate([value, none], axis=1), np.concatenate([none, value], axis=1))

    bulge, rise = at_joints((edge**2).sum(axis=-1) / 4), at_joints(np.abs(edge[..., 2]))
    return _Chunks(np.ascontiguousarray(np.moveaxis(joints, 2, 0)), bulge, rise, valid)


def _pruned(chunks: _Chunks, cells: _Cells) -> _Cells:
    """Drops pairs whose chunk cannot hold the segment nearest to any point of the cell."""
    cell, chunk, open_, half = cells.cell, cells.chunk, cells.open, np.float32(cells.side / 2)
    middle = [*cells.middle.T, (cells.low + cells.high) / 2]
    reach = (cells.high - cells.low) / 2
    # Seen from the middle of the cell, one coordinate at a time, which is three times faster.
    near = [chunks.joints[axis].take(chunk, axis=0) for axis in range(3)]
    for axis in range(3):
        near[axis] -= middle[axis].take(cell)[:, None]
    own = near[0] ** 2 + near[1] ** 2 + near[2] ** 2 - chunks.bulge.take(chunk, axis=0)
    for x, y, z in PROBES:
        begins = np.flatnonzero(np.diff(cell, prepend=-1))
        repeats = np.diff(begins, append=len(cell))
        span = reach[cell[begins]]
        aim = [x * half, y * half, np.repeat(z * span, repeats)]
        # The chunk whose middle joint is nearest to the probe is the rival; any other would be right as well.
        squared = sum((near[axis][:, CHUNK // 2] - aim[axis]) ** 2 for axis in range(3))
        rival = np.flatnonzero(squared == np.repeat(np.minimum.reduceat(squared, begins), repeats))
        rival = rival[np.diff(cell[rival], prepend=-1) > 0]
        aim[2] = aim[2][rival, None]
        joint = np.argmin(sum((near[axis][rival] - aim[axis]) ** 2 for axis in range(3)), axis=1)
        point = [near[axis][rival, joint] for axis in range(3)]
        rise = chunks.rise[chunk[rival], joint]
        # The rival is at most this far (squared), even if its segment climbs on the way to where it is nearest.
        far = point[0] ** 2 + point[1] ** 2 + point[2] ** 2 + rise * (2 * (span + np.abs(point[2])) + rise)
        far += TOLERANCE + ROUNDING * (far + np.float32(cells.side) ** 2 + span**2)
        lead = own - np.repeat(far, repeats)[:, None]
        for axis, extent in enumerate((half, half, np.repeat(span, repeats)[:, None])):
            apart = near[axis] - np.repeat(point[axis], repeats)[:, None]
            np.abs(apart, out=apart)
            apart *= 2 * extent
            lead -= apart
        # A segment is nowhere nearest if the rival beats it at both of its ends.
        beaten = lead >= 0
        open_ = open_ & ~(beaten[:, :-1] & beaten[:, 1:])
        keep = np.any(open_, axis=1)
        keep[rival] = True
        left = np.flatnonzero(keep)
        if len(left) < len(keep):
            cell, chunk = cell[left], chunk[left]
            open_, own, *near = (values.take(left, axis=0) for values in (open_, own, *near))
    return dataclasses.replace(cells, cell=cell, chunk=chunk, open=open_)


def _heights(chunks: _Chunks, cells: _Cells) -> tuple[Float[np.ndarray, " M"], Float[np.ndarray, " M"]]:
    """Ranges of heights of the cells, narrowed to what lies near their chunks."""
    begins = np.flatnonzero(np.diff(cells.cell, prepend=-1))
    z = chunks.joints[2]
    low = np.minimum.reduceat(z.min(axis=1)[cells.chunk], begins) - np.float32(Z_STRETCH * HEADROOM)
    high = np.maximum.reduceat(z.max(axis=1)[cells.chunk], begins) + np.float32(Z_STRETCH * HEADROOM)
    return np.maximum(cells.low, low), np.minimum(cells.high, high)


def _quarters(chunks: _Chunks, cells: _Cells, split: Bool[np.ndarray, " M"]) -> _Cells:
    """The quarters of some cells, four in a row, each with the pairs of the whole."""
    low, high = _heights(chunks, cells)
    kept = split[cells.cell]
    cell, chunk = (np.cumsum(split) - 1)[cells.cell[kept]], cells.chunk[kept]
    begins = np.flatnonzero(np.diff(cell, prepend=-1))
    repeats = np.diff(begins, append=len(cell))
    # Where the pairs of the whole are repeated: in four runs, one for each quarter.
    first, count = np.repeat(begins, 4), np.repeat(repeats, 4)
    place = np.arange(4 * len(cell)) + np.repeat(first - np.cumsum(count) + count, count)
    return _Cells(
        middle=(cells.middle[split][:, None] + QUARTERS * np.float32(cells.side / 4)).reshape(-1, 2),
        low=np.repeat(low[split], 4),
        high=np.repeat(high[split], 4),
        side=cells.side / 2,
        cell=np.repeat(np.arange(len(count)), count),
        chunk=chunk.take(place),
        open=cells.open[kept].take(place, axis=0),
    )


def _lists(cells: _Cells, done: Bool[np.ndarray, " M"]) -> Int[np.ndarray, "L W"]:
    """Chunks of the cells that are done; what is left of a list repeats its first chunk."""
    kept = done[cells.cell]
    cell, chunk = cells.cell[kept], cells.chunk[kept]
    begins = np.flatnonzero(np.diff(cell, prepend=-1))
    repeats = np.diff(begins, append=len(cell))
    lists = np.repeat(chunk[begins][:, None], WIDTH, axis=1)
    lists[np.repeat(np.arange(len(begins)), repeats), np.arange(len(cell)) - np.repeat(begins, repeats)] = chunk
    return lists


class _Lines(NamedTuple):
    """Segments in the plane: first end, direction of length 1, length (m), and those before and after, -1 for none."""

    x: Float[np.ndarray, " E"]
    y: Float[np.ndarray, " E"]
    along_x: Float[np.ndarray, " E"]
    along_y: Float[np.ndarray, " E"]
    length: Float[np.ndarray, " E"]
    previous: Int[np.ndarray, " E"]
    following: Int[np.ndarray, " E"]


def _lines(ends, previous, following) -> _Lines:
    x, y, _, end_x, end_y, _ = ends.swapaxes(0, 1).reshape(6, -1)
    along_x, along_y = end_x - x, end_y - y
    length = np.hypot(along_x, along_y)
    some = np.where(length > 0, length, 1)
    return _Lines(x, y, along_x / some, along_y / some, length, previous.ravel(), following.ravel())


def _sides(lines: _Lines, cells: _Cells, done: Bool[np.ndarray, " M"]) -> Int[np.ndarray, " L"]:
    """On which side of the nearest segment all points of a cell that is done are: 1 right, -1 left, 0 not the same."""
    kept = done[cells.cell]
    row, place = np.nonzero(cells.open[kept])
    cell, segment = (np.cumsum(done) - 1)[cells.cell[kept]].take(row), cells.chunk[kept].take(row) * CHUNK + place
    middle_x, middle_y = cells.middle[done].T.copy()
    half, number = np.float32(cells.side / 2), int(done.sum())

    def look(cell, segment):
        """Whether cells lie to the right of segments, to the left, and partly before or beyond them."""
        x, y = middle_x.take(cell) - lines.x.take(segment), middle_y.take(cell) - lines.y.take(segment)
        along_x, along_y = lines.along_x.take(segment), lines.along_y.take(segment)
        across, ahead = x * along_y - y * along_x, x * along_x + y * along_y
        reach = half * (np.abs(along_x) + np.abs(along_y)) + np.float32(CLEAR)
        return across > reach, across < -reach, ahead < reach, ahead > lines.length.take(segment) - reach

    right, left, before, beyond = look(cell, segment)
    parts = [(cell, right, left)]
    # Before and beyond a segment its neighbour has a say.
    for near, neighbours in ((before, lines.previous), (beyond, lines.following)):
        asked = np.flatnonzero(near)
        neighbour = neighbours.take(segment.take(asked))
        some = np.flatnonzero(neighbour >= 0)
        whose = cell.take(asked.take(some))
        parts.append((whose, *look(whose, neighbour.take(some))[:2]))
    cell, right, left = map(np.concatenate, zip(*parts, strict=True))
    not_right, not_left = (np.bincount(cell[~same], minlength=number) > 0 for same in (right, left))
    return np.where(not_right, np.where(not_left, 0, -1), 1)


def _small(count: int) -> type[np.signedinteger]:
    """The smaller integer type that can count so far; half of the index is such numbers."""
    return np.int16 if count < 2**15 else np.int32
