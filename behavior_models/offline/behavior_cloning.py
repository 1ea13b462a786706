"""Behavior cloning of logged transitions of several tasks, with the networks of Scaled Q-learning."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float, Key

from behavior_models.networks.multi_task_q import MultiTaskQModel
from behavior_models.offline.transitions import Decoder, OfflineSample, Transitions, find_starts, sample
from behavior_models.training.gradient_steps import CloningState, take_gradient_steps
from waymax_sim.pytree import Array


@dataclasses.dataclass(frozen=True)
class LoggedCloningConfig:
    """Hyperparameters.

    Attributes:
      num_updates: Training steps.
      num_gradient_steps: Gradient steps per training step.
      minibatch: Transitions per gradient step.
      learning_rate: Learning rate of Adam.
      final_rate: Share of it at the last gradient step, reached linearly.
    """

    num_updates: int = 40
    num_gradient_steps: int = 250
    minibatch: int = 128
    learning_rate: float = 3e-4
    final_rate: float = 1.0


def decaying_rate(initial: float, final_share: float, num_steps: int) -> optax.ScalarOrSchedule:
    """The learning rate of each gradient step, linear in their number.

    Args:
      initial: Rate of the first step.
      final_share: Share of it after the last step; 1 for a constant rate.
      num_steps: Number of gradient steps.
    """
    return initial if final_share == 1.0 else optax.linear_schedule(initial, final_share * initial, num_steps)


@dataclasses.dataclass(frozen=True)
class LoggedCloning:
    """The algorithm. Hashable: equal instances share programs.

    Attributes:
      model: A network without distributions: its outputs are the logits of the actions.
      config: Hyperparameters.
      decode: Decoder of stored observations.
    """

    model: MultiTaskQModel
    config: LoggedCloningConfig = LoggedCloningConfig()
    decode: Decoder | None = None

    def __post_init__(self):
        if self.model.is_distributional:
            raise ValueError("cloning needs one output per action: is_distributional=False")

    def init(self, key: Key[Array, ""], params: Any = None) -> CloningState:
        """The state before the first training step; random parameters unless some are given."""
        params_key, key = jax.random.split(key)
        params = self.model.init(params_key) if params is None else params
        return CloningState(params, self._optimizer.init(params), key)

    def train_step(self, state: CloningState, data: Transitions) -> tuple[CloningState, dict[str, Float[Array, ""]]]:
        """Gradient steps on random transitions; the mean cross entropy and accuracy.

        Args:
          state: The state.
          data: Logged transitions.
        """
        starts = find_starts(data, 1, "terminal")

        def draw(key: Key[Array, ""]) -> OfflineSample:
            size, decode = self.config.minibatch, self.decode
            return sample(data, key, size, starts=starts, balanced=True, time_limit="terminal", decode=decode)

        return take_gradient_steps(state, draw, self.loss, self._optimizer, self.config.num_gradient_steps)

    def loss(self, params: Any, batch: OfflineSample) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Mean cross entropy of the logged actions, nats, and scalars to log."""
        network = self.model.network(params)
        logits = network.task_values(batch.observation, batch.task)
        loss = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, batch.action))
        accuracy = jnp.mean((jnp.argmax(logits, axis=-1) == batch.action).astype(jnp.float32))
        return loss, {"loss": loss, "accuracy": accuracy}

    @property
    def _optimizer(self) -> optax.GradientTransformation:
        config = self.config
        num_steps = config.num_updates * config.num_gradient_steps
        return optax.adam(decaying_rate(config.learning_rate, config.final_rate, num_steps))
