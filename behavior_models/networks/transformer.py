"""Decoder-only transformer: Gemma blocks and one embedding for inputs and outputs.

Source: Gemma (Gemma Team 2024, arXiv 2403.08295).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Bool, Float, Int, Key

from behavior_models.networks.attention import KeyValues, PairTerms, TokenIndex, attend, attend_chunked, visible
from behavior_models.networks.kv_cache import KVCache
from behavior_models.networks.mixture_of_experts import RouterStatistics
from behavior_models.networks.transformer_block import RMSNorm, TransformerBlock, normal_matrix
from behavior_models.networks.transformer_config import TransformerConfig
from waymax_sim.pytree import Array, pytree


@pytree
class Encoded:
    """Outputs of a transformer.

    Attributes:
      features: Features after the last norm.
      statistics: Use of the experts in each layer; empty without experts.
    """

    features: Float[Array, "*lead T D"]
    statistics: tuple[RouterStatistics, ...]


class Transformer(nnx.Module):
    """Blocks, a last norm, and an embedding for inputs and outputs.

    Args:
      config: Size.
      rngs: Random streams of the initial parameters.
    """

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.embedding = normal_matrix((config.vocabulary, config.width), config.width, rngs)
        self.blocks = nnx.List([TransformerBlock(config, rngs=rngs) for _ in range(config.num_layers)])
        self.norm = RMSNorm(config.width)

    def __call__(self, tokens: Int[Array, "*lead T"], index: TokenIndex) -> Float[Array, "*lead T V"]:
        """Logits of the next tokens."""
        return self.logits(self.encode(self.embed(tokens), index).features)

    def embed(self, tokens: Int[Array, "*lead T"]) -> Float[Array, "*lead T D"]:
        """Rows of the embedding."""
        return self.embedding[...][tokens]

    def logits(self, features: Float[Array, "*lead T D"]) -> Float[Array, "*lead T V"]:
        """Products with the rows of the embedding, float32."""
        table = self.embedding[...].astype(features.dtype)
        return jnp.einsum("...td,vd->...tv", features, table, preferred_element_type=jnp.float32)

    def encode(
        self,
        embeddings: Float[Array, "*lead T D"],
        index: TokenIndex,
        *,
        mask: Bool[Array, "*lead T T"] | None = None,
        pairs: Sequence[PairTerms | None] | None = None,
        chunk: int | None = None,
        outputs: Int[Array, " O"] | None = None,
        training: bool = False,
    ) -> Encoded:
        """Features of tokens, from the sum of their embeddings, which is multiplied by the root of D.

        Args:
          embeddings: Sums of embeddings.
          index: Order of the tokens.
          mask: Further restriction of attention.
          pairs: Terms of pairs in each layer.
          chunk: Size of blocks of `attend_chunked`; None for one matrix of all pairs. Excludes mask
            and pairs.
          outputs: Tokens whose features are returned, and computed in the last layer; None for all.
          training: Whether the capacity of experts is limited.
        """
        tokens, last, statistics = self._scale(embeddings), self.config.num_layers - 1, ()
        allowed = None if chunk else _restrict(visible(index, index, self.config.window), mask)
        for layer, block in enumerate(self.blocks):
            key, value = block.keys_values(tokens, index.position)
            own, rows = index, allowed
            if layer == last and outputs is not None:
                tokens, own = tokens[..., outputs, :], _take(index, outputs)
                rows = None if allowed is None else allowed[..., outputs, :]
            query = block.queries(tokens, own.position)
            if chunk:
                heads = attend_chunked(query, key, value, own, index, self.config.window, chunk)
            else:
                heads = attend(query, KeyValues(key, value, rows, pairs[layer] if pairs else None))
            tokens, used = block.update(tokens, heads, own.valid, training)
            statistics = (*statistics, *used)
        return Encoded(self.norm(tokens), statistics)

    def step(
        self,
        embeddings: Float[Array, "*lead T D"],
        index: TokenIndex,
        cache: KVCache,
        *,
        prefix: KVCache | None = None,
        mask: Bool[Array, "*lead T S"] | None = None,
        pairs: Sequence[tuple[PairTerms | None, PairTerms | None]] | None = None,
    ) -> tuple[Float[Array, "*lead T D"], KVCache]:
        """Features of further tokens, equal to those of `encode` with all tokens, and the cache with them.

        Args:
          embeddings: Sums of embeddings.
          index: Order of the tokens.
          cache: Keys and values of tokens before.
          prefix: Keys and values that remain as they are; under `vmap` they need not be mapped.
          mask: Further restriction of attention to the cache.
          pairs: Terms of pairs with the cache and with the prefix in each layer.
        """
        tokens, slots, cache = self._scale(embeddings), cache.slots(index.step.shape[-1]), cache.append(index)
        allowed = _restrict(visible(index, cache.index, self.config.window), mask)
        before = None if prefix is None else visible(index, prefix.index, self.config.window)
        for layer, block in enumerate(self.blocks):
            terms = pairs[layer] if pairs else (None, None)
            cache = cache.write(layer, slots, *block.keys_values(tokens, index.position))
            parts = [KeyValues(cache.keys[layer], cache.values[layer], allowed, terms[0])]
            if prefix is not None:
                parts.append(KeyValues(prefix.keys[layer], prefix.values[layer], before, terms[1]))
            heads = attend(block.queries(tokens, index.position), *parts)
            tokens, _ = block.update(tokens, heads, index.valid)
        return self.norm(tokens), cache

    def _scale(self, embeddings: Float[Array, "*lead T D"]) -> Float[Array, "*lead T D"]:
        return embeddings.astype(jnp.dtype(self.config.dtype)) * self.config.width**0.5


@dataclasses.dataclass(frozen=True)
class TransformerModel:
    """A transformer without parameters. Hashable: equal models share programs.

    Attributes:
      config: Size.
    """

    config: TransformerConfig

    def init(self, key: Key[Array, ""]) -> Any:
        """Random parameters."""
        return nnx.state(Transformer(self.config, rngs=nnx.Rngs(key)))

    @property
    def shapes(self) -> Any:
        """Parameters as shapes."""
        return nnx.state(self._skeleton)

    def network(self, params: Any) -> Transformer:
        """The transformer with parameters."""
        return nnx.merge(nnx.graphdef(self._skeleton), params)

    @property
    def _skeleton(self) -> Transformer:
        return nnx.eval_shape(lambda: Transformer(self.config, rngs=nnx.Rngs(0)))


def _restrict(allowed: Array, mask: Array | None) -> Array:
    return allowed if mask is None else allowed & mask


def _take(index: TokenIndex, outputs: Int[Array, " O"]) -> TokenIndex:
    return TokenIndex(index.step[..., outputs], index.position[..., outputs], index.valid[..., outputs])
