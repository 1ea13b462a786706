"""Deep Q-learning by self-play of all controlled agents: double DQN with multi-step returns and prioritized replay.

Sources: double DQN (van Hasselt et al. 2016), prioritized replay (Schaul et al. 2016), dueling networks (Wang et al.
2016), C51 (Bellemare et al. 2017), their combination (Hessel et al. 2018). A training step collects decisions of all
environments, writes them to the replay buffer and takes gradient steps, in one compiled program.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Float, Int, Key

from behavior_models.networks.model import QModel
from behavior_models.networks.q_network import QHeadConfig
from behavior_models.networks.scene_encoder import NetworkConfig
from behavior_models.offline.diagnostics import feature_scalars
from behavior_models.offline.dr3 import dr3
from behavior_models.training.collect import Decisions, collect, episode_scalars, reset_environments
from behavior_models.training.off_policy import OffPolicyState
from behavior_models.training.replay_buffer import ReplayBuffer, ReplayRows, ReplaySample, ReplayState
from waymax_sim.adapters.functional import FunctionalEnv
from waymax_sim.dynamics import Discrete
from waymax_sim.env import Policies
from waymax_sim.env.bank import ScenarioBank
from waymax_sim.pytree import Array, pytree, static


@dataclasses.dataclass(frozen=True)
class DQNConfig:
    """Hyperparameters.

    Attributes:
      num_updates: Training steps, over which the learning rate falls.
      num_envs: Environments E.
      num_decisions: Decisions of each environment per training step.
      num_gradient_steps: Gradient steps per training step.
      minibatch: Transitions per gradient step.
      buffer_rows: Decisions of each environment that the replay buffer holds.
      num_steps: Decisions of a multi-step return.
      discount: Discount factor per decision.
      initial_epsilon: Probability of a random action in the first training step.
      final_epsilon: Probability of a random action after the decay.
      epsilon_decay: Share of the training steps over which it falls linearly.
      alpha: Exponent of the priorities; 0 for uniform replay.
      initial_beta: Exponent of the importance weights in the first training step; it rises to 1 linearly.
      target_rate: Share of the difference to the parameters by which the target network moves per gradient step.
      huber_delta: Error beyond which the loss of scalar values is linear.
      learning_rate: Initial learning rate of Adam.
      final_learning_rate: Learning rate of the last step, as a share of the first.
      max_gradient_norm: Larger gradients are scaled down.
      head: Outputs of the network: scalar values with a Huber loss, or distributions with cross entropy (C51).
      dr3_weight: Weight of the dot product of consecutive features (`offline.dr3`).
    """

    num_updates: int = 300
    num_envs: int = 32
    num_decisions: int = 10
    num_gradient_steps: int = 16
    minibatch: int = 512
    buffer_rows: int = 240
    num_steps: int = 3
    discount: float = 0.985
    initial_epsilon: float = 1.0
    final_epsilon: float = 0.02
    epsilon_decay: float = 0.3
    alpha: float = 0.6
    initial_beta: float = 0.4
    target_rate: float = 0.01
    huber_delta: float = 1.0
    learning_rate: float = 5e-4
    final_learning_rate: float = 0.05
    max_gradient_norm: float = 10.0
    head: QHeadConfig = QHeadConfig()
    dr3_weight: float = 0.0

    def __post_init__(self):
        if self.buffer_rows < self.num_decisions + self.num_steps:
            raise ValueError(f"buffer_rows={self.buffer_rows} is less than num_decisions + num_steps")
        if not 0.0 < self.target_rate <= 1.0:
            raise ValueError(f"target_rate={self.target_rate} must be positive and at most 1")


@pytree
class QLearner:
    """Parameters between two gradient steps.

    Attributes:
      params: Parameters of the network.
      target_params: Parameters of the target network.
      optimizer: State of the optimizer.
    """

    params: Any
    target_params: Any
    optimizer: Any


@pytree
class EpsilonGreedy:
    """The action of the largest value, or with the probability `epsilon` a random one (`training.collect.Actor`).

    Attributes:
      params: Parameters of a network of action values.
      epsilon: Probability of a random action.
      graph: Structure of the network.
    """

    params: Any
    epsilon: Float[Array, ""]
    graph: nnx.GraphDef = static()

    def __call__(self, observation: Array, key: Key[Array, ""]) -> tuple[Int[Array, "*lead 1"], tuple[()]]:
        """Actions, and no further results."""
        values, _ = nnx.merge(self.graph, self.params)(observation)
        coin_key, action_key = jax.random.split(key)
        is_random = jax.random.bernoulli(coin_key, self.epsilon, values.shape[:-1])
        random = jax.random.randint(action_key, values.shape[:-1], 0, values.shape[-1])
        return jnp.where(is_random, random, jnp.argmax(values, axis=-1).astype(random.dtype))[..., None], ()


@dataclasses.dataclass(frozen=True)
class DQN:
    """The algorithm for an environment with discrete actions. Hashable: equal instances share programs.

    Attributes:
      env: The environment and the encoder of its observations.
      config: Hyperparameters.
      network: Size of the network.
    """

    env: FunctionalEnv
    config: DQNConfig = DQNConfig()
    network: NetworkConfig = NetworkConfig()

    def init(self, bank: ScenarioBank, key: Key[Array, ""], traffic: Policies = None) -> OffPolicyState:
        """The state before the first training step.

        Args:
          bank: The scenarios.
          key: Random key.
          traffic: Policies of agents that are not controlled.
        """
        params_key, env_key, key = jax.random.split(key, 3)
        environments = reset_environments(self.env, bank, env_key, self.config.num_envs, traffic)
        *lead, size = environments.observation.shape
        replay = self.buffer.init(math.prod(lead), size, jnp.zeros(1, jnp.int32))
        return OffPolicyState(self.init_learner(params_key), replay, environments, key, jnp.zeros((), jnp.int32))

    def init_learner(self, key: Key[Array, ""]) -> QLearner:
        """Random parameters, equal in both networks."""
        params = self.model.init(key)
        return QLearner(params, jax.tree.map(jnp.array, params), self._optimizer.init(params))

    def train_step(
        self, state: OffPolicyState, bank: ScenarioBank, traffic: Policies = None
    ) -> tuple[OffPolicyState, dict[str, Float[Array, ""]]]:
        """Collects decisions and takes gradient steps on transitions of the replay buffer.

        Args:
          state: The state.
          bank: The scenarios.
          traffic: Policies of agents that are not controlled.

        Returns:
          The next state, and scalars of the step: rates of ended episodes, return, losses.
        """
        key, collect_key, fit_key = jax.random.split(state.key, 3)
        epsilon = self.epsilon(state.step)
        actor = EpsilonGreedy(state.params, epsilon, self.model.graph)
        environments, decisions = collect(
            self.env, actor, bank, state.environments, collect_key, self.config.num_decisions, traffic
        )
        replay = self.buffer.add(state.replay, self.replay_rows(decisions))
        learner, replay, losses = self.fit(state.learner, replay, fit_key, self._beta(state.step))
        scalars = {**episode_scalars(decisions), **losses, "epsilon": epsilon}
        return OffPolicyState(learner, replay, environments, key, state.step + 1), scalars

    def replay_rows(self, decisions: Decisions) -> ReplayRows:
        """Collected decisions as rows of the replay buffer."""
        return ReplayRows.from_decisions(decisions)

    def fit(
        self, learner: QLearner, replay: ReplayState, key: Key[Array, ""], beta: float | Array
    ) -> tuple[QLearner, ReplayState, dict[str, Float[Array, ""]]]:
        """Gradient steps on samples of the replay buffer, whose priorities follow the errors.

        Args:
          learner: Parameters.
          replay: The replay buffer.
          key: Random key.
          beta: Exponent of the importance weights.
        """

        def gradient_step(carry: tuple[QLearner, Array, Array], key: Key[Array, ""]):
            # Only the priorities are carried: observations are not copied.
            learner, priority, max_priority = carry
            current = dataclasses.replace(replay, priority=priority, max_priority=max_priority)
            sample = self.buffer.sample(current, key, self.config.minibatch, beta)
            learner, error, scalars = self.update(learner, sample)
            current = self.buffer.update_priorities(current, sample.index, error)
            return (learner, current.priority, current.max_priority), scalars

        first = learner, replay.priority, replay.max_priority
        keys = jax.random.split(key, self.config.num_gradient_steps)
        (learner, priority, max_priority), scalars = jax.lax.scan(gradient_step, first, keys)
        replay = dataclasses.replace(replay, priority=priority, max_priority=max_priority)
        return learner, replay, jax.tree.map(jnp.mean, scalars)

    def update(
        self, learner: QLearner, sample: ReplaySample
    ) -> tuple[QLearner, Float[Array, " B"], dict[str, Float[Array, ""]]]:
        """One gradient step of the network and one step of the target network; the errors of the transitions."""
        target = self.target(learner, sample)
        (loss, (error, value, diagnostics)), gradient = jax.value_and_grad(self.loss, has_aux=True)(
            learner.params, sample, target
        )
        change, optimizer = self._optimizer.update(gradient, learner.optimizer, learner.params)
        params = optax.apply_updates(learner.params, change)
        target_params = optax.incremental_update(params, learner.target_params, self.config.target_rate)
        return (
            QLearner(params, target_params, optimizer),
            error,
            {"loss": loss, "value": jnp.mean(value), **diagnostics},
        )

    def target(self, learner: QLearner, sample: ReplaySample) -> Float[Array, "B M"]:
        """Targets of double DQN: the target network evaluates the action that the network selects.

        A scalar (M = 1), or the probabilities of the atoms.

        Args:
          learner: Parameters.
          sample: Transitions.
        """
        network, evaluation = (
            nnx.merge(self.model.graph, params) for params in (learner.params, learner.target_params)
        )
        action = jnp.argmax(network(sample.next_observation)[0], axis=-1)
        following = _take_action(evaluation.raw(sample.next_observation), action)
        support = self.config.head.support
        if support is None:
            return sample.reward[:, None] + sample.discount[:, None] * following
        values = sample.reward[:, None] + sample.discount[:, None] * support.atoms[None]
        return support.project(jax.nn.softmax(following), values)

    def loss(
        self, params: Any, sample: ReplaySample, target: Float[Array, "B M"]
    ) -> tuple[Float[Array, ""], tuple[Float[Array, " B"], Float[Array, " B"], dict[str, Float[Array, ""]]]]:
        """Weighted mean of the Huber loss or the cross entropy; errors and values of the actions, and diagnostics.

        Args:
          params: Parameters of the network.
          sample: Transitions.
          target: From `target`; no gradient flows into it.
        """
        network = nnx.merge(self.model.graph, params)
        features, next_features = network.features(sample.observation), network.features(sample.next_observation)
        raw = network.outputs(features)
        action, target = sample.action[:, 0], jax.lax.stop_gradient(target)
        chosen, value = _take_action(raw, action), _take_action(network.values(raw)[..., None], action)[:, 0]
        if self.config.head.support is None:
            error = value - target[:, 0]
            losses = optax.huber_loss(error, delta=self.config.huber_delta)
        else:
            entropy = jnp.sum(jax.scipy.special.entr(target), axis=-1)
            losses = -jnp.sum(target * jax.nn.log_softmax(chosen), axis=-1)
            error = losses - entropy
        # Samples without weight are arbitrary stored values.
        loss = jnp.mean(jnp.where(sample.weight > 0, sample.weight * losses, 0.0))
        if self.config.dr3_weight:
            product = jnp.where(sample.weight > 0, dr3(features, next_features), 0.0)
            loss = loss + self.config.dr3_weight * jnp.mean(product)
        return loss, (error, value, feature_scalars(features, next_features))

    def epsilon(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """Probability of a random action in a training step."""
        config = self.config
        progress = step.astype(jnp.float32) / max(config.epsilon_decay * config.num_updates, 1.0)
        return config.initial_epsilon + (config.final_epsilon - config.initial_epsilon) * jnp.minimum(progress, 1.0)

    @property
    def model(self) -> QModel:
        """The network."""
        assert isinstance(self.env.env.dynamics, Discrete), "DQN needs discrete actions"
        return QModel.from_env(self.env, self.network, head=self.config.head)

    @property
    def buffer(self) -> ReplayBuffer:
        """The replay buffer, without its content."""
        config = self.config
        return ReplayBuffer(config.buffer_rows, config.num_steps, config.discount, config.alpha)

    @property
    def _optimizer(self) -> optax.GradientTransformation:
        config = self.config
        steps = config.num_updates * config.num_gradient_steps
        rate = optax.linear_schedule(config.learning_rate, config.final_learning_rate * config.learning_rate, steps)
        return optax.chain(optax.clip_by_global_norm(config.max_gradient_norm), optax.adam(rate, eps=1e-5))

    def _beta(self, step: Int[Array, ""]) -> Float[Array, ""]:
        progress = jnp.minimum(step.astype(jnp.float32) / self.config.num_updates, 1.0)
        return self.config.initial_beta + (1.0 - self.config.initial_beta) * progress


def _take_action(values: Float[Array, "B L M"], action: Int[Array, " B"]) -> Float[Array, "B M"]:
    return jnp.take_along_axis(values, action[:, None, None], axis=1)[:, 0]
