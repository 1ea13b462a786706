"""Training of decoders of modalities: next motion tokens with dropout of modalities, and distillation."""

import dataclasses
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Bool, Float, Key

from behavior_models.scene_decoder.distillation import DistillationConfig, distillation_loss, token_loss
from behavior_models.scene_decoder.modality_decoder import ModalityModel
from behavior_models.scene_decoder.modality_tokens import MODALITIES, SceneTokens
from behavior_models.training.gradient_steps import CloningState, take_gradient_steps
from waymax_sim.pytree import Array, pytree, tree_index


@dataclasses.dataclass(frozen=True)
class ModalityTrainingConfig:
    """Hyperparameters.

    Attributes:
      num_updates: Training steps.
      num_gradient_steps: Gradient steps per training step.
      minibatch: Drives per gradient step.
      learning_rate: Largest learning rate of AdamW, which rises linearly and falls as a cosine.
      warmup: Share of the gradient steps with a rising learning rate.
      weight_decay: Decay of the parameters per unit of the learning rate.
      max_gradient_norm: Larger gradients are scaled down.
      dropout: Probability that a modality is absent from a drive, for each of them.
      removed: Modalities that are absent from all drives.
    """

    num_updates: int = 12
    num_gradient_steps: int = 100
    minibatch: int = 32
    learning_rate: float = 3e-3
    warmup: float = 0.1
    weight_decay: float = 0.01
    max_gradient_norm: float = 1.0
    dropout: float = 0.15
    removed: tuple[str, ...] = ()


@pytree
class ModalityBatch:
    """Drives and the modalities that the decoder observes.

    Attributes:
      tokens: Contents of the tokens.
      present: Modalities.
    """

    tokens: SceneTokens
    present: Bool[Array, "B 5"]


@pytree
class Teacher:
    """A trained decoder.

    Attributes:
      params: Its parameters.
    """

    params: Any


@dataclasses.dataclass(frozen=True)
class ModalityTraining:
    """The algorithm. Hashable: equal instances share programs.

    Attributes:
      model: The decoder.
      config: Hyperparameters.
      teacher: Decoder whose distribution is learned, too; its parameters are part of the data.
      distillation: Weights of labels and teacher.
    """

    model: ModalityModel
    config: ModalityTrainingConfig = ModalityTrainingConfig()
    teacher: ModalityModel | None = None
    distillation: DistillationConfig = DistillationConfig()

    def init(self, key: Key[Array, ""]) -> CloningState:
        """The state before the first training step."""
        params_key, key = jax.random.split(key)
        params = self.model.init(params_key)
        return CloningState(params, self._optimizer.init(params), key)

    def train_step(
        self, state: CloningState, data: SceneTokens, teacher: Teacher | None = None
    ) -> tuple[CloningState, dict[str, Float[Array, ""]]]:
        """Gradient steps on random drives, and the means of the scalars.

        Args:
          state: The state.
          data: Drives, [E, ...].
          teacher: Parameters of the teacher.
        """

        def loss(params: Any, batch: ModalityBatch) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
            return self.loss(params, batch, teacher)

        def draw(key: Key[Array, ""]) -> ModalityBatch:
            return self.draw(data, key)

        return take_gradient_steps(state, draw, loss, self._optimizer, self.config.num_gradient_steps)

    def draw(self, data: SceneTokens, key: Key[Array, ""]) -> ModalityBatch:
        """Random drives with random absent modalities."""
        row_key, drop_key = jax.random.split(key)
        count = self.config.minibatch
        rows = jax.random.randint(row_key, (count,), 0, data.label.shape[0])
        removed = jnp.asarray([name in self.config.removed for name in MODALITIES])
        absent = jax.random.bernoulli(drop_key, self.config.dropout, (count, len(MODALITIES))) | removed[None]
        return ModalityBatch(tree_index(data, rows), ~absent)

    def loss(
        self, params: Any, batch: ModalityBatch, teacher: Teacher | None = None
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Mean cross entropy of the motion tokens, with the divergence from the teacher if there is one, nats.

        Args:
          params: Parameters.
          batch: Drives.
          teacher: Parameters of the teacher.
        """
        logits = self.model.network(params)(batch.tokens, batch.present)
        entropy = token_loss(logits, batch.tokens.label)
        if self.teacher is None or teacher is None:
            return entropy, {"loss": entropy, "cross_entropy": entropy}
        target = self.teacher.network(teacher.params)(batch.tokens, batch.present)
        loss = distillation_loss(logits, target, batch.tokens.label, None, self.distillation)
        return loss, {"loss": loss, "cross_entropy": entropy}

    @property
    def _optimizer(self) -> optax.GradientTransformation:
        config = self.config
        steps = config.num_updates * config.num_gradient_steps
        warmup = max(1, round(config.warmup * steps))
        rate = optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, warmup, steps, 0.01 * config.learning_rate)
        clip = optax.clip_by_global_norm(config.max_gradient_norm)
        return optax.chain(clip, optax.adamw(rate, b2=0.95, weight_decay=config.weight_decay))


def permute_lights(data: SceneTokens, key: Key[Array, ""]) -> SceneTokens:
    """The drives with the lights of other drives: a control, since these lights inform about nothing."""
    order = jax.random.permutation(key, data.lights.shape[0])
    return dataclasses.replace(data, lights=jnp.asarray(data.lights)[order])


def parameter_checksum(params: Any) -> int:
    """A number of 32 bits that depends on all bits of the parameters, by order, on the host (CRC-32)."""
    checksum = 0
    for leaf in jax.tree.leaves(params):
        checksum = zlib.crc32(np.ascontiguousarray(leaf).tobytes(), checksum)
    return checksum
