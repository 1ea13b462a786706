"""Plane geometry on the last axis: angles, frames and boxes. Leading axes broadcast.

Frame changes subtract first and rotate second: folding the translation into a matrix loses millimeters at a distance of
a few kilometers in float32. Every function has finite gradients everywhere.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from waymax_sim.pytree import Array

# Larger than every distance in a scene, m.
UNREACHED = 1e9


def wrap_angle(angle: Float[Array, "*#b"]) -> Float[Array, "*#b"]:
    """Wraps an angle to [-pi, pi) (rad). An angle within that range is returned unchanged."""
    is_inside = (angle >= -jnp.pi) & (angle < jnp.pi)
    # Rounding may leave the result one turn out of range.
    wrapped = angle - jnp.floor((angle + jnp.pi) / (2 * jnp.pi)) * (2 * jnp.pi)
    wrapped = jnp.where(wrapped >= jnp.pi, wrapped - 2 * jnp.pi, wrapped)
    wrapped = jnp.where(wrapped < -jnp.pi, wrapped + 2 * jnp.pi, wrapped)
    return jnp.where(is_inside, angle, wrapped)


def unit_vector(yaw: Float[Array, "*#b"]) -> Float[Array, "*#b 2"]:
    """Unit vector (x, y) that points along `yaw` (rad)."""
    return jnp.stack([jnp.cos(yaw), jnp.sin(yaw)], axis=-1)


def norm(vector: Float[Array, "*#b d"]) -> Float[Array, "*#b"]:
    """Euclidean length over the last axis; its gradient at zero is zero, not NaN."""
    return safe_sqrt(jnp.sum(vector * vector, axis=-1))


def safe_sqrt(squared: Float[Array, "*#b"]) -> Float[Array, "*#b"]:
    """Square root of non-negative values, 0 for negative ones; its gradient at zero is zero, not infinite."""
    # NaN is neither positive nor at most zero; it remains NaN.
    is_zero = squared <= 0
    return jnp.where(is_zero, 0.0, jnp.sqrt(jnp.where(is_zero, 1.0, squared)))


def heading_angle(vector: Float[Array, "*#b 2"], fallback: Float[Array, "*#b"]) -> Float[Array, "*#b"]:
    """Angle of `vector` (rad), or `fallback` where its length is zero, with safe gradients."""
    # The gradient divides by the squared length, which is zero for lengths below 1e-19 too.
    is_zero = dot(vector, vector) <= 0
    x = jnp.where(is_zero, 1.0, vector[..., 0])
    y = jnp.where(is_zero, 0.0, vector[..., 1])
    return jnp.where(is_zero, fallback, jnp.arctan2(y, x))


def dot(a: Float[Array, "*#b 2"], b: Float[Array, "*#b 2"]) -> Float[Array, "*#b"]:
    """Scalar product in the plane."""
    return a[..., 0] * b[..., 0] + a[..., 1] * b[..., 1]


def cross(a: Float[Array, "*#b 2"], b: Float[Array, "*#b 2"]) -> Float[Array, "*#b"]:
    """z of the vector product in the plane; positive when `b` lies to the left of `a`."""
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def rotate(xy: Float[Array, "*#b 2"], yaw: Float[Array, "*#b"]) -> Float[Array, "*#b 2"]:
    """Rotates vectors counter-clockwise by `yaw` (rad)."""
    return stack_last(*rotate_components(xy[..., 0], xy[..., 1], yaw))


def rotate_components(
    x: Float[Array, "*#b"], y: Float[Array, "*#b"], yaw: Float[Array, "*#b"]
) -> tuple[Float[Array, "*#b"], Float[Array, "*#b"]]:
    """`rotate` for vectors given as separate components.

    Args:
      x: First components.
      y: Second components.
      yaw: Angles, rad.
    """
    cos, sin = jnp.cos(yaw), jnp.sin(yaw)
    return cos * x - sin * y, sin * x + cos * y


def stack_last(*arrays: Float[Array, "*b"]) -> Float[Array, "*b n"]:
    """Stacks arrays along a new last axis, without the copies of `jnp.stack`."""
    shape = *arrays[0].shape, len(arrays)
    column = jax.lax.broadcasted_iota(jnp.int32, shape, len(shape) - 1)
    result = jnp.broadcast_to(arrays[0][..., None], shape)
    for index, array in enumerate(arrays[1:], start=1):
        result = jnp.where(column == index, array[..., None], result)
    return result


def to_frame(
    xy: Float[Array, "*#b 2"], origin: Float[Array, "*#b 2"], yaw: Float[Array, "*#b"]
) -> Float[Array, "*#b 2"]:
    """Points in the coordinates of a frame.

    Args:
      xy: Points, m.
      origin: Origin of the frame, m.
      yaw: Rotation of the frame, rad.
    """
    return rotate(xy - origin, -yaw)


def from_frame(
    xy: Float[Array, "*#b 2"], origin: Float[Array, "*#b 2"], yaw: Float[Array, "*#b"]
) -> Float[Array, "*#b 2"]:
    """The inverse of `to_frame`.

    Args:
      xy: Points in the frame, m.
      origin: Origin of the frame, m.
      yaw: Rotation of the frame, rad.
    """
    return rotate(xy, yaw) + origin


def box_corners(
    xy: Float[Array, "*#b 2"], yaw: Float[Array, "*#b"], size: Float[Array, "*#b 2"]
) -> Float[Array, "*#b 4 2"]:
    """Corners of boxes (m): front left, rear left, rear right, front right.

    Args:
      xy: Centers, m.
      yaw: Headings of the long side, rad.
      size: Length and width, m.
    """
    forward = unit_vector(yaw) * (size[..., :1] / 2)
    left = unit_vector(yaw + jnp.pi / 2) * (size[..., 1:] / 2)
    offsets = [forward + left, left - forward, -forward - left, forward - left]
    return jnp.stack([xy + offset for offset in offsets], axis=-2)


class Boxes(NamedTuple):
    """Oriented rectangles in the plane, with the cosine and sine of their headings.

    A rectangle without an area has half lengths so negative that it overlaps nothing; they are finite, because zero
    times infinity is NaN. The sign of a size does not matter.

    Attributes:
      x: Center, m.
      y: Center, m.
      cos: Cosine of the heading.
      sin: Sine of the heading.
      half_length: Half extent along the heading, m.
      half_width: Half extent across the heading, m.
    """

    x: Float[Array, "*b"]
    y: Float[Array, "*b"]
    cos: Float[Array, "*b"]
    sin: Float[Array, "*b"]
    half_length: Float[Array, "*b"]
    half_width: Float[Array, "*b"]

    @classmethod
    def from_poses(cls, xy: Float[Array, "*b 2"], yaw: Float[Array, "*b"], size: Float[Array, "*b 2"]) -> "Boxes":
        """Boxes with given poses and sizes.

        Args:
          xy: Centers, m.
          yaw: Headings, rad.
          size: Length and width, m.
        """
        has_no_area = (size[..., 0] == 0) | (size[..., 1] == 0)
        half_length, half_width = (
            jnp.where(has_no_area, -UNREACHED, jnp.abs(size[..., axis]) / 2) for axis in range(2)
        )
        return cls(xy[..., 0], xy[..., 1], jnp.cos(yaw), jnp.sin(yaw), half_length, half_width)


def box_axis_components(
    a: Boxes, b: Boxes, x: Float[Array, "*#b"], y: Float[Array, "*#b"]
) -> tuple[Float[Array, "*#b"], ...]:
    """Components of a vector along the four axes of two boxes: along and across `a`, then along and across `b`.

    Args:
      a: First boxes.
      b: Second boxes.
      x: First component of the vector.
      y: Second component of the vector.
    """
    return a.cos * x + a.sin * y, a.cos * y - a.sin * x, b.cos * x + b.sin * y, b.cos * y - b.sin * x


def box_axis_extents(
    a: Boxes, b: Boxes, cos: Float[Array, "*#b"], sin: Float[Array, "*#b"]
) -> tuple[Float[Array, "*#b"], ...]:
    """Sums of the half extents (m) of two boxes along the axes of `box_axis_components`.

    Args:
      a: First boxes.
      b: Second boxes.
      cos: Absolute cosine of the angle between their headings.
      sin: Absolute sine of it.
    """
    return (
        a.half_length + cos * b.half_length + sin * b.half_width,
        a.half_width + sin * b.half_length + cos * b.half_width,
        b.half_length + cos * a.half_length + sin * a.half_width,
        b.half_width + sin * a.half_length + cos * a.half_width,
    )


def box_separation(a: Boxes, b: Boxes) -> Float[Array, "*b"]:
    """The largest gap (m) between two boxes along their axes: negative exactly where they share an area.

    The separating-axis test in closed form: along each of the four axes the half extent of the other box is a
    sum of two absolute cosines, so no corner is needed. Positive gaps bound the distance from below. Boxes broadcast.
    """
    cos, sin = jnp.abs(a.cos * b.cos + a.sin * b.sin), jnp.abs(a.cos * b.sin - a.sin * b.cos)
    offsets, extents = box_axis_components(a, b, b.x - a.x, b.y - a.y), box_axis_extents(a, b, cos, sin)
    gaps = [jnp.abs(offset) - extent for offset, extent in zip(offsets, extents, strict=True)]
    return jnp.maximum(jnp.maximum(gaps[0], gaps[1]), jnp.maximum(gaps[2], gaps[3]))


def boxes_distance(a: Boxes, b: Boxes) -> Float[Array, "*b"]:
    """Signed distance (m) between two boxes; where they overlap, minus the depth of the overlap.

    The shortest distance between two disjoint rectangles ends at a corner of one of them. Boxes broadcast.
    """
    gap = box_separation(a, b)
    x, y = b.x - a.x, b.y - a.y
    cos, sin = a.cos * b.cos + a.sin * b.sin, a.cos * b.sin - a.sin * b.cos
    from_b = _squared_corner_distance(a.cos * x + a.sin * y, a.cos * y - a.sin * x, cos, sin, b, a)
    from_a = _squared_corner_distance(-b.cos * x - b.sin * y, b.sin * x - b.cos * y, cos, -sin, a, b)
    squared = jnp.minimum(from_a, from_b)
    # The root is not used where the boxes overlap; its gradient would be infinite at zero.
    return jnp.where(gap > 0, jnp.sqrt(jnp.where(gap > 0, squared, 1.0)), gap)


def _squared_corner_distance(
    x: Float[Array, "*#b"],
    y: Float[Array, "*#b"],
    cos: Float[Array, "*#b"],
    sin: Float[Array, "*#b"],
    box: Boxes,
    other: Boxes,
) -> Float[Array, "*#b"]:
    """Smallest squared distance (m^2) from a corner of a box to another box, in whose frame x, y, cos and sin are."""

    def corner_distance(along, across):
        outside_x = jnp.maximum(jnp.abs(x + cos * along - sin * across) - other.half_length, 0.0)
        outside_y = jnp.maximum(jnp.abs(y + sin * along + cos * across) - other.half_width, 0.0)
        return outside_x * outside_x + outside_y * outside_y

    length, width = box.half_length, box.half_width
    left = jnp.minimum(corner_distance(length, width), corner_distance(-length, width))
    return jnp.minimum(left, jnp.minimum(corner_distance(length, -width), corner_distance(-length, -width)))
