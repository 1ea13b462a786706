"""Sequences whose transitions depend on a region that the first token names: a bed for mixtures of experts.

Each region has a permutation of the tokens; the next token is that of the permutation with the probability of
`determinism`, and otherwise uniform. The smallest loss is the entropy of this distribution.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Key

from behavior_models.networks.attention import causal_index
from behavior_models.networks.mixture_of_experts import RouterStatistics, router_loss
from behavior_models.networks.transformer import TransformerModel
from waymax_sim.pytree import Array

# Seed of the permutations.
TABLE_SEED = 100


@dataclasses.dataclass(frozen=True)
class RegionBed:
    """A distribution of sequences.

    Attributes:
      num_tokens: Tokens V, without those of regions.
      num_regions: Regions R.
      length: Tokens of a sequence after the region.
      determinism: Probability of the token of the permutation.
    """

    num_tokens: int = 64
    num_regions: int = 16
    length: int = 24
    determinism: float = 0.9

    @property
    def vocabulary(self) -> int:
        """Number of tokens with those of regions."""
        return self.num_tokens + self.num_regions

    @property
    def entropy(self) -> float:
        """Smallest mean negative log-likelihood of a token, nats."""
        other = (1.0 - self.determinism) / self.num_tokens
        likely = self.determinism + other
        return float(-likely * np.log(likely) - (self.num_tokens - 1) * other * np.log(other))

    def draw(self, key: Key[Array, ""], num_sequences: int) -> Int[Array, "B T"]:
        """Random sequences: a token of the region, a uniform token, and its successors.

        Args:
          key: Random key.
          num_sequences: Number of sequences.
        """
        table = jnp.asarray(
            [np.random.default_rng(TABLE_SEED + own).permutation(self.num_tokens) for own in range(self.num_regions)]
        )
        region_key, likely_key, key = jax.random.split(key, 3)
        region = jax.random.randint(region_key, (num_sequences,), 0, self.num_regions)
        shape = self.length, num_sequences
        is_likely = jax.random.bernoulli(likely_key, self.determinism, shape).at[0].set(False)
        uniform = jax.random.randint(key, shape, 0, self.num_tokens)

        def follow(token: Array, step: tuple[Array, Array]):
            token = jnp.where(step[0], table[region, token], step[1])
            return token, token

        _, tokens = jax.lax.scan(follow, jnp.zeros_like(region), (is_likely, uniform))
        return jnp.concatenate([self.num_tokens + region[:, None], tokens.T], axis=1)

    def loss(
        self, model: TransformerModel, params: Any, tokens: Int[Array, "B T"], training: bool = True
    ) -> tuple[Float[Array, ""], tuple[Float[Array, ""], tuple[RouterStatistics, ...]]]:
        """Loss with the terms of the router, and its negative log-likelihood and the use of the experts.

        The first token after the region is uniform, and not part of the loss.

        Args:
          model: The transformer.
          params: Its parameters.
          tokens: Sequences.
          training: Whether the capacity of experts is limited.
        """
        network, inputs = model.network(params), tokens[:, :-1]
        index = causal_index(jnp.ones(inputs.shape, bool))
        encoded = network.encode(network.embed(inputs), index, training=training)
        logits = network.logits(encoded.features)[:, 1:, : self.num_tokens]
        log_probs = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[:, 2:, None], axis=-1)
        nll, experts = -jnp.mean(log_probs), model.config.experts
        penalty = router_loss(encoded.statistics, experts) if experts else jnp.zeros(())
        return nll + penalty, (nll, encoded.statistics)


def mutual_information(first: Int[np.ndarray, " N"], second: Int[np.ndarray, " N"]) -> float:
    """Mutual information of paired categories, nats."""
    table = np.zeros((first.max() + 1, second.max() + 1))
    np.add.at(table, (first, second), 1.0)
    joint = table / table.sum()
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    positive = joint > 0
    return float(np.sum(joint[positive] * np.log(joint[positive] / independent[positive])))
