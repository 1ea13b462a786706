"""One decoder for interleaved tokens of five modalities, and a late fusion of them for comparison.

Tokens of map, route, raster and history are a prefix that all tokens see; lights and the driver have a token at each
decision, which see the prefix and all tokens up to their own step. Any modality may be absent. Each has an embedding of
its type and a projection with at most one hidden layer. Source: Gemini 1.0 report (arXiv 2312.11805), for the joint
training of one decoder on interleaved modalities.
"""

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Bool, Float, Int, Key

from behavior_models.networks.attention import PREFIX_STEP, TokenIndex, staircase_index
from behavior_models.networks.kv_cache import KVCache
from behavior_models.networks.transformer import Transformer
from behavior_models.networks.transformer_block import normal_matrix
from behavior_models.networks.transformer_config import TransformerConfig
from behavior_models.scene_decoder.modality_bed import MODALITY_BED
from behavior_models.scene_decoder.modality_tokens import (
    MODALITIES,
    NUM_EGO_VALUES,
    NUM_LIGHT_VALUES,
    NUM_PIECE_VALUES,
    NUM_ROUTE_VALUES,
    TOKENS,
    SceneTokens,
)
from waymax_sim.pytree import Array, pytree

# Wavelengths of the sines and cosines of positions, m.
WAVELENGTHS = (8.0, 32.0, 128.0)
NUM_POSITION_VALUES = 2 + 4 * len(WAVELENGTHS)
# Units of positions (m), speeds (m/s), lengths (m).
POSITION_SCALE = 20.0
EGO_SPEED_SCALE = 5.0
LENGTH_SCALE = 10.0
# Units of changes of direction (rad) and of lengths of the route (m).
ROUTE_SCALES = np.array([0.3, LENGTH_SCALE], np.float32)


@dataclasses.dataclass(frozen=True)
class ModalityConfig:
    """Size of a decoder.

    Attributes:
      width: Features of a token.
      hidden: Width of the feed-forward layers.
      num_layers: Layers.
      num_heads: Heads.
      head_size: Features of a head.
      fusion: One decoder of all modalities, or a decoder for each, whose features are averaged.
    """

    width: int = 48
    hidden: int = 96
    num_layers: int = 2
    num_heads: int = 4
    head_size: int = 16
    fusion: Literal["joint", "late"] = "joint"

    @property
    def streams(self) -> tuple[tuple[str, ...], ...]:
        """Modalities of each decoder."""
        return (MODALITIES,) if self.fusion == "joint" else tuple((name,) for name in MODALITIES)

    def transformer(self, vocabulary: int) -> TransformerConfig:
        """Blocks of a decoder, with rotary embeddings of time."""
        sizes = self.width, self.num_layers, self.hidden, self.num_heads, self.head_size
        return TransformerConfig(*sizes, 1, vocabulary, positions="rope")


@pytree
class TokenSequence:
    """Summed embeddings and the order of their tokens.

    Attributes:
      embeddings: Sums of embeddings.
      index: Order.
    """

    embeddings: Float[Array, "*lead L D"]
    index: TokenIndex


