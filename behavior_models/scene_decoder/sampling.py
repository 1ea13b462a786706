"""TokenSampling of motion tokens: temperature, top-k and nucleus as arguments of one program."""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, Key

from waymax_sim.pytree import Array, pytree

# Lower temperatures are greedy.
MIN_TEMPERATURE = 1e-4
# Temperature by default: of 0.5, 0.7 and 1 the most realistic one on 12 scenes of `synthetic:101:300`.
DEFAULT_TEMPERATURE = 0.7


@pytree
class TokenSampling:
    """Parameters of sampling, traced.

    Attributes:
      temperature: Divisor of the logits; 0 selects the most likely token.
      top_k: Number of most likely tokens that are sampled from.
      nucleus: Smallest probability that the sampled-from tokens have together (Holtzman et al. 2020).
    """

    temperature: Float[Array, ""]
    top_k: Int[Array, ""]
    nucleus: Float[Array, ""]

    @classmethod
    def create(cls, temperature: float = DEFAULT_TEMPERATURE, top_k: int = 48, nucleus: float = 1.0) -> "TokenSampling":
        """The parameters from plain values.

        Args:
          temperature: See the class.
          top_k: See the class.
          nucleus: See the class.

        Raises:
          ValueError: A value is out of range.
        """
        if temperature < 0 or top_k < 1 or not 0 < nucleus <= 1:
            raise ValueError(
                f"temperature={temperature} must not be negative, top_k={top_k} at least 1, nucleus={nucleus} in (0, 1]"
            )
        return cls(jnp.float32(temperature), jnp.int32(top_k), jnp.float32(nucleus))


def sample_tokens(
    logits: Float[Array, "K V"], sampling: TokenSampling, keys: Key[Array, " K"], num_candidates: int
) -> Int[Array, " K"]:
    """A token for each agent.

    Args:
      logits: Logits of the tokens.
      sampling: Parameters.
      keys: Random key of each agent.
      num_candidates: Static number of most likely tokens that are considered, an upper bound of `top_k`.
    """
    best, token = jax.lax.top_k(logits, min(num_candidates, logits.shape[1]))
    scaled = best / jnp.maximum(sampling.temperature, MIN_TEMPERATURE)
    probability = jax.nn.softmax(scaled, axis=-1)
    before = jnp.cumsum(probability, axis=-1) - probability
    rank = jnp.arange(scaled.shape[1])[None]
    # The most likely token is always a candidate.
    mask = (rank == 0) | ((rank < sampling.top_k) & (before < sampling.nucleus))
    drawn = jax.vmap(jax.random.categorical)(keys, jnp.where(mask, scaled, -jnp.inf))
    return jnp.take_along_axis(token, drawn[:, None], axis=1)[:, 0].astype(jnp.int32)
