"""Builds an exact index of nearest segments, once per scene, on the host.

The plane is cut into cells. A cell lists the chunks that may hold the segment nearest to some point in it; a cell that
would list too many is quartered. A chunk is left out only on proof that a rival is nearer everywhere in the cell. For
two points the difference of the squared distances to them is linear in the place, so over a box it is largest at a
corner. Along a segment of length l it exceeds the larger of its values at the ends by at most l^2 / 4. Heights are
stretched, so a cell is a box in space: its list holds for a range of heights.
"""

import dataclasses

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
# A rival must win by this much (m^2), and by this part of what is compared, so that rounding decides nothing.
TOLERANCE, ROUNDING = 2e-3, 1e-6
# Where in a cell, in halves of its sides, the nearest chunk is taken as a rival of the others.
PROBES = ((0, 0, 0), (1, 1, 1), (-1, -1, 1), (1, -1, -1), (-1, 1, -1))
QUARTERS = np.array([(-1, -1), (-1, 1), (1, -1), (1, 1)], np.float32)


@dataclasses.dataclass(frozen=True)
class _Chunks:
    """The joints of chunks, heights stretched; at each how far the segments there bulge (m^2) and climb (m)."""

    joints: Float[np.ndarray, "C J 3"]
    bulge: Float[np.ndarray, "C J"]
    rise: Float[np.ndarray, "C J"]


@dataclasses.dataclass(frozen=True)
class _Cells:
    """Square cells of one size with a range of stretched heights each, and pairs of a cell and a chunk it may need.

    `cell` ascends.
    """

    middle: Float[np.ndarray, "M 2"]
    low: Float[np.ndarray, " M"]
    high: Float[np.ndarray, " M"]
    side: float
    cell: Int[np.ndarray, " P"]
    chunk: Int[np.ndarray, " P"]


def build_index(ends: Float[np.ndarray, "C 6 W"], valid: Bool[np.ndarray, "C W"]) -> SegmentIndex:
    """Index of segments (m, see `Segments`); the valid ones of a chunk come first and join end to start."""
    if not valid.any():
        return _nowhere()
    chunks = _chunks(ends, valid)
    flat = chunks.joints.reshape(-1, 3)
    lowest, highest = flat.min(axis=0)[:2], flat.max(axis=0)[:2]
    extent = float((highest - lowest).max()) + 2 * MARGIN
    if extent > WIDEST:
        return _nowhere()
    depth = min(max(0, int(np.ceil(np.log2(extent / CELL)))), int(np.log2(MAX_GRID)))
    side = max(CELL * 2**depth, extent)
    # In the middle, so that what the grid has to spare is around the map.
    corner = np.floor((lowest + highest - side) / 2)
    cells = _Cells(
        middle=(corner + np.float32(side / 2))[None],
        low=flat[:, 2].min(keepdims=True) - Z_STRETCH * HEADROOM,
        high=flat[:, 2].max(keepdims=True) + Z_STRETCH * HEADROOM,
        side=side,
        cell=np.zeros(len(chunks.joints), np.int64),
        chunk=np.arange(len(chunks.joints)),
    )
    for _ in range(depth):
        cells = _pruned(chunks, cells)
        if len(cells.cell) > MOST_PAIRS:
            return _nowhere()
        cells = _quarters(chunks, cells, np.ones(len(cells.middle), bool))
    place = np.floor((cells.middle - corner) / cells.side).astype(int)
    size = cells.side

    codes, lists, lows, highs, num_lists, num_nodes = [], [], [], [], 1, 0
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
        num_lists += int(done.sum())
        num_nodes += int(split.sum())
        if not split.any():
            break
        if len(cells.cell) > MOST_PAIRS:
            return _nowhere()
        cells = _quarters(chunks, cells, split)
    root = np.full((2**depth, 2**depth), -1)
    root[place[:, 0], place[:, 1]] = codes[0]
    return _finish(len(chunks.joints), corner, size, root, codes[1:], *map(np.concatenate, (lists, lows, highs)))


def _nowhere() -> SegmentIndex:
    """An index without a list: every segment is looked at."""
    return _finish(0, np.zeros(2), CELL, np.full((1, 1), -1), [], np.zeros((0, WIDTH), int), [], [])


def _finish(num_chunks, corner, size, root, codes, lists, low, high) -> SegmentIndex:
    """Merges equal lists, puts that of nowhere in front, and turns what was found into arrays."""
    lists, same = np.unique(lists, axis=0, return_inverse=True)
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
        low=np.concatenate([[np.inf], bottom / Z_STRETCH]).astype(np.float32),
        high=np.concatenate([[-np.inf], top / Z_STRETCH]).astype(np.float32),
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

    return _Chunks(joints, at_joints((edge**2).sum(axis=-1) / 4), at_joints(np.abs(edge[..., 2])))