class InputProjection(nnx.Module):
    """A hidden layer and a linear layer, or the linear layer alone.

    Args:
      num_inputs: Number of values.
      width: Features of a token.
      hidden: Features of the hidden layer; 0 for none.
      rngs: Random streams of the initial parameters.
    """

    def __init__(self, num_inputs: int, width: int, hidden: int, *, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(num_inputs, hidden, rngs=rngs) if hidden else None
        self.outputs = normal_matrix((hidden or num_inputs, width), hidden or num_inputs, rngs)

    def __call__(self, values: Float[Array, "*lead C"]) -> Float[Array, "*lead D"]:
        inputs = values if self.hidden is None else nnx.gelu(self.hidden(values))
        # Embeddings of the block have the variance 1 / D.
        return inputs @ self.outputs[...] * self.outputs.shape[1] ** -0.5


class Stream(nnx.Module):
    """A decoder of some modalities.

    Args:
      config: Size.
      modalities: Their names.
      vocabulary: Rows of the embedding of motion tokens.
      rngs: Random streams of the initial parameters.
    """

    def __init__(self, config: ModalityConfig, modalities: tuple[str, ...], vocabulary: int, *, rngs: nnx.Rngs):
        width, pose = config.width, NUM_POSITION_VALUES - 2
        sizes = {
            "map": (NUM_PIECE_VALUES + pose, width),
            "route": (NUM_ROUTE_VALUES, width),
            "raster": (TOKENS.patch**2, 0),
            "lights": (NUM_LIGHT_VALUES + pose, width),
        }
        own = {name: size for name, size in sizes.items() if name in modalities}
        self.modalities = modalities
        self.projections = nnx.Dict(
            {name: InputProjection(count, width, hidden, rngs=rngs) for name, (count, hidden) in own.items()}
        )
        self.ego = InputProjection(NUM_EGO_VALUES + pose, width, width, rngs=rngs)
        # Types: the modalities and the driver, positions of patches, and steps of the history.
        self.types = normal_matrix((len(MODALITIES) + 1, width), width, rngs)
        if "raster" in modalities:
            self.patches = normal_matrix((TOKENS.num_patches, width), width, rngs)
        if "history" in modalities:
            self.past = normal_matrix((MODALITY_BED.num_history, width), width, rngs)
        self.transformer = Transformer(config.transformer(vocabulary), rngs=rngs)

    def prefix(
        self, tokens: SceneTokens, present: Bool[Array, "*lead 5"], motion: Float[Array, "*lead H D"]
    ) -> TokenSequence:
        """Tokens of map, route, raster and history.

        Args:
          tokens: Contents.
          present: Modalities that the decoder observes.
          motion: Embeddings of the motion tokens of the history.
        """
        lead = tokens.history.shape[:-1]
        parts = {
            "map": (lambda: self.projections["map"](_piece_values(tokens.map)), tokens.map_valid),
            "route": (
                lambda: self.projections["route"](tokens.route / _along(ROUTE_SCALES, tokens.route.ndim)),
                tokens.route_valid,
            ),
            "raster": (
                lambda: self.projections["raster"](tokens.raster) + _rows(self.patches, lead),
                jnp.ones((*lead, TOKENS.num_patches), bool),
            ),
            "history": (lambda: motion + _rows(self.past, lead), jnp.ones((*lead, MODALITY_BED.num_history), bool)),
        }
        chosen = [(name, part) for name, part in parts.items() if name in self.modalities]
        if not chosen:
            width = self.types.shape[1]
            return _sequence(
                jnp.zeros((*lead, 0, width)), jnp.zeros((*lead, 0), jnp.int32), jnp.zeros((*lead, 0), bool)
            )
        embeddings = [embed() + self._type(name, lead) for name, (embed, _) in chosen]
        valid = [mask & present[..., MODALITIES.index(name), None] for name, (_, mask) in chosen]
        joined = jnp.concatenate(valid, axis=-1)
        return _sequence(jnp.concatenate(embeddings, axis=-2), jnp.full(joined.shape, PREFIX_STEP), joined)

    def steps(
        self,
        lights: Float[Array, "*lead T 6"],
        ego: Float[Array, "*lead T 5"],
        step: Int[Array, " T"],
        present: Bool[Array, "*lead 5"],
    ) -> TokenSequence:
        """Tokens of the lights and, after them, of the driver, at T decisions.

        Args:
          lights: Contents of lights.
          ego: Poses and speeds.
          step: Numbers of the decisions.
          present: Modalities that the decoder observes.
        """
        lead = ego.shape[:-2]
        number = jnp.broadcast_to(step, ego.shape[:-1])
        own = self.ego(_ego_values(ego)) + self._type("ego", lead)
        if "lights" not in self.modalities:
            return _sequence(own, number, jnp.ones(number.shape, bool))
        light = self.projections["lights"](_light_values(lights)) + self._type("lights", lead)
        is_present = jnp.broadcast_to(present[..., MODALITIES.index("lights"), None], number.shape)
        valid = jnp.concatenate([is_present, jnp.ones(number.shape, bool)], axis=-1)
        return _sequence(jnp.concatenate([light, own], axis=-2), jnp.concatenate([number, number], axis=-1), valid)

    def _type(self, name: str, lead: tuple[int, ...]) -> Float[Array, "*lead 1 D"]:
        row = len(MODALITIES) if name == "ego" else MODALITIES.index(name)
        return jnp.broadcast_to(self.types[...][row], (*lead, 1, self.types.shape[1]))


class ModalityDecoder(nnx.Module):
    """Logits of the motion tokens of the driver.

    Args:
      config: Size.
      rngs: Random streams of the initial parameters.
    """

    def __init__(self, config: ModalityConfig, *, rngs: nnx.Rngs):
        # The first stream has the table of motion tokens, of inputs and of outputs.
        rows = [MODALITY_BED.num_tokens if index == 0 else 1 for index in range(len(config.streams))]
        self.streams = nnx.List(
            [Stream(config, names, count, rngs=rngs) for names, count in zip(config.streams, rows, strict=True)]
        )

    def __call__(self, tokens: SceneTokens, present: Bool[Array, "*lead 5"]) -> Float[Array, "*lead T V"]:
        num_decisions = tokens.ego.shape[-2]
        step, features = jnp.arange(num_decisions, dtype=jnp.int32), []
        for stream in self.streams:
            before = stream.prefix(tokens, present, self._motion(tokens))
            sequence = _join(before, stream.steps(tokens.lights, tokens.ego, step, present))
            outputs = sequence.index.step.shape[-1] - num_decisions + step
            features.append(stream.transformer.encode(sequence.embeddings, sequence.index, outputs=outputs).features)
        return self._head(features)

    def begin(self, tokens: SceneTokens, present: Bool[Array, "*lead 5"]) -> tuple[KVCache, ...]:
        """Caches of the streams with the tokens of the prefix, with slots for all decisions."""
        caches = []
        for stream in self.streams:
            before = stream.prefix(tokens, present, self._motion(tokens))
            lead, count = before.index.step.shape[:-1], before.index.step.shape[-1]
            cache = stream.transformer.config.cache(lead, count + 2 * tokens.lights.shape[-2])
            if count:
                _, cache = stream.transformer.step(before.embeddings, before.index, cache)
            caches.append(cache)
        return tuple(caches)

    def decide(
        self,
        caches: tuple[KVCache, ...],
        light: Float[Array, "*lead 6"],
        ego: Float[Array, "*lead 5"],
        step: Int[Array, ""],
        present: Bool[Array, "*lead 5"],
    ) -> tuple[Float[Array, "*lead V"], tuple[KVCache, ...]]:
        """Logits of the next decision, equal to those of a call with all tokens.

        Args:
          caches: From `begin` or the decision before.
          light: Content of the light now.
          ego: Pose and speed now.
          step: Number of the decision.
          present: Modalities that the decoder observes.
        """
        features, after = [], []
        for stream, cache in zip(self.streams, caches, strict=True):
            now = stream.steps(light[..., None, :], ego[..., None, :], step[None], present)
            encoded, cache = stream.transformer.step(now.embeddings, now.index, cache)
            features.append(encoded[..., -1:, :])
            after.append(cache)
        return self._head(features)[..., 0, :], tuple(after)

    def _motion(self, tokens: SceneTokens) -> Float[Array, "*lead H D"]:
        return self.streams[0].transformer.embed(tokens.history)

    def _head(self, features: list[Array]) -> Float[Array, "*lead T V"]:
        return self.streams[0].transformer.logits(sum(features) / len(features))


@dataclasses.dataclass(frozen=True)
class ModalityModel:
    """A decoder without parameters. Hashable: equal models share programs.

    Attributes:
      config: Size.
    """

    config: ModalityConfig = ModalityConfig()

    def init(self, key: Key[Array, ""]) -> Any:
        """Random parameters."""
        return nnx.state(ModalityDecoder(self.config, rngs=nnx.Rngs(key)))

    def network(self, params: Any) -> ModalityDecoder:
        """The decoder with parameters."""
        graph = nnx.graphdef(nnx.eval_shape(lambda: ModalityDecoder(self.config, rngs=nnx.Rngs(0))))
        return nnx.merge(graph, params)

    @property
    def num_parameters(self) -> int:
        """Number of parameters."""
        shapes = nnx.state(nnx.eval_shape(lambda: ModalityDecoder(self.config, rngs=nnx.Rngs(0))))
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def presence(*removed: str, lead: tuple[int, ...] = ()) -> Bool[Array, "*lead 5"]:
    """Mask of all modalities but some.

    Raises:
      ValueError: A name is unknown.
    """
    if unknown := set(removed) - set(MODALITIES):
        raise ValueError(f"unknown modalities {sorted(unknown)}; known are {', '.join(MODALITIES)}")
    return jnp.broadcast_to(jnp.asarray([name not in removed for name in MODALITIES]), (*lead, len(MODALITIES)))


def _sequence(embeddings: Array, step: Array, valid: Array) -> TokenSequence:
    return TokenSequence(embeddings, staircase_index(step.astype(jnp.int32), valid))


def _join(first: TokenSequence, second: TokenSequence) -> TokenSequence:
    embeddings = jnp.concatenate([first.embeddings, second.embeddings], axis=-2)
    pairs = zip(_fields(first.index), _fields(second.index), strict=True)
    return TokenSequence(embeddings, TokenIndex(*(jnp.concatenate(pair, axis=-1) for pair in pairs)))


def _fields(index: TokenIndex) -> tuple[Array, Array, Array]:
    return index.step, index.position, index.valid


def _rows(table: nnx.Param, lead: tuple[int, ...]) -> Float[Array, "*lead n D"]:
    return jnp.broadcast_to(table[...], (*lead, *table.shape))


def position_values(xy: Float[Array, "*lead 2"]) -> Float[Array, "*lead C"]:
    """Scaled positions with their sines and cosines."""
    angles = [xy * (2.0 * np.pi / length) for length in WAVELENGTHS]
    waves = [wave for angle in angles for wave in (jnp.sin(angle), jnp.cos(angle))]
    return jnp.concatenate([xy / POSITION_SCALE, *waves], axis=-1)


def _along(values: np.ndarray, ndim: int) -> np.ndarray:
    return values.reshape(*(1,) * (ndim - 1), -1)


def _piece_values(pieces: Float[Array, "*lead 6"]) -> Float[Array, "*lead C"]:
    rest = pieces[..., 2:5], pieces[..., 5:] / LENGTH_SCALE
    return jnp.concatenate([position_values(pieces[..., :2]), *rest], axis=-1)


def _light_values(lights: Float[Array, "*lead 6"]) -> Float[Array, "*lead C"]:
    return jnp.concatenate([lights[..., :4], position_values(lights[..., 4:])], axis=-1)


def _ego_values(ego: Float[Array, "*lead 5"]) -> Float[Array, "*lead C"]:
    return jnp.concatenate([position_values(ego[..., :2]), ego[..., 2:4], ego[..., 4:] / EGO_SPEED_SCALE], axis=-1)
