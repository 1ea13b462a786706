"""The distillation loss against NumPy, and a network that can learn from its teacher alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from behavior_models.scene_decoder.distillation import (
    DistillationConfig,
    distillation_loss,
    teacher_divergence,
    token_loss,
)

RNG = np.random.default_rng(0)
LOGITS, TEACHER = (RNG.normal(size=(3, 4, 5)).astype(np.float32) for _ in range(2))
LABELS = RNG.integers(5, size=(3, 4)).astype(np.int32)
VALID = RNG.random((3, 4)) < 0.6


def probabilities(logits, temperature=1.0):
    weights = np.exp(logits.astype(np.float64) / temperature)
    return weights / weights.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_divergence_is_that_of_the_definition(temperature):
    p, q = probabilities(TEACHER, temperature), probabilities(LOGITS, temperature)
    expected = temperature**2 * np.sum(p * np.log(p / q), axis=-1)
    np.testing.assert_allclose(teacher_divergence(LOGITS, TEACHER, temperature), expected, rtol=1e-4)


def test_loss_weights_labels_and_teacher_over_valid_rows():
    q, p = probabilities(LOGITS), probabilities(TEACHER)
    hard = -np.log(np.take_along_axis(q, LABELS[..., None], -1))[..., 0]
    soft = np.sum(p * np.log(p / q), axis=-1)
    labels = np.where(VALID, LABELS, -7)
    for weight in (0.0, 0.5, 1.0):
        expected = np.mean((weight * hard + (1 - weight) * soft)[VALID])
        loss = distillation_loss(LOGITS, TEACHER, labels, VALID, DistillationConfig(label_weight=weight))
        np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(token_loss(LOGITS, LABELS), np.mean(hard), rtol=1e-5)


def test_a_batch_without_labels_has_no_loss():
    assert np.isnan(distillation_loss(LOGITS, TEACHER, LABELS, np.zeros_like(VALID)))


def test_tokens_that_the_teacher_excludes_have_no_share():
    teacher = np.array([0.0, 0.0, -np.inf], np.float32)
    logits = np.zeros(3, np.float32)
    np.testing.assert_allclose(teacher_divergence(logits, teacher), np.log(3 / 2), rtol=1e-6)


def test_gradient_reaches_the_network_alone():
    gradients = jax.grad(distillation_loss, argnums=(0, 1))(jnp.asarray(LOGITS), jnp.asarray(TEACHER), LABELS, VALID)
    # The gradient of cross entropy and of the divergence: the distribution minus that of the target.
    q, target = probabilities(LOGITS), 0.5 * np.eye(5)[LABELS] + 0.5 * probabilities(TEACHER)
    np.testing.assert_allclose(gradients[0], (q - target) * VALID[..., None] / VALID.sum(), atol=1e-6)
    assert not np.any(gradients[1])
