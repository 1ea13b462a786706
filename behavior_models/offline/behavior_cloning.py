"""Behavior cloning of logged transitions of several tasks, with the networks of Scaled Q-learning."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float, Key

from behavior_models.networks.multi_task_q import MultiTaskQModel
from behavior_models.offline.transitions import Decoder, OfflineSample, Transitions, find_starts, sample
from waymax_sim.pytree import Array, pytree


@dataclasses.dataclass(frozen=True)
class LoggedCloningConfig:
    """Hyperparameters.

    Attributes:
      num_updates: Training steps.
      num_gradient_steps: Gradient steps per training step.
      minibatch: Transitions per gradient step.
      learning_rate: Learning rate of Adam.
    """

    num_updates: int = 40
    num_gradient_steps: int = 250
    minibatch: int = 128
    learning_rate: float = 3e-4


@pytree
class LoggedCloningState:
    """The state of training.

    Attributes:
      params: Parameters of the network.
      optimizer: State of the optimizer.
      key: Random key of the following training steps.
    """

    params: Any
    optimizer: Any
    key: Key[Array, ""]


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

    def init(self, key: Key[Array, ""], params: Any = None) -> LoggedCloningState:
        """The state before the first training step; random parameters unless some are given."""
        params_key, key = jax.random.split(key)
        params = self.model.init(params_key) if params is None else params
        return LoggedCloningState(params, self._optimizer.init(params), key)

    def train_step(
        self, state: LoggedCloningState, data: Transitions
    ) -> tuple[LoggedCloningState, dict[str, Float[Array, ""]]]:
        """Gradient steps on random transitions; the mean cross entropy and accuracy.

        Args:
          state: The state.
          data: Logged transitions.
        """
        key, step_key = jax.random.split(state.key)
        starts = find_starts(data, 1, "terminal")

        def gradient_step(carry: tuple[Any, Any], key: Key[Array, ""]):
            params, optimizer = carry
            size, decode = self.config.minibatch, self.decode
            batch = sample(data, key, size, starts=starts, balanced=True, time_limit="terminal", decode=decode)
            (_, scalars), gradient = jax.value_and_grad(self.loss, has_aux=True)(params, batch)
            change, optimizer = self._optimizer.update(gradient, optimizer, params)
            return (optax.apply_updates(params, change), optimizer), scalars

        keys = jax.random.split(step_key, self.config.num_gradient_steps)
        (params, optimizer), scalars = jax.lax.scan(gradient_step, (state.params, state.optimizer), keys)
        return LoggedCloningState(params, optimizer, key), jax.tree.map(jnp.mean, scalars)

    def loss(self, params: Any, batch: OfflineSample) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Mean cross entropy of the logged actions, nats, and scalars to log."""
        network = self.model.network(params)
        logits = network.task_values(batch.observation, batch.task)
        loss = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, batch.action))
        accuracy = jnp.mean((jnp.argmax(logits, axis=-1) == batch.action).astype(jnp.float32))
        return loss, {"loss": loss, "accuracy": accuracy}

    @property
    def _optimizer(self) -> optax.GradientTransformation:
        return optax.adam(self.config.learning_rate)
