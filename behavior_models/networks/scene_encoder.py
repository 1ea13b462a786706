"""Encoders of a scene: sets of agents and polylines, and the observer itself, to one vector."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Bool, Float

from behavior_models.networks.heads import Head
from behavior_models.networks.resnet import ResNetConfig
from waymax_sim.env.encoder import ObservationSpec
from waymax_sim.pytree import Array

# Features of an observation that are sets: rows whose first value, or first eight for polylines, are their validity.
SETS = ("agents", "elements", "lights")
# Linear part of a layer for invalid elements: less than that of any valid one.
NO_ELEMENT = -1e9


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """Size of a network, and its distribution of continuous actions.

    Attributes:
      encoder: "pool": one layer per element and a maximum over the set, invariant to its order; "attention": latent
        queries that attend to all elements, as in Wayformer (Nayakanti et al. 2022).
      width: Features of an element.
      trunk: Width of the two hidden layers after the encoder.
      num_layers: Attention layers.
      num_latents: Latent queries.
      num_heads: Heads of the attention.
      dtype: Number format of the computation; parameters are float32.
      head: Distribution of continuous actions; discrete ones are categorical.
      resnet: Size of the encoder of images, for observations that have one; None for the smallest.
    """

    encoder: Literal["pool", "attention"] = "pool"
    width: int = 64
    trunk: int = 128
    num_layers: int = 2
    num_latents: int = 8
    num_heads: int = 4
    dtype: Literal["float32", "bfloat16"] = "float32"
    head: Head = "gaussian"
    resnet: ResNetConfig | None = None

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> "NetworkConfig":
        """The configuration of `dataclasses.asdict`, also after JSON."""
        resnet = stored.get("resnet")
        fields: dict[str, Any] = stored | {"resnet": resnet and ResNetConfig.from_dict(resnet)}
        return cls(**fields)


def split_sets(
    spec: ObservationSpec, rows: Float[Array, "*lead D"]
) -> tuple[Float[Array, "*lead O"], dict[str, tuple[Float[Array, "*lead S F"], Bool[Array, "*lead S"]]]]:
    """The observer, and each set with its mask, of encoded observations.

    The first agent is the observer: it becomes part of its vector, with all features that are no sets. The history of
    an agent is part of its row.

    Args:
      spec: Content of the rows.
      rows: Encoded observations.
    """
    features, begin = {}, 0
    for feature in spec.features:
        values = rows[..., begin : begin + feature.size]
        features[feature.name] = values.reshape(*values.shape[:-1], *feature.shape)
        begin += feature.size
    if "history" in features:
        past = features.pop("history")
        past = past.reshape(*past.shape[:-2], -1)
        features["agents"] = jnp.concatenate([features["agents"], past], axis=-1)
    sets = {name: features[name] for name in SETS if name in features}
    others = [values.reshape(*rows.shape[:-1], -1) for name, values in features.items() if name not in SETS]
    observer = jnp.concatenate([sets["agents"][..., 0, :], *others], axis=-1)
    sets["agents"] = sets["agents"][..., 1:, :]
    return observer, {name: (tokens, tokens[..., 0] > 0) for name, tokens in sets.items()}


class SceneEncoder(nnx.Module):
    """A vector for each encoded observation, invariant to the order of agents and polylines."""

    def __init__(self, spec: ObservationSpec, config: NetworkConfig, *, rngs: nnx.Rngs):
        self.spec, self.config = spec, config
        width = config.width
        row = jax.ShapeDtypeStruct((spec.size,), jnp.float32)
        observer, sets = jax.eval_shape(lambda rows: split_sets(spec, rows), row)
        sizes = {name: tokens.shape[-1] for name, (tokens, _) in sets.items()}
        self.tokens = nnx.Dict({name: _linear(size, width, config, rngs) for name, size in sizes.items()})
        self.observer = _linear(observer.shape[-1], width, config, rngs)
        self.attention = nnx.data(LatentAttention(config, rngs=rngs) if config.encoder == "attention" else None)
        self.num_outputs = width * (1 + (len(sets) if self.attention is None else config.num_latents))

    def __call__(self, rows: Float[Array, "*lead D"]) -> Float[Array, "*lead E"]:
        observer, sets = split_sets(self.spec, rows)
        observer = nnx.relu(self.observer(observer))
        if self.attention is None:
            return jnp.concatenate([observer, *(self._pool(name, *sets[name]) for name in sets)], axis=-1)
        values = jnp.concatenate([nnx.relu(self.tokens[name](sets[name][0])) for name in sets], axis=-2)
        mask = jnp.concatenate([sets[name][1] for name in sets], axis=-1)
        latents = self.attention(observer, values, mask)
        return jnp.concatenate([observer, latents.reshape(*latents.shape[:-2], -1)], axis=-1)

    def _pool(self, name: str, values: Float[Array, "*lead S F"], mask: Bool[Array, "*lead S"]) -> Array:
        """The maximum of a layer over a set, 0 for an empty one; bias and activation, which ascend, follow it."""
        layer = self.tokens[name]
        assert layer.bias is not None
        kernel, bias = (parameter[...].astype(layer.dtype) for parameter in (layer.kernel, layer.bias))
        largest = max_linear(values.astype(layer.dtype), mask, kernel)
        return nnx.relu(largest + bias.reshape(*(1 for _ in mask.shape[:-1]), -1))


@jax.custom_vjp
def max_linear(
    values: Float[Array, "*lead S F"], mask: Bool[Array, "*lead S"], kernel: Float[Array, "F W"]
) -> Float[Array, "*lead W"]:
    """Maxima of linear functions over a set, `NO_ELEMENT` for an empty one.

    The gradient of equal maxima is divided among them, as by `jnp.max`. The rule of differentiation is written out
    because it takes half of the time of the automatic one on CPUs (bench row `train_ppo`).

    Args:
      values: Elements.
      mask: Valid elements.
      kernel: Weights of the functions.
    """
    return _max_linear_forward(values, mask, kernel)[0]


def _max_linear_forward(values: Array, mask: Array, kernel: Array) -> tuple[Array, tuple[Array, ...]]:
    linear = jnp.where(mask[..., None], values @ kernel, jnp.asarray(NO_ELEMENT, kernel.dtype))
    largest = jnp.max(linear, axis=-2, keepdims=True)
    return largest[..., 0, :], (values, kernel, linear, largest)


def _max_linear_backward(saved: tuple[Array, ...], slope: Array) -> tuple[Array, None, Array]:
    values, kernel, linear, largest = saved
    is_largest = (linear == largest) & (largest > NO_ELEMENT)
    count = jnp.maximum(jnp.sum(is_largest, axis=-2, keepdims=True, dtype=slope.dtype), jnp.ones((), slope.dtype))
    share = slope[..., None, :] / count
    slopes = jnp.where(is_largest, share, jnp.zeros((), slope.dtype))
    rows, slope_rows = (leaf.reshape(-1, leaf.shape[-1]) for leaf in (values, slopes))
    return slopes @ kernel.T, None, rows.T @ slope_rows


max_linear.defvjp(_max_linear_forward, _max_linear_backward)


class LatentAttention(nnx.Module):
    """Latent queries that attend to a masked set and to each other, layer by layer."""

    def __init__(self, config: NetworkConfig, *, rngs: nnx.Rngs):
        width = config.width
        self.num_heads = config.num_heads
        shape = config.num_latents, width
        self.latents = nnx.Param(jax.random.normal(rngs.params(), shape) / width**0.5)
        self.layers = nnx.List([AttentionLayer(config, rngs=rngs) for _ in range(config.num_layers)])

    def __call__(
        self, observer: Float[Array, "*lead F"], tokens: Float[Array, "*lead S F"], mask: Bool[Array, "*lead S"]
    ) -> Float[Array, "*lead L F"]:
        """The latents after all layers.

        Args:
          observer: Added to all queries.
          tokens: The set.
          mask: Its valid entries; latents of an empty set attend to themselves alone.
        """
        latents = self.latents[...].astype(observer.dtype)
        latents = latents.reshape(*(1 for _ in observer.shape[:-1]), *latents.shape) + observer[..., None, :]
        for layer in self.layers:
            latents = layer(latents, tokens, mask)
        return latents


class AttentionLayer(nnx.Module):
    """Attention of latents to a set and to themselves, then a layer per latent; normalized before each."""

    def __init__(self, config: NetworkConfig, *, rngs: nnx.Rngs):
        width = config.width
        self.num_heads = config.num_heads
        self.query, self.key, self.value, self.output = (_linear(width, width, config, rngs) for _ in range(4))
        self.first, self.second = _linear(width, 2 * width, config, rngs), _linear(2 * width, width, config, rngs)
        self.norms = nnx.List([nnx.RMSNorm(width, rngs=rngs) for _ in range(3)])

    def __call__(
        self, latents: Float[Array, "*lead L F"], tokens: Float[Array, "*lead S F"], mask: Bool[Array, "*lead S"]
    ) -> Float[Array, "*lead L F"]:
        queries = self.norms[0](latents)
        keys = jnp.concatenate([queries, self.norms[1](tokens)], axis=-2)
        mask = jnp.concatenate([jnp.ones(latents.shape[:-1], bool), mask], axis=-1)
        heads = (
            self._heads(layer(values))
            for layer, values in ((self.query, queries), (self.key, keys), (self.value, keys))
        )
        attended = jax.nn.dot_product_attention(*heads, mask=mask[..., None, None, :])
        latents = latents + self.output(attended.reshape(latents.shape))
        return latents + self.second(nnx.relu(self.first(self.norms[2](latents))))

    def _heads(self, values: Float[Array, "*lead S F"]) -> Float[Array, "*lead S H G"]:
        return values.reshape(*values.shape[:-1], self.num_heads, -1)


def _linear(num_inputs: int, num_outputs: int, config: NetworkConfig, rngs: nnx.Rngs) -> nnx.Linear:
    return nnx.Linear(num_inputs, num_outputs, dtype=jnp.dtype(config.dtype), rngs=rngs)
