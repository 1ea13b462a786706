"""Behavior cloning: a network fitted to the actions that lead back to the log.

Discrete actions are fitted by cross entropy, to soft labels (the two levels next to the action of the expert in each
component) or to the nearest action. Continuous actions are fitted by maximum likelihood, of a squashed Gaussian or of a
mixture of Gaussians (Waymax, Gulino et al. 2023).
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float, Int, Key

from behavior_models.imitation.demonstrations import Demonstrations
from behavior_models.networks.heads import Categorical
from behavior_models.networks.model import ActorCriticModel
from behavior_models.networks.scene_encoder import NetworkConfig
from waymax_sim.adapters.functional import FunctionalEnv
from waymax_sim.dynamics import Discrete
from waymax_sim.pytree import Array, pytree


@dataclasses.dataclass(frozen=True)
class BCConfig:
    """Hyperparameters.

    Attributes:
      labels: Labels of discrete actions: "soft" ones keep the mean of the expert's action; "hard" ones are the
        nearest action.
      num_epochs: Passes over the demonstrations.
      minibatch: Transitions per gradient step.
      learning_rate: Initial learning rate; it falls to 0 by a cosine.
      weight_decay: Of AdamW.
      max_gradient_norm: Larger gradients are scaled down.
    """

    labels: Literal["soft", "hard"] = "soft"
    num_epochs: int = 16
    minibatch: int = 512
    learning_rate: float = 1e-3
    weight_decay: float = 1e-3
    max_gradient_norm: float = 1.0


@pytree
class BCState:
    """The state of training.

    Attributes:
      params: Parameters of the network.
      optimizer: State of the optimizer.
      key: Random key of the following epochs.
      step: Number of epochs done.
    """

    params: Any
    optimizer: Any
    key: Key[Array, ""]
    step: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class BehaviorCloning:
    """The algorithm for an environment. Hashable: equal instances share programs.

    Attributes:
      env: The environment that the policy is made for.
      num_demonstrations: Number of transitions, which determines the schedule of the learning rate.
      config: Hyperparameters.
      network: Size of the network.
    """

    env: FunctionalEnv
    num_demonstrations: int
    config: BCConfig = BCConfig()
    network: NetworkConfig = NetworkConfig()

    def init(self, key: Key[Array, ""]) -> BCState:
        """The state before the first epoch."""
        params_key, key = jax.random.split(key)
        params = self.model.init(params_key)
        return BCState(params, self._optimizer.init(params), key, jnp.zeros((), jnp.int32))

    def train_step(self, state: BCState, data: Demonstrations) -> tuple[BCState, dict[str, Float[Array, ""]]]:
        """One epoch in random order; the remainder of the last minibatch is left out.

        Args:
          state: The state.
          data: The demonstrations, on the device.
        """
        key, order_key = jax.random.split(state.key)
        order = jax.random.permutation(order_key, self.num_demonstrations)
        order = order[: self._steps_per_epoch * self.config.minibatch].reshape(-1, self.config.minibatch)

        def gradient_step(carry: tuple[Any, Any], rows: Int[Array, " M"]):
            params, optimizer = carry
            part = jax.tree.map(lambda leaf: leaf[rows], data)
            loss, gradient = jax.value_and_grad(self.loss)(params, part)
            change, optimizer = self._optimizer.update(gradient, optimizer, params)
            return (optax.apply_updates(params, change), optimizer), loss

        (params, optimizer), losses = jax.lax.scan(gradient_step, (state.params, state.optimizer), order)
        return BCState(params, optimizer, key, state.step + 1), {"loss": jnp.mean(losses)}

    def loss(self, params: Any, data: Demonstrations) -> Float[Array, ""]:
        """Mean cross entropy of the labels, or negative log-likelihood of the actions of the expert, nats.

        Args:
          params: Parameters of the network.
          data: Demonstrations.
        """
        actions = self.model.distribution(params, data.observation.astype(jnp.float32))
        if not isinstance(actions, Categorical):
            return -jnp.mean(actions.log_prob(data.value))
        label = data.label
        if self.config.labels == "hard":
            label = jax.nn.one_hot(self._dynamics.encode(data.value)[:, 0], self._dynamics.num_actions)
        return jnp.mean(-jnp.sum(label * actions.log_probs, axis=-1))

    def accuracy(self, params: Any, data: Demonstrations) -> Float[Array, ""]:
        """Share of demonstrations whose nearest discrete action is the most likely one.

        Args:
          params: Parameters of the network.
          data: Demonstrations.
        """
        actions = self.model.distribution(params, data.observation.astype(jnp.float32))
        return jnp.mean((actions.mode() == self._dynamics.encode(data.value)).astype(jnp.float32))

    @property
    def model(self) -> ActorCriticModel:
        """The network."""
        return ActorCriticModel.from_env(self.env, self.network)

    @property
    def _dynamics(self) -> Discrete:
        dynamics = self.env.env.dynamics
        assert isinstance(dynamics, Discrete), "categorical actions have discrete dynamics"
        return dynamics

    @property
    def _steps_per_epoch(self) -> int:
        return max(self.num_demonstrations // self.config.minibatch, 1)

    @property
    def _optimizer(self) -> optax.GradientTransformation:
        config = self.config
        schedule = optax.cosine_decay_schedule(config.learning_rate, config.num_epochs * self._steps_per_epoch)
        clip = optax.clip_by_global_norm(config.max_gradient_norm)
        return optax.chain(clip, optax.adamw(schedule, weight_decay=config.weight_decay))
