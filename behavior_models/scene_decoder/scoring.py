"""Likelihoods and features of recorded scenes: surprise per agent, and the features of a frozen decoder."""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from behavior_models.scene_decoder.policy import DecoderPolicy
from behavior_models.scene_decoder.records import SceneRecord
from behavior_models.scene_decoder.tracks import scene_tracks
from behavior_models.scene_decoder.training import token_log_probs
from waymax_sim.pytree import Array


@jax.jit
def surprise(policy: DecoderPolicy, record: SceneRecord, first: int | Int[Array, ""] = 0) -> Float[Array, " A"]:
    """Mean negative log-likelihood of the logged motion tokens of each agent, nats; NaN without any token.

    Args:
      policy: The decoder.
      record: One record.
      first: Number of the first token that counts; 2 for the future alone.
    """
    inputs, target = scene_tracks(policy.vocabulary, record, policy.model.config.tokens)
    nll = -token_log_probs(policy.model.log_probs(policy.params, inputs), target)
    mask = (target >= 0) & (jnp.arange(target.shape[1]) >= first)[None]
    count = jnp.sum(mask, axis=1)
    return jnp.where(count > 0, jnp.sum(jnp.where(mask, nll, 0.0), axis=1) / jnp.maximum(count, 1), jnp.nan)


@jax.jit
def frozen_features(policy: DecoderPolicy, record: SceneRecord) -> Float[Array, "A T D"]:
    """Features of all agents after the last layer, at the begin of each token; for critics and classifiers.

    Args:
      policy: The decoder.
      record: One record.
    """
    inputs, _ = scene_tracks(policy.vocabulary, record, policy.model.config.tokens)
    return policy.network.encode(inputs)
