"""Plane geometry on the last axis: angles, frames, boxes, segments. Leading axes broadcast.

Frames are changed by subtracting first and rotating second: folding the translation into a matrix
loses millimetres at a few kilometres in float32. Every function has finite gradients everywhere.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from waymax_sim.pytree import Array

# Further than anything is from anything else (m).
UNREACHED = 1e9


def wrap_angle(angle: Float[Array, "*#b"]) -> Float[Array, "*#b"]:
    """Wraps an angle to [-pi, pi) (rad). An angle already there is kept bit for bit."""
    inside = (angle >= -jnp.pi) & (angle < jnp.pi)
    # Whole turns are taken off: on CPUs ten times as fast as a remainder. Rounding may leave a little more or less.
    wrapped = angle - jnp.floor((angle + jnp.pi) / (2 * jnp.pi)) * (2 * jnp.pi)
    wrapped = jnp.where(wrapped >= jnp.pi, wrapped - 2 * jnp.pi, wrapped)
    wrapped = jnp.where(wrapped < -jnp.pi, wrapped + 2 * jnp.pi, wrapped)
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
    return stacked(*turned(xy[..., 0], xy[..., 1], yaw))


def turned(
    x: Float[Array, "*#b"], y: Float[Array, "*#b"], yaw: Float[Array, "*#b"]
) -> tuple[Float[Array, "*#b"], Float[Array, "*#b"]]:
    """`rotate` for parts of vectors that are apart."""
    cos, sin = jnp.cos(yaw), jnp.sin(yaw)
    return cos * x - sin * y, sin * x + cos * y


def stacked(*numbers: Float[Array, "*b"]) -> Float[Array, "*b n"]:
    """Numbers side by side in a new last axis, as `jnp.stack` puts them, whose copies take CPUs three times as long."""
    shape = *numbers[0].shape, len(numbers)
    which = jax.lax.broadcasted_iota(jnp.int32, shape, len(shape) - 1)
    result = jnp.broadcast_to(numbers[0][..., None], shape)
    for place, number in enumerate(numbers[1:], start=1):
        result = jnp.where(which == place, number[..., None], result)
    return result


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


class Boxes(NamedTuple):
    """Boxes in the plane, prepared for comparison: centre (m), direction, half length and half width (m).

    A box without an area has halves so negative that nothing reaches them; they are finite, because zero times
    infinity is NaN. The sign of a size does not matter.
    """

    x: Float[Array, "*b"]
    y: Float[Array, "*b"]
    cos: Float[Array, "*b"]
    sin: Float[Array, "*b"]
    long: Float[Array, "*b"]
    wide: Float[Array, "*b"]

    @classmethod
    def of(cls, xy: Float[Array, "*b 2"], yaw: Float[Array, "*b"], size: Float[Array, "*b 2"]) -> "Boxes":
        """Boxes by centre (m), heading (rad), length and width (m)."""
        flat = (size[..., 0] == 0) | (size[..., 1] == 0)
        long, wide = (jnp.where(flat, -UNREACHED, jnp.abs(size[..., axis]) / 2) for axis in range(2))
        return cls(xy[..., 0], xy[..., 1], jnp.cos(yaw), jnp.sin(yaw), long, wide)


def boxes_gap(a: Boxes, b: Boxes) -> Float[Array, "*b"]:
    """The widest gap (m) between two boxes along their axes: negative exactly where they share an area.

    The separating-axis test in closed form: along each of the four axes the half extent of the other box is a
    sum of two absolute cosines, so no corner is needed. Positive gaps bound the distance from below. Boxes broadcast.
    """
    x, y = b.x - a.x, b.y - a.y
    cos, sin = jnp.abs(a.cos * b.cos + a.sin * b.sin), jnp.abs(a.cos * b.sin - a.sin * b.cos)
    ahead_a = jnp.abs(a.cos * x + a.sin * y) - (a.long + cos * b.long + sin * b.wide)
    aside_a = jnp.abs(a.cos * y - a.sin * x) - (a.wide + sin * b.long + cos * b.wide)
    ahead_b = jnp.abs(b.cos * x + b.sin * y) - (b.long + cos * a.long + sin * a.wide)
    aside_b = jnp.abs(b.cos * y - b.sin * x) - (b.wide + sin * a.long + cos * a.wide)
    return jnp.maximum(jnp.maximum(ahead_a, aside_a), jnp.maximum(ahead_b, aside_b))


def boxes_distance(a: Boxes, b: Boxes) -> Float[Array, "*b"]:
    """Signed distance (m) between two boxes: how far apart they are, or minus the depth to which they overlap.

    Two boxes that are apart are nearest at a corner of one of them. Boxes broadcast.
    """
    gap = boxes_gap(a, b)
    x, y = b.x - a.x, b.y - a.y
    cos, sin = a.cos * b.cos + a.sin * b.sin, a.cos * b.sin - a.sin * b.cos
    of_b = _corners_to_box2(a.cos * x + a.sin * y, a.cos * y - a.sin * x, cos, sin, b, a)
    of_a = _corners_to_box2(-b.cos * x - b.sin * y, b.sin * x - b.cos * y, cos, -sin, a, b)
    apart = jnp.minimum(of_a, of_b)
    # Where the boxes overlap the root is not used; its gradient would be infinite at zero.
    return jnp.where(gap > 0, jnp.sqrt(jnp.where(gap > 0, apart, 1.0)), gap)


def _corners_to_box2(
    x: Float[Array, "*#b"],
    y: Float[Array, "*#b"],
    cos: Float[Array, "*#b"],
    sin: Float[Array, "*#b"],
    box: Boxes,
    other: Boxes,
) -> Float[Array, "*#b"]:
    """Least squared distance (m^2) from a corner of a box to another box, in whose frame x, y, cos and sin are."""

    def corner2(long, wide):
        ahead = jnp.maximum(jnp.abs(x + cos * long - sin * wide) - other.long, 0.0)
        aside = jnp.maximum(jnp.abs(y + sin * long + cos * wide) - other.wide, 0.0)
        return ahead * ahead + aside * aside

    left = jnp.minimum(corner2(box.long, box.wide), corner2(-box.long, box.wide))
    return jnp.minimum(left, jnp.minimum(corner2(box.long, -box.wide), corner2(-box.long, -box.wide)))
