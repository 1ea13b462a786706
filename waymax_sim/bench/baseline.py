"""Brute-force metrics, the baseline of the ratios of the benchmark.

A direct JAX implementation without indexes: every bottom corner against the segments between all consecutive map
points, other features than road edges masked out; every pair of boxes by projection of their corners. Metrics share no
work. Scenes are processed sequentially, because one needs tens of megabytes.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from waymax_sim.datatypes.roadmap import ROAD_EDGE_TYPES, RoadMap
from waymax_sim.maps.segments import MAX_LOOP_GAP
from waymax_sim.metrics import METRICS, Metric, MetricValue, Snapshot
from waymax_sim.pytree import Array, pytree

HEIGHT_WEIGHT = 3.0  # weight of height differences in the selection of the nearest edge, as in `maps`
BASELINE_METRICS = ("overlap", "offroad", "road_edge_distance", "log_divergence")


@pytree
class FlatMap:
    """Segments between all consecutive points of the map; row i begins at point i.

    Attributes:
      start: Point i, m.
      end: Point i + 1, m.
      previous: Row of the preceding segment of the same road edge, -1 if none.
      next: Row of the following segment, -1 if none.
      valid: Whether it is part of a road edge and has a length in the plane.
    """

    start: Float[Array, "E 3"]
    end: Float[Array, "E 3"]
    previous: Int[Array, " E"]
    next: Int[Array, " E"]
    valid: Bool[Array, " E"]


def flat_map(roadmap: RoadMap) -> FlatMap:
    """The segments of a map, in host memory."""
    roadmap = jax.tree.map(np.asarray, roadmap)
    start, end = roadmap.xyz[:-1], roadmap.xyz[1:]
    feature = roadmap.feature[:-1]
    is_segment = roadmap.valid[:-1] & roadmap.valid[1:] & (feature == roadmap.feature[1:])
    is_edge = np.isin(roadmap.feature_type[feature], ROAD_EDGE_TYPES)
    valid = is_segment & is_edge & np.any(start[:, :2] != end[:, :2], axis=-1)

    rows = np.flatnonzero(valid)
    before, after = rows[:-1], rows[1:]
    joined = feature[before] == feature[after]
    previous, following = np.full((2, len(valid)), -1, np.int32)
    previous[after[joined]], following[before[joined]] = before[joined], after[joined]
    first, last = np.flatnonzero(previous[rows] < 0), np.flatnonzero(following[rows] < 0)
    heads, tails = rows[first], rows[last]
    loops = (np.linalg.norm(start[heads] - end[tails], axis=-1) < MAX_LOOP_GAP) & (last - first >= 2)
    previous[heads[loops]], following[tails[loops]] = tails[loops], heads[loops]
    return FlatMap(start=start, end=end, previous=previous, next=following, valid=valid)


def baseline_metrics(flat: FlatMap) -> dict[str, Metric]:
    """Brute-force metrics, by their names in `METRICS`."""

    def distance(snapshot: Snapshot) -> MetricValue:
        return road_edge_distance(flat, snapshot)

    def offroad(snapshot: Snapshot) -> MetricValue:
        edge_distance = distance(snapshot)
        return MetricValue((edge_distance.value > 0).astype(jnp.float32), edge_distance.valid)

    computes = (overlap, offroad, distance, log_divergence)
    return {
        name: dataclasses.replace(METRICS[name], compute=compute)
        for name, compute in zip(BASELINE_METRICS, computes, strict=True)
    }


def road_edge_distance(flat: FlatMap, snapshot: Snapshot) -> MetricValue:
    """Signed distance of the most off-road corner to the nearest road edge (m) over all segments."""
    points = _bottom_corners(snapshot).reshape(-1, 3)
    distance = jnp.max(_signed_distance(flat, points).reshape(-1, 4), axis=-1)
    valid = snapshot.agents.valid & jnp.any(flat.valid)
    return MetricValue(jnp.where(valid, distance, 0.0), valid)


def overlap(snapshot: Snapshot) -> MetricValue:
    """Overlap with any other box: separating-axis test of all pairs."""
    corners, valid = _bottom_corners(snapshot), snapshot.agents.valid
    xy = corners[..., :2]
    axes = jnp.stack([xy[:, 0] - xy[:, 1], xy[:, 0] - xy[:, 3]], axis=1)

    def extent(axes: Float[jax.Array, "N 2 2"], xy: Float[jax.Array, "N 4 2"]):
        along = jnp.einsum("iad,jcd->ijac", axes, xy, precision="highest")
        return jnp.min(along, axis=-1), jnp.max(along, axis=-1)

    low, high = extent(axes, xy)
    own = jnp.arange(len(valid))
    own_low, own_high = low[own, own][:, None], high[own, own][:, None]
    meet = jnp.all((own_low < high) & (low < own_high), axis=-1)
    bottom = corners[:, 0, 2]
    top = bottom + snapshot.scenario.agents.size[:, 2]
    level = (bottom[:, None] <= top[None]) & (bottom[None] <= top[:, None])
    hit = meet & meet.T & level & valid[:, None] & valid[None] & ~jnp.eye(len(valid), dtype=bool)
    return MetricValue((jnp.any(hit, axis=-1) & valid).astype(jnp.float32), valid)


def log_divergence(snapshot: Snapshot) -> MetricValue:
    """Distance to the logged position (m)."""
    log = snapshot.scenario.log
    offset = snapshot.agents.xyz[:, :2] - log.xyz[snapshot.step, :, :2]
    valid = snapshot.agents.valid & log.valid[snapshot.step]
    return MetricValue(jnp.where(valid, jnp.linalg.norm(offset, axis=-1), 0.0), valid)


def _bottom_corners(snapshot: Snapshot) -> Float[jax.Array, "N 4 3"]:
    agents, size = snapshot.agents, snapshot.scenario.agents.size
    cos, sin = jnp.cos(agents.yaw)[:, None], jnp.sin(agents.yaw)[:, None]
    x = size[:, :1] / 2 * jnp.asarray([1.0, -1.0, -1.0, 1.0])[None]
    y = size[:, 1:2] / 2 * jnp.asarray([1.0, 1.0, -1.0, -1.0])[None]
    offset = jnp.stack([cos * x - sin * y, sin * x + cos * y, jnp.broadcast_to(-size[:, 2:] / 2, x.shape)], axis=-1)
    return agents.xyz[:, None] + offset


def _signed_distance(flat: FlatMap, points: Float[jax.Array, "Q 3"]) -> Float[jax.Array, " Q"]:
    along = flat.end - flat.start
    offset = points[:, None] - flat.start[None]
    length2 = jnp.maximum(jnp.sum(along[:, :2] ** 2, axis=-1), 1e-12)
    t = jnp.clip(jnp.sum(offset[..., :2] * along[None, :, :2], axis=-1) / length2[None], 0.0, 1.0)
    away = (offset - t[..., None] * along[None]) * jnp.asarray([1.0, 1.0, HEIGHT_WEIGHT])[None, None]
    distance2 = jnp.where(flat.valid[None], jnp.sum(away**2, axis=-1), jnp.inf)
    nearest = jnp.argmin(distance2, axis=-1)
    to_edge = jnp.take_along_axis(away[..., :2], nearest[:, None, None], axis=1)[:, 0]
    return _side(flat, nearest, points) * jnp.linalg.norm(to_edge, axis=-1)


def _side(flat: FlatMap, row: jax.Array, points: Float[jax.Array, "Q 3"]) -> Float[jax.Array, " Q"]:
    """1 to the right of a segment, -1 to the left; at a vertex by both adjacent segments."""

    def relative(row: jax.Array):
        start, end = flat.start[row, :2], flat.end[row, :2]
        along, offset = end - start, points[:, :2] - start
        return jnp.sign(_cross(offset, along)), along, jnp.sum(offset * along, axis=-1)

    def corner(first, second, turn: Bool[jax.Array, " Q"]):
        return jnp.where(turn, jnp.maximum(first, second), jnp.minimum(first, second))

    side, along, progress = relative(row)
    before, after = flat.previous[row], flat.next[row]
    side_before, along_before, _ = relative(before)
    side_after, along_after, _ = relative(after)
    at_start = (progress < 0) & (before >= 0)
    at_end = (progress > jnp.sum(along * along, axis=-1)) & (after >= 0)
    left_at_start, left_at_end = _cross(along_before, along) > 0, _cross(along, along_after) > 0
    side = jnp.where(at_end, corner(side, side_after, left_at_end), side)
    return jnp.where(at_start, corner(side, side_before, left_at_start), side)


def _cross(a: Float[jax.Array, "Q 2"], b: Float[jax.Array, "Q 2"]) -> Float[jax.Array, " Q"]:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
