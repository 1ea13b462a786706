"""Drawing of points and boxes on a square grid of cells around an agent, without a loop over cells.

Points are scattered to their cells. A box covers an interval of cells in each row, which is a bit mask; the masks of
all boxes are combined by OR.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, UInt32

from waymax_sim import geometry
from waymax_sim.ops import backend
from waymax_sim.pytree import Array

# Number of bits of a word of a mask.
WORD_BITS = 32
# Sine of a heading below which a box is parallel to the rows; avoids a division by zero.
MIN_SINE = 1e-6


@dataclasses.dataclass(frozen=True)
class Grid:
    """A square of cells in the frame of an agent. Row 0 is the rearmost one, column 0 the rightmost one.

    Attributes:
      size: Number of rows and of columns H.
      resolution: Side of a cell, m.
      behind: Distance from the rear border to the agent, m. It is centered between the right and the left border.
    """

    size: int
    resolution: float
    behind: float

    @property
    def right(self) -> float:
        """Distance from the right border to the agent, m."""
        return self.size * self.resolution / 2

    def index(self, x: Float[Array, "*p"], y: Float[Array, "*p"], valid: Bool[Array, "*p"]) -> Int[Array, "*p"]:
        """Index of the cell of each point, row by row; H * H for points that are invalid or outside.

        Args:
          x: Longitudinal positions in the frame of the agent, m.
          y: Lateral positions, positive to the left, m.
          valid: Valid points.
        """
        row, column = (x + self.behind) / self.resolution, (y + self.right) / self.resolution
        inside = valid & (row >= 0) & (row < self.size) & (column >= 0) & (column < self.size)
        row, column = (jnp.where(inside, item, 0.0).astype(jnp.int32) for item in (row, column))
        return jnp.where(inside, row * self.size + column, self.size**2)

    def centers(self, offset: float) -> Float[Array, " H"]:
        """Coordinates of the centers of the cells along an axis, m.

        Args:
          offset: Distance from the first border to the agent, m.
        """
        return (jnp.arange(self.size, dtype=jnp.float32) + 0.5) * self.resolution - offset


def box_masks(grid: Grid, boxes: geometry.Boxes, valid: Bool[Array, " N"]) -> UInt32[Array, "N H B"]:
    """Cells of each box as bits: those whose center lies in the box, and the one in which the center of the box lies.

    Args:
      grid: The grid.
      boxes: Boxes in the frame of the agent.
      valid: Valid boxes.
    """
    # Otherwise XLA:CPU computes the sines again for each row (bench row `observe_raster`).
    boxes = backend.materialize(boxes)
    first, last = _covered_columns(grid, boxes)
    is_covered = valid[:, None] & (first <= last)
    first, last = jnp.where(is_covered, first, 0), jnp.where(is_covered, last + 1, 0)
    center = grid.index(boxes.x, boxes.y, valid)
    is_center_row = jnp.arange(grid.size, dtype=jnp.int32)[None] == (center // grid.size)[:, None]
    column = jnp.where(is_center_row, (center % grid.size)[:, None], 0)
    end = jnp.where(is_center_row, column + 1, 0)
    words = range(0, grid.size, WORD_BITS)
    return jnp.stack([_bits(first - word, last - word) | _bits(column - word, end - word) for word in words], axis=-1)


def combine_masks(masks: UInt32[Array, "*lead N H B"]) -> UInt32[Array, "*lead H B"]:
    """Cells of any of N boxes."""
    return jax.lax.reduce(masks, jnp.uint32(0), jax.lax.bitwise_or, (masks.ndim - 3,))


def unpack_mask(grid: Grid, mask: UInt32[Array, "*lead H B"]) -> Bool[Array, "*lead H H"]:
    """Cells of a mask."""
    bit = jnp.arange(WORD_BITS, dtype=jnp.uint32).reshape(*(1 for _ in mask.shape), WORD_BITS)
    cells = (mask[..., None] >> bit) & jnp.uint32(1)
    return cells.reshape(*mask.shape[:-1], -1)[..., : grid.size] > 0


def dilate(image: Int[Array, "H H C"], radius: float) -> Int[Array, "H H C"]:
    """The largest value among the cells whose centers are within a radius.

    Args:
      image: Values of cells, at least 0.
      radius: In units of the side of a cell.
    """
    size, reach = image.shape[0], int(radius)
    padded = jnp.pad(image, ((reach, reach), (reach, reach), (0, 0)))
    offsets = range(-reach, reach + 1)
    for row in offsets:
        for column in offsets:
            if math.hypot(row, column) <= radius:
                shifted = jax.lax.dynamic_slice(padded, (reach + row, reach + column, 0), (size, size, image.shape[2]))
                image = jnp.maximum(image, shifted)
    return image


def _covered_columns(grid: Grid, boxes: geometry.Boxes) -> tuple[Int[Array, "N H"], Int[Array, "N H"]]:
    """The first and the last column whose centers lie in a box, in each row; none if the first is beyond the last."""
    dx = grid.centers(grid.behind)[None] - boxes.x[:, None]
    # |cos dx + sin dy| <= length and |cos dy - sin dx| <= width, solved for dy.
    along = _slab(dx, boxes.cos, boxes.sin, boxes.half_length)
    across = _slab(dx, -boxes.sin, boxes.cos, boxes.half_width)
    low, high = jnp.maximum(along[0], across[0]), jnp.minimum(along[1], across[1])
    first, last = ((boxes.y[:, None] + bound + grid.right) / grid.resolution - 0.5 for bound in (low, high))
    is_covered = (first <= last) & (first <= grid.size - 1) & (last >= 0)
    first = jnp.ceil(jnp.where(is_covered & (first > 0), first, 0.0)).astype(jnp.int32)
    last = jnp.floor(jnp.where(is_covered & (last < grid.size), last, grid.size)).astype(jnp.int32)
    return jnp.where(is_covered, first, 1), jnp.where(is_covered, last, 0)


def _slab(
    dx: Float[Array, "N H"], cos: Float[Array, " N"], sin: Float[Array, " N"], half: Float[Array, " N"]
) -> tuple[Float[Array, "N H"], Float[Array, "N H"]]:
    """The interval of dy with |cos dx + sin dy| <= half.

    Args:
      dx: Distances along the first axis, m.
      cos: First component of a unit vector.
      sin: Second component.
      half: Half of the width of the slab, m.
    """
    inverse = 1.0 / jnp.where(jnp.abs(sin) < MIN_SINE, jnp.where(sin < 0, -MIN_SINE, MIN_SINE), sin)
    center, reach = backend.materialize((-cos * inverse, half * jnp.abs(inverse)))
    return dx * center[:, None] - reach[:, None], dx * center[:, None] + reach[:, None]


def _bits(first: Int[Array, "N H"], end: Int[Array, "N H"]) -> UInt32[Array, "N H"]:
    """The bits from the first one up to the end, exclusive, of those that a word has."""
    return _low_bits(end) & ~_low_bits(first)


def _low_bits(count: Int[Array, "N H"]) -> UInt32[Array, "N H"]:
    shift = jnp.clip(count, 0, WORD_BITS - 1).astype(jnp.uint32)
    return jnp.where(count >= WORD_BITS, jnp.uint32(0xFFFFFFFF), (jnp.uint32(1) << shift) - jnp.uint32(1))
