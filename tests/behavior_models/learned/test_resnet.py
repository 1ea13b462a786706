"""Residual networks: parameter counts of published sizes, blocks against NumPy, and position in the image."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from behavior_models.encoders.raster import Raster
from behavior_models.networks.actor_critic import ActorCritic
from behavior_models.networks.encoder import build_encoder, small_network
from behavior_models.networks.resnet import (
    RESNET_18,
    RESNET_34,
    RESNET_50,
    RESNET_101,
    ResidualBlock,
    ResNet,
    ResNetConfig,
    SpatialEmbedding,
)
from behavior_models.networks.scene_encoder import NetworkConfig, SceneEncoder
from waymax_sim.env.encoder import ObservationFeature, ObservationSpec
from waymax_sim.env.flat_view import FlatView

# Parameters without the last layer, as published for images with three channels (He et al. 2016, torchvision).
PUBLISHED = [
    pytest.param(RESNET_18, 11_176_512, id="18"),
    pytest.param(RESNET_34, 21_284_672, id="34"),
    pytest.param(RESNET_50, 23_508_032, id="50"),
    pytest.param(RESNET_101, 42_500_160, id="101", marks=pytest.mark.slow),
]
SMALL = ResNetConfig((1, 1), (8, 16))


def image_spec(size: int, channels: int, others: int = 3) -> ObservationSpec:
    features = (
        ObservationFeature("image", (size, size, channels), -1.0, 1.0),
        ObservationFeature("ego", (others,), -1.0, 1.0),
    )
    return ObservationSpec("test", 1, features)


def count(build) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(nnx.eval_shape(build), nnx.Param)))


@pytest.mark.parametrize(("config", "expected"), PUBLISHED)
def test_published_sizes(config, expected):
    # 84 cells are halved five times; kernel and bias of the spatial embedding.
    channels = 512 if config.block == "basic" else 2048
    assert count(lambda: ResNet(image_spec(84, 3), config, rngs=nnx.Rngs(0))) == expected + (3 * 3 + 1) * channels * 8


@pytest.mark.parametrize(("multiple", "expected"), [(1, 30e3), (2, 120e3), (4, 500e3), (8, 2e6)])
def test_small_sizes(multiple, expected):
    config, spec = small_network(multiple), Raster(size=32, num_history=0).spec()
    assert count(lambda: ActorCritic(spec, 35, config, rngs=nnx.Rngs(0))) == pytest.approx(expected, rel=0.2)


def convolve(values: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    """Convolution with padding so that the output has ceil(size / stride) cells, the odd one behind (SAME)."""
    side, size = kernel.shape[0], -(-values.shape[0] // stride)
    padding = max((size - 1) * stride + side - values.shape[0], 0)
    padded = np.pad(values, ((padding // 2, padding - padding // 2),) * 2 + ((0, 0),))
    out = np.zeros((size, size, kernel.shape[-1]))
    for row, column in np.ndindex(size, size):
        window = padded[row * stride : row * stride + side, column * stride : column * stride + side]
        out[row, column] = np.einsum("hwc,hwco->o", window, kernel)
    return out


def normalize(values: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Group normalization with groups of eight channels."""
    out = values.copy()
    for first in range(0, values.shape[-1], 8):
        group = values[..., first : first + 8]
        out[..., first : first + 8] = (group - group.mean()) / np.sqrt(group.var() + 1e-5)
    return out * scale + bias


