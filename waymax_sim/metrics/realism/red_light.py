"""Red light violations: passing the stop point of a lane while its light is red."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from waymax_sim import geometry
from waymax_sim.datatypes.roadmap import LANE_SURFACE_STREET
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.datatypes.signals import ARROW_STOP, STOP
from waymax_sim.metrics.realism.tracks import round_to_world_float32
from waymax_sim.ops.batched_lookup import update_masked
from waymax_sim.pytree import Array, pytree, to_device

# Number of points per comparison with all lanes.
POINT_BATCH = 16


@pytree
class LaneSegments:
    """Segments of the centerlines of surface streets, one slot for each map point.

    Attributes:
      start: First endpoint, m.
      along: Vector to the second endpoint, m.
      exists: Whether a segment starts at this point.
      lane: Row of its map feature.
    """

    start: Float[Array, "P 2"]
    along: Float[Array, "P 2"]
    exists: Bool[Array, " P"]
    lane: Int[Array, " P"]


def lane_segments(scenario: Scenario, parity: bool) -> LaneSegments:
    """The segments of all surface streets with at least two points.

    With parity, a lane with fewer points than the longest one has a further segment, from its last point to the origin
    of the world: the official code pads lanes with zeros and does not mask the padding.
    """
    roadmap = to_device(scenario.roadmap)
    lane, num_features = roadmap.feature, roadmap.feature_type.shape[0]
    count = jax.ops.segment_sum(roadmap.valid.astype(jnp.int32), lane, num_features)
    is_street = (roadmap.feature_type == LANE_SURFACE_STREET) & (count >= 2)
    start, following = roadmap.xyz[:, :2], jnp.roll(roadmap.xyz[:, :2], -1, axis=0)
    on_street = roadmap.valid & is_street[lane]
    is_segment = on_street & (jnp.roll(lane, -1) == lane) & jnp.roll(roadmap.valid, -1)
    is_segment = is_segment & (jnp.arange(lane.shape[0]) < lane.shape[0] - 1)
    if not parity:
        return LaneSegments(start, following - start, is_segment, lane)
    origin = scenario.origin[:2]
    start, following = (round_to_world_float32(xy, origin) for xy in (start, following))
    end = jnp.where(is_segment[:, None], following, -origin[None])
    is_padded = count < jnp.max(jnp.where(is_street, count, 0), initial=0)
    return LaneSegments(start, end - start, is_segment | (on_street & is_padded[lane]), lane)


def runs_red_light(
    scenario: Scenario, xy: Float[Array, "K T E 2"], valid: Bool[Array, "K T E"], parity: bool
) -> Bool[Array, "K T E"]:
    """Whether an agent passes, at this step, the stop point of the lane nearest to it while its light is red.

    An agent passes the stop point if its arc length on the segment nearest to the stop point exceeds that of the stop
    point for the first time.

    Args:
      scenario: The scenario; lights are always those of the log.
      xy: Centers at the last T steps of the record, m.
      valid: Mask of the agents.
      parity: Choose the nearest segment by the official formula, which has the wrong sign, with the stop point of a
        light that is not observed at the origin of the world. Otherwise the light must be observed before and after.
    """
    signals, num_steps = to_device(scenario.signals), xy.shape[1]
    segments = lane_segments(scenario, parity)
    lane, controls_street = _light_lanes(scenario, segments)
    observed = signals.valid[-num_steps:]
    stop = signals.stop_point[-num_steps:, :, :2]
    if parity:
        origin = scenario.origin[:2]
        stop = jnp.where(observed[..., None], round_to_world_float32(stop, origin), -origin[None, None])
    segment = _stop_point_segments(segments, stop, lane, parity)
    start, along = segments.start[segment], segments.along[segment]

    stop_fraction = _fraction(stop, start, along)[None, :, None]
    agent_fraction = _fraction(xy[:, :, :, None], start[None, :, None], along[None, :, None])
    is_before, is_after = agent_fraction < stop_fraction, agent_fraction > stop_fraction
    crosses = jnp.concatenate([jnp.zeros_like(is_after[:, :1]), is_before[:, :-1] & is_after[:, 1:]], axis=1)
    # A flashing red light permits vehicles to proceed after a stop; WOSAC does not count it as red either.
    is_red = (signals.state[-num_steps:] == ARROW_STOP) | (signals.state[-num_steps:] == STOP)
    is_red = observed & is_red & controls_street[None]
    if not parity:
        is_red = is_red & jnp.concatenate([observed[:1], observed[:-1]])
    candidates = crosses & is_red[None, :, None] & valid[..., None]

    # The nearest lane is needed only for the few agents that pass a stop point.
    flat = xy.reshape(-1, 2)
    no_lane = jnp.full(flat.shape[0], -1, jnp.int32)

    def find(rows):
        return segments.lane[_nearest(segments, flat[rows], parity)].astype(jnp.int32)

    nearest = update_masked(no_lane, jnp.any(candidates, axis=-1).reshape(-1), POINT_BATCH, find).reshape(valid.shape)
    return jnp.any(candidates & (nearest[..., None] == lane[None, None, None]), axis=-1)


def _light_lanes(scenario: Scenario, segments: LaneSegments) -> tuple[Int[Array, " S"], Bool[Array, " S"]]:
    """Feature row of the lane of each light, and whether it is a surface street of the map."""
    roadmap = scenario.roadmap
    has_segment = jnp.zeros(roadmap.feature_type.shape[0], bool).at[segments.lane].max(segments.exists)
    is_lane = (scenario.signals.lane_id[:, None] == roadmap.feature_id[None]) & has_segment[None]
    return jnp.argmax(is_lane, axis=-1).astype(jnp.int32), jnp.any(is_lane, axis=-1)


def _stop_point_segments(
    segments: LaneSegments, stop: Float[Array, "T S 2"], lane: Int[Array, " S"], parity: bool
) -> Int[Array, "T S"]:
    """The segment of its own lane that each stop point is nearest to, computed at the steps where a point moved."""
    num_steps, num_lights = stop.shape[:2]
    moved = jnp.any(stop[1:] != stop[:-1], axis=-1)
    moved = jnp.concatenate([jnp.ones((1, num_lights), bool), moved])
    flat = stop.reshape(-1, 2)

    def find(rows):
        own = segments.lane[None] == lane[rows % num_lights][:, None]
        return _nearest(segments, flat[rows], parity, own)

    segment = update_masked(jnp.zeros(flat.shape[0], jnp.int32), moved.reshape(-1), POINT_BATCH, find)
    last_move = jax.lax.cummax(jnp.where(moved, jnp.arange(num_steps, dtype=jnp.int32)[:, None], 0), axis=0)
    return jnp.take_along_axis(segment.reshape(stop.shape[:2]), last_move, axis=0)


def _nearest(
    segments: LaneSegments, xy: Float[Array, "Q 2"], parity: bool, mask: Bool[Array, "Q P"] | None = None
) -> Int[Array, " Q"]:
    """The nearest segment; with parity by the official formula, where the projection is added to the offset."""
    offset_x, offset_y = (xy[:, axis, None] - segments.start[None, :, axis] for axis in range(2))
    along_x, along_y = (segments.along[None, :, axis] for axis in range(2))
    length2 = along_x * along_x + along_y * along_y
    t = jnp.clip((offset_x * along_x + offset_y * along_y) / jnp.where(length2 > 0, length2, 1.0), 0.0, 1.0)
    t = t if parity else -t
    x, y = offset_x + t * along_x, offset_y + t * along_y
    valid = segments.exists[None] if mask is None else segments.exists[None] & mask
    return jnp.argmin(jnp.where(valid, x * x + y * y, jnp.inf), axis=-1).astype(jnp.int32)


def _fraction(
    xy: Float[Array, "*#b 2"], start: Float[Array, "*#b 2"], along: Float[Array, "*#b 2"]
) -> Float[Array, "*#b"]:
    """Position of the projection of a point on a segment: 0 at its start, 1 at its end, not clipped."""
    length2 = geometry.dot(along, along)
    return jnp.where(length2 > 0, geometry.dot(xy - start, along) / jnp.where(length2 > 0, length2, 1.0), 0.0)
