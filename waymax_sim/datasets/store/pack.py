"""A scenario as one compact piece of bytes."""

import dataclasses

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, Int32

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.scene import RawScene
from waymax_sim.datasets.store import planes
from waymax_sim.datasets.store.layout import (
    CHECKED,
    CURVATURE,
    HEADER,
    MAGIC,
    PLANES,
    POSITION,
    VELOCITY,
    YAW,
    YAW_BITS,
    Extras,
    form,
    path_of,
    table_of,
)
from waymax_sim.datatypes.padding import bucket, pad, sizes
from waymax_sim.datatypes.roadmap import CHUNK, RoadMap, Segments
from waymax_sim.datatypes.scenario import Scenario


def snapped(raw: RawScene) -> RawScene:
    """The scene with its map points on the grid that packed scenes have; none moves by more than 0.5 mm per axis.

    What is built from a map must be built from the points that are kept.
    """
    return dataclasses.replace(raw, point_xyz=np.round(raw.point_xyz / POSITION) * POSITION)


def pack(scenario: Scenario) -> bytes:
    """Packs a scenario that is not padded and whose map points are on the grid; `unpack` is the way back.

    The map, its indexes and all that is discrete stay exactly as they are. Positions of agents and routes move by
    0.5 mm per axis at most, velocities by 0.004 m/s, headings by 1e-4 rad, curvatures of lanes by 1.3e-4 / m.

    Raises:
      DataError: Positions are further than 2,000 km from the local origin, or the points of a map feature are not in
        one piece.
    """
    # Only here: they are not there on every machine that simulates.
    import google_crc32c
    import lz4.block

    lengths = sizes(scenario)
    padded = pad(scenario, bucket(lengths))
    there = (scenario.routes is not None, scenario.goals is not None)
    plan = form(*there)
    found = {path_of(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(padded)}
    curvature = np.round(found["graph.curvature"].astype(np.float64) / CURVATURE)
    found["graph.curvature"] = np.clip(curvature, -(2**30), 2**30).astype(np.int32)
    extras = _extras(scenario, padded, [lengths[axis] for axis in plan.axes], found)
    found |= {name: values.astype(values.dtype.newbyteorder("<")) for name, values in extras._asdict().items()}
    listed = [found[name] for name in plan.listed]
    stored = [values for name, values in zip(plan.listed, listed, strict=True) if name not in PLANES]
    parts = [values.tobytes() for size in (4, 2, 1) for values in stored if values.dtype.itemsize == size]
    body = b"".join([table_of(listed), *parts])
    block = lz4.block.compress(body, mode="high_compression", compression=9, store_size=False)
    checked = HEADER.pack(MAGIC, 0, len(body), *there)[CHECKED:] + block
    return MAGIC + google_crc32c.value(checked).to_bytes(4, "little") + checked


def _extras(scenario: Scenario, padded: Scenario, lengths: list[int], found: dict[str, np.ndarray]) -> Extras:
    heads, points = _polylines(scenario)
    jumps, bends = _bends(points, heads)
    sharp = np.flatnonzero(np.abs(bends.astype(np.int64)) > 127)
    first_edges, spare_edges = _first_joints(scenario.edges, scenario.roadmap, points.shape[1])
    first_lanes, spare_lanes = _first_joints(scenario.lanes, scenario.roadmap, points.shape[1] + len(spare_edges))
    start, steps = _motion(padded)
    kinds = {
        kind: [found[name].reshape(-1) for name in found if name in PLANES and found[name].dtype == kind]
        for kind in (np.int16, np.int32)
    }
    shorts, longs = (planes.split(np.concatenate([np.zeros(0, kind), *kinds[kind]])) for kind in kinds)
    return Extras(
        lengths=np.array(lengths, np.int32),
        heads=heads.astype(np.int32),
        jumps=jumps,
        bends=bends.astype(np.int8),
        sharp=sharp.astype(np.int32),
        sharp_bends=bends.reshape(-1)[sharp],
        spare=np.concatenate([spare_edges, spare_lanes]).T.astype(np.float32),
        edges_first=np.diff(first_edges, prepend=0).astype(np.int32),
        lanes_first=np.diff(first_lanes, prepend=0).astype(np.int32),
        start=start,
        motion=planes.split(np.moveaxis(steps, 0, -1).reshape(-1)),
        shorts=shorts,
        longs=longs,
    )


def _whole(values: Float[np.ndarray, "*n"], unit: float, field: str) -> Int32[np.ndarray, "*n"]:
    """Values in whole units."""
    whole = np.round(np.asarray(values, np.float64) / unit)
    if np.abs(whole).max(initial=0) >= 2**31:
        raise DataError("too far from the local origin", field=field, remedy="cut the scene")
    return whole.astype(np.int32)


def _polylines(scenario: Scenario) -> tuple[Int[np.ndarray, " H"], Int32[np.ndarray, "3 n"]]:
    """First points of map features and routes, and the points of all of them, in steps of the grid."""
    roadmap, routes = scenario.roadmap, scenario.routes
    heads = np.flatnonzero(np.diff(roadmap.feature, prepend=-1))
    if len(np.unique(roadmap.feature[heads])) < len(heads):
        raise DataError("the points of a feature are not in one piece", field="point_feature")
    points = roadmap.xyz
    if routes is not None:
        count, samples = routes.valid.shape
        heads = np.concatenate([heads, len(points) + samples * np.arange(count if samples else 0)])
        points = np.concatenate([points, routes.xyz.reshape(-1, 3)])
    return heads, _whole(points, POSITION, "xyz").T


def _bends(points: Int32[np.ndarray, "3 n"], heads: Int[np.ndarray, " H"]):
    """The jumps to the first points of polylines, and how steps between points differ from the ones before."""
    steps = np.diff(points, axis=1, prepend=np.zeros((3, 1), np.int32))
    jumps = steps[:, heads]
    # A polyline starts with its own first step, so that only its first bend is large.
    length = np.diff(heads, append=points.shape[1])
    steps[:, heads] = np.where(length > 1, steps[:, np.minimum(heads + 1, points.shape[1] - 1)], 0)
    return jumps, np.diff(steps, axis=1, prepend=np.zeros((3, 1), np.int32))


def _first_joints(
    part: Segments, roadmap: RoadMap, num_points: int
) -> tuple[Int[np.ndarray, " C"], Float[np.ndarray, "X 3"]]:
    """First joint of each chunk among the points of the map, or behind `num_points` among spare ones; and these."""
    first, spare = np.zeros(len(part.valid), int), [np.zeros((0, 3), np.float32)]
    features, begins = np.unique(roadmap.feature, return_index=True)
    begin = dict(zip(features.tolist(), begins.tolist(), strict=True))
    ordinal, previous, added = 0, -1, 0
    for chunk, count in enumerate(part.valid.sum(axis=1).tolist()):
        if not count:
            continue
        feature = int(part.feature[chunk, 0])
        ordinal, previous = ordinal + 1 if feature == previous else 0, feature
        joints = np.concatenate([part.ends[chunk, :3, :count].T, part.ends[chunk, 3:, count - 1 : count].T])
        at = begin[feature] + CHUNK * ordinal
        if not np.array_equal(roadmap.xyz[at : at + count + 1], joints):
            at = num_points + added
            spare.append(joints)
            added += len(joints)
        first[chunk] = at
    return first, np.concatenate(spare)


def _motion(scenario: Scenario) -> tuple[Int32[np.ndarray, "6 N"], Int32[np.ndarray, "steps 6 N"]]:
    """Where agents are at the first step, and how that changes, see `Extras`."""
    log = scenario.log
    position, velocity = _whole(log.xyz, POSITION, "xyz"), _whole(log.velocity, VELOCITY, "velocity")
    yaw = _whole(log.yaw, YAW, "yaw")
    states = np.concatenate([position, velocity, yaw[..., None]], axis=-1).transpose(0, 2, 1)
    seen = _last_seen(log.valid)
    states = np.take_along_axis(states, seen[:, None], axis=0)
    steps = np.diff(states, axis=0)
    half = 2 ** (YAW_BITS - 1)
    steps[:, 5] = (steps[:, 5] + half) % (2 * half) - half
    return states[0], steps


def _last_seen(valid: Bool[np.ndarray, "T N"]) -> Int[np.ndarray, "T N"]:
    """The last step up to each at which an agent was seen; before the first such step, that one."""
    steps = np.arange(len(valid))[:, None]
    last = np.maximum.accumulate(np.where(valid, steps, -1), axis=0)
    return np.where(last < 0, valid.argmax(axis=0), last)
