"""The scenario of a packed scene.

Made to be quick: few calls, each over all there is of a kind. Numbers are not checked one by one, the checksum has
been; whatever they are, nothing is read or written outside of an array, and what does not fit together is an error.
"""

import math
import struct

import jax
import numpy as np
from jaxtyping import Float32, Int32, Shaped

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.store import planes
from waymax_sim.datasets.store.layout import (
    CHECKED,
    CURVATURE,
    HEADER,
    MAGIC,
    PLANES,
    POSITION,
    ROW,
    VELOCITY,
    YAW,
    YAW_BITS,
    Extras,
    Form,
    form,
    places,
)
from waymax_sim.datatypes.elements import GROUP, NUM_ELEMENT_POINTS
from waymax_sim.datatypes.padding import axes
from waymax_sim.datatypes.roadmap import CHUNK, FAR
from waymax_sim.datatypes.scenario import Scenario

REMEDY = "the store is damaged; convert the scene again"
# What LZ4 makes of a byte at most.
LARGEST_RATIO = 255

Arrays = dict[str, np.ndarray]

# The allocator of Linux gives memory back to the system at once, and fetching it again, page by page, takes half as
# long as all of the rest, until something larger has been freed. So something larger is freed; nothing touches it.
np.empty(2**25 - 2**16, np.uint8)


def unpack(data: bytes | memoryview, *, bucketed: bool = True) -> Scenario:
    """The scenario of a packed scene, on the host.

    Args:
      data: What `pack` made.
      bucketed: Keep the padding to common sizes that a scene is packed with.

    Raises:
      DataError: The data are damaged.
    """
    try:
        return _scenario(*_opened(data), bucketed)
    except DataError as error:
        raise DataError(error.problem, field=error.field or "scene", remedy=error.remedy or REMEDY) from None
    # Arrays of other types than `pack` writes are a TypeError.
    except (ValueError, IndexError, OverflowError, TypeError, struct.error) as error:
        raise DataError(f"does not fit together: {error}", field="scene", remedy=REMEDY) from None


def _opened(data: bytes | memoryview) -> tuple[Form, Arrays]:
    """The form of the scenario, and the arrays in the block."""
    # Only here: they are not there on every machine that simulates.
    import google_crc32c
    import lz4.block

    magic, checksum, size, *there = HEADER.unpack_from(data)
    if magic != MAGIC and magic[:3] == MAGIC[:3]:
        raise DataError("was packed by another version", remedy="convert the scenes again")
    checked = bytes(data[CHECKED:])
    if magic != MAGIC or google_crc32c.value(checked) != checksum:
        raise DataError("does not match its checksum, or is no packed scene")
    block = memoryview(checked)[HEADER.size - CHECKED :]
    if size > LARGEST_RATIO * len(block):
        raise DataError("announces more than it can hold")
    try:
        body = lz4.block.decompress(block, uncompressed_size=size, return_bytearray=True)
    except lz4.block.LZ4BlockError as error:
        raise DataError(f"cannot be decompressed: {error}") from None
    plan = form(*there)
    found, end = places(bytes(body[: 4 * ROW * len(plan.listed)]), plan.listed)
    if len(body) != size or end != size:
        raise DataError("has arrays of another size than announced")
    arrays = {
        name: np.ndarray(place.shape, place.dtype, body, place.begin)
        for name, place in found.items()
        if name not in PLANES
    }
    rows = {"<i2": planes.join(arrays["shorts"], np.int16), "<i4": planes.join(arrays["longs"], np.int32)}
    for name in PLANES:
        dtype, shape, begin = found[name]
        arrays[name] = rows[dtype.str][begin : begin + math.prod(shape)].reshape(shape)
    return plan, arrays


def _scenario(plan: Form, arrays: Arrays, bucketed: bool) -> Scenario:
    extras = Extras(*(arrays[name] for name in Extras._fields))
    lengths = dict(zip(plan.axes, extras.lengths.tolist(), strict=True))
    joints = _joints(extras)
    count = lengths["P"]
    xyz = arrays["roadmap.xyz"] = np.zeros((len(arrays["roadmap.valid"]), 3), np.float32)
    for axis, values in enumerate(joints):
        xyz[:count, axis] = values[:count]
    if "routes.valid" in arrays:
        paths, samples = lengths["M"], lengths["R"]
        routes = arrays["routes.xyz"] = np.zeros((*arrays["routes.valid"].shape, 3), np.float32)
        points = joints[:, count : count + paths * samples]
        routes[:paths, :samples] = points.reshape(3, paths, samples).transpose(1, 2, 0)
    for part in ("edges", "lanes"):
        arrays[f"{part}.ends"] = _ends(joints, arrays[f"{part}_first"], arrays[f"{part}.valid"])
    arrays["graph.curvature"] = arrays["graph.curvature"].astype(np.float32)
    arrays["graph.curvature"] *= np.float32(CURVATURE)
    arrays["graph.arc_length"] = _arc_lengths(arrays)
    groups = lengths["elements.G"]
    arrays["elements.points"] = _element_points(joints, arrays["elements.first"], arrays["elements.count"], groups)
    arrays |= _log(extras, arrays["log.valid"])
    if not bucketed:
        for name in plan.names:
            padded = zip(axes(name), arrays[name].shape, strict=False)
            cut = [slice(length if axis is None else lengths[axis]) for axis, length in padded]
            # With the dots a number stays an array.
            arrays[name] = arrays[name][(*cut, ...)]
    return jax.tree.unflatten(plan.structure, [arrays[name] for name in plan.names])


