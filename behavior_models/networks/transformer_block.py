"""The Gemma block: root-mean-square norms, attention of grouped queries, and a gated feed-forward layer.

The head size does not depend on the width, and no layer has a bias.

Source: Gemma (Gemma Team 2024, arXiv 2403.08295).
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Bool, Float, Int

from behavior_models.networks.mixture_of_experts import Experts, RouterStatistics
from behavior_models.networks.transformer_config import TransformerConfig
from waymax_sim.pytree import Array

# Added to the mean square before its root.
RMS_EPSILON = 1e-6
# Longest period of the rotary embedding, in positions divided by 2 pi.
ROPE_BASE = 10_000.0
# Share of the components of a head that are rotated.
ROTATED = {"none": 0.0, "half": 0.5, "rope": 1.0}


class RMSNorm(nnx.Module):
    """Division by the root of the mean square, and multiplication by 1 + s, in float32; s is 0 at first."""

    def __init__(self, width: int):
        self.scale = nnx.Param(jnp.zeros(width))

    def __call__(self, values: Float[Array, "*lead D"]) -> Float[Array, "*lead D"]:
        exact = values.astype(jnp.float32)
        exact = exact * jax.lax.rsqrt(jnp.mean(exact**2, axis=-1, keepdims=True) + RMS_EPSILON)
        scale = 1.0 + self.scale[...].astype(jnp.float32)
        return (exact * scale.reshape(*(1 for _ in values.shape[:-1]), -1)).astype(values.dtype)


class GatedFeedForward(nnx.Module):
    """Feed-forward layer whose inputs are multiplied by a gate with a Gaussian error linear unit (tanh form)."""

    def __init__(self, width: int, hidden: int, *, rngs: nnx.Rngs):
        self.gate_up = normal_matrix((2, width, hidden), width, rngs)
        self.down = normal_matrix((hidden, width), hidden, rngs)

    def __call__(self, tokens: Float[Array, "*lead D"]) -> Float[Array, "*lead D"]:
        gate, up = self.gate_up[...].astype(tokens.dtype)
        return (jax.nn.gelu(tokens @ gate) * (tokens @ up)) @ self.down[...].astype(tokens.dtype)


class Attention(nnx.Module):
    """Projections to queries, keys and values, and from heads to features, without the attention between them.

    Args:
      config: Size.
      rngs: Random streams of the initial parameters.
    """

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        width, size, self.positions = config.width, config.head_size, config.positions
        self.query = normal_matrix((config.num_heads, width, size), width, rngs)
        self.key_value = normal_matrix((2, config.num_kv_heads, width, size), width, rngs)
        self.output = normal_matrix((config.num_heads, size, width), config.num_heads * size, rngs)

    def queries(self, tokens: Float[Array, "*lead T D"], position: Int[Array, "*lead T"]) -> Array:
        """Rotated and scaled queries [*lead, T, H, G]."""
        query = jnp.einsum("...td,hdg->...thg", tokens, self.query[...].astype(tokens.dtype))
        return rotate(query, position, self.positions) * query.shape[-1] ** -0.5

    def keys_values(self, tokens: Float[Array, "*lead T D"], position: Int[Array, "*lead T"]) -> tuple[Array, Array]:
        """Rotated keys, and values, [*lead, T, K, G]."""
        to_key, to_value = self.key_value[...].astype(tokens.dtype)
        key = jnp.einsum("...td,kdg->...tkg", tokens, to_key)
        return rotate(key, position, self.positions), jnp.einsum("...td,kdg->...tkg", tokens, to_value)

    def join(self, heads: Float[Array, "*lead T H G"]) -> Float[Array, "*lead T D"]:
        """Features of attended values."""
        return jnp.einsum("...thg,hgd->...td", heads, self.output[...].astype(heads.dtype))


def rotate(values: Float[Array, "*lead T N G"], position: Int[Array, "*lead T"], positions: str) -> Array:
    """Rotary position embedding: pairs of features (i, i + R / 2) turn by position * base^(-2 i / R).

    Args:
      values: Queries or keys.
      position: Positions.
      positions: Share of the features that are rotated: R of G, see `TransformerConfig`.
    """
    size = int(values.shape[-1] * ROTATED[positions]) // 2 * 2
    if size == 0:
        return values
    frequency = ROPE_BASE ** (-jnp.arange(0, size, 2, dtype=jnp.float32) / size)
    angle = jnp.einsum("...t,f->...tf", position.astype(jnp.float32), frequency)[..., None, :]
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    first, second = (part.astype(jnp.float32) for part in jnp.split(values[..., :size], 2, axis=-1))
    turned = jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)
    return jnp.concatenate([turned.astype(values.dtype), values[..., size:]], axis=-1)


class TransformerBlock(nnx.Module):
    """Attention and feed-forward layer, each after a norm and added to its input."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.attention_norm, self.feed_forward_norm = RMSNorm(config.width), RMSNorm(config.width)
        self.attention = Attention(config, rngs=rngs)
        self.feed_forward = (
            GatedFeedForward(config.width, config.hidden, rngs=rngs)
            if config.experts is None
            else Experts(config.width, config.hidden, config.experts, rngs=rngs)
        )

    def queries(self, tokens: Float[Array, "*lead T D"], position: Int[Array, "*lead T"]) -> Array:
        """See `Attention.queries`."""
        return self.attention.queries(self.attention_norm(tokens), position)

    def keys_values(self, tokens: Float[Array, "*lead T D"], position: Int[Array, "*lead T"]) -> tuple[Array, Array]:
        """See `Attention.keys_values`."""
        return self.attention.keys_values(self.attention_norm(tokens), position)

    def update(
        self,
        tokens: Float[Array, "*lead T D"],
        heads: Float[Array, "*lead T H G"],
        valid: Bool[Array, "*lead T"],
        training: bool = False,
    ) -> tuple[Float[Array, "*lead T D"], tuple[RouterStatistics, ...]]:
        """The features after attention and feed-forward layer, and the use of its experts.

        Args:
          tokens: Features.
          heads: Attended values.
          valid: Valid tokens.
          training: Whether the capacity of experts is limited.
        """
        tokens = tokens + self.attention.join(heads)
        normal = self.feed_forward_norm(tokens)
        if isinstance(self.feed_forward, GatedFeedForward):
            return tokens + self.feed_forward(normal), ()
        outputs, statistics = self.feed_forward(normal, valid, training)
        return tokens + outputs, (statistics,)


def normal_matrix(shape: tuple[int, ...], num_inputs: int, rngs: nnx.Rngs) -> nnx.Param:
    """Normal weights whose outputs have the variance of their inputs.

    Args:
      shape: Shape.
      num_inputs: Inputs of an output.
      rngs: Random streams.
    """
    return nnx.Param(jax.random.normal(rngs.params(), shape) * num_inputs**-0.5)
