"""The factorized scene decoder: Gemma blocks over the tokens of an agent, its map, its neighbors and its past.

In each layer an agent attends to the map tokens around it, to the agents around it, and to its own past; then follows a
gated feed-forward layer. All inputs are in the frame of the agent (`scene_tokens`). The output embedding is that of the
input tokens. The joint distribution of a step factorizes over agents given the past.

Sources: Gemma (Gemma Team 2024) for the block; SMART (Wu et al. 2024) for the factorization.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Bool, Float, Int, Key

from behavior_models.networks.attention import KeyValues, PairTerms, TokenIndex, attend, staircase_index, visible
from behavior_models.networks.kv_cache import KVCache
from behavior_models.networks.transformer_block import Attention, RMSNorm, TransformerBlock, normal_matrix
from behavior_models.networks.transformer_config import TransformerConfig
from behavior_models.scene_decoder.modalities import Modalities, mask_modalities
from behavior_models.scene_decoder.scene_map import MapTokenParams
from behavior_models.scene_decoder.scene_tokens import (
    AGENT_SET,
    MAP_SETS,
    NUM_FEATURES,
    NUM_OWN_FEATURES,
    AgentFeatures,
    SceneTokenParams,
)
from waymax_sim.pytree import Array, pytree

# Logit of tokens of other classes, finite.
NO_TOKEN = -1e9


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Size of a scene decoder. Hashable: equal configurations share programs.

    Attributes:
      sizes: Number of motion tokens of each class.
      width: Features of a token.
      num_layers: Layers.
      hidden: Width of the gate of the feed-forward layer.
      num_heads: Heads.
      head_size: Features of a head.
      num_kv_heads: Heads of keys and values.
      history: Tokens of an agent that it attends to, the current one included.
      tokens: Selection of the tokens around an agent.
      map: Numbers and sizes of map tokens.
    """

    sizes: tuple[int, ...]
    width: int = 64
    num_layers: int = 2
    hidden: int = 192
    num_heads: int = 4
    head_size: int = 16
    num_kv_heads: int = 1
    history: int = 18
    tokens: SceneTokenParams = SceneTokenParams()
    map: MapTokenParams = MapTokenParams()

    @property
    def num_tokens(self) -> int:
        """Number of motion tokens; the embedding has one more row, for agents without a previous token."""
        return sum(self.sizes)

    @property
    def transformer(self) -> TransformerConfig:
        """The size of the blocks."""
        return TransformerConfig(
            width=self.width,
            num_layers=self.num_layers,
            hidden=self.hidden,
            num_heads=self.num_heads,
            head_size=self.head_size,
            num_kv_heads=self.num_kv_heads,
            vocabulary=self.num_tokens + 1,
            window=self.history,
        )

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> "DecoderConfig":
        """The configuration from plain values."""
        tokens, map_tokens = SceneTokenParams(**stored["tokens"]), MapTokenParams(**stored["map"])
        return cls(**stored | {"sizes": tuple(stored["sizes"]), "tokens": tokens, "map": map_tokens})


@pytree
class AgentTokens:
    """Inputs of the network: the tokens of agents. The leading axes are [R, T] for tracks, [K] for one step.

    Attributes:
      features: Features of agents and of the tokens around them.
      token: Previous motion token; `DecoderConfig.num_tokens` for none.
      valid: Whether the agent is present.
      classes: Class of the agent.
    """

    features: AgentFeatures
    token: Int[Array, "*lead"]
    valid: Bool[Array, "*lead"]
    classes: Int[Array, "*lead"]


@pytree
class Surroundings:
    """Encoded tokens around agents and their masks, by set."""

    encoded: dict[str, Float[Array, "*lead _ D"]]
    masks: dict[str, Bool[Array, "*lead _"]]


class TokenEncoder(nnx.Module):
    """Two layers from features to the width of the tokens.

    Args:
      num_features: Number of features.
      width: Features of a token.
      scale: Scale of the initial outputs.
      rngs: Random streams of the initial parameters.
    """

    def __init__(self, num_features: int, width: int, scale: float = 1.0, *, rngs: nnx.Rngs):
        self.inputs = nnx.Linear(num_features, width, rngs=rngs)
        self.outputs = normal_matrix((width, width), round(width / scale**2), rngs)

    def __call__(self, features: Float[Array, "*lead F"]) -> Float[Array, "*lead D"]:
        return jax.nn.gelu(self.inputs(features)) @ self.outputs[...]


