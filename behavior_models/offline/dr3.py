"""Explicit regularization of the features of value networks (DR3).

Source: Kumar et al. 2022 ("DR3: Value-Based Deep Reinforcement Learning Requires Explicit Regularization").
"""

import jax.numpy as jnp
from jaxtyping import Float

from waymax_sim.pytree import Array


def dr3(
    features: Float[Array, "*lead F"], next_features: Float[Array, "*lead F"], absolute: bool = False
) -> Float[Array, "*lead"]:
    """Dot product of the features of a state and of the next state, to be added to the loss with a weight c0.

    Gradients flow into both arguments. A usual weight makes the term 1 to 10 % of the loss at the beginning.

    Args:
      features: Penultimate features phi(s, a).
      next_features: Features phi(s', a') of the action a' of the backup; those of networks with one linear output per
        discrete action depend on the state alone.
      absolute: Whether the magnitude of the dot product is used.
    """
    product = jnp.sum(features * next_features, axis=-1)
    return jnp.abs(product) if absolute else product
