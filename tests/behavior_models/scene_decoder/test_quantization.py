"""Quantized weights against NumPy, and the size and error of each format."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from behavior_models.scene_decoder.quantization import (
    INT4,
    INT4_PER_TENSOR,
    INT8,
    QuantizationConfig,
    dequantize,
    dequantize_array,
    pack_int4,
    quantize,
    quantize_array,
    stored_bytes,
    unpack_int4,
)

RNG = np.random.default_rng(1)
# Channels and groups of very different size.
MATRIX = (RNG.normal(size=(70, 6)) * np.exp(RNG.normal(size=(70, 1))) * [1, 0.1, 3, 1, 0.01, 1]).astype(np.float32)


def rounded(matrix, levels, size, shared=False):
    """Symmetric rounding of groups of rows in float64, with scales of 16 bits."""
    result = np.zeros(matrix.shape)
    for start in range(0, len(matrix), size):
        rows = matrix[start : start + size].astype(np.float64)
        largest = np.abs(rows).max() if shared else np.abs(rows).max(axis=0)
        scale = np.clip(largest.astype(np.float32) / np.float32(levels), 2.0**-24, 65504).astype(np.float16)
        scale = scale.astype(np.float64)
        result[start : start + size] = np.clip(np.round(rows / scale), -levels, levels) * scale
    return result


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (INT8, rounded(MATRIX, 127, 70)),
        (INT4, rounded(MATRIX, 7, 32)),
        (INT4_PER_TENSOR, rounded(MATRIX, 7, 70, shared=True)),
        (QuantizationConfig(8, "group", 10), rounded(MATRIX, 127, 10)),
    ],
)
def test_rounding_is_that_of_the_definition(config, expected):
    quantized = quantize_array(MATRIX, config)
    np.testing.assert_allclose(dequantize_array(quantized), expected, rtol=1e-5, atol=1e-7)


def test_packing_is_exact():
    levels = RNG.integers(-8, 8, size=(12, 3)).astype(np.int8)
    packed = pack_int4(levels)
    assert packed.shape == (6, 3) and packed.dtype == jnp.uint8
    np.testing.assert_array_equal(unpack_int4(packed), levels)
    assert int(packed[0, 0]) == int(levels[0, 0] & 15) + 16 * int(levels[1, 0] & 15)


def test_error_falls_from_tensor_to_group_to_eight_bits():
    errors = [
        float(np.linalg.norm(dequantize_array(quantize_array(MATRIX, config)) - MATRIX))
        for config in (INT4_PER_TENSOR, INT4, INT8)
    ]
    assert errors[0] > 1.5 * errors[1] > 7 * errors[2]


def test_trees_keep_vectors_and_have_the_stored_size():
    params = {"kernel": MATRIX.reshape(2, 35, 6), "scale": np.ones(6, np.float32), "index": np.zeros((2, 2), np.int32)}
    quantized = jax.jit(quantize, static_argnums=1)(params, INT4)
    restored = dequantize(quantized)
    assert restored["kernel"].shape == (2, 35, 6)
    for half in (0, 1):
        np.testing.assert_allclose(restored["kernel"][half], rounded(params["kernel"][half], 7, 32), atol=1e-6)
    np.testing.assert_array_equal(restored["scale"], params["scale"])
    np.testing.assert_array_equal(restored["index"], params["index"])
    # Twice 64 rows of 6 channels at half a byte, 2 scales of 2 bytes each; 6 floats and 4 integers as they are.
    assert stored_bytes(quantized) == 2 * (32 * 6 + 2 * 6 * 2) + 24 + 16
    assert stored_bytes(quantize(params, INT8)) == 2 * (36 * 6 + 6 * 2) + 24 + 16
    assert stored_bytes(params) == 4 * (420 + 6 + 4)


def test_weights_that_are_not_finite_remain_visible():
    broken = MATRIX.copy()
    broken[3, 2] = np.inf
    restored = np.asarray(dequantize_array(quantize_array(broken, INT4)))
    assert np.isnan(restored[:32, 2]).all() and np.isfinite(restored[32:]).all()


def test_unsupported_formats_raise():
    with pytest.raises(ValueError, match="bits=3"):
        QuantizationConfig(3)
    with pytest.raises(ValueError, match="group_size=5"):
        QuantizationConfig(4, "group", 5)