class SetAttention(nnx.Module):
    """Attention of an agent to the tokens of several sets."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.norm, self.attention = RMSNorm(config.width), Attention(config, rngs=rngs)

    def __call__(
        self, hidden: Float[Array, "*lead D"], around: Surroundings, names: tuple[str, ...]
    ) -> Float[Array, "*lead D"]:
        """Attended features.

        Args:
          hidden: Features of agents.
          around: The tokens around them.
          names: Sets to attend to.
        """
        normal = self.norm(hidden)[..., None, :]
        query = self.attention.queries(normal, jnp.zeros(normal.shape[:-1], jnp.int32))
        parts = []
        for name in names:
            tokens, mask = around.encoded[name], around.masks[name]
            pair = self.attention.keys_values(tokens, jnp.zeros(mask.shape, jnp.int32))
            parts.append(KeyValues(*pair, mask[..., None, :]))
        return self.attention.join(attend(query, *parts))[..., 0, :]


class DecoderLayer(nnx.Module):
    """Attention to the map, to agents and to the own past, and a feed-forward layer."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.map, self.agents = SetAttention(config, rngs=rngs), SetAttention(config, rngs=rngs)
        self.block = TransformerBlock(config, rngs=rngs)
        self.time_bias = nnx.Param(jnp.zeros((config.num_heads, config.window or 1)))

    def attend_around(self, hidden: Float[Array, "*lead D"], around: Surroundings) -> Float[Array, "*lead D"]:
        """Features after the attention to the map and to agents."""
        hidden = hidden + self.map(hidden, around, MAP_SETS)
        return hidden + self.agents(hidden, around, (AGENT_SET,))

    def bias(self, query: TokenIndex, key: TokenIndex) -> PairTerms:
        """Logits by the time between tokens."""
        table = self.time_bias[...]
        age = jnp.clip(query.step[..., :, None] - key.step[..., None, :], 0, table.shape[1] - 1)
        return PairTerms(bias=jnp.moveaxis(table[:, age], 0, -3))


class SceneDecoder(nnx.Module):
    """The network.

    Args:
      config: Size.
      rngs: Random streams of the initial parameters.
    """

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        size = config.transformer
        self.config = config
        self.embedding = normal_matrix((size.vocabulary, size.width), size.width, rngs)
        self.token_bias = nnx.Param(jnp.zeros(config.num_tokens))
        self.own = TokenEncoder(NUM_OWN_FEATURES, size.width, size.width**-0.5, rngs=rngs)
        self.sets = nnx.Dict({name: TokenEncoder(count, size.width, rngs=rngs) for name, count in NUM_FEATURES.items()})
        self.layers = nnx.List([DecoderLayer(size, rngs=rngs) for _ in range(size.num_layers)])
        self.norm = RMSNorm(size.width)

    def encode(self, inputs: AgentTokens, modalities: Modalities | None = None) -> Float[Array, "R T D"]:
        """Features of whole tracks [R, T].

        Args:
          inputs: Tokens of tracks.
          modalities: Present modalities of each track [R]; all by default.
        """
        hidden, around = self._embed(inputs, modalities)
        step = jnp.broadcast_to(jnp.arange(hidden.shape[1], dtype=jnp.int32)[None], hidden.shape[:2])
        index = staircase_index(step, inputs.valid)
        mask = visible(index, index, self.config.history)
        if modalities is not None:
            is_now = jnp.eye(hidden.shape[1], dtype=bool)[None]
            mask = mask & (modalities.history[:, None, None] | is_now)
        for layer in self.layers:
            hidden = layer.attend_around(hidden, around)
            pair = layer.block.keys_values(hidden, index.position)
            heads = attend(
                layer.block.queries(hidden, index.position), KeyValues(*pair, mask, layer.bias(index, index))
            )
            hidden, _ = layer.block.update(hidden, heads, inputs.valid)
        return self.norm(hidden)

    def step(
        self,
        inputs: AgentTokens,
        time: Int[Array, ""],
        cache: KVCache,
        modalities: Modalities | None = None,
    ) -> tuple[Float[Array, "K D"], KVCache]:
        """Features of the next token of K agents, equal to those of `encode`, and the cache with them.

        Args:
          inputs: Tokens of agents.
          time: Number of the token since the first one of the cache.
          cache: Keys and values of earlier tokens, from `empty_cache`.
          modalities: Present modalities; all by default.
        """
        if modalities is not None:
            modalities = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, inputs.token.shape), modalities)
        hidden, around = self._embed(inputs, modalities)
        step = jnp.full((len(hidden), 1), time, jnp.int32)
        index = staircase_index(step, inputs.valid[:, None])
        slots, cache = cache.slots(1), cache.append(index)
        mask = visible(index, cache.index, self.config.history)
        if modalities is not None:
            mask = mask & (modalities.history[:, None, None] | (cache.index.step == time)[:, None])
        for number, layer in enumerate(self.layers):
            hidden = layer.attend_around(hidden, around)
            pair = layer.block.keys_values(hidden[:, None], index.position)
            cache = cache.write(number, slots, *pair)
            part = KeyValues(cache.keys[number], cache.values[number], mask, layer.bias(index, cache.index))
            heads = attend(layer.block.queries(hidden[:, None], index.position), part)
            updated, _ = layer.block.update(hidden[:, None], heads, index.valid)
            hidden = updated[:, 0]
        return self.norm(hidden), cache

    def logits(self, hidden: Float[Array, "*lead D"], classes: Int[Array, "*lead"]) -> Float[Array, "*lead V"]:
        """Logits of the next motion tokens; `NO_TOKEN` for those of other classes."""
        table = self.embedding[...][: self.config.num_tokens]
        bias = self.token_bias[...].reshape(*[1] * (hidden.ndim - 1), -1)
        return jnp.where(class_mask(self.config.sizes, classes), hidden @ table.T + bias, NO_TOKEN)

    def _embed(
        self, inputs: AgentTokens, modalities: Modalities | None
    ) -> tuple[Float[Array, "*lead D"], Surroundings]:
        """Sums of embeddings, and the encoded tokens around agents."""
        features = jax.tree.map(_to_float, inputs.features)
        token = inputs.token
        if modalities is not None:
            features = mask_modalities(features, modalities)
            history = modalities.history.reshape(
                *modalities.history.shape, *[1] * (token.ndim - modalities.history.ndim)
            )
            token = jnp.where(history, token, self.config.num_tokens)
        hidden = (self.embedding[...][token] + self.own(features.own)) * self.config.width**0.5
        encoded = {name: self.sets[name](values) for name, values in features.sets.items()}
        return hidden, Surroundings(encoded, features.masks)


