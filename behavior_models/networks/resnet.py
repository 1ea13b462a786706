"""Residual networks for images, with group normalization and a learned spatial embedding instead of pooling.

Sources: residual blocks and stages of He et al. 2016; group normalization (Wu and He 2018) and the learned spatial
embedding of scaled Q-learning (Kumar et al. 2023, section 4).
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float

from waymax_sim.env.encoder import ObservationSpec
from waymax_sim.pytree import Array

IMAGE = "image"
NORM_EPSILON = 1e-5
# Outputs of a bottleneck block per inner channel (He et al. 2016).
BOTTLENECK_EXPANSION = 4


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
    """Size of a residual network.

    Attributes:
      stages: Blocks of each stage; all stages but the first halve the resolution.
      widths: Channels of each stage, multiples of `group_size`; a bottleneck block has four times as many outputs.
      block: "basic": two 3 x 3 convolutions; "bottleneck": 1 x 1, 3 x 3 and 1 x 1; "plain": one convolution without
        normalization and residual, for comparison.
      stem: "small": a 3 x 3 convolution with stride 2; "large": a 7 x 7 one, then a maximum, both with stride 2.
      head: "spatial": learned spatial embedding; "average": mean over cells; "flatten": all cells.
      num_embeddings: Weighted sums over all cells of each channel, F of the spatial embedding.
      group_size: Channels that are normalized together.

    Raises:
      ValueError: Widths that are no multiples of the group size, or another number of widths than of stages.
    """

    stages: tuple[int, ...] = (1, 1, 1)
    widths: tuple[int, ...] = (8, 16, 32)
    block: Literal["basic", "bottleneck", "plain"] = "basic"
    stem: Literal["small", "large"] = "small"
    head: Literal["spatial", "average", "flatten"] = "spatial"
    num_embeddings: int = 8
    group_size: int = 8

    def __post_init__(self):
        if len(self.stages) != len(self.widths) or any(width % self.group_size for width in self.widths):
            raise ValueError(f"{self} needs as many widths as stages, all multiples of {self.group_size}")

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> "ResNetConfig":
        """The configuration of `dataclasses.asdict`, also after JSON."""
        sizes: dict[str, Any] = {name: tuple(stored[name]) for name in ("stages", "widths")}
        return cls(**(stored | sizes))


WIDTHS = (64, 128, 256, 512)
RESNET_18 = ResNetConfig((2, 2, 2, 2), WIDTHS, "basic", "large")
RESNET_34 = ResNetConfig((3, 4, 6, 3), WIDTHS, "basic", "large")
RESNET_50 = ResNetConfig((3, 4, 6, 3), WIDTHS, "bottleneck", "large")
RESNET_101 = ResNetConfig((3, 4, 23, 3), WIDTHS, "bottleneck", "large")


def small_resnet(multiple: int) -> ResNetConfig:
    """Three stages of one basic block, with a multiple of 8, 16 and 32 channels."""
    return ResNetConfig(widths=(8 * multiple, 16 * multiple, 32 * multiple))


class ResNet(nnx.Module):
    """A vector for each encoded observation that consists of an image and further values, such as those of `Raster`.

    Args:
      spec: Content of the encoded observations: the feature "image" of shape H x W x C, then any others, which are
        appended to the embedding of the image.
      config: Size.
      dtype: Number format of the computation; parameters and means of the normalization are float32.
      rngs: Random streams of the initial parameters.

    Raises:
      ValueError: The first feature is no image.
    """

    def __init__(self, spec: ObservationSpec, config: ResNetConfig, dtype: str = "float32", *, rngs: nnx.Rngs):
        if spec.features[0].name != IMAGE:
            raise ValueError(f"the first feature of {spec.encoder} is {spec.features[0].name!r}, not {IMAGE!r}")
        self.shape, self.image_size = spec.features[0].shape, spec.features[0].size
        self.config, number = config, jnp.dtype(dtype)
        self.stem = Stem(self.shape[-1], config, number, rngs=rngs)
        height, width, channels = *_halve(self.shape[:2], 1 if config.stem == "small" else 2), config.widths[0]
        blocks = []
        for stage, (count, inner) in enumerate(zip(config.stages, config.widths, strict=True)):
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                height, width = _halve((height, width), 1) if stride == 2 else (height, width)
                blocks.append(_block(channels, inner, stride, config, number, rngs))
                channels = inner * (BOTTLENECK_EXPANSION if config.block == "bottleneck" else 1)
        self.blocks = nnx.List(blocks)
        cells = height, width, channels
        embedding = SpatialEmbedding(cells, config.num_embeddings, rngs=rngs) if config.head == "spatial" else None
        self.embedding = nnx.data(embedding)
        sizes = {"spatial": channels * config.num_embeddings, "average": channels}
        self.num_outputs = sizes.get(config.head, height * width * channels) + spec.size - self.image_size

    def __call__(self, rows: Float[Array, "*lead D"]) -> Float[Array, "*lead F"]:
        image, others = jnp.split(rows, [self.image_size], axis=-1)
        hidden = self.features(image.reshape(-1, *self.shape)).astype(jnp.float32)
        if self.embedding is not None:
            hidden = self.embedding(hidden)
        elif self.config.head == "average":
            hidden = jnp.mean(hidden, axis=(1, 2))
        hidden = nnx.relu(hidden.reshape(*rows.shape[:-1], -1))
        return jnp.concatenate([hidden, others], axis=-1)

    def features(self, images: Float[Array, "B H W C"]) -> Float[Array, "B h w c"]:
        """Outputs of the last stage."""
        hidden = self.stem(images)
        for block in self.blocks:
            hidden = block(hidden)
        return hidden


class Stem(nnx.Module):
    """The first convolution, with normalization unless the network is plain."""

    def __init__(self, num_inputs: int, config: ResNetConfig, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        kernel = 3 if config.stem == "small" else 7
        self.pooled = config.stem == "large"
        self.layer = NormalizedConv(num_inputs, config.widths[0], kernel, 2, config, dtype, rngs=rngs)

    def __call__(self, images: Float[Array, "B H W C"]) -> Float[Array, "B h w c"]:
        hidden = nnx.relu(self.layer(images))
        return nnx.max_pool(hidden, (3, 3), (2, 2), "SAME") if self.pooled else hidden


class NormalizedConv(nnx.Module):
    """A convolution with group normalization; in a plain network with a bias instead.

    Args:
      num_inputs: Input channels.
      num_outputs: Output channels.
      kernel: Side of the kernel.
      stride: Step between outputs.
      config: Size of the network.
      dtype: Number format.
      rngs: Random streams of the initial parameters.
    """

    def __init__(
        self,
        num_inputs: int,
        num_outputs: int,
        kernel: int,
        stride: int,
        config: ResNetConfig,
        dtype: jnp.dtype,
        *,
        rngs: nnx.Rngs,
    ):
        plain = config.block == "plain"
        init = nnx.initializers.he_normal()
        shape = num_inputs, num_outputs, (kernel, kernel), (stride, stride)
        self.conv = nnx.Conv(*shape, use_bias=plain, dtype=dtype, kernel_init=init, rngs=rngs)
        groups = num_outputs // config.group_size
        norm = None if plain else nnx.GroupNorm(num_outputs, groups, epsilon=NORM_EPSILON, dtype=dtype, rngs=rngs)
        self.norm = nnx.data(norm)

    def __call__(self, values: Float[Array, "B H W C"]) -> Float[Array, "B h w c"]:
        hidden = self.conv(values)
        return hidden if self.norm is None else self.norm(hidden)


class ResidualBlock(nnx.Module):
    """Convolutions whose result is added to the input, projected by a 1 x 1 convolution where the shape changes.

    Args:
      num_inputs: Input channels.
      width: Inner channels.
      stride: Step between outputs.
      config: Size of the network.
      dtype: Number format.
      rngs: Random streams of the initial parameters.
    """

    def __init__(
        self, num_inputs: int, width: int, stride: int, config: ResNetConfig, dtype: jnp.dtype, *, rngs: nnx.Rngs
    ):
        bottleneck = config.block == "bottleneck"
        num_outputs = width * BOTTLENECK_EXPANSION if bottleneck else width
        # Channels, side of the kernel, stride.
        layers = [(width, 3, stride), (num_outputs, 3, 1)]
        if bottleneck:
            layers = [(width, 1, 1), (width, 3, stride), (num_outputs, 1, 1)]
        convs, channels = [], num_inputs
        for size, kernel, step in layers:
            convs.append(NormalizedConv(channels, size, kernel, step, config, dtype, rngs=rngs))
            channels = size
        self.layers = nnx.List(convs)
        projected = stride > 1 or num_inputs != num_outputs
        projection = NormalizedConv(num_inputs, num_outputs, 1, stride, config, dtype, rngs=rngs) if projected else None
        self.projection = nnx.data(projection)

    def __call__(self, values: Float[Array, "B H W C"]) -> Float[Array, "B h w c"]:
        hidden = values
        for layer in self.layers[:-1]:
            hidden = nnx.relu(layer(hidden))
        shortcut = values.astype(hidden.dtype) if self.projection is None else self.projection(values)
        return nnx.relu(self.layers[-1](hidden) + shortcut)


class PlainBlock(nnx.Module):
    """A 3 x 3 convolution with a bias.

    Args:
      num_inputs: Input channels.
      width: Output channels.
      stride: Step between outputs.
      config: Size of the network.
      dtype: Number format.
      rngs: Random streams of the initial parameters.
    """

    def __init__(
        self, num_inputs: int, width: int, stride: int, config: ResNetConfig, dtype: jnp.dtype, *, rngs: nnx.Rngs
    ):
        self.layer = NormalizedConv(num_inputs, width, 3, stride, config, dtype, rngs=rngs)

    def __call__(self, values: Float[Array, "B H W C"]) -> Float[Array, "B h w c"]:
        return nnx.relu(self.layer(values))


class SpatialEmbedding(nnx.Module):
    """F learned weighted sums over the cells of each channel: out[c, f] = sum_hw x[h, w, c] k[h, w, c, f] + b[c, f].

    Args:
      shape: Cells and channels h, w and c.
      num_embeddings: F.
      rngs: Random streams of the initial parameters.
    """

    def __init__(self, shape: tuple[int, int, int], num_embeddings: int, *, rngs: nnx.Rngs):
        height, width, channels = shape
        scale = (height * width) ** -0.5
        self.kernel = nnx.Param(scale * jax.random.normal(rngs.params(), (*shape, num_embeddings)))
        self.bias = nnx.Param(jnp.zeros((channels, num_embeddings)))

    def __call__(self, values: Float[Array, "B h w c"]) -> Float[Array, "B F"]:
        sums = jnp.einsum("bhwc,hwcf->bcf", values, self.kernel[...]) + self.bias[...][None]
        return sums.reshape(values.shape[0], -1)


def _block(
    num_inputs: int, width: int, stride: int, config: ResNetConfig, dtype: jnp.dtype, rngs: nnx.Rngs
) -> nnx.Module:
    kind = PlainBlock if config.block == "plain" else ResidualBlock
    return kind(num_inputs, width, stride, config, dtype, rngs=rngs)


def _halve(shape: tuple[int, ...], count: int) -> tuple[int, ...]:
    """Rows and columns after convolutions with stride 2 that are padded to equal sizes."""
    for _ in range(count):
        shape = tuple(-(-size // 2) for size in shape)
    return shape
