"""Diagnostics of the features of value networks: co-adaptation, effective rank, saturation of distributions.

Sources: dot products and norms of consecutive features (DR3, Kumar et al. 2022); effective rank (Kumar et al. 2021,
"Implicit Under-Parameterization Inhibits Data-Efficient Deep Reinforcement Learning").
"""

import jax.numpy as jnp
from jaxtyping import Float

from behavior_models.offline.dr3 import dr3
from waymax_sim.pytree import Array

# Share of the sum of singular values that the effective rank leaves out.
RANK_DELTA = 0.01


def feature_scalars(features: Float[Array, "B F"], next_features: Float[Array, "B F"]) -> dict[str, Float[Array, ""]]:
    """Means of the dot product, the norms and the cosine of the features of consecutive states."""
    norm, next_norm = (jnp.sqrt(jnp.sum(each**2, axis=-1)) for each in (features, next_features))
    product = dr3(features, next_features)
    cosine = product / jnp.maximum(norm * next_norm, jnp.finfo(jnp.float32).tiny)
    scalars = {"feature_dot": product, "feature_norm": norm, "next_feature_norm": next_norm, "feature_cosine": cosine}
    return {name: jnp.mean(value) for name, value in scalars.items()}


def effective_rank(features: Float[Array, "B F"], delta: float = RANK_DELTA) -> Float[Array, ""]:
    """Smallest number of singular values whose sum is at least 1 - delta of the sum of all.

    0 for features that are all zero, NaN for features that are not finite.

    Args:
      features: Features of B observations.
      delta: Share that is left out.
    """
    values = jnp.linalg.svd(features, compute_uv=False)
    total = jnp.sum(values)
    rank = jnp.sum((jnp.cumsum(values) < (1.0 - delta) * total).astype(jnp.float32)) + 1.0
    rank = jnp.where(total > 0, rank, 0.0)
    return jnp.where(jnp.all(jnp.isfinite(features)), rank, jnp.nan)


def end_mass(probabilities: Float[Array, "*lead M"]) -> Float[Array, "*lead"]:
    """Probability of the two end atoms of a distribution: returns that its support may cut off."""
    return probabilities[..., 0] + probabilities[..., -1]
