"""A transformer that predicts the maneuvers of a driver from the history of situations and maneuvers."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float, Int, Key

from behavior_models.long_context.habit_bed import Histories
from behavior_models.networks.attention import TokenIndex, causal_index
from behavior_models.networks.generation import prefill_chunked
from behavior_models.networks.transformer import Transformer
from behavior_models.networks.transformer_block import normal_matrix
from behavior_models.networks.transformer_config import NANO, TransformerConfig
from waymax_sim.pytree import Array

# Tokens of the first and of the second kind of a record alternate: its situation, and the maneuver in it.
TOKENS_PER_HABIT = 2


class RecallNetwork(nnx.Module):
    """Tokens of situations and of maneuvers with their situations; the embedding of maneuvers has the outputs.

    Args:
      config: Size; the vocabulary are the maneuvers.
      num_situations: Number of situations.
      rngs: Random streams of the initial parameters.
    """

    def __init__(self, config: TransformerConfig, num_situations: int, *, rngs: nnx.Rngs):
        self.transformer = Transformer(config, rngs=rngs)
        self.situation = normal_matrix((num_situations, config.width), config.width, rngs)
        self.record = normal_matrix((num_situations, config.width), config.width, rngs)

    def __call__(self, histories: Histories) -> Float[Array, "*lead N M"]:
        """Logits of each maneuver, given its situation and all records before."""
        tokens = self.embed(histories)
        index = causal_index(jnp.ones(tokens.shape[:-1], bool))
        situations = jnp.arange(0, tokens.shape[-2], TOKENS_PER_HABIT)
        return self.transformer.logits(self.transformer.encode(tokens, index, outputs=situations).features)

    def embed(self, histories: Histories) -> Float[Array, "*lead T D"]:
        """Sums of embeddings of the tokens, two per record."""
        record = self.transformer.embed(histories.maneuver) + self.record[...][histories.situation]
        tokens = jnp.stack([self.situation[...][histories.situation], record], axis=-2)
        return tokens.reshape(*tokens.shape[:-3], -1, tokens.shape[-1])

    def recall(self, histories: Histories, query: Int[Array, "*lead Q"], chunk: int = 512) -> Float[Array, "*lead Q M"]:
        """Logits of the maneuvers in situations that follow a history, each alone.

        The history is encoded by blocks once, with memory linear in its length.

        Args:
          histories: Histories.
          query: Situations that follow.
          chunk: Size of a block.
        """
        tokens = self.embed(histories)
        index = causal_index(jnp.ones(tokens.shape[:-1], bool))
        prefix = prefill_chunked(self.transformer, tokens, index, chunk)
        lead, length = tokens.shape[:-2], tokens.shape[-2]
        position = jnp.full((*lead, 1), length, jnp.int32)
        own = TokenIndex(position, position, jnp.ones((*lead, 1), bool))

        def ask(query: Int[Array, "*lead"]) -> Array:
            embedding = self.situation[...][query][..., None, :]
            cache = self.transformer.config.cache(lead, 1)
            features, _ = self.transformer.step(embedding, own, cache, prefix=prefix)
            return self.transformer.logits(features)[..., 0, :]

        return jax.vmap(ask, in_axes=-1, out_axes=-2)(query)


@dataclasses.dataclass(frozen=True)
class RecallModel:
    """A recall network without parameters. Hashable: equal models share programs.

    Attributes:
      config: Size of the transformer; its vocabulary are the maneuvers.
      num_situations: Number of situations.
    """

    config: TransformerConfig = dataclasses.replace(NANO, vocabulary=16)
    num_situations: int = 64

    def init(self, key: Key[Array, ""]) -> Any:
        """Random parameters."""
        return nnx.state(self._module(nnx.Rngs(key)))

    def network(self, params: Any) -> RecallNetwork:
        """The network with parameters."""
        skeleton = nnx.eval_shape(lambda: self._module(nnx.Rngs(0)))
        return nnx.merge(nnx.graphdef(skeleton), params)

    def nll(self, params: Any, histories: Histories) -> Float[Array, "*lead N"]:
        """Negative log-likelihood of each maneuver, nats."""
        log_probs = jax.nn.log_softmax(self.network(params)(histories))
        return -jnp.take_along_axis(log_probs, histories.maneuver[..., None], axis=-1)[..., 0]

    def _module(self, rngs: nnx.Rngs) -> RecallNetwork:
        return RecallNetwork(self.config, self.num_situations, rngs=rngs)
