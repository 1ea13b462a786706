"""How close others are: distance to the nearest object and time to collision with the leader."""

import jax.numpy as jnp
from jaxtyping import Float, Int

from waymax_sim import geometry
from waymax_sim.metrics.realism.tracks import Tracks, as_float32_of_the_world
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


def distance_to_nearest(
    tracks: Tracks, row: Int[Array, " E"], origin: Float[Array, " 3"], parity: bool
) -> Float[Array, "T E"]:
    """Signed distance (m) in the plane between rounded boxes, to the nearest other agent that is there.

    Negative is the depth of the overlap. Far beyond every bin where there is no pair.

    Args:
      tracks: The agents of one scene.
      row: Rows of the agents that are asked about.
      origin: World position of the local origin, m.
      parity: Round the corners of the nearest box to what float32 can tell apart in the frame of the world.
    """
    xy, yaw, there = tracks.xyz[..., :2], tracks.yaw, tracks.valid
    radius = ROUNDING * jnp.minimum(tracks.size[:, 0], tracks.size[:, 1]) / 2
    core = jnp.broadcast_to((tracks.size[:, :2] - 2 * radius[:, None])[None], xy.shape)
    boxes = geometry.Boxes.of(xy, yaw, core)
    ours = geometry.Boxes(*(column[:, row, None] for column in boxes))
    distance = geometry.boxes_distance(ours, geometry.Boxes(*(column[:, None] for column in boxes)))
    distance = distance - (radius[row, None] + radius[None])[None]
    others = row[:, None] != jnp.arange(yaw.shape[1])[None]
    distance = jnp.where(there[:, row, None] & there[:, None] & others[None], distance, NOTHING)
    if not parity:
        return jnp.min(distance, axis=-1)
    nearest = jnp.argmin(distance, axis=-1)
    corners = as_float32_of_the_world(geometry.box_corners(xy, yaw, core), origin[:2])
    theirs = jnp.take_along_axis(corners, nearest[..., None, None], axis=1)
    rounded = quads_distance(corners[:, row], theirs) - radius[row][None] - radius[nearest]
    return jnp.where(jnp.min(distance, axis=-1) < NOTHING, rounded, NOTHING)


def quads_distance(a: Float[Array, "*b 4 2"], b: Float[Array, "*b 4 2"]) -> Float[Array, "*b"]:
    """Signed distance (m) between convex quadrilaterals, corners counter-clockwise; negative is the depth."""

    def corners_to_sides(corners, sides):
        """Least squared distance from a corner to a side, and the widest gap between a side and all corners."""
        along = (jnp.roll(sides, -1, axis=-2) - sides)[..., None, :, :]
        offset = corners[..., :, None, :] - sides[..., None, :, :]
        length2 = geometry.dot(along, along)
        length2 = jnp.where(length2 > 0, length2, 1.0)
        t = jnp.clip(geometry.dot(offset, along) / length2, 0.0, 1.0)
        away = offset - t[..., None] * along
        outside = geometry.cross(offset, along) / jnp.sqrt(length2)
        return jnp.min(geometry.dot(away, away), axis=(-2, -1)), jnp.max(jnp.min(outside, axis=-2), axis=-1)

    near_a, gap_a = corners_to_sides(a, b)
    near_b, gap_b = corners_to_sides(b, a)
    gap = jnp.maximum(gap_a, gap_b)
    return jnp.where(gap > 0, jnp.sqrt(jnp.where(gap > 0, jnp.minimum(near_a, near_b), 1.0)), gap)


def time_to_collision(
    tracks: Tracks, row: Int[Array, " E"], speed: Float[Array, "T N"], parity: bool
) -> Float[Array, "T E"]:
    """Time (s, at most 5) until an agent runs into the one it follows, if both keep their speeds.

    Args:
      tracks: The agents of one scene.
      row: Rows of the agents that follow.
      speed: In the plane, m/s; with NaN on either side nothing is run into.
      parity: Compare headings as they are, so that two on opposite sides of +-pi differ by 2 pi.
    """
    x, y, yaw = tracks.xyz[..., 0], tracks.xyz[..., 1], tracks.yaw
    cos, sin = jnp.cos(yaw), jnp.sin(yaw)
    half_long, half_wide = (jnp.broadcast_to(tracks.size[None, :, axis] / 2, yaw.shape) for axis in range(2))

    def ours(values):
        return values[:, row, None]

    def theirs(values):
        return values[:, None]

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
    gap = jnp.where(leads & theirs(tracks.valid), gap, gap + NOTHING)
    leader = jnp.argmin(gap, axis=-1)
    gap = jnp.take_along_axis(gap, leader[..., None], axis=-1)[..., 0]
    closing = speed[:, row] - jnp.take_along_axis(speed, leader, axis=-1)
    runs_into = closing > 0
    return jnp.where(runs_into, jnp.minimum(gap / jnp.where(runs_into, closing, 1.0), LONGEST), LONGEST)
