"""Training of the scene decoder by cross entropy of the next motion tokens of recorded tracks."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Int, Key

from behavior_models.scene_decoder.decoder import AgentTokens, DecoderModel, class_mask
from behavior_models.scene_decoder.modalities import Modalities
from behavior_models.scene_decoder.tracks import Tracks
from waymax_sim.pytree import Array, pytree, tree_index

# Tracks that are evaluated together.
EVALUATION_BATCH = 256


@dataclasses.dataclass(frozen=True)
class DecoderTrainingConfig:
    """Hyperparameters.

    Attributes:
      num_steps: Training steps, each of several gradient steps.
      num_updates: Gradient steps of a training step.
      minibatch: Tracks per gradient step.
      learning_rate: Largest learning rate; it rises linearly from 0, then falls by a cosine.
      warmup: Gradient steps of the rise.
      final_share: Last learning rate relative to the largest one.
      weight_decay: Of AdamW, for matrices alone.
      decay: Decay of the second moments of AdamW.
      max_gradient_norm: Larger gradients are scaled down.
      label_smoothing: Share of the probability of a label that is spread over all tokens of its class.
      modality_dropout: Probability of the removal of a modality of a track.
    """

    num_steps: int = 300
    num_updates: int = 10
    minibatch: int = 128
    learning_rate: float = 2e-3
    warmup: int = 50
    final_share: float = 0.02
    weight_decay: float = 0.05
    decay: float = 0.98
    max_gradient_norm: float = 1.0
    label_smoothing: float = 0.0
    modality_dropout: float = 0.15


@pytree
class DecoderState:
    """The state of training.

    Attributes:
      params: Parameters of the network.
      optimizer: State of the optimizer.
      key: Random key of the following steps.
      step: Number of training steps done.
    """

    params: Any
    optimizer: Any
    key: Key[Array, ""]
    step: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class DecoderTraining:
    """The algorithm. Hashable: equal instances share programs.

    Attributes:
      model: The network.
      config: Hyperparameters.
    """

    model: DecoderModel
    config: DecoderTrainingConfig = DecoderTrainingConfig()

    def init(self, key: Key[Array, ""], params: Any = None) -> DecoderState:
        """The state before the first step.

        Args:
          key: Random key.
          params: Initial parameters; random by default.
        """
        params_key, key = jax.random.split(key)
        params = self.model.init(params_key) if params is None else params
        return DecoderState(params, self.optimizer.init(params), key, jnp.zeros((), jnp.int32))

    def train_step(self, state: DecoderState, data: Tracks) -> tuple[DecoderState, dict[str, Float[Array, ""]]]:
        """Gradient steps on random tracks.

        Args:
          state: The state.
          data: The tracks, on the device.
        """
        key, own = jax.random.split(state.key)

        def update(carry: tuple[Any, Any], key: Key[Array, ""]):
            rows_key, loss_key = jax.random.split(key)
            rows = jax.random.randint(rows_key, (self.config.minibatch,), 0, len(data))
            part = tree_index(data, rows)
            return self.gradient_step(*carry, part, loss_key)

        keys = jax.random.split(own, self.config.num_updates)
        (params, optimizer), loss = jax.lax.scan(update, (state.params, state.optimizer), keys)
        return DecoderState(params, optimizer, key, state.step + 1), {"loss": jnp.mean(loss)}

    def gradient_step(
        self, params: Any, optimizer: Any, tracks: Tracks, key: Key[Array, ""]
    ) -> tuple[tuple[Any, Any], Float[Array, ""]]:
        """Parameters and optimizer after a gradient step, and the loss before it.

        Args:
          params: Parameters.
          optimizer: State of the optimizer.
          tracks: A minibatch.
          key: Random key of the removed modalities.
        """
        loss, gradient = jax.value_and_grad(self.loss)(params, tracks, key)
        change, optimizer = self.optimizer.update(gradient, optimizer, params)
        return (optax.apply_updates(params, change), optimizer), loss

    def loss(self, params: Any, tracks: Tracks, key: Key[Array, ""] | None) -> Float[Array, ""]:
        """Mean cross entropy of the next tokens, nats.

        Args:
          params: Parameters.
          tracks: Tracks.
          key: Random key of the removed modalities; None to remove none.
        """
        modalities = None
        if key is not None and self.config.modality_dropout > 0:
            modalities = Modalities.draw(key, self.config.modality_dropout, (len(tracks),))
        log_probs = self.model.log_probs(params, tracks.inputs, modalities)
        loss = -token_log_probs(log_probs, tracks.target)
        if self.config.label_smoothing:
            uniform = -_mean_log_prob(log_probs, tracks.inputs, self.model.config.sizes)
            loss = (1 - self.config.label_smoothing) * loss + self.config.label_smoothing * uniform
        mask = (tracks.target >= 0).astype(loss.dtype)
        return jnp.sum(loss * mask) / jnp.maximum(jnp.sum(mask), 1.0)

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """AdamW with clipped gradients."""
        config = self.config
        total = config.num_steps * config.num_updates
        schedule = optax.warmup_cosine_decay_schedule(
            0.0,
            config.learning_rate,
            min(config.warmup, total // 2),
            total,
            config.learning_rate * config.final_share,
        )
        decayed = jax.tree.map(lambda leaf: leaf.ndim > 1, self.model.shapes)
        adam = optax.adamw(schedule, b2=config.decay, weight_decay=config.weight_decay, mask=decayed)
        return optax.chain(optax.clip_by_global_norm(config.max_gradient_norm), adam)


def token_log_probs(log_probs: Float[Array, "*lead V"], target: Int[Array, "*lead"]) -> Float[Array, "*lead"]:
    """Logarithms of the probabilities of tokens; undefined where the token is -1.

    Args:
      log_probs: Logarithms of the probabilities of all tokens.
      target: Tokens.
    """
    return jnp.take_along_axis(log_probs, jnp.maximum(target, 0)[..., None], axis=-1)[..., 0]


def track_nll(
    model: DecoderModel, params: Any, tracks: Tracks, without: tuple[str, ...] = ()
) -> Float[np.ndarray, "R T"]:
    """Negative log-likelihoods of the next tokens, nats; NaN where none is recorded.

    Args:
      model: The network.
      params: Its parameters.
      tracks: Tracks, on the host.
      without: Names of modalities that are removed.
    """
    parts, size = [], EVALUATION_BATCH
    for begin in range(0, len(tracks), size):
        rows = np.minimum(np.arange(begin, begin + size), len(tracks) - 1)
        part = tree_index(tracks, rows)
        modalities = Modalities.select(*without, lead=(size,))
        nll = _batch_nll(model, params, part.inputs, part.target, modalities)
        parts.append(np.asarray(nll)[: len(tracks) - begin])
    return np.where(tracks.target >= 0, np.concatenate(parts), np.nan)


def mean_nll(nll: Float[np.ndarray, "R T"], mask: np.ndarray | None = None) -> float:
    """Mean over tokens that are recorded; NaN without any.

    Args:
      nll: From `track_nll`.
      mask: Tracks that count; all by default.
    """
    values = nll if mask is None else nll[mask]
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else float("nan")


@functools.partial(jax.jit, static_argnums=0)
def _batch_nll(
    model: DecoderModel, params: Any, inputs: AgentTokens, target: Int[Array, "R T"], modalities: Modalities
) -> Float[Array, "R T"]:
    return -token_log_probs(model.log_probs(params, inputs, modalities), target)


def _mean_log_prob(
    log_probs: Float[Array, "R T V"], inputs: AgentTokens, sizes: tuple[int, ...]
) -> Float[Array, "R T"]:
    """Mean logarithm of the probabilities of all tokens of the class of each agent."""
    mask = class_mask(sizes, inputs.classes)
    return jnp.sum(jnp.where(mask, log_probs, 0.0), axis=-1) / jnp.sum(mask, axis=-1)