def normalized_conv(layer, values: np.ndarray, stride: int) -> np.ndarray:
    kernel, scale, bias = (
        np.asarray(item[...], float) for item in (layer.conv.kernel, layer.norm.scale, layer.norm.bias)
    )
    return normalize(convolve(values, kernel, stride), scale, bias)


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_a_block_is_that_of_numpy(block):
    config, rng = ResNetConfig(block=block), np.random.default_rng(0)
    module = ResidualBlock(8, 16, 2, config, jnp.dtype("float32"), rngs=nnx.Rngs(1))
    for layer in (*module.layers, module.projection):
        for item in (layer.norm.scale, layer.norm.bias):
            item[...] = jnp.asarray(rng.normal(1.0, 0.5, item.shape), jnp.float32)
    values = rng.normal(size=(2, 5, 5, 8)).astype(np.float32)
    for image, found in zip(values, np.asarray(jax.jit(lambda values: module(values))(values)), strict=True):
        hidden = image.astype(float)
        strides = [2, 1] if block == "basic" else [1, 2, 1]
        for index, (layer, stride) in enumerate(zip(module.layers, strides, strict=True)):
            hidden = normalized_conv(layer, hidden, stride)
            hidden = np.maximum(hidden, 0) if index < len(strides) - 1 else hidden
        expected = np.maximum(hidden + normalized_conv(module.projection, image.astype(float), 2), 0)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_the_spatial_embedding_is_that_of_numpy():
    module, rng = SpatialEmbedding((3, 4, 5), 2, rngs=nnx.Rngs(0)), np.random.default_rng(0)
    module.bias[...] = jnp.asarray(rng.normal(size=(5, 2)), jnp.float32)
    values = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    expected = np.zeros((2, 5, 2))
    for image, channel, embedding in np.ndindex(2, 5, 2):
        weights = np.asarray(module.kernel[...])[..., channel, embedding]
        expected[image, channel, embedding] = (values[image, ..., channel] * weights).sum()
    expected += np.asarray(module.bias[...])
    np.testing.assert_allclose(module(values), expected.reshape(2, -1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [SMALL, dataclasses.replace(SMALL, head="average"), dataclasses.replace(SMALL, block="plain", head="flatten")],
    ids=["spatial", "average", "plain"],
)
def test_outputs_of_rows(config):
    """Any leading axes, scalars at the end, finite gradients, and all parameters in use."""
    spec = image_spec(12, 2)
    graph, params = nnx.split(ResNet(spec, config, rngs=nnx.Rngs(0)))
    rows = jax.random.normal(jax.random.key(0), (2, 3, spec.size))

    @jax.jit
    def outputs(params, rows):
        return nnx.merge(graph, params)(rows)

    out = outputs(params, rows)
    assert out.shape == (2, 3, nnx.merge(graph, params).num_outputs)
    np.testing.assert_array_equal(out[..., -3:], rows[..., -3:])
    slopes = jax.jit(jax.grad(lambda params: jnp.sum(outputs(params, rows) ** 2)))(params)
    assert all(np.isfinite(leaf).all() and np.any(leaf) for leaf in jax.tree.leaves(slopes))


def test_only_the_average_forgets_positions():
    """Random networks: an object in another position changes the embedding, and hardly changes the average."""
    spec, images = image_spec(32, 1), np.zeros((2, 32, 32, 1), np.float32)
    images[0, 12:14, 12:14], images[1, 18:20, 18:20] = 1.0, 1.0
    rows = np.concatenate([images.reshape(2, -1), np.zeros((2, 3), np.float32)], axis=-1)
    changes = {}
    for head in ("spatial", "average"):
        config = ResNetConfig((1,), (8,), head=head)
        out = ResNet(spec, config, rngs=nnx.Rngs(0))(rows)
        changes[head] = float(jnp.linalg.norm(out[0] - out[1]) / jnp.linalg.norm(out[0]))
    assert changes["spatial"] > 0.3 and changes["average"] < 0.01


def test_half_precision():
    spec = image_spec(12, 2)
    rows = jax.random.normal(jax.random.key(0), (4, spec.size))
    exact, half = (ResNet(spec, SMALL, dtype, rngs=nnx.Rngs(0)) for dtype in ("float32", "bfloat16"))
    assert half.features(rows[:, :-3].reshape(4, 12, 12, 2)).dtype == jnp.bfloat16
    assert half(rows).dtype == jnp.float32
    np.testing.assert_allclose(half(rows), exact(rows), atol=0.1)
    assert np.abs(half(rows) - exact(rows)).max() > 1e-5


def test_the_encoder_is_that_of_the_observation():
    raster, flat = Raster(size=16).spec(), FlatView("controlled", 2, 2).spec()
    assert isinstance(nnx.eval_shape(lambda: build_encoder(raster, NetworkConfig(), rngs=nnx.Rngs(0))), ResNet)
    assert isinstance(nnx.eval_shape(lambda: build_encoder(flat, NetworkConfig(), rngs=nnx.Rngs(0))), SceneEncoder)
    with pytest.raises(ValueError, match="not 'image'"):
        ResNet(flat, SMALL, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="multiples of 8"):
        ResNetConfig(widths=(8, 12, 16))


def test_configurations_are_restored():
    config = NetworkConfig(resnet=RESNET_50)
    assert NetworkConfig.from_dict(dataclasses.asdict(config)) == config
    assert NetworkConfig.from_dict(dataclasses.asdict(NetworkConfig())) == NetworkConfig()
