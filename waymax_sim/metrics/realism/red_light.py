"""Running a red light: passing the stop point of a lane while its light is red."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from waymax_sim import geometry
from waymax_sim.datatypes.roadmap import LANE_SURFACE_STREET
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.metrics.realism.tracks import as_float32_of_the_world
from waymax_sim.ops.batched_lookup import update_masked
from waymax_sim.pytree import Array, on_device, pytree

# Light states that forbid to go on; a flashing one does not.
ARROW_STOP, STOP = 1, 4
# Places that are compared with all lanes at once.
BATCH = 16


@pytree
class LanePieces:
    """Straight pieces of the centres of surface streets, one for each map point.

    Attributes:
      start: First end, m.
      along: From the first end to the second, m.
      exists: Whether a piece starts at this point.
      lane: Row of its feature.
    """

    start: Float[Array, "P 2"]
    along: Float[Array, "P 2"]
    exists: Bool[Array, " P"]
    lane: Int[Array, " P"]


def lane_pieces(scenario: Scenario, parity: bool) -> LanePieces:
    """The pieces of all surface streets of at least two points.

    For parity, a lane with fewer points than the longest has one piece more, from its last point to the origin of the
    world: the official code pads lanes with zeros and forgets to leave that out.
    """
    roadmap = on_device(scenario.roadmap)
    lane, num_features = roadmap.feature, roadmap.feature_type.shape[0]
    count = jax.ops.segment_sum(roadmap.valid.astype(jnp.int32), lane, num_features)
    kept = (roadmap.feature_type == LANE_SURFACE_STREET) & (count >= 2)
    start, following = roadmap.xyz[:, :2], jnp.roll(roadmap.xyz[:, :2], -1, axis=0)
    ours = roadmap.valid & kept[lane]
    inner = ours & (jnp.roll(lane, -1) == lane) & jnp.roll(roadmap.valid, -1)
    inner = inner & (jnp.arange(lane.shape[0]) < lane.shape[0] - 1)
    if not parity:
        return LanePieces(start, following - start, inner, lane)
    origin = scenario.origin[:2]
    start, following = (as_float32_of_the_world(xy, origin) for xy in (start, following))
    end = jnp.where(inner[:, None], following, -origin[None])
    shorter = count < jnp.max(jnp.where(kept, count, 0), initial=0)
    return LanePieces(start, end - start, inner | (ours & shorter[lane]), lane)


def runs_red_light(
    scenario: Scenario, xy: Float[Array, "K T E 2"], valid: Bool[Array, "K T E"], parity: bool
) -> Bool[Array, "K T E"]:
    """Whether an agent passes, at this step, the stop point of the lane nearest to it while that is red.

    Places before and after are told apart along the piece of the lane that the stop point is nearest to.

    Args:
      scenario: The scene; lights are always those of the log.
      xy: Centres at the last T steps of the record, m.
      valid: Which agents are there.
      parity: The nearest piece is chosen by the official formula, which adds where it should subtract, and a light
        that is not seen stops at the origin of the world. Otherwise it must be seen before and after.
    """
    signals, num_steps = on_device(scenario.signals), xy.shape[1]
    num_lights = signals.lane_id.shape[0]
    if num_lights == 0 or scenario.roadmap.xyz.shape[0] == 0:
        return jnp.zeros(valid.shape, bool)
    pieces = lane_pieces(scenario, parity)
    lane, controls = _lane_of(scenario, pieces)
    seen = signals.valid[-num_steps:]
    stop = signals.stop_point[-num_steps:, :, :2]
    if parity:
        origin = scenario.origin[:2]
        stop = jnp.where(seen[..., None], as_float32_of_the_world(stop, origin), -origin[None, None])
    piece = _piece_of_stop(pieces, stop, lane, parity)
    start, along = pieces.start[piece], pieces.along[piece]

    # How far along the piece of the stop point: of the stop point itself, and of every agent.
    line = _along(stop, start, along)[None, :, None]
    own = _along(xy[:, :, :, None], start[None, :, None], along[None, :, None])
    behind, ahead = own < line, own > line
    crosses = jnp.concatenate([jnp.zeros_like(ahead[:, :1]), behind[:, :-1] & ahead[:, 1:]], axis=1)
    red = seen & ((signals.state[-num_steps:] == ARROW_STOP) | (signals.state[-num_steps:] == STOP)) & controls[None]
    if not parity:
        red = red & jnp.concatenate([seen[:1], seen[:-1]])
    suspect = crosses & red[None, :, None] & valid[..., None]

    # Few agents pass any stop line; only for these the nearest lane matters.
    flat = xy.reshape(-1, 2)
    nowhere = jnp.full(flat.shape[0], -1, jnp.int32)

    def find(which):
        return pieces.lane[_nearest(pieces, flat[which], parity)].astype(jnp.int32)

    nearest = update_masked(nowhere, jnp.any(suspect, axis=-1).reshape(-1), BATCH, find).reshape(valid.shape)
    return jnp.any(suspect & (nearest[..., None] == lane[None, None, None]), axis=-1)


def _lane_of(scenario: Scenario, pieces: LanePieces) -> tuple[Int[Array, " S"], Bool[Array, " S"]]:
    """Feature row of the lane of each light, and whether it is a surface street of the map."""
    roadmap = scenario.roadmap
    has_piece = jnp.zeros(roadmap.feature_type.shape[0], bool).at[pieces.lane].max(pieces.exists)
    is_lane = (scenario.signals.lane_id[:, None] == roadmap.feature_id[None]) & has_piece[None]
    return jnp.argmax(is_lane, axis=-1).astype(jnp.int32), jnp.any(is_lane, axis=-1)


def _piece_of_stop(
    pieces: LanePieces, stop: Float[Array, "T S 2"], lane: Int[Array, " S"], parity: bool
) -> Int[Array, "T S"]:
    """The piece of its own lane that each stop point is nearest to. Looked for only where a stop point has moved."""
    num_steps, num_lights = stop.shape[:2]
    moved = jnp.any(stop[1:] != stop[:-1], axis=-1)
    moved = jnp.concatenate([jnp.ones((1, num_lights), bool), moved])
    flat = stop.reshape(-1, 2)

    def find(which):
        own = pieces.lane[None] == lane[which % num_lights][:, None]
        return _nearest(pieces, flat[which], parity, own)

    found = update_masked(jnp.zeros(flat.shape[0], jnp.int32), moved.reshape(-1), BATCH, find).reshape(stop.shape[:2])
    since = jax.lax.cummax(jnp.where(moved, jnp.arange(num_steps, dtype=jnp.int32)[:, None], 0), axis=0)
    return jnp.take_along_axis(found, since, axis=0)


def _nearest(
    pieces: LanePieces, xy: Float[Array, "Q 2"], parity: bool, among: Bool[Array, "Q P"] | None = None
) -> Int[Array, " Q"]:
    """The nearest piece; for parity by the official formula, with a plus sign before the part along the piece."""
    offset_x, offset_y = (xy[:, axis, None] - pieces.start[None, :, axis] for axis in range(2))
    along_x, along_y = (pieces.along[None, :, axis] for axis in range(2))
    length2 = along_x * along_x + along_y * along_y
    t = jnp.clip((offset_x * along_x + offset_y * along_y) / jnp.where(length2 > 0, length2, 1.0), 0.0, 1.0)
    t = t if parity else -t
    x, y = offset_x + t * along_x, offset_y + t * along_y
    possible = pieces.exists[None] if among is None else pieces.exists[None] & among
    return jnp.argmin(jnp.where(possible, x * x + y * y, jnp.inf), axis=-1).astype(jnp.int32)


def _along(
    xy: Float[Array, "*#b 2"], start: Float[Array, "*#b 2"], along: Float[Array, "*#b 2"]
) -> Float[Array, "*#b"]:
    """Where a place lies along a piece: 0 at its start, 1 at its end, not limited to these."""
    length2 = geometry.dot(along, along)
    return jnp.where(length2 > 0, geometry.dot(xy - start, along) / jnp.where(length2 > 0, length2, 1.0), 0.0)
