"""Interaction features: distance to the nearest object and time to collision with the leader."""

import jax.numpy as jnp
from jaxtyping import Float, Int

from waymax_sim import geometry
from waymax_sim.metrics.realism.tracks import RealismTracks, round_to_world_float32
from waymax_sim.pytree import Array

# Radius of the rounded corners of boxes, as a share of half the shorter side.
CORNER_ROUNDING = 0.7
# Distance without another object, m: beyond every bin.
NO_OBJECT_DISTANCE = 1e10
# Largest time to collision, s; also the value without a collision.
MAX_TIME_TO_COLLISION = 5.0
# Largest difference between the headings of a follower and its leader, rad.
MAX_LEADER_ANGLE = 75 * jnp.pi / 180
# Difference of headings up to which any lateral overlap makes a leader, rad.
ALIGNED_ANGLE = 10 * jnp.pi / 180
# Lateral overlap that makes a leader at larger differences, m.
MIN_LATERAL_OVERLAP = 0.5


def distance_to_nearest(
    tracks: RealismTracks, row: Int[Array, " E"], origin: Float[Array, " 3"], parity: bool
) -> Float[Array, "T E"]:
    """Signed distance (m) in the plane to the nearest other valid agent, between boxes with rounded corners.

    Negative values are depths of overlaps. `NO_OBJECT_DISTANCE` where there is no other valid agent.

    Args:
      tracks: The agents of one scene.
      row: Rows of the scored agents.
      origin: World position of the local origin, m.
      parity: Round the corners of the nearest box to float32 in the world frame, as the official code does.
    """
    xy, yaw, valid = tracks.xyz[..., :2], tracks.yaw, tracks.valid
    radius = CORNER_ROUNDING * jnp.minimum(tracks.size[:, 0], tracks.size[:, 1]) / 2
    core = jnp.broadcast_to((tracks.size[:, :2] - 2 * radius[:, None])[None], xy.shape)
    boxes = geometry.Boxes.from_poses(xy, yaw, core)
    own = geometry.Boxes(*(column[:, row, None] for column in boxes))
    distance = geometry.boxes_distance(own, geometry.Boxes(*(column[:, None] for column in boxes)))
    distance = distance - (radius[row, None] + radius[None])[None]
    others = row[:, None] != jnp.arange(yaw.shape[1])[None]
    distance = jnp.where(valid[:, row, None] & valid[:, None] & others[None], distance, NO_OBJECT_DISTANCE)
    if not parity:
        return jnp.min(distance, axis=-1)
    nearest = jnp.argmin(distance, axis=-1)
    corners = round_to_world_float32(geometry.box_corners(xy, yaw, core), origin[:2])
    nearest_corners = jnp.take_along_axis(corners, nearest[..., None, None], axis=1)
    rounded = quads_distance(corners[:, row], nearest_corners) - radius[row][None] - radius[nearest]
    return jnp.where(jnp.min(distance, axis=-1) < NO_OBJECT_DISTANCE, rounded, NO_OBJECT_DISTANCE)


def quads_distance(a: Float[Array, "*b 4 2"], b: Float[Array, "*b 4 2"]) -> Float[Array, "*b"]:
    """Signed distance (m) between convex quadrilaterals with counter-clockwise corners; negative is the depth."""

    def corners_to_sides(corners, sides):
        """Smallest squared distance from a corner to a side, and largest gap between a side and all corners."""
        along = (jnp.roll(sides, -1, axis=-2) - sides)[..., None, :, :]
        offset = corners[..., :, None, :] - sides[..., None, :, :]
        length2 = geometry.dot(along, along)
        length2 = jnp.where(length2 > 0, length2, 1.0)
        t = jnp.clip(geometry.dot(offset, along) / length2, 0.0, 1.0)
        nearest = offset - t[..., None] * along
        outside = geometry.cross(offset, along) / jnp.sqrt(length2)
        return jnp.min(geometry.dot(nearest, nearest), axis=(-2, -1)), jnp.max(jnp.min(outside, axis=-2), axis=-1)

    near_a, gap_a = corners_to_sides(a, b)
    near_b, gap_b = corners_to_sides(b, a)
    gap = jnp.maximum(gap_a, gap_b)
    return jnp.where(gap > 0, jnp.sqrt(jnp.where(gap > 0, jnp.minimum(near_a, near_b), 1.0)), gap)


def time_to_collision(
    tracks: RealismTracks, row: Int[Array, " E"], speed: Float[Array, "T N"], parity: bool
) -> Float[Array, "T E"]:
    """Time (s, at most 5) until an agent collides with its leader if both keep their speeds.

    Args:
      tracks: The agents of one scene.
      row: Rows of the agents that follow.
      speed: In the plane, m/s; there is no collision where one of the speeds is NaN.
      parity: Do not wrap differences of headings, so that headings on opposite sides of +-pi differ by 2 pi.
    """
    x, y, yaw = tracks.xyz[..., 0], tracks.xyz[..., 1], tracks.yaw
    cos, sin = jnp.cos(yaw), jnp.sin(yaw)
    half_length, half_width = (jnp.broadcast_to(tracks.size[None, :, axis] / 2, yaw.shape) for axis in range(2))

    def own(values):
        return values[:, row, None]

    def other(values):
        return values[:, None]

    angle = other(yaw) - own(yaw)
    angle = jnp.abs(angle if parity else geometry.wrap_angle(angle))
    along = jnp.abs(own(cos) * other(cos) + own(sin) * other(sin))
    across = jnp.abs(own(cos) * other(sin) - own(sin) * other(cos))
    offset_x, offset_y = other(x) - own(x), other(y) - own(y)
    longitudinal = own(cos) * offset_x + own(sin) * offset_y
    lateral = own(cos) * offset_y - own(sin) * offset_x
    gap = longitudinal - own(half_length) - (other(half_length) * along + other(half_width) * across)
    side_gap = jnp.abs(lateral) - own(half_width) - (other(half_length) * across + other(half_width) * along)
    is_leader = (gap > 0) & (angle <= MAX_LEADER_ANGLE) & (side_gap < 0)
    is_leader = is_leader & ((side_gap < -MIN_LATERAL_OVERLAP) | (angle <= ALIGNED_ANGLE))
    gap = jnp.where(is_leader & other(tracks.valid), gap, gap + NO_OBJECT_DISTANCE)
    leader = jnp.argmin(gap, axis=-1)
    gap = jnp.take_along_axis(gap, leader[..., None], axis=-1)[..., 0]
    closing = speed[:, row] - jnp.take_along_axis(speed, leader, axis=-1)
    is_closing = closing > 0
    time = jnp.minimum(gap / jnp.where(is_closing, closing, 1.0), MAX_TIME_TO_COLLISION)
    return jnp.where(is_closing, time, MAX_TIME_TO_COLLISION)