def _pruned(chunks: _Chunks, cells: _Cells) -> _Cells:
    """Drops pairs whose chunk cannot hold the segment nearest to any point of the cell."""
    cell, chunk, half = cells.cell, cells.chunk, np.float32(cells.side / 2)
    middle = np.concatenate([cells.middle, ((cells.low + cells.high) / 2)[:, None]], axis=1)
    reach = (cells.high - cells.low) / 2
    # Seen from the middle of the cell, one coordinate at a time, which is three times faster.
    near = [chunks.joints[chunk, :, axis] - middle[cell, axis, None] for axis in range(3)]
    own = near[0] ** 2 + near[1] ** 2 + near[2] ** 2 - chunks.bulge[chunk]
    for x, y, z in PROBES:
        begins = np.flatnonzero(np.diff(cell, prepend=-1))
        repeats = np.diff(begins, append=len(cell))
        aim = [x * half, y * half, np.repeat(z * reach[cell[begins]], repeats)]
        # The chunk whose middle joint is nearest to the probe is the rival; any other would be right as well.
        squared = sum((near[axis][:, CHUNK // 2] - aim[axis]) ** 2 for axis in range(3))
        rival = np.flatnonzero(squared == np.repeat(np.minimum.reduceat(squared, begins), repeats))
        rival = rival[np.diff(cell[rival], prepend=-1) > 0]
        aim[2] = aim[2][rival, None]
        joint = np.argmin(sum((near[axis][rival] - aim[axis]) ** 2 for axis in range(3)), axis=1)
        point = [near[axis][rival, joint] for axis in range(3)]
        rise, span = chunks.rise[chunk[rival], joint], reach[cell[begins]]
        # The rival is at most this far (squared), even if its segment climbs on the way to where it is nearest.
        far = point[0] ** 2 + point[1] ** 2 + point[2] ** 2 + rise * (2 * (span + np.abs(point[2])) + rise)
        far += TOLERANCE + ROUNDING * (far + np.float32(cells.side) ** 2 + span**2)
        lead = own - np.repeat(far, repeats)[:, None]
        for axis, extent in enumerate((half, half, np.repeat(span, repeats)[:, None])):
            lead -= 2 * extent * np.abs(near[axis] - np.repeat(point[axis], repeats)[:, None])
        keep = np.any(lead < 0, axis=1)
        np.put(keep, rival, True)
        cell, chunk, own, near = cell[keep], chunk[keep], own[keep], [coordinate[keep] for coordinate in near]
    return dataclasses.replace(cells, cell=cell, chunk=chunk)


def _heights(chunks: _Chunks, cells: _Cells) -> tuple[Float[np.ndarray, " M"], Float[np.ndarray, " M"]]:
    """Ranges of heights of the cells, narrowed to what lies near their chunks."""
    begins = np.flatnonzero(np.diff(cells.cell, prepend=-1))
    z = chunks.joints[cells.chunk, :, 2]
    low = np.minimum.reduceat(z.min(axis=1), begins) - np.float32(Z_STRETCH * HEADROOM)
    high = np.maximum.reduceat(z.max(axis=1), begins) + np.float32(Z_STRETCH * HEADROOM)
    return np.maximum(cells.low, low), np.minimum(cells.high, high)


def _quarters(chunks: _Chunks, cells: _Cells, split: Bool[np.ndarray, " M"]) -> _Cells:
    """The quarters of some cells, four in a row, each with the pairs of the whole."""
    low, high = _heights(chunks, cells)
    kept = split[cells.cell]
    parent = (np.cumsum(split) - 1)[cells.cell[kept]]
    quarter = (4 * parent[:, None] + np.arange(4)).reshape(-1)
    order = np.argsort(quarter, kind="stable")
    return _Cells(
        middle=(cells.middle[split][:, None] + QUARTERS * np.float32(cells.side / 4)).reshape(-1, 2),
        low=np.repeat(low[split], 4),
        high=np.repeat(high[split], 4),
        side=cells.side / 2,
        cell=quarter[order],
        chunk=np.repeat(cells.chunk[kept], 4)[order],
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


def _small(count: int) -> type[np.signedinteger]:
    """The smaller integer type that can count so far; half of the index is such numbers."""
    return np.int16 if count < 2**15 else np.int32
