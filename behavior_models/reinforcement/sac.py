"""Soft actor-critic by self-play of all controlled agents.

Source: Haarnoja et al. 2018 ("Soft Actor-Critic Algorithms and Applications"): a squashed Gaussian actor, two critics
with averaged targets, and a temperature that is fixed or adapted to a target entropy. Actor and critics have encoders
of their own. A training step collects decisions of all environments into a replay buffer and takes gradient steps on
samples of it, in one compiled program.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float, Int, Key

from behavior_models.networks.action_value import ActionValueModel
from behavior_models.networks.heads import TanhGaussian
from behavior_models.networks.model import ActorCriticModel
from behavior_models.networks.scene_encoder import NetworkConfig
from behavior_models.offline.diagnostics import feature_scalars
from behavior_models.offline.dr3 import dr3
from behavior_models.training.collect import Decisions, Environments, collect, episode_scalars, reset_environments
from behavior_models.training.off_policy import OffPolicyState
from behavior_models.training.replay_buffer import ReplayBuffer, ReplayRows, ReplaySample, ReplayState
from waymax_sim.adapters.functional import FunctionalEnv
from waymax_sim.env import Policies
from waymax_sim.env.bank import ScenarioBank
from waymax_sim.pytree import Array, pytree

Scalars = dict[str, Float[Array, ""]]


@dataclasses.dataclass(frozen=True)
class SACConfig:
    """Hyperparameters.

    Attributes:
      num_updates: Training steps.
      num_envs: Environments E.
      num_decisions: Decisions of each environment per training step.
      num_rows: Decisions of each environment in the replay buffer.
      num_steps: Decisions of a multi-step return; 1 in the source.
      num_gradient_steps: Gradient steps per training step.
      actor_delay: First training steps, in which the critics learn alone: random ones would mislead a cloned actor.
      batch: Transitions per gradient step.
      discount: Discount factor per decision.
      temperature: Weight of the entropy in units of the reward, the initial one if it is adapted. The entropy of an
        episode should be small next to its reward.
      target_entropy: Entropy to which the temperature is adapted, nats; None for a fixed temperature.
      target_rate: Share of the critics in the averaged targets per gradient step.
      learning_rate: Initial learning rate of Adam.
      final_learning_rate: Learning rate of the last step, as a share of the first.
      max_gradient_norm: Larger gradients are scaled down.
      dr3_weight: Weight of the dot product of consecutive features of the critics (`offline.dr3`).
    """

    num_updates: int = 300
    num_envs: int = 32
    num_decisions: int = 8
    num_rows: int = 200
    num_steps: int = 3
    num_gradient_steps: int = 16
    actor_delay: int = 10
    batch: int = 256
    discount: float = 0.985
    temperature: float = 0.01
    target_entropy: float | None = None
    target_rate: float = 0.01
    learning_rate: float = 5e-4
    final_learning_rate: float = 0.1
    max_gradient_norm: float = 1.0
    dr3_weight: float = 0.0


@pytree
class SACLearner:
    """Everything that gradient steps change.

    Attributes:
      actor: Parameters of the actor.
      critics: Parameters of both critics.
      targets: Averaged parameters of both critics.
      log_temperature: Logarithm of the temperature.
      value_scale: Running mean of the magnitude of action values, for terms that others add to the loss of the actor.
      optimizers: States of the optimizers of actor, critics and temperature.
    """

    actor: Any
    critics: tuple[Any, ...]
    targets: tuple[Any, ...]
    log_temperature: Float[Array, ""]
    value_scale: Float[Array, ""]
    optimizers: tuple[Any, Any, Any]

    @property
    def params(self) -> Any:
        """Parameters of the policy."""
        return self.actor


# A term of the loss of the actor, from its parameters, the learner and a random key, and scalars to log.
ActorTerm = Callable[[Any, SACLearner, Key[Array, ""]], tuple[Float[Array, ""], Scalars]]
# Share of the last batch in the running mean of the magnitude of values.
SCALE_RATE = 0.01


@dataclasses.dataclass(frozen=True)
class SAC:
    """The algorithm for an environment with continuous actions in (-1, 1). Hashable: equal instances share programs.

    Attributes:
      env: The environment and the encoder of its observations.
      config: Hyperparameters.
      network: Size of the networks.
    """

    env: FunctionalEnv
    config: SACConfig = SACConfig()
    network: NetworkConfig = NetworkConfig()

    def __post_init__(self):
        low, high = self.env.env.dynamics.bounds
        if (low != -1).any() or (high != 1).any() or self.network.head != "gaussian":
            raise ValueError("soft actor-critic needs actions in (-1, 1) (`normalized=True`) and the head 'gaussian'")

    def init(
        self, bank: ScenarioBank, key: Key[Array, ""], traffic: Policies = None, actor: Any = None
    ) -> OffPolicyState:
        """The state before the first training step.

        Args:
          bank: The scenarios.
          key: Random key.
          traffic: Policies of agents that are not controlled.
          actor: Initial parameters of the actor, such as those of a cloned policy; random by default.
        """
        learner_key, env_key, key = jax.random.split(key, 3)
        environments = reset_environments(self.env, bank, env_key, self.config.num_envs, traffic)
        num_envs, num_rows, size = environments.observation.shape
        replay = self._buffer.init(num_envs * num_rows, size, jnp.zeros(self._num_components))
        learner = self.init_learner(learner_key, actor)
        return OffPolicyState(learner, replay, environments, key, jnp.zeros((), jnp.int32))

    def init_learner(self, key: Key[Array, ""], actor: Any = None) -> SACLearner:
        """Networks and optimizers before the first gradient step.

        Args:
          key: Random key.
          actor: Initial parameters of the actor; random by default.
        """
        actor_key, critic_key = jax.random.split(key)
        actor = self.model.init(actor_key) if actor is None else actor
        critics, log_temperature = self.critic_model.init(critic_key), jnp.log(self.config.temperature)
        optimizers = (
            self._optimizer().init(actor),
            self._optimizer().init(critics),
            self._optimizer().init(log_temperature),
        )
        return SACLearner(actor, critics, critics, log_temperature, jnp.ones(()), optimizers)

    def train_step(
        self, state: OffPolicyState, bank: ScenarioBank, traffic: Policies = None, actor_term: ActorTerm | None = None
    ) -> tuple[OffPolicyState, Scalars]:
        """Collects decisions, and takes gradient steps on samples of the replay buffer.

        Args:
          state: The state.
          bank: The scenarios.
          traffic: Policies of agents that are not controlled.
          actor_term: A further term of the loss of the actor.

        Returns:
          The next state, and scalars of the step: rates of ended episodes, return, losses.
        """
        environments, decisions = self.sample(state, bank, traffic)
        replay = self._buffer.add(state.replay, ReplayRows.from_decisions(decisions))
        key, _, update_key = jax.random.split(state.key, 3)
        learner, scalars = self.fit(state.learner, replay, update_key, actor_term)
        scalars = {**episode_scalars(decisions), **scalars}
        return OffPolicyState(learner, replay, environments, key, state.step + 1), scalars

    def sample(
        self, state: OffPolicyState, bank: ScenarioBank, traffic: Policies = None
    ) -> tuple[Environments, Decisions]:
        """The environments after the decisions of a training step, and the decisions.

        Args:
          state: The state.
          bank: The scenarios.
          traffic: Policies of agents that are not controlled.
        """
        key, num_decisions = jax.random.split(state.key, 3)[1], self.config.num_decisions
        actor = self.model.actor(state.learner.actor)
        return collect(self.env, actor, bank, state.environments, key, num_decisions, traffic)

    def fit(
        self, learner: SACLearner, replay: ReplayState, key: Key[Array, ""], actor_term: ActorTerm | None = None
    ) -> tuple[SACLearner, Scalars]:
        """The gradient steps of a training step, and the means of their scalars.

        Args:
          learner: Networks and optimizers.
          replay: The replay buffer.
          key: Random key.
          actor_term: A further term of the loss of the actor.
        """

        def gradient_step(learner: SACLearner, key: Key[Array, ""]) -> tuple[SACLearner, Scalars]:
            sample_key, own_key = jax.random.split(key)
            batch = self._buffer.sample(replay, sample_key, self.config.batch, 0.0)
            return self.update(learner, batch, own_key, actor_term)

        keys = jax.random.split(key, self.config.num_gradient_steps)
        learner, scalars = jax.lax.scan(gradient_step, learner, keys)
        return learner, jax.tree.map(jnp.mean, scalars)

    def update(
        self, learner: SACLearner, batch: ReplaySample, key: Key[Array, ""], actor_term: ActorTerm | None = None
    ) -> tuple[SACLearner, Scalars]:
        """One gradient step of the critics, the actor and the temperature.

        Args:
          learner: Networks and optimizers.
          batch: Transitions.
          key: Random key.
          actor_term: A further term of the loss of the actor.
        """
        config, (target_key, actor_key, term_key) = self.config, jax.random.split(key, 3)
        target = self.targets(learner, batch, target_key)
        next_action, _ = self._act(learner.actor, batch.next_observation, target_key)
        (critic_loss, (scale, diagnostics)), gradient = jax.value_and_grad(self.critic_loss, has_aux=True)(
            learner.critics, batch, target, next_action
        )
        critics, critic_optimizer = self._descend(gradient, learner.optimizers[1], learner.critics)
        value_scale = learner.value_scale + SCALE_RATE * (scale - learner.value_scale)
        learner = dataclasses.replace(learner, critics=critics, value_scale=value_scale)

        def actor_loss(actor: Any) -> tuple[Float[Array, ""], Scalars]:
            loss, scalars = self.actor_loss(actor, learner, batch, actor_key)
            if actor_term is None:
                return loss, scalars
            more, more_scalars = actor_term(actor, learner, term_key)
            return loss + more, scalars | more_scalars

        (loss, scalars), gradient = jax.value_and_grad(actor_loss, has_aux=True)(learner.actor)
        actor, actor_optimizer = self._descend(gradient, learner.optimizers[0], learner.actor, config.actor_delay)
        log_temperature, temperature_optimizer = self._adapt_temperature(learner, scalars["entropy"])
        targets = jax.tree.map(lambda old, new: old + config.target_rate * (new - old), learner.targets, critics)
        optimizers = actor_optimizer, critic_optimizer, temperature_optimizer
        learner = SACLearner(actor, critics, targets, log_temperature, value_scale, optimizers)
        return learner, {
            "loss": loss,
            "critic_loss": critic_loss,
            "temperature": jnp.exp(log_temperature),
            **scalars,
        } | diagnostics

    def targets(self, learner: SACLearner, batch: ReplaySample, key: Key[Array, ""]) -> Float[Array, " B"]:
        """Targets of the critics: rewards, and the smaller value of a next action with the weighted entropy.

        Args:
          learner: Networks.
          batch: Transitions.
          key: Random key of the next actions.
        """
        action, log_prob = self._act(learner.actor, batch.next_observation, key)
        value = jnp.min(self.critic_model.values(learner.targets, batch.next_observation, action), axis=0)
        return batch.reward + batch.discount * (value - jnp.exp(learner.log_temperature) * log_prob)

    def critic_loss(
        self,
        critics: tuple[Any, ...],
        batch: ReplaySample,
        target: Float[Array, " B"],
        next_action: Float[Array, "B A"],
    ) -> tuple[Float[Array, ""], tuple[Float[Array, ""], Scalars]]:
        """Squared errors of both critics; the mean magnitude of their values, and diagnostics of the first one.

        Args:
          critics: Parameters.
          batch: Transitions.
          target: From `targets`.
          next_action: Actions of the targets.
        """
        features = self.critic_model.features(critics, batch.observation, batch.action)
        next_features = self.critic_model.features(critics, batch.next_observation, next_action)
        values = self.critic_model.values(critics, batch.observation, batch.action)
        error = jnp.sum((values - target[None]) ** 2, axis=0)
        loss = weighted_mean(error, batch.weight)
        if self.config.dr3_weight:
            product = jnp.sum(dr3(features, next_features), axis=0)
            loss = loss + self.config.dr3_weight * weighted_mean(product, batch.weight)
        scale = weighted_mean(jnp.mean(jnp.abs(values), axis=0), batch.weight)
        return loss, (scale, feature_scalars(features[0], next_features[0]))

    def actor_loss(
        self, actor: Any, learner: SACLearner, batch: ReplaySample, key: Key[Array, ""]
    ) -> tuple[Float[Array, ""], Scalars]:
        """Weighted log-probability of an action minus its smaller value, and the entropy.

        Args:
          actor: Parameters of the actor.
          learner: Networks; the critics are constant.
          batch: Transitions.
          key: Random key of the actions.
        """
        action, log_prob = self._act(actor, batch.observation, key)
        value = jnp.min(self.critic_model.values(learner.critics, batch.observation, action), axis=0)
        loss = weighted_mean(jnp.exp(learner.log_temperature) * log_prob - value, batch.weight)
        scalars = {"entropy": -weighted_mean(log_prob, batch.weight), "value": weighted_mean(value, batch.weight)}
        return loss, scalars

    @property
    def model(self) -> ActorCriticModel:
        """The network of the actor; its value is not used."""
        return ActorCriticModel.from_env(self.env, self.network)

    @property
    def critic_model(self) -> ActionValueModel:
        """The networks of the critics."""
        return ActionValueModel(self.model.encoder.spec(), self._num_components, self.network)

    @property
    def _num_components(self) -> int:
        return len(self.env.env.dynamics.bounds[0])

    @property
    def _buffer(self) -> ReplayBuffer:
        return ReplayBuffer(self.config.num_rows, self.config.num_steps, self.config.discount)

    def _optimizer(self, delay: int = 0) -> optax.GradientTransformation:
        """Adam with a falling learning rate, which is 0 in the first `delay` training steps."""
        config = self.config
        steps = config.num_updates * config.num_gradient_steps
        falling = optax.linear_schedule(config.learning_rate, config.final_learning_rate * config.learning_rate, steps)
        first = delay * config.num_gradient_steps

        def rate(step: Int[Array, ""]) -> Float[Array, ""]:
            return jnp.where(step < first, 0.0, falling(step))

        return optax.chain(optax.clip_by_global_norm(config.max_gradient_norm), optax.adam(rate))

    def _act(self, actor: Any, rows: Float[Array, "B D"], key: Key[Array, ""]):
        """Random actions and their log-probabilities."""
        actions = self.model.distribution(actor, rows)
        assert isinstance(actions, TanhGaussian)
        return actions.sample_and_log_prob(key)

    def _descend(self, gradient: Any, optimizer: Any, params: Any, delay: int = 0) -> tuple[Any, Any]:
        change, optimizer = self._optimizer(delay).update(gradient, optimizer, params)
        return optax.apply_updates(params, change), optimizer

    def _adapt_temperature(self, learner: SACLearner, entropy: Float[Array, ""]) -> tuple[Float[Array, ""], Any]:
        """The temperature rises while the entropy is below its target."""
        if self.config.target_entropy is None:
            return learner.log_temperature, learner.optimizers[2]
        gradient = jax.lax.stop_gradient(entropy) - self.config.target_entropy
        return self._descend(gradient, learner.optimizers[2], learner.log_temperature)


def weighted_mean(values: Float[Array, " B"], weight: Float[Array, " B"]) -> Float[Array, ""]:
    """Mean of values with positive weights, 0 without any; other values may be arbitrary."""
    return jnp.sum(jnp.where(weight > 0, weight * values, 0.0)) / jnp.maximum(jnp.sum(weight), 1e-6)
