"""Distillation: a small network learns the token distribution of a larger one.

Sources: Hinton, Vinyals, Dean (2015); the small models of the Gemini 1.0 report (arXiv 2312.11805), which are distilled
from larger ones.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from waymax_sim.pytree import Array


@dataclasses.dataclass(frozen=True)
class DistillationConfig:
    """Weights of the loss.

    Attributes:
      temperature: Temperature of both distributions in the divergence.
      label_weight: Weight of the cross entropy of the labels, 0 to 1; the divergence has the remaining weight.
    """

    temperature: float = 1.0
    label_weight: float = 0.5


def token_loss(
    logits: Float[Array, "*b V"], labels: Int[Array, "*b"], valid: Bool[Array, "*b"] | None = None
) -> Float[Array, ""]:
    """Mean negative log-likelihood of the labels, nats; NaN without a valid label.

    Args:
      logits: Logits over V tokens.
      labels: Tokens; those that are not valid may have any value.
      valid: Mask of the labels; all by default.
    """
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
    index = jnp.clip(labels, 0, logits.shape[-1] - 1)[..., None]
    return _masked_mean(-jnp.take_along_axis(log_probs, index, axis=-1)[..., 0], valid)


def teacher_divergence(
    logits: Float[Array, "*b V"], teacher_logits: Float[Array, "*b V"], temperature: float = 1.0
) -> Float[Array, "*b"]:
    """Kullback-Leibler divergence of the network from its teacher, KL(teacher ‖ network), nats.

    It is multiplied by the squared temperature, so that the size of its gradient does not depend on the temperature. No
    gradient flows to the teacher.

    Args:
      logits: Logits of the network.
      teacher_logits: Logits of the teacher.
      temperature: Divisor of both logits.
    """
    teacher_logits = jax.lax.stop_gradient(teacher_logits).astype(jnp.float32)
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32) / temperature)
    teacher = jax.nn.log_softmax(teacher_logits / temperature)
    # A token that the teacher excludes has no share, also if its log-probability is minus infinity.
    terms = jnp.where(teacher > -jnp.inf, jnp.exp(teacher) * (teacher - log_probs), 0.0)
    return jnp.sum(terms, axis=-1) * temperature**2


def distillation_loss(
    logits: Float[Array, "*b V"],
    teacher_logits: Float[Array, "*b V"],
    labels: Int[Array, "*b"],
    valid: Bool[Array, "*b"] | None = None,
    config: DistillationConfig = DistillationConfig(),
) -> Float[Array, ""]:
    """Weighted sum of the cross entropy of the labels and the divergence from the teacher; NaN without a valid label.

    Args:
      logits: Logits of the network that learns.
      teacher_logits: Logits of the teacher.
      labels: Tokens.
      valid: Mask of the labels; all by default.
      config: Weights.
    """
    divergence = _masked_mean(teacher_divergence(logits, teacher_logits, config.temperature), valid)
    weight = config.label_weight
    return weight * token_loss(logits, labels, valid) + (1.0 - weight) * divergence


def _masked_mean(values: Float[Array, "*b"], valid: Bool[Array, "*b"] | None) -> Float[Array, ""]:
    if valid is None:
        return jnp.mean(values)
    return jnp.sum(jnp.where(valid, values, 0.0)) / jnp.sum(valid.astype(jnp.float32))
