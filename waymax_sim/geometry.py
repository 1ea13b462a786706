"""Plane geometry on the last axis: angles, frames, boxes, segments. Leading axes broadcast.

Frames are changed by subtracting first and rotating second: folding the translation into a matrix
loses millimetres at a few kilometres in float32. Every function has finite gradients everywhere.
"""

import jax.numpy as jnp
from jaxtyping import Bool, Float

from waymax_sim.pytree import Array


def wrap_angle(angle: Float[Array, "*#b"]) -> Float[Array, "*#b"]:
    """Wraps an angle to [-pi, pi) (rad). An angle already there is kept bit for bit."""
    inside = (angle >= -jnp.pi) & (angle < jnp.pi)
    wrapped = jnp.mod(angle + jnp.pi, 2 * jnp.pi) - jnp.pi
    # Not every backend has an exact remainder: it may round up to 2 pi itself.
    wrapped = jnp.where(wrapped >= jnp.pi, wrapped - 2 * jnp.pi, wrapped)
    return jnp.where(inside, angle, wrapped)


def heading(yaw: Float[Array, "*#b"]) -> Float[Array, "*#b 2"]:
    """Unit vector (x, y) that points along `yaw` (rad)."""
    return jnp.stack([jnp.cos(yaw), jnp.sin(yaw)], axis=-1)


def norm(vector: Float[Array, "*#b d"]) -> Float[Array, "*#b"]:
    """Euclidean length over the last axis; its gradient at zero is zero, not NaN."""
    squared = jnp.sum(vector * vector, axis=-1)
    positive = squared > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1.0)), 0.0)


def direction(vector: Float[Array, "*#b 2"], otherwise: Float[Array, "*#b"]) -> Float[Array, "*#b"]:
    """Angle of `vector` (rad), or `otherwise` where its length is zero, with safe gradients."""
    # The squared length, since the gradient divides by it: it is zero for lengths below 1e-19 too.
    moving = dot(vector, vector) > 0
    x = jnp.where(moving, vector[..., 0], 1.0)
    y = jnp.where(moving, vector[..., 1], 0.0)
    return jnp.where(moving, jnp.arctan2(y, x), otherwise)


def dot(a: Float[Array, "*#b 2"], b: Float[Array, "*#b 2"]) -> Float[Array, "*#b"]:
    """Scalar product in the plane."""
    return a[..., 0] * b[..., 0] + a[..., 1] * b[..., 1]


def cross(a: Float[Array, "*#b 2"], b: Float[Array, "*#b 2"]) -> Float[Array, "*#b"]:
    """z of the vector product in the plane; positive when `b` lies to the left of `a`."""
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def rotate(xy: Float[Array, "*#b 2"], yaw: Float[Array, "*#b"]) -> Float[Array, "*#b 2"]:
    """Turns vectors counter-clockwise by `yaw` (rad)."""
    cos, sin = jnp.cos(yaw), jnp.sin(yaw)
    x, y = xy[..., 0], xy[..., 1]
    return jnp.stack([cos * x - sin * y, sin * x + cos * y], axis=-1)


def to_frame(
    xy: Float[Array, "*#b 2"], origin: Float[Array, "*#b 2"], yaw: Float[Array, "*#b"]
) -> Float[Array, "*#b 2"]:
    """Points (m) seen from the frame at `origin` (m) that is turned by `yaw` (rad)."""
    return rotate(xy - origin, -yaw)


def from_frame(
    xy: Float[Array, "*#b 2"], origin: Float[Array, "*#b 2"], yaw: Float[Array, "*#b"]
) -> Float[Array, "*#b 2"]:
    """The inverse of `to_frame`."""
    return rotate(xy, yaw) + origin


def box_corners(
    xy: Float[Array, "*#b 2"], yaw: Float[Array, "*#b"], size: Float[Array, "*#b 2"]
) -> Float[Array, "*#b 4 2"]:
    """Corners of boxes (m): front left, rear left, rear right, front right.

    Args:
      xy: Centres, m.
      yaw: Headings of the long side, rad.
      size: Length and width, m.
    """
    forward = heading(yaw) * (size[..., :1] / 2)
    left = heading(yaw + jnp.pi / 2) * (size[..., 1:] / 2)
    offsets = [forward + left, left - forward, -forward - left, forward - left]
    return jnp.stack([xy + offset for offset in offsets], axis=-2)


def boxes_overlap(
    xy_a: Float[Array, "*#b 2"],
    yaw_a: Float[Array, "*#b"],
    size_a: Float[Array, "*#b 2"],
    xy_b: Float[Array, "*#b 2"],
    yaw_b: Float[Array, "*#b"],
    size_b: Float[Array, "*#b 2"],
) -> Bool[Array, "*#b"]:
    """Whether two boxes share an area: the separating-axis test in closed form.

    Along each of the four box axes the half extent of the other box is a sum of two absolute cosines, so
    no corner is needed. Touching is no overlap, and a box without an area overlaps nothing. The sign of a
    size does not matter.
    """
    # Trigonometry per box, not per pair: for all pairs of N boxes that is what counts.
    forward_a, forward_b, offset = heading(yaw_a), heading(yaw_b), xy_b - xy_a
    cos, sin = jnp.abs(dot(forward_a, forward_b)), jnp.abs(cross(forward_a, forward_b))

    def separated(forward, own, other):
        long, wide = jnp.abs(own[..., 0]) / 2, jnp.abs(own[..., 1]) / 2
        other_long, other_wide = jnp.abs(other[..., 0]) / 2, jnp.abs(other[..., 1]) / 2
        ahead = jnp.abs(dot(forward, offset)) >= long + cos * other_long + sin * other_wide
        return ahead | (jnp.abs(cross(forward, offset)) >= wide + sin * other_long + cos * other_wide)

    has_area = jnp.all((size_a != 0) & (size_b != 0), axis=-1)
    return has_area & ~separated(forward_a, size_a, size_b) & ~separated(forward_b, size_b, size_a)