@dataclasses.dataclass(frozen=True)
class DecoderModel:
    """A scene decoder without parameters. Hashable: equal models share programs.

    Attributes:
      config: Size.
    """

    config: DecoderConfig

    def init(self, key: Key[Array, ""]) -> Any:
        """Random parameters."""
        return nnx.state(SceneDecoder(self.config, rngs=nnx.Rngs(key)))

    @property
    def shapes(self) -> Any:
        """Parameters as shapes."""
        return nnx.state(self._skeleton)

    def network(self, params: Any) -> SceneDecoder:
        """The network with parameters."""
        return nnx.merge(nnx.graphdef(self._skeleton), params)

    def log_probs(
        self, params: Any, inputs: AgentTokens, modalities: Modalities | None = None
    ) -> Float[Array, "R T V"]:
        """Logarithms of the probabilities of the next tokens of tracks.

        Args:
          params: Parameters.
          inputs: Tokens of tracks [R, T].
          modalities: Present modalities of each track; all by default.
        """
        network = self.network(params)
        return jax.nn.log_softmax(network.logits(network.encode(inputs, modalities), inputs.classes))

    def empty_cache(self, num_agents: int) -> KVCache:
        """A cache for K agents."""
        return self.config.transformer.cache((num_agents,), self.config.history)

    @property
    def _skeleton(self) -> SceneDecoder:
        return nnx.eval_shape(lambda: SceneDecoder(self.config, rngs=nnx.Rngs(0)))


def class_mask(sizes: tuple[int, ...], classes: Int[Array, "*lead"]) -> Bool[Array, "*lead V"]:
    """Motion tokens of the class of each agent.

    Args:
      sizes: Number of tokens of each class.
      classes: Classes.
    """
    token_class = jnp.repeat(jnp.arange(len(sizes)), jnp.asarray(sizes), total_repeat_length=sum(sizes))
    return classes[..., None] == token_class.reshape(*[1] * classes.ndim, -1)


def _to_float(leaf: Array) -> Array:
    return leaf if leaf.dtype == bool else leaf.astype(jnp.float32)