def _joints(extras: Extras) -> Float32[np.ndarray, "3 n"]:
    """x, y and z of the points of polylines, then of spare joints, then room for a chunk and more, m."""
    points = extras.bends.astype(np.int32)
    points.reshape(-1)[extras.sharp] = extras.sharp_bends
    points.cumsum(axis=1, out=points)
    points[:, extras.heads] = extras.jumps
    points.cumsum(axis=1, out=points)
    count = points.shape[1]
    joints = np.zeros((3, count + extras.spare.shape[1] + 2 * CHUNK), np.float32)
    np.multiply(points, np.float32(POSITION), out=joints[:, :count], dtype=np.float32, casting="unsafe")
    joints[:, count : -2 * CHUNK] = extras.spare
    return joints


def _ends(
    joints: Float32[np.ndarray, "3 n"], steps: Int32[np.ndarray, " C"], valid: np.ndarray
) -> Float32[np.ndarray, "padded 6 W"]:
    """Ends of segments, given the steps between the first joints of their chunks."""
    used = len(steps)
    ends = np.empty((len(valid), 6, CHUNK), np.float32)
    ends[used:] = FAR
    windows = _windows(joints)
    rows, first = ends.view(windows.dtype)[:used, :, 0], steps.cumsum()
    rows[:, :3] = windows[:, first].T
    rows[:, 3:] = windows[:, first + 1].T
    holes = np.flatnonzero(~valid[:used])
    ends[holes // CHUNK, :, holes % CHUNK] = FAR
    return ends


def _windows(joints: Float32[np.ndarray, "3 n"]) -> Shaped[np.ndarray, "3 m"]:
    """The eight joints from each one on, as one thing to copy: as many as a chunk has segments, an element points."""
    row = np.dtype((np.void, CHUNK * joints.itemsize))
    return np.ndarray((3, joints.shape[1] - CHUNK), row, joints, strides=joints.strides)


def _arc_lengths(arrays: Arrays) -> Float32[np.ndarray, "padded W"]:
    """Where each segment begins on its lane, m. Sums are those of `maps.centrelines`, to the bit."""
    used, ends = len(arrays["lanes_first"]), arrays["lanes.ends"]
    along = ends[:used, 3:5].astype(np.float64)
    along -= ends[:used, :2]
    along *= along
    # Padding has no length.
    finish = np.zeros(used * CHUNK + 1)
    np.sqrt(along[:, 0] + along[:, 1]).reshape(-1).cumsum(out=finish[1:])
    begin = finish[arrays["graph.first"][arrays["lanes.feature"][:used, 0]]]
    arc_length = np.zeros((len(ends), CHUNK), np.float32)
    arc_length[:used] = finish[:-1].reshape(used, CHUNK) - begin[:, None]
    arc_length *= arrays["lanes.valid"]
    return arc_length


def _element_points(
    joints: Float32[np.ndarray, "3 n"], first: Int32[np.ndarray, "G 4"], count: Int32[np.ndarray, "G 4"], groups: int
) -> Float32[np.ndarray, "G 2 8 4"]:
    """What `maps.elements.points_of_groups` finds, given how many groups are no padding."""
    first, size = first[:groups].reshape(-1), count[:groups].reshape(-1)
    windows = _windows(joints)
    # Elements one after the other, then as a search reads them.
    near = np.empty((2, len(first)), windows.dtype)
    near[0], near[1] = windows[0][first], windows[1][first]
    near = near.view(np.float32).reshape(2, len(first), NUM_ELEMENT_POINTS)
    short = np.flatnonzero(size < NUM_ELEMENT_POINTS)
    near[:, short] = np.where(np.arange(NUM_ELEMENT_POINTS) < size[short, None], near[:, short], np.inf)
    points = np.empty((len(count), 2, NUM_ELEMENT_POINTS, GROUP), np.float32)
    points[:groups] = near.reshape(2, groups, GROUP, NUM_ELEMENT_POINTS).transpose(1, 0, 3, 2)
    points[groups:] = np.inf
    return points


def _log(extras: Extras, valid: np.ndarray) -> Arrays:
    """Positions, velocities and headings of agents."""
    steps, agents = valid.shape
    states = np.empty((steps, 6 * agents), np.int32)
    states[0] = extras.start.reshape(-1)
    motion = planes.join(extras.motion, np.int16 if len(extras.motion) < 3 else np.int32)
    states[1:] = motion.reshape(6 * agents, steps - 1).T
    # Row by row: `cumsum` goes along columns, which is slow.
    before, *rows = states
    for row in rows:
        before = np.add(before, row, row)
    states = states.reshape(steps, 6, agents)
    states[:, 5] <<= 32 - YAW_BITS
    states[:, 5] >>= 32 - YAW_BITS
    states &= -valid.astype(np.int32)[:, None]
    xyz, velocity = np.empty((steps, agents, 3), np.float32), np.empty((steps, agents, 2), np.float32)
    yaw = np.empty((steps, agents), np.float32)
    columns = [*xyz.transpose(2, 0, 1), *velocity.transpose(2, 0, 1), yaw]
    for channel, (column, unit) in enumerate(zip(columns, 3 * [POSITION] + 2 * [VELOCITY] + [YAW], strict=True)):
        np.multiply(states[:, channel], np.float32(unit), out=column, dtype=np.float32, casting="unsafe")
    return {"log.xyz": xyz, "log.velocity": velocity, "log.yaw": yaw}
