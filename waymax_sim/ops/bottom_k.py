"""Selection of the smallest values per row."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from waymax_sim.ops import backend
from waymax_sim.ops.batched_lookup import batch_over_maps, update_masked
from waymax_sim.pytree import Array

# Largest k and row width for which the selection scan beats `lax.top_k` on CPUs (bench row `observe_all`).
MAX_SCAN_K = 64
MAX_SCAN_WIDTH = 256
# Minimal width of a min-reduction that XLA:CPU vectorizes (bench row `observe_all`).
MIN_REDUCTION_WIDTH = 33
# Rows per vector register: rows are padded to a multiple (bench row `observe_all`).
SIMD_WIDTH = 8
# Rows per batch of the exact selection that resolves truncation ties.
TIE_BATCH = 2


def bottom_k(values: Float[Array, "Q W"], k: int) -> tuple[Float[Array, "Q k"], Int[Array, "Q k"]]:
    """The k smallest values of each row and their columns, ascending; ties go to the lower column.

    Equal to `jax.lax.top_k` of the negated values. Not differentiable.

    Args:
      values: Values from 0 to infinity; those below 1e-37 may compare equal.
      k: Number of values to select, at most W.
    """
    # A batch of arrays is one array with more rows.
    return batch_over_maps(lambda _, map_index, rows: _select(rows, k))((), values)


def first_argmin(values: Float[Array, "*q W"]) -> Int[Array, "*q"]:
    """Column of the minimum of each row, the first one of equal minima; an `argmin` that XLA:CPU vectorizes.

    Shown by the bench row `evaluate_state`.
    """
    column = jax.lax.broadcasted_iota(jnp.int32, values.shape, values.ndim - 1)
    return argmin_index(values, column, values.shape[-1])


def argmin_index(values: Float[Array, "*q W"], index: Int[Array, "*q W"], num_indices: int) -> Int[Array, "*q"]:
    """The index that belongs to the minimum of each row, the lowest index of equal minima.

    Args:
      values: Values, not NaN.
      index: A non-negative index of each value.
      num_indices: Upper bound of the indices, exclusive.
    """
    # Differences from the minimum are compared instead of testing for equality: the compiler may compute the values
    # twice with different rounding, and then no value would equal the minimum.
    minimum = jnp.min(values, axis=-1, keepdims=True)
    excess = jnp.where(values <= minimum, 0.0, values - minimum)
    key, index_mask = pack_value_index(excess, index, num_indices)
    return jnp.min(key, axis=-1) & index_mask


def pack_value_index(
    values: Float[Array, "*q W"], index: Int[Array, "*q W"], num_indices: int
) -> tuple[Int[Array, "*q W"], int]:
    """Integer keys that order by value first and by index second, and the bit mask of the index.

    The bits of non-negative floats are ordered like the floats; their last bits are replaced by the index.

    Args:
      values: Non-negative values.
      index: A non-negative index of each value.
      num_indices: Upper bound of the indices, exclusive.
    """
    index_mask = (1 << (num_indices - 1).bit_length()) - 1
    return (jax.lax.bitcast_convert_type(values, jnp.int32) & ~index_mask) | index, index_mask


def _select(values: Float[Array, "Q W"], k: int) -> tuple[Float[Array, "Q k"], Int[Array, "Q k"]]:
    is_small = 0 < k <= MAX_SCAN_K and k < values.shape[1] <= MAX_SCAN_WIDTH
    return (_selection_scan if is_small and backend.on_cpu() else _exact)(values, k)


def _exact(values: Float[Array, "Q W"], k: int) -> tuple[Float[Array, "Q k"], Int[Array, "Q k"]]:
    negative, column = jax.lax.top_k(-values, k)
    return -negative, column


def _selection_scan(values: Float[Array, "Q W"], k: int) -> tuple[Float[Array, "Q k"], Int[Array, "Q k"]]:
    """k-selection by repeated min-reduction of packed keys over all rows.

    Rows whose truncated keys do not determine the order are selected again exactly.
    """
    parts = max(values.shape[1] // MIN_REDUCTION_WIDTH, 1)
    padding = ((0, -len(values) % SIMD_WIDTH), (0, -values.shape[1] % parts))
    # Padded before the transpose: XLA:CPU pads a transposed array value by value (bench row `observe_all`).
    padded = jnp.pad(values, padding, constant_values=jnp.inf).T
    # Padding columns are infinite and have the highest indices, so they are selected last.
    key, index_mask = pack_value_index(padded, jax.lax.broadcasted_iota(jnp.int32, padded.shape, 0), values.shape[1])
    max_key = jnp.iinfo(jnp.int32).max
    keys = jnp.split(key, parts)

    def select_next(last, _):
        remaining = functools.reduce(jnp.minimum, [jnp.where(key > last[None], key, max_key) for key in keys])
        smallest = jax.lax.reduce(remaining, jnp.int32(max_key), jax.lax.min, (0,))
        return smallest, smallest

    selected = jax.lax.scan(select_next, jnp.full(keys[0].shape[1], -1, jnp.int32), length=k + 1)[1].T[: len(values)]
    column = selected[:, :k] & index_mask
    smallest = jnp.take_along_axis(values, column, axis=1, mode="promise_in_bounds")
    has_tie = _has_truncation_tie(selected | index_mask, smallest)
    return update_masked((smallest, column), has_tie, TIE_BATCH, lambda row: _exact(values[row], k))


def _has_truncation_tie(selected: Int[Array, "Q n"], smallest: Float[Array, "Q k"]) -> Bool[Array, " Q"]:
    """Rows whose truncated values are equal but misordered, or equal to that of the next value."""
    is_equal = (selected[:, 1:] == selected[:, :-1]) & jnp.isfinite(smallest)
    is_misordered = is_equal[:, :-1] & (smallest[:, 1:] < smallest[:, :-1])
    return jnp.any(is_misordered, axis=1) | is_equal[:, -1]
