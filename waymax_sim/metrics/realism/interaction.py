"""How close others are: distance to the nearest object and time to collision with the leader."""

import jax.numpy as jnp
from jaxtyping import Float, Int

from waymax_sim import geometry
from waymax_sim.metrics.realism.tracks import Tracks
from waymax_sim.pytree import Array

# Corners of boxes are rounded by this part of half the shorter side.
ROUNDING = 0.7
# Distance to nothing (m), far beyond every bin.
NOTHING = 1e10
# Longest time to collision (s).
LONGEST = 5.0
# One follows another whose heading differs by less than the first angle (rad) and whose box overlaps sideways; with
# more than the second angle they must overlap by more than this (m).
LEADS, ALIGNED = 75 * jnp.pi / 180, 10 * jnp.pi / 180
OVERLAP = 0.5


def distance_to_nearest(tracks: Tracks, row: Int[Array, " E"]) -> Float[Array, "*lead T E"]:
    """Signed distance (m) in the plane between rounded boxes, to the nearest other agent that is there.

    Negative is the depth of the overlap. Far beyond every bin where there is no pair.
    """
    short = jnp.minimum(tracks.size[..., 0], tracks.size[..., 1])
    radius = ROUNDING * short / 2
    core = tracks.size[..., :2] - 2 * radius[..., None]
    core = jnp.broadcast_to(core[..., None, :, :], tracks.xyz[..., :2].shape)
    boxes = geometry.Boxes.of(tracks.xyz[..., :2], tracks.yaw, core)
    ours = geometry.Boxes(*(column[..., row][..., None] for column in boxes))
    distance = geometry.boxes_distance(ours, geometry.Boxes(*(column[..., None, :] for column in boxes)))
    distance = distance - (radius[..., row][..., :, None] + radius[..., None, :])[..., None, :, :]
    others = row[:, None] != jnp.arange(tracks.yaw.shape[-1])[None]
    pair = tracks.valid[..., row][..., None] & tracks.valid[..., None, :] & others[(None,) * (tracks.yaw.ndim - 1)]
    return jnp.min(jnp.where(pair, distance, NOTHING), axis=-1)


def time_to_collision(
    tracks: Tracks, row: Int[Array, " E"], speed: Float[Array, "*lead T N"], parity: bool
) -> Float[Array, "*lead T E"]:
    """Time (s, at most 5) until an agent runs into the one it follows, if both keep their speeds.

    Args:
      tracks: The agents.
      row: Rows of the agents that follow.
      speed: In the plane, m/s; with NaN on either side nothing is run into.
      parity: Compare headings as they are, so that two on opposite sides of +-pi differ by 2 pi.
    """
    x, y, yaw = tracks.xyz[..., 0], tracks.xyz[..., 1], tracks.yaw
    cos, sin = jnp.cos(yaw), jnp.sin(yaw)
    half_long, half_wide = (tracks.size[..., None, :, axis] / 2 for axis in range(2))

    def ours(values):
        return values[..., row][..., None]

    def theirs(values):
        return values[..., None, :]

    turn = theirs(yaw) - ours(yaw)
    turn = jnp.abs(turn if parity else geometry.wrap_angle(turn))
    along = jnp.abs(ours(cos) * theirs(cos) + ours(sin) * theirs(sin))
    across = jnp.abs(ours(cos) * theirs(sin) - ours(sin) * theirs(cos))
    away_x, away_y = theirs(x) - ours(x), theirs(y) - ours(y)
    ahead = ours(cos) * away_x + ours(sin) * away_y
    aside = ours(cos) * away_y - ours(sin) * away_x
    gap = ahead - ours(half_long) - (theirs(half_long) * along + theirs(half_wide) * across)
    overlap = jnp.abs(aside) - ours(half_wide) - (theirs(half_long) * across + theirs(half_wide) * along)
    leads = (gap > 0) & (turn <= LEADS) & (overlap < 0) & ((overlap < -OVERLAP) | (turn <= ALIGNED))
    leads = leads & theirs(tracks.valid)
    gap = jnp.where(leads, gap, gap + NOTHING)
    leader = jnp.argmin(gap, axis=-1)
    gap = jnp.take_along_axis(gap, leader[..., None], axis=-1)[..., 0]
    closing = speed[..., row] - jnp.take_along_axis(speed, leader, axis=-1)
    runs_into = closing > 0
    return jnp.where(runs_into, jnp.minimum(gap / jnp.where(runs_into, closing, 1.0), LONGEST), LONGEST)
