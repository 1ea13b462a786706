"""PPO by self-play of all controlled agents, optionally anchored to a behavior-cloned policy.

Sources: proximal policy optimization (Schulman et al. 2017); regularization towards human behavior by a
Kullback-Leibler term (Cornelisse and Vinitsky 2024). A training step collects decisions of all environments and fits
the network to them, in one compiled program.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Float, Int, Key

from behavior_models.networks.heads import Categorical, kl_divergence
from behavior_models.networks.model import ActorCriticModel
from behavior_models.networks.policy import action_distribution
from behavior_models.networks.scene_encoder import NetworkConfig
from behavior_models.training.advantages import generalized_advantages
from behavior_models.training.collect import Decisions, Environments, collect, episode_scalars, reset_environments
from behavior_models.training.devices import distribute, replicate
from waymax_sim.adapters.functional import FunctionalEnv
from waymax_sim.dynamics import Discrete
from waymax_sim.env import Policies
from waymax_sim.env.bank import ScenarioBank
from waymax_sim.pytree import Array, pytree


@dataclasses.dataclass(frozen=True)
class PPOConfig:
    """Hyperparameters.

    Attributes:
      num_updates: Training steps, over which the learning rate falls.
      num_envs: Environments E.
      num_decisions: Decisions of each environment per training step.
      capacity: Transitions that a training step learns from; further ones are discarded.
      minibatch: Transitions per gradient step; a divisor of `capacity`.
      num_epochs: Passes over the transitions.
      discount: Discount factor per decision.
      decay: Lambda of the advantage estimates.
      clip: Largest change of the probability ratio.
      entropy_weight: Weight of the entropy bonus.
      value_weight: Weight of the squared error of the value.
      anchor_weight: Weight of KL(anchor || policy); 0 without an anchor.
      learning_rate: Initial learning rate of Adam.
      final_learning_rate: Learning rate of the last step, as a share of the first.
      max_gradient_norm: Larger gradients are scaled down.
    """

    num_updates: int = 200
    num_envs: int = 32
    num_decisions: int = 40
    capacity: int = 5120
    minibatch: int = 640
    num_epochs: int = 3
    discount: float = 0.985
    decay: float = 0.95
    clip: float = 0.2
    entropy_weight: float = 0.01
    value_weight: float = 0.5
    anchor_weight: float = 0.0
    learning_rate: float = 1e-3
    final_learning_rate: float = 0.05
    max_gradient_norm: float = 0.5

    def __post_init__(self):
        if self.capacity % self.minibatch:
            raise ValueError(f"capacity={self.capacity} is no multiple of minibatch={self.minibatch}")
        if self.anchor_weight < 0:
            raise ValueError(f"anchor_weight={self.anchor_weight} must not be negative")


@pytree
class PPOState:
    """The state of training.

    Attributes:
      params: Parameters of the network.
      optimizer: State of the optimizer.
      environments: The environments.
      key: Random key of the following training steps.
      step: Number of training steps done.
    """

    params: Any
    optimizer: Any
    environments: Environments
    key: Key[Array, ""]
    step: Int[Array, ""]


@pytree
class Batch:
    """Transitions of controlled agents, [B]; `weight` is 0 for padding.

    Attributes:
      observation: Encoded observations.
      action: Actions.
      log_prob: Logarithm of their probability when they were chosen.
      advantage: Advantage estimates, normalized.
      target: Targets of the value.
      weight: 1 for a transition, 0 for padding.
    """

    observation: Float[Array, "B D"]
    action: Array
    log_prob: Float[Array, " B"]
    advantage: Float[Array, " B"]
    target: Float[Array, " B"]
    weight: Float[Array, " B"]


@dataclasses.dataclass(frozen=True)
class PPO:
    """The algorithm for an environment. Hashable: equal instances share programs.

    Attributes:
      env: The environment and the encoder of its observations.
      config: Hyperparameters.
      network: Size of the network.
      anchor: Structure of the network of the anchor; None without one.
      mesh: Devices that share environments and minibatches; None for one device.
    """

    env: FunctionalEnv
    config: PPOConfig = PPOConfig()
    network: NetworkConfig = NetworkConfig()
    anchor: nnx.GraphDef | None = None
    mesh: Mesh | None = None

    def init(self, bank: ScenarioBank, key: Key[Array, ""], traffic: Policies = None) -> PPOState:
        """The state before the first training step.

        Args:
          bank: The scenarios.
          key: Random key.
          traffic: Policies of agents that are not controlled.
        """
        params_key, env_key, key = jax.random.split(key, 3)
        params = self.model.init(params_key)
        environments = reset_environments(self.env, bank, env_key, self.config.num_envs, traffic)
        return PPOState(params, self._optimizer.init(params), environments, key, jnp.zeros((), jnp.int32))

    def train_step(
        self, state: PPOState, bank: ScenarioBank, traffic: Policies = None, anchor_params: Any = None
    ) -> tuple[PPOState, dict[str, Float[Array, ""]]]:
        """Collects decisions and fits the network to them.

        Args:
          state: The state.
          bank: The scenarios.
          traffic: Policies of agents that are not controlled.
          anchor_params: Parameters of the anchor.

        Returns:
          The next state, and scalars of the step: rates of ended episodes, return, losses.
        """
        environments, decisions, batch = self.sample(state, bank, traffic)
        key, _, fit_key = jax.random.split(state.key, 3)
        params, optimizer, losses = self._fit(state.params, state.optimizer, batch, fit_key, anchor_params)
        scalars = {**episode_scalars(decisions), **losses}
        shared = replicate((params, optimizer, key, state.step + 1), self.mesh)
        params, optimizer, key, step = shared
        return PPOState(params, optimizer, distribute(environments, self.mesh), key, step), scalars

    def sample(
        self, state: PPOState, bank: ScenarioBank, traffic: Policies = None
    ) -> tuple[Environments, Decisions, Batch]:
        """The decisions of a training step, and the transitions that it learns from.

        Args:
          state: The state.
          bank: The scenarios.
          traffic: Policies of agents that are not controlled.

        Returns:
          The environments after the decisions, the decisions, and the transitions.
        """
        actor, collect_key = self.model.actor(state.params), jax.random.split(state.key, 3)[1]
        environments, decisions = collect(
            self.env, actor, bank, state.environments, collect_key, self.config.num_decisions, traffic, self.mesh
        )
        last_value = nnx.merge(self.model.graph, state.params)(environments.observation)[1]
        return environments, decisions, replicate(self._batch(decisions, last_value), self.mesh)

    @property
    def model(self) -> ActorCriticModel:
        """The network."""
        return ActorCriticModel.from_env(self.env, self.network)

    @property
    def _optimizer(self) -> optax.GradientTransformation:
        config = self.config
        steps = config.num_updates * config.num_epochs * (config.capacity // config.minibatch)
        rate = optax.linear_schedule(config.learning_rate, config.final_learning_rate * config.learning_rate, steps)
        return optax.chain(optax.clip_by_global_norm(config.max_gradient_norm), optax.adam(rate, eps=1e-5))

    def _batch(self, decisions: Decisions, last_value: Float[Array, "E K"]) -> Batch:
        """The first `capacity` transitions of agents that acted."""
        config = self.config
        result, (log_prob, value), last_value = replicate((decisions.result, decisions.extra, last_value), self.mesh)
        ended = result.terminated | result.truncated
        advantage = generalized_advantages(
            value, result.reward, ended, last_value, config.discount, config.decay, result.active
        )
        num_rows = result.active.size
        rows = jnp.nonzero(result.active.reshape(-1), size=config.capacity, fill_value=num_rows)[0]
        weight = (rows < num_rows).astype(jnp.float32)

        def select(values: Array) -> Array:
            return values.reshape(num_rows, *values.shape[3:]).at[rows].get(mode="clip")

        chosen = select(advantage)
        mean = jnp.sum(weight * chosen) / jnp.maximum(jnp.sum(weight), 1.0)
        variance = jnp.sum(weight * (chosen - mean) ** 2) / jnp.maximum(jnp.sum(weight), 1.0)
        return Batch(
            observation=select(decisions.observation),
            action=select(decisions.action),
            log_prob=select(log_prob),
            advantage=(chosen - mean) / jnp.sqrt(variance + 1e-8),
            target=select(advantage + value),
            weight=weight,
        )

    def _fit(self, params: Any, optimizer: Any, batch: Batch, key: Key[Array, ""], anchor_params: Any):
        """Epochs of gradient steps on shuffled minibatches."""
        config, reference = self.config, None
        if config.anchor_weight:
            assert self.anchor is not None, "an anchor weight needs the structure of an anchor"
            outputs, _ = nnx.merge(self.anchor, anchor_params)(batch.observation)
            reference = jax.lax.stop_gradient(outputs)

        def gradient_step(carry: tuple[Any, Any], rows: Int[Array, " M"]):
            params, optimizer = carry
            rows = distribute(rows, self.mesh)
            part, anchored = distribute(jax.tree.map(lambda leaf: leaf[rows], (batch, reference)), self.mesh)
            (_, losses), gradient = jax.value_and_grad(self.loss, has_aux=True)(params, part, anchored)
            change, optimizer = self._optimizer.update(gradient, optimizer, params)
            return (optax.apply_updates(params, change), optimizer), losses

        keys = jax.random.split(key, config.num_epochs)
        order = jnp.concatenate([jax.random.permutation(key, config.capacity) for key in keys])
        (params, optimizer), losses = jax.lax.scan(
            gradient_step, (params, optimizer), order.reshape(-1, config.minibatch)
        )
        return params, optimizer, jax.tree.map(jnp.mean, losses)

    def loss(
        self, params: Any, batch: Batch, anchor_outputs: Float[Array, "B L"] | None = None
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """The clipped objective of a minibatch, and its parts.

        Args:
          params: Parameters of the network.
          batch: Transitions.
          anchor_outputs: Outputs of the anchor for the same observations.
        """
        config = self.config
        outputs, value = nnx.merge(self.model.graph, params)(batch.observation)
        actions = action_distribution(self.env.env.dynamics, outputs, self.network.head)
        ratio = jnp.exp(actions.log_prob(batch.action) - batch.log_prob)
        clipped = jnp.clip(ratio, 1.0 - config.clip, 1.0 + config.clip)
        total = jnp.maximum(jnp.sum(batch.weight), 1.0)

        def mean(values: Float[Array, " B"]) -> Float[Array, ""]:
            # Values of padding are finite, but arbitrary.
            return jnp.sum(jnp.where(batch.weight > 0, values, 0.0)) / total

        parts = {
            "policy_loss": -mean(jnp.minimum(ratio * batch.advantage, clipped * batch.advantage)),
            "value_loss": mean((value - batch.target) ** 2),
            "entropy": mean(actions.entropy()),
        }
        loss = parts["policy_loss"] + config.value_weight * parts["value_loss"]
        loss = loss - config.entropy_weight * parts["entropy"]
        if anchor_outputs is not None:
            assert isinstance(actions, Categorical) and isinstance(self.env.env.dynamics, Discrete)
            parts["anchor_kl"] = mean(kl_divergence(Categorical(anchor_outputs), Categorical(outputs)))
            loss = loss + config.anchor_weight * parts["anchor_kl"]
        return loss, parts | {"loss": loss}
