"""Ladders of linear classes for `modbe`: of features of each transition, or of a table of states and actions."""

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from behavior_models.model_selection.linear import Ridge, factorize, gram_matrix, solve
from waymax_sim.pytree import Array, pytree


@pytree
class LinearLadder:
    """Linear classes of columns of the features, by ridge regression.

    Attributes:
      mask: Columns of each class; each contains the class before.
      penalty: Ridge penalty in rows of the root mean square of each column, so that scales do not matter; it bounds the
        weights of columns that few rows determine.
    """

    mask: Bool[Array, "K D"]
    penalty: float = 1.0

    @property
    def complexity(self) -> Float[Array, " K"]:
        """Number of columns of each class."""
        return jnp.sum(jnp.asarray(self.mask), axis=-1).astype(jnp.float32)

    def prepare(self, inputs: Float[Array, "n D"]) -> tuple[Float[Array, "n D"], Ridge]:
        """Features and the factorized regressions."""
        return inputs, self.factorize(gram_matrix(inputs), inputs.shape[0])

    def factorize(self, gram: Float[Array, "D D"], num_rows: int) -> Ridge:
        """Factorized regressions.

        Args:
          gram: Gram matrix of the rows.
          num_rows: Their number.
        """
        squares = jnp.diagonal(gram) / num_rows
        # Columns that are always zero have weight zero.
        penalty = jnp.where(squares > 0, self.penalty / num_rows * squares, 1.0)
        return factorize(gram / num_rows, self.mask, penalty)

    def fit(self, prepared: tuple[Array, Ridge], targets: Float[Array, "T n"]) -> Float[Array, "T K D"]:
        """Weights."""
        features, ridge = prepared
        return solve(ridge, targets @ features / features.shape[0])

    def predict(self, params: Array, inputs: Array) -> Array:
        """Inner products."""
        return jnp.tensordot(params, inputs, axes=(-1, -1))


@pytree
class TableLadder:
    """The same classes for finite processes: features and values are computed once per state, not per transition.

    Inputs are indices, state * A + action; next inputs are states.

    Attributes:
      linear: The classes.
      features: Columns of S states with A actions.
    """

    linear: LinearLadder
    features: Float[Array, "S A D"]

    @property
    def complexity(self) -> Float[Array, " K"]:
        """Number of columns of each class."""
        return self.linear.complexity

    @property
    def table(self) -> Float[Array, "SA D"]:
        """Features of all pairs."""
        return self.features.reshape(-1, self.features.shape[-1])

    def prepare(self, inputs: Int[Array, " n"]) -> tuple[Float[Array, "n D"], Ridge]:
        """Features and the factorized regressions, with the Gram matrix as a weighted sum over pairs."""
        count = jnp.zeros(self.table.shape[0]).at[inputs].add(1.0)
        gram = (self.table * count[:, None]).T @ self.table
        return self.table[inputs], self.linear.factorize(gram, inputs.shape[0])

    def fit(self, prepared: tuple[Array, Ridge], targets: Float[Array, "T n"]) -> Float[Array, "T K D"]:
        """Weights."""
        return self.linear.fit(prepared, targets)

    def predict(self, params: Array, inputs: Int[Array, "*n"]) -> Array:
        """Inner products."""
        return self.linear.predict(params, self.table[inputs])

    def values(self, params: Array, next_inputs: Int[Array, "*n"]) -> Array:
        """Largest inner product over the actions."""
        return jnp.max(self.linear.predict(params, self.features), axis=-1)[..., next_inputs]
