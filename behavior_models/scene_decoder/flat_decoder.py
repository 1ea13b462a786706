"""The flat scene decoder: one sequence of all tokens of a scene through the transformer of Gemma blocks.

The sequence is the prefix of map and route tokens, then for each half second the lights and the agents. The mask is a
staircase: a token sees the prefix and all tokens of its own and of earlier steps, so that agents of a step are sampled
independently given the past. Relative poses and times enter as biases of the logits of attention.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Bool, Float, Int, Key

from behavior_models.networks.attention import PREFIX_STEP, PairTerms, staircase_index
from behavior_models.networks.kv_cache import KVCache
from behavior_models.networks.transformer import Transformer
from behavior_models.scene_decoder.decoder import NO_TOKEN, DecoderConfig, TokenEncoder, class_mask
from behavior_models.scene_decoder.motion_tokens import Vocabulary
from behavior_models.scene_decoder.poses import relative_pose
from behavior_models.scene_decoder.records import SceneRecord
from behavior_models.scene_decoder.scene_map import NUM_LIGHT_GROUPS
from behavior_models.scene_decoder.scene_tokens import NUM_OWN_FEATURES, own_features, relative_features
from behavior_models.scene_decoder.tracks import encode_record, instant
from waymax_sim.pytree import Array, pytree, tree_index

# Features of map tokens without their poses, by set.
PREFIX_FEATURES = {"lanes": 5, "edges": 1, "stops": 1, "route": 2}
# Features of a relative pose and the time between tokens.
NUM_PAIR_FEATURES = 10


@dataclasses.dataclass(frozen=True)
class FlatConfig:
    """Size of the sequence.

    Attributes:
      decoder: Size of the blocks and of the vocabulary.
      num_lanes: Lane pieces nearest to agents.
      num_edges: Road-edge pieces.
      num_stops: Stop lines, with a light token at each step.
      num_route: Route pieces.
      pair_width: Width of the hidden layer of the biases of pairs.
    """

    decoder: DecoderConfig
    num_lanes: int = 64
    num_edges: int = 32
    num_stops: int = 4
    num_route: int = 8
    pair_width: int = 16

    def count(self, name: str) -> int:
        """Number of tokens of a set of the prefix."""
        return getattr(self, f"num_{name}")


@pytree
class FlatPrefix:
    """Map tokens of a scene.

    Attributes:
      features: Features by set.
      pose: Poses of all of them.
      valid: Whether they exist.
    """

    features: dict[str, Float[Array, "_ _"]]
    pose: Float[Array, "P 3"]
    valid: Bool[Array, " P"]


@pytree
class FlatStep:
    """Tokens of a half second, or of T of them with a leading axis: S lights, then A agents.

    Attributes:
      lights: States of lights, one-hot.
      token: Previous motion tokens of agents.
      own: Features of agents.
      pose: Poses of lights and agents.
      valid: Whether they exist.
    """

    lights: Float[Array, "*T S 4"]
    token: Int[Array, "*T A"]
    own: Float[Array, "*T A 11"]
    pose: Float[Array, "*T M 3"]
    valid: Bool[Array, "*T M"]


@pytree
class FlatMemory:
    """Keys, values, poses and steps of earlier tokens.

    Attributes:
      prefix: Cache of the prefix.
      prefix_pose: Poses of the prefix.
      cache: Cache of the steps.
      pose: Poses of the tokens in its slots.
      time: Number of steps so far.
    """

    prefix: KVCache
    prefix_pose: Float[Array, "P 3"]
    cache: KVCache
    pose: Float[Array, "C 3"]
    time: Int[Array, ""]


class FlatDecoder(nnx.Module):
    """The network.

    Args:
      config: Size.
      rngs: Random streams of the initial parameters.
    """

    def __init__(self, config: FlatConfig, *, rngs: nnx.Rngs):
        size = dataclasses.replace(config.decoder.transformer, window=None)
        self.config, self.transformer, scale = config, Transformer(size, rngs=rngs), size.width**-0.5
        self.prefix = nnx.Dict(
            {name: TokenEncoder(count, size.width, scale, rngs=rngs) for name, count in PREFIX_FEATURES.items()}
        )
        self.lights = TokenEncoder(NUM_LIGHT_GROUPS, size.width, scale, rngs=rngs)
        self.own = TokenEncoder(NUM_OWN_FEATURES, size.width, scale, rngs=rngs)
        self.pair_inputs = nnx.Linear(NUM_PAIR_FEATURES, config.pair_width, rngs=rngs)
        self.pair_outputs = nnx.Linear(config.pair_width, size.num_layers * size.num_heads, rngs=rngs)

    def encode(self, prefix: FlatPrefix, steps: FlatStep) -> Float[Array, "T A D"]:
        """Features of the agents at all steps.

        Args:
          prefix: Map tokens.
          steps: Tokens of T half seconds.
        """
        num_steps, num_tokens = steps.valid.shape
        time = jnp.repeat(jnp.arange(num_steps, dtype=jnp.int32), num_tokens)
        step = jnp.concatenate([jnp.full(len(prefix.pose), PREFIX_STEP, jnp.int32), time])
        pose = jnp.concatenate([prefix.pose, steps.pose.reshape(-1, 3)])
        index = staircase_index(step, jnp.concatenate([prefix.valid, steps.valid.reshape(-1)]))
        embeddings = [self._embed_prefix(prefix), self._embed_step(steps).reshape(-1, self.config.decoder.width)]
        pairs = self._pairs(pose, step, pose, step)
        features = self.transformer.encode(jnp.concatenate(embeddings), index, pairs=pairs).features
        return features[len(prefix.pose) :].reshape(num_steps, num_tokens, -1)[:, -steps.token.shape[1] :]

    def start(self, prefix: FlatPrefix, num_steps: int, num_tokens: int) -> FlatMemory:
        """The memory after the prefix.

        Args:
          prefix: Map tokens.
          num_steps: Largest number of steps.
          num_tokens: Tokens of a step.
        """
        size, count = self.transformer.config, len(prefix.pose)
        step = jnp.full(count, PREFIX_STEP, jnp.int32)
        pairs = [(terms, None) for terms in self._pairs(prefix.pose, step, prefix.pose, step)]
        index = staircase_index(step, prefix.valid)
        _, cache = self.transformer.step(self._embed_prefix(prefix), index, size.cache((), count), pairs=pairs)
        slots = num_steps * num_tokens
        empty = size.cache((), slots)
        return FlatMemory(cache, prefix.pose, empty, jnp.zeros((slots, 3)), jnp.zeros((), jnp.int32))

    def step(self, memory: FlatMemory, tokens: FlatStep) -> tuple[Float[Array, "A D"], FlatMemory]:
        """Features of the agents of the next step, equal to those of `encode`, and the memory with it.

        Args:
          memory: Earlier tokens.
          tokens: Tokens of a half second.
        """
        count = len(tokens.pose)
        step = jnp.full(count, memory.time, jnp.int32)
        slots = memory.cache.slots(count)
        pose = memory.pose.at[slots].set(tokens.pose)
        known = memory.cache.index.step.at[slots].set(step)
        earlier = self._pairs(tokens.pose, step, pose, known)
        before = self._pairs(tokens.pose, step, memory.prefix_pose, memory.prefix.index.step)
        features, cache = self.transformer.step(
            self._embed_step(tokens),
            staircase_index(step, tokens.valid),
            memory.cache,
            prefix=memory.prefix,
            pairs=list(zip(earlier, before, strict=True)),
        )
        memory = dataclasses.replace(memory, cache=cache, pose=pose, time=memory.time + 1)
        return features[-len(tokens.token) :], memory

    def logits(self, features: Float[Array, "*lead D"], classes: Int[Array, "*lead"]) -> Float[Array, "*lead V"]:
        """Logits of the next motion tokens; `NO_TOKEN` for those of other classes."""
        values = self.transformer.logits(features)[..., : self.config.decoder.num_tokens]
        return jnp.where(class_mask(self.config.decoder.sizes, classes), values, NO_TOKEN)

    def _embed_prefix(self, prefix: FlatPrefix) -> Float[Array, "P D"]:
        return jnp.concatenate([self.prefix[name](prefix.features[name]) for name in PREFIX_FEATURES])

    def _embed_step(self, tokens: FlatStep) -> Float[Array, "*T M D"]:
        agents = self.transformer.embed(tokens.token) + self.own(tokens.own)
        return jnp.concatenate([self.lights(tokens.lights), agents], axis=-2)

    def _pairs(
        self,
        pose: Float[Array, "Q 3"],
        step: Int[Array, " Q"],
        key_pose: Float[Array, "S 3"],
        key_step: Int[Array, " S"],
    ) -> list[PairTerms]:
        """Biases of each layer by relative pose and time."""
        relative = relative_features(relative_pose(key_pose[None], pose[:, None]))
        age = jnp.where(key_step[None] == PREFIX_STEP, -1, step[:, None] - key_step[None])
        features = jnp.concatenate([relative, age[..., None].astype(jnp.float32) / 4.0], axis=-1)
        bias = self.pair_outputs(jax.nn.gelu(self.pair_inputs(jnp.clip(features, -8.0, 8.0))))
        heads = self.transformer.config.num_heads
        layers = jnp.split(jnp.moveaxis(bias, -1, 0), bias.shape[-1] // heads)
        return [PairTerms(bias=layer) for layer in layers]


def flat_tokens(
    vocabulary: Vocabulary, record: SceneRecord, config: FlatConfig
) -> tuple[FlatPrefix, FlatStep, Int[Array, "T A"]]:
    """The sequence of a recorded scene and its targets.

    Args:
      vocabulary: The motion tokens.
      record: One record.
      config: Numbers of tokens.
    """
    encoded, rows = encode_record(vocabulary, record), jnp.arange(len(record.size))
    pieces = {name: tree_index(getattr(record.map, name), slice(config.count(name))) for name in PREFIX_FEATURES}
    prefix = FlatPrefix(
        features={name: part.features for name, part in pieces.items()},
        pose=jnp.concatenate([part.pose for part in pieces.values()]),
        valid=jnp.concatenate([part.valid for part in pieces.values()]),
    )
    stops, has_light = pieces["stops"], jnp.asarray(record.map.light)[: config.num_stops] >= 0

    def at(time: Int[Array, ""]) -> FlatStep:
        now = instant(record, encoded, time)
        previous = jnp.where(now.is_first, len(vocabulary.poses), encoded.token[jnp.maximum(time - 1, 0)])
        return FlatStep(
            lights=now.lights[: config.num_stops],
            token=previous,
            own=own_features(now, rows),
            pose=jnp.concatenate([stops.pose, now.pose]),
            valid=jnp.concatenate([stops.valid & has_light, now.valid]),
        )

    return prefix, jax.lax.map(at, jnp.arange(len(encoded.token))), encoded.token


@dataclasses.dataclass(frozen=True)
class FlatModel:
    """A flat scene decoder without parameters. Hashable: equal models share programs.

    Attributes:
      config: Size.
    """

    config: FlatConfig

    def init(self, key: Key[Array, ""]) -> Any:
        """Random parameters."""
        return nnx.state(FlatDecoder(self.config, rngs=nnx.Rngs(key)))

    def network(self, params: Any) -> FlatDecoder:
        """The network with parameters."""
        skeleton = nnx.eval_shape(lambda: FlatDecoder(self.config, rngs=nnx.Rngs(0)))
        return nnx.merge(nnx.graphdef(skeleton), params)
