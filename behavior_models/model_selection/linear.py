"""Ridge regressions and confidence widths of nested linear classes, all from one factorization of the Gram matrix.

A class is a mask of columns. The columns are eliminated in the order in which the classes contain them. Then the
inverse W of the Cholesky factor has V_k^-1 = W^T diag(m_k) W for every class: its mask selects rows of W.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from waymax_sim.pytree import Array, pytree

# Largest matrix that is eliminated column by column.
LEAF_SIZE = 8


@pytree
class Ridge:
    """Factorized regressions of K nested classes over D columns.

    Attributes:
      inverse_factor: W with V_k^-1 = W^T diag(m_k) W for the penalized Gram matrix V_k of each class.
      mask: Columns m_k of each class.
    """

    inverse_factor: Float[Array, "D D"]
    mask: Bool[Array, "K D"]


def nested_masks(dimensions: Sequence[int], num_columns: int) -> Bool[np.ndarray, "K D"]:
    """Classes of the first d columns each.

    Args:
      dimensions: d of each class, ascending.
      num_columns: D.

    Raises:
      ValueError: The dimensions do not ascend from 1 up to at most D.
    """
    sizes = np.asarray(dimensions)
    if sizes.ndim != 1 or len(sizes) == 0 or sizes[0] < 1 or np.any(np.diff(sizes) <= 0) or sizes[-1] > num_columns:
        raise ValueError(f"dimensions {list(dimensions)} must ascend from at least 1 to at most {num_columns} columns")
    return np.arange(num_columns)[None] < sizes[:, None]


def gram_matrix(features: Float[Array, "n D"]) -> Float[Array, "D D"]:
    """Sum of the outer products of n rows."""
    return features.T @ features


def factorize(gram: Float[Array, "D D"], masks: Bool[Array, "K D"], penalty: Float[Array, " D"]) -> Ridge:
    """Regressions of nested classes.

    Args:
      gram: The Gram matrix of all columns.
      masks: Columns of each class.
      penalty: Of the squared weight of each column; positive.

    Raises:
      ValueError: A class does not contain the one before.
    """
    if isinstance(masks, np.ndarray) and not np.all(masks[1:] | ~masks[:-1]):
        raise ValueError("classes are not nested: each must contain the columns of the one before")
    numeric: Any = np if isinstance(masks, np.ndarray) else jnp
    order = numeric.argsort(-numeric.sum(masks, axis=0), stable=True)
    masks = jnp.asarray(masks)
    used, identity = masks[-1], jnp.eye(masks.shape[-1])
    penalized = jnp.where(used[:, None] & used[None], gram + penalty[:, None] * identity, identity)
    return Ridge(inverse_cholesky(penalized, order), masks)


def inverse_cholesky(matrix: Float[Array, "D D"], order: Int[Array, " D"]) -> Float[Array, "D D"]:
    """Inverse of the Cholesky factor of a positive definite matrix, by elimination of columns in a given order.

    Rows and columns are not permuted: with the order 0, 1, ... the result is lower triangular. There is no call of
    LAPACK: its batches wait for threads of the pool that runs them, and two of them can stop a program on two cores.

    Args:
      matrix: The matrix.
      order: Permutation of its columns.
    """
    if isinstance(order, np.ndarray) and np.array_equal(order, np.arange(len(order))):
        return _divide_inverse(matrix)
    position = jnp.argsort(order)
    return _divide_inverse(matrix[order][:, order])[position][:, position]


def _divide_inverse(matrix: Float[Array, "D D"]) -> Float[Array, "D D"]:
    """Inverse of the Cholesky factor by halves: large products instead of one small update per column."""
    size = matrix.shape[-1]
    if size <= LEAF_SIZE:
        return _eliminate_columns(matrix)
    half = size // 2
    first = _divide_inverse(matrix[:half, :half])
    factor = matrix[half:, :half] @ first.T
    second = _divide_inverse(matrix[half:, half:] - factor @ factor.T)
    return jnp.block([[first, jnp.zeros((half, size - half), matrix.dtype)], [-second @ (factor @ first), second]])


def _eliminate_columns(matrix: Float[Array, "D D"]) -> Float[Array, "D D"]:
    """Inverse of the Cholesky factor column by column."""
    rows = jnp.arange(matrix.shape[-1])

    def eliminate(column: Int[Array, ""], state: tuple[Array, Array]) -> tuple[Array, Array]:
        remainder, inverse = state
        root = jnp.sqrt(remainder[column, column])
        scaled, factor = inverse[column] / root, jnp.where(rows > column, remainder[column] / root, 0.0)
        inverse = (inverse - factor[:, None] * scaled[None]).at[column].set(scaled)
        return remainder - factor[:, None] * factor[None], inverse

    state = jnp.asarray(matrix), jnp.eye(matrix.shape[-1], dtype=matrix.dtype)
    return jax.lax.fori_loop(0, matrix.shape[-1], eliminate, state)[1]


def solve(ridge: Ridge, moments: Float[Array, "T D"]) -> Float[Array, "T K D"]:
    """Weights of every class for every target; zero outside of the class.

    Args:
      ridge: The regressions.
      moments: Sum of feature times target over the rows, for T targets.
    """
    used = jnp.where(ridge.mask[-1][None], moments, 0.0)
    whitened = used @ ridge.inverse_factor.T
    return jnp.where(ridge.mask[None], whitened[:, None], 0.0) @ ridge.inverse_factor


def widths(ridge: Ridge, features: Float[Array, "*rows D"]) -> Float[Array, "K *rows"]:
    """Norms of features by the inverse of the penalized Gram matrix of each class, sqrt(phi^T V_k^-1 phi).

    Args:
      ridge: The regressions.
      features: Any number of rows.
    """
    flat = jnp.where(ridge.mask[-1][None], features.reshape(-1, features.shape[-1]), 0.0)
    squares = (flat @ ridge.inverse_factor.T) ** 2
    return jnp.sqrt(ridge.mask.astype(jnp.float32) @ squares.T).reshape(-1, *features.shape[:-1])
