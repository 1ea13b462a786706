"""Networks of actions given the return that is to follow: of one decision, or of the last decisions (transformer).

Sources: reinforcement learning via supervised learning (RvS, Emmons et al. 2022), the decision transformer (Chen et al.
2021).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Bool, Float, Int, Key

from behavior_models.networks.encoder import build_encoder
from behavior_models.networks.scene_encoder import NetworkConfig
from waymax_sim.env.encoder import ObservationSpec
from waymax_sim.pytree import Array, pytree

# Tokens of a decision: return, observation, action.
NUM_TOKENS = 3


@pytree
class Context:
    """The last C decisions of each of B streams, oldest first; the last one is that to be made.

    Attributes:
      observation: Encoded observations.
      action: Indices of the actions; the last one is not read.
      level: Level of the return after each decision.
      valid: Decisions of the episode; those before it are arbitrary.
      task: Index of the task.
    """

    observation: Float[Array, "B C D"]
    action: Int[Array, "B C"]
    level: Int[Array, "B C"]
    valid: Bool[Array, "B C"]
    task: Int[Array, " B"]


@dataclasses.dataclass(frozen=True)
class ReturnConditionedModel:
    """A network without parameters. Hashable: equal models share programs.

    Attributes:
      spec: Content of the encoded observations.
      num_actions: Number of discrete actions L.
      num_levels: Levels of returns.
      num_tasks: Number of tasks.
      config: Size; `trunk` is the width of hidden layers and tokens, `num_layers` and `num_heads` are those of the
        transformer.
      context: Decisions C that the network observes: 1 for a feed-forward network, more for a transformer.
    """

    spec: ObservationSpec
    num_actions: int
    num_levels: int = 10
    num_tasks: int = 1
    config: NetworkConfig = NetworkConfig()
    context: int = 1

    def init(self, key: Key[Array, ""]) -> Any:
        """Random parameters."""
        return nnx.state(self._module(nnx.Rngs(key)))

    def logits(self, params: Any, context: Context) -> Float[Array, "B C L"]:
        """Logits of the action of each decision.

        Args:
          params: Parameters.
          context: The decisions.
        """
        graph = nnx.graphdef(nnx.eval_shape(lambda: self._module(nnx.Rngs(0))))
        return nnx.merge(graph, params)(context)

    def _module(self, rngs: nnx.Rngs) -> nnx.Module:
        kind = ConditionedNetwork if self.context == 1 else DecisionTransformer
        return kind(self, rngs=rngs)


class ConditionedNetwork(nnx.Module):
    """Two hidden layers on the encoded observation and the level of the return.

    Args:
      model: Sizes.
      rngs: Random streams of the initial parameters.
    """

    def __init__(self, model: ReturnConditionedModel, *, rngs: nnx.Rngs):
        width = model.config.trunk
        self.num_levels = model.num_levels
        self.encoder = build_encoder(model.spec, model.config, rngs=rngs)
        self.level = nnx.Embed(model.num_levels * model.num_tasks, width, rngs=rngs)
        self.first = nnx.Linear(self.encoder.num_outputs, width, rngs=rngs)
        self.second = nnx.Linear(2 * width, width, rngs=rngs)
        self.outputs = nnx.Linear(width, model.num_actions, rngs=rngs)

    def __call__(self, context: Context) -> Float[Array, "B C L"]:
        hidden = nnx.relu(self.first(self.encoder(context.observation).astype(jnp.float32)))
        level = self.level(_level_index(context, self.num_levels))
        return self.outputs(nnx.relu(self.second(jnp.concatenate([hidden, level], axis=-1))))


class DecisionTransformer(nnx.Module):
    """Causal attention over the returns, observations and actions of the last decisions.

    Args:
      model: Sizes.
      rngs: Random streams of the initial parameters.
    """

    def __init__(self, model: ReturnConditionedModel, *, rngs: nnx.Rngs):
        config, width = model.config, model.config.trunk
        self.num_levels = model.num_levels
        self.encoder = build_encoder(model.spec, config, rngs=rngs)
        self.observation = nnx.Linear(self.encoder.num_outputs, width, rngs=rngs)
        self.level = nnx.Embed(model.num_levels * model.num_tasks, width, rngs=rngs)
        self.action = nnx.Embed(model.num_actions, width, rngs=rngs)
        self.position = nnx.Embed(model.context, width, rngs=rngs)
        self.layers = nnx.List([CausalLayer(width, config.num_heads, rngs=rngs) for _ in range(config.num_layers)])
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.outputs = nnx.Linear(width, model.num_actions, rngs=rngs)

    def __call__(self, context: Context) -> Float[Array, "B C L"]:
        num_rows, length = context.valid.shape
        position = self.position(jnp.arange(length, dtype=jnp.int32))[None]
        tokens = [
            self.level(_level_index(context, self.num_levels)),
            self.observation(self.encoder(context.observation).astype(jnp.float32)),
            self.action(context.action),
        ]
        hidden = jnp.stack([token + position for token in tokens], axis=2).reshape(num_rows, NUM_TOKENS * length, -1)
        mask = causal_mask(context.valid)
        for layer in self.layers:
            hidden = layer(hidden, mask)
        # The action follows from the token of its observation.
        hidden = hidden.reshape(num_rows, length, NUM_TOKENS, -1)[:, :, 1]
        return self.outputs(self.norm(hidden))


class CausalLayer(nnx.Module):
    """Attention to the tokens before, and a layer per token; normalized before each (as in GPT-2).

    Args:
      width: Size of a token.
      num_heads: Heads of the attention.
      rngs: Random streams of the initial parameters.
    """

    def __init__(self, width: int, num_heads: int, *, rngs: nnx.Rngs):
        self.num_heads = num_heads
        self.norms = nnx.List([nnx.LayerNorm(width, rngs=rngs) for _ in range(2)])
        self.inputs = nnx.Linear(width, 3 * width, rngs=rngs)
        self.attended = nnx.Linear(width, width, rngs=rngs)
        self.first = nnx.Linear(width, 4 * width, rngs=rngs)
        self.second = nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, tokens: Float[Array, "B T F"], mask: Bool[Array, "B T T"]) -> Float[Array, "B T F"]:
        heads = self.inputs(self.norms[0](tokens)).reshape(*tokens.shape[:2], 3, self.num_heads, -1)
        query, keys, values = (heads[:, :, index] for index in range(3))
        attended = jax.nn.dot_product_attention(query, keys, values, mask=mask[:, None])
        tokens = tokens + self.attended(attended.reshape(tokens.shape))
        return tokens + self.second(jax.nn.gelu(self.first(self.norms[1](tokens))))


def causal_mask(valid: Bool[Array, "B C"]) -> Bool[Array, "B T T"]:
    """Tokens that each token attends to: itself, and earlier ones of valid decisions."""
    index = jnp.arange(NUM_TOKENS * valid.shape[1], dtype=jnp.int32)
    before, itself = (compare(index[:, None], index[None])[None] for compare in (jnp.greater, jnp.equal))
    return itself | (before & jnp.repeat(valid, NUM_TOKENS, axis=1)[:, None])


def _level_index(context: Context, num_levels: int) -> Int[Array, "B C"]:
    """Rows of the embedding of levels, of which each task has its own."""
    return context.task[:, None] * num_levels + context.level
