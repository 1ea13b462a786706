"""The same judgement the plain way: what every figure is compared with.

Written as one would write it first: every bottom corner against the segments between all consecutive points of the
flat map, those that are no road edge masked out; every box against every box by projecting their corners; no index,
nothing shared between metrics. Scenes are taken one after another, because one scene alone needs tens of megabytes.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from waymax_sim.datatypes.roadmap import ROAD_EDGE_TYPES, RoadMap
from waymax_sim.maps.segments import LOOP_GAP
from waymax_sim.metrics import METRICS, Metric, MetricValue, Snapshot
from waymax_sim.pytree import Array, pytree

# Heights count so much more than the plane when the nearest edge is chosen, as in `maps`.
Z_STRETCH = 3.0
PLAIN = ("overlap", "offroad", "road_edge_distance", "log_divergence")


@pytree
class WholeMap:
    """Segments between all consecutive points of the map; row i begins at point i.

    Attributes:
      start: Point i, m.
      end: Point i + 1, m.
      previous: Row of the segment before along the same road edge, -1 where there is none.
      next: Row of the segment after.
      valid: Whether it is part of a road edge and has a length in the plane.
    """

    start: Float[Array, "E 3"]
    end: Float[Array, "E 3"]
    previous: Int[Array, " E"]
    next: Int[Array, " E"]
    valid: Bool[Array, " E"]


def whole_map(roadmap: RoadMap) -> WholeMap:
    """All segments of a map, on the host."""
    roadmap = jax.tree.map(np.asarray, roadmap)
    start, end = roadmap.xyz[:-1], roadmap.xyz[1:]
    feature = roadmap.feature[:-1]
    together = roadmap.valid[:-1] & roadmap.valid[1:] & (feature == roadmap.feature[1:])
    is_edge = np.isin(roadmap.feature_type[feature], ROAD_EDGE_TYPES)
    valid = together & is_edge & np.any(start[:, :2] != end[:, :2], axis=-1)

    rows = np.flatnonzero(valid)
    before, after = rows[:-1], rows[1:]
    joined = feature[before] == feature[after]
    previous, following = np.full((2, len(valid)), -1, np.int32)
    previous[after[joined]], following[before[joined]] = before[joined], after[joined]
    first, last = np.flatnonzero(previous[rows] < 0), np.flatnonzero(following[rows] < 0)
    heads, tails = rows[first], rows[last]
    loops = (np.linalg.norm(start[heads] - end[tails], axis=-1) < LOOP_GAP) & (last - first >= 2)
    previous[heads[loops]], following[tails[loops]] = tails[loops], heads[loops]
    return WholeMap(start=start, end=end, previous=previous, next=following, valid=valid)


def plain_metrics(whole: WholeMap) -> dict[str, Metric]:
    """The metrics that brute force knows, by the same names as in `METRICS`."""

    def distance(snapshot: Snapshot) -> MetricValue:
        return road_edge_distance(whole, snapshot)

    def offroad(snapshot: Snapshot) -> MetricValue:
        found = distance(snapshot)
        return MetricValue((found.value > 0).astype(jnp.float32), found.valid)

    computes = (overlap, offroad, distance, log_divergence)
    return {
        name: dataclasses.replace(METRICS[name], compute=compute) for name, compute in zip(PLAIN, computes, strict=True)
    }


def road_edge_distance(whole: WholeMap, snapshot: Snapshot) -> MetricValue:
    """Signed distance of the most off-road corner to the nearest road edge (m), by looking at the whole map."""
    points = _bottom_corners(snapshot).reshape(-1, 3)
    distance = jnp.max(_signed_distance(whole, points).reshape(-1, 4), axis=-1)
    valid = snapshot.agents.valid & jnp.any(whole.valid)
    return MetricValue(jnp.where(valid, distance, 0.0), valid)


def overlap(snapshot: Snapshot) -> MetricValue:
    """Whether a box overlaps any other: all pairs, corners projected on the axes of both boxes."""
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
    """Distance to the logged place (m)."""
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


def _signed_distance(whole: WholeMap, points: Float[jax.Array, "Q 3"]) -> Float[jax.Array, " Q"]:
    along = whole.end - whole.start
    offset = points[:, None] - whole.start[None]
    length2 = jnp.maximum(jnp.sum(along[:, :2] ** 2, axis=-1), 1e-12)
    t = jnp.clip(jnp.sum(offset[..., :2] * along[None, :, :2], axis=-1) / length2[None], 0.0, 1.0)
    away = (offset - t[..., None] * along[None]) * jnp.asarray([1.0, 1.0, Z_STRETCH])[None, None]
    distance2 = jnp.where(whole.valid[None], jnp.sum(away**2, axis=-1), jnp.inf)
    nearest = jnp.argmin(distance2, axis=-1)
    to_edge = jnp.take_along_axis(away[..., :2], nearest[:, None, None], axis=1)[:, 0]
    return _side(whole, nearest, points) * jnp.linalg.norm(to_edge, axis=-1)


def _side(whole: WholeMap, row: jax.Array, points: Float[jax.Array, "Q 3"]) -> Float[jax.Array, " Q"]:
    """1 to the right of a segment, -1 to the left; at a corner both segments that meet there decide."""

    def look(row: jax.Array):
        start, end = whole.start[row, :2], whole.end[row, :2]
        along, offset = end - start, points[:, :2] - start
        return jnp.sign(_cross(offset, along)), along, jnp.sum(offset * along, axis=-1)

    def corner(first, second, turn: Bool[jax.Array, " Q"]):
        return jnp.where(turn, jnp.maximum(first, second), jnp.minimum(first, second))

    side, along, progress = look(row)
    before, after = whole.previous[row], whole.next[row]
    side_before, along_before, _ = look(before)
    side_after, along_after, _ = look(after)
    at_start = (progress < 0) & (before >= 0)
    at_end = (progress > jnp.sum(along * along, axis=-1)) & (after >= 0)
    left_at_start, left_at_end = _cross(along_before, along) > 0, _cross(along, along_after) > 0
    side = jnp.where(at_end, corner(side, side_after, left_at_end), side)
    return jnp.where(at_start, corner(side, side_before, left_at_start), side)


def _cross(a: Float[jax.Array, "Q 2"], b: Float[jax.Array, "Q 2"]) -> Float[jax.Array, " Q"]:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
