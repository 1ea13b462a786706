"""Weight quantization: matrices of a parameter tree as integers of 8 or 4 bits with scales.

Symmetric rounding to the nearest level, for each output channel or for groups of inputs of a channel; arrays of rank 0
and 1, such as scales of norms, remain as they are. One scale for the whole matrix is the control.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, Integer, UInt8

from waymax_sim.pytree import Array, pytree, static

Granularity = Literal["group", "channel", "tensor"]
# Range of the scales, which are stored with 16 bits.
MIN_SCALE = 2.0**-24
MAX_SCALE = 65504.0


@dataclasses.dataclass(frozen=True)
class QuantizationConfig:
    """Format of the weights.

    Attributes:
      bits: Bits of a weight, 8 or 4.
      granularity: Weights that share a scale: `group_size` inputs of an output channel, a channel, or the matrix.
      group_size: Inputs of a group.

    Raises:
      ValueError: The number of bits is neither 4 nor 8, or the size of a group is odd or less than 2.
    """

    bits: int = 8
    granularity: Granularity = "channel"
    group_size: int = 32

    def __post_init__(self):
        if self.bits not in (4, 8):
            raise ValueError(f"bits={self.bits} is not supported: use 8 or 4")
        if self.group_size < 2 or self.group_size % 2:
            raise ValueError(f"group_size={self.group_size} must be even and at least 2")

    @property
    def max_level(self) -> int:
        """Largest level; the smallest one is its negative."""
        return 2 ** (self.bits - 1) - 1


INT8 = QuantizationConfig(8, "channel")
INT4 = QuantizationConfig(4, "group")
INT4_PER_TENSOR = QuantizationConfig(4, "tensor")


@pytree
class QuantizedArray:
    """M matrices, the last two axes of an array, of R inputs and C output channels, with scales of groups of inputs.

    Attributes:
      levels: Levels; with 4 bits, two in a byte: even inputs in the lower half, odd ones in the upper half.
      scale: Width of a level for each matrix, group of inputs and channel.
      shape: Shape of the array.
      bits: Bits of a weight.
    """

    levels: Integer[Array, "M S C"]
    scale: Float[Array, "M G D"]
    shape: tuple[int, ...] = static()
    bits: int = static()

    @property
    def num_bytes(self) -> int:
        """Stored size, bytes."""
        return self.levels.size + 2 * self.scale.size


def quantize(params: Any, config: QuantizationConfig = INT8) -> Any:
    """The tree with `QuantizedArray` for each array of floating-point numbers of rank 2 or more.

    Args:
      params: A tree of arrays.
      config: Format.
    """
    return jax.tree.map(lambda leaf: quantize_array(leaf, config) if _is_matrix(leaf) else leaf, params)


def dequantize(params: Any) -> Any:
    """The tree of arrays of a quantized tree; matrices are float32."""
    return jax.tree.map(
        lambda leaf: dequantize_array(leaf) if _is_quantized(leaf) else leaf, params, is_leaf=_is_quantized
    )


def stored_bytes(params: Any) -> int:
    """Size of a tree of arrays, quantized or not, bytes."""
    leaves = jax.tree.leaves(params, is_leaf=_is_quantized)
    return sum(leaf.num_bytes if _is_quantized(leaf) else leaf.size * leaf.dtype.itemsize for leaf in leaves)


def quantize_array(array: Float[Array, "*lead C"], config: QuantizationConfig = INT8) -> QuantizedArray:
    """Levels and scales of an array; axes before the last two are those of separate matrices, such as heads.

    A weight that is not finite makes all weights of its group NaN.

    Args:
      array: The array.
      config: Format.
    """
    matrices = jnp.asarray(array).astype(jnp.float32).reshape(-1, *array.shape[-2:])
    rows = _rows_per_scale(matrices.shape[1], config)
    padded = jnp.pad(matrices, ((0, 0), (0, -matrices.shape[1] % rows), (0, 0)))
    groups = padded.reshape(len(padded), -1, rows, padded.shape[2])
    axes = (1, 2, 3) if config.granularity == "tensor" else (2,)
    largest = jnp.max(jnp.abs(groups), axis=axes, keepdims=True)
    largest = jnp.where(jnp.isfinite(largest), largest, jnp.nan)
    # Levels are those of the scale that is stored.
    scale = jnp.clip(largest / config.max_level, MIN_SCALE, MAX_SCALE).astype(jnp.float16)
    level = jnp.round(groups / scale.astype(jnp.float32))
    level = jnp.clip(jnp.nan_to_num(level), -config.max_level, config.max_level).astype(jnp.int8)
    level = level.reshape(padded.shape)
    levels = level if config.bits == 8 else pack_int4(level)
    return QuantizedArray(levels, scale[:, :, 0], tuple(array.shape), config.bits)


def dequantize_array(quantized: QuantizedArray) -> Float[Array, "..."]:
    """The array of quantized levels, float32."""
    levels = quantized.levels if quantized.bits == 8 else unpack_int4(quantized.levels)
    num_groups, num_rows = quantized.scale.shape[1], quantized.shape[-2]
    groups = levels.reshape(len(levels), num_groups, -1, levels.shape[2]).astype(jnp.float32)
    matrices = (groups * quantized.scale[:, :, None].astype(jnp.float32)).reshape(levels.shape)
    return matrices[:, :num_rows].reshape(quantized.shape)


def pack_int4(levels: Int[Array, "*lead R C"]) -> UInt8[Array, "*lead S C"]:
    """Two rows of levels from -8 to 7 in one row of bytes; R must be even."""
    low, high = (levels[..., start::2, :].astype(jnp.uint8) & 0xF for start in (0, 1))
    return low | (high << 4)


def unpack_int4(packed: UInt8[Array, "*lead S C"]) -> Int[Array, "*lead R C"]:
    """The rows of levels of `pack_int4`."""
    halves = jnp.stack([packed & 0xF, packed >> 4], axis=-2).astype(jnp.int8)
    signed = jnp.where(halves > 7, halves - jnp.int8(16), halves)
    return signed.reshape(*packed.shape[:-2], -1, packed.shape[-1])


def _rows_per_scale(num_rows: int, config: QuantizationConfig) -> int:
    """Even number of rows, so that bytes have two levels each."""
    even = num_rows + num_rows % 2
    return min(config.group_size, even) if config.granularity == "group" else even


def _is_matrix(leaf: Any) -> bool:
    return jnp.ndim(leaf) >= 2 and jnp.issubdtype(leaf.dtype, jnp.floating)


def _is_quantized(leaf: Any) -> bool:
    return isinstance(leaf, QuantizedArray)
