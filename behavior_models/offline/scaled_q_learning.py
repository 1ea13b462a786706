"""Conservative Q-learning from logged transitions of several tasks, with categorical values and normalized features.

Sources: Scaled Q-learning (Kumar et al. 2023, "Offline Q-Learning on Diverse Multi-Task Data Both Scales And
Generalizes"), its conservative term (CQL, Kumar et al. 2020), and its categorical backup (C51, Bellemare et al. 2017)
or labels of scalar targets (HL-Gauss, Farebrother et al. 2024). A training step takes gradient steps on random
transitions, in one compiled program.
"""

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float, Int, Key

from behavior_models.networks.multi_task_q import MultiTaskQ, MultiTaskQModel
from behavior_models.networks.task_outputs import TaskOutputs, read_outputs
from behavior_models.offline.behavior_cloning import decaying_rate
from behavior_models.offline.diagnostics import effective_rank, end_mass, feature_scalars
from behavior_models.offline.dr3 import dr3
from behavior_models.offline.transitions import (
    Decoder,
    OfflineSample,
    Transitions,
    TransitionStarts,
    find_starts,
    sample,
)
from waymax_sim.pytree import Array, pytree

Scalars = dict[str, Float[Array, ""]]
# "c51": cross entropy to the projected distribution of the target; "hl_gauss" and "two_hot": cross entropy to a label
# of the scalar target; "mse": squared error.
ValueLoss = Literal["c51", "hl_gauss", "two_hot", "mse"]
# Value after a transition: the largest one, that of the logged next action (SARSA), or the logged return.
Backup = Literal["max", "in_sample", "monte_carlo"]
# Standard deviation of Gaussian labels, in spacings of the atoms (Farebrother et al. 2024).
LABEL_SIGMA = 0.75
# Parts of the network that a new task can leave unchanged.
SHARED_PARTS = ("encoder", "penultimate")


@dataclasses.dataclass(frozen=True)
class ScaledQConfig:
    """Hyperparameters.

    Attributes:
      loss: Loss of the values; a network without distributions needs "mse".
      backup: Value after a transition.
      double: Whether the network itself, and not its target network, selects the next action.
      num_updates: Training steps.
      num_gradient_steps: Gradient steps per training step.
      minibatch: Transitions per gradient step.
      num_steps: Decisions of a multi-step return.
      discount: Discount factor per decision.
      reward_scale: Factor of the rewards, and so of the values and of their support. The conservative term compares
        values on an absolute scale: that of Kumar et al. are returns of about 10.
      balanced: Whether tasks have equal shares of a sample; otherwise each transition is equally probable. If the share
        is a whole number, only the outputs of the task of a transition are computed.
      time_limit: Value after an episode that was cut: that of its last observation, or 0.
      target_period: Gradient steps between two changes of the target network.
      target_rate: Share of the difference to the parameters by which the target network moves; 1 for a copy.
      learning_rate: Learning rate of Adam.
      final_rate: Share of it at the last gradient step, reached linearly.
      adam_epsilon: Added to the root of the second moment in Adam.
      max_gradient_norm: Larger gradients are scaled down.
      cql_weight: Weight of the conservative term, alpha; 0.05 to 0.1 in the paper and its code.
      dr3_weight: Weight of the dot product of consecutive features, c0.
      dr3_absolute: Whether its magnitude is used.
      weight_decay: Decay of the parameters per unit of the learning rate.
      frozen: Whether only the heads are trained.
      rank_samples: Observations of the effective rank.
    """

    loss: ValueLoss = "c51"
    backup: Backup = "max"
    double: bool = False
    num_updates: int = 80
    num_gradient_steps: int = 250
    minibatch: int = 128
    num_steps: int = 1
    discount: float = 0.95
    reward_scale: float = 1.0
    balanced: bool = True
    time_limit: Literal["bootstrap", "terminal"] = "bootstrap"
    target_period: int = 500
    target_rate: float = 1.0
    learning_rate: float = 3e-4
    final_rate: float = 1.0
    adam_epsilon: float = 1e-8
    max_gradient_norm: float = math.inf
    cql_weight: float = 0.1
    dr3_weight: float = 0.0
    dr3_absolute: bool = False
    weight_decay: float = 0.0
    frozen: bool = False
    rank_samples: int = 1024


@pytree
class LossWeights:
    """Weights of the terms of the loss, as arrays: a training can be mapped over them.

    Attributes:
      cql: Of the conservative term.
      dr3: Of the dot product of consecutive features; None for no gradient of it, which saves time.
      decay: Of the decay of the parameters.
    """

    cql: Float[Array, ""]
    dr3: Float[Array, ""] | None
    decay: Float[Array, ""]


@pytree
class ScaledQState:
    """The state of training.

    Attributes:
      params: Parameters of the network.
      target_params: Parameters of the target network.
      optimizer: State of the optimizer.
      weights: Weights of the terms of the loss.
      key: Random key of the following training steps.
      gradient_step: Number of gradient steps done.
    """

    params: Any
    target_params: Any
    optimizer: Any
    weights: LossWeights
    key: Key[Array, ""]
    gradient_step: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class ScaledQLearning:
    """The algorithm. Hashable: equal instances share programs.

    Attributes:
      model: The network.
      config: Hyperparameters.
      decode: Decoder of stored observations.

    Raises:
      ValueError: The loss does not fit the outputs of the network.
    """

    model: MultiTaskQModel
    config: ScaledQConfig = ScaledQConfig()
    decode: Decoder | None = None

    def __post_init__(self):
        if self.model.is_distributional != (self.config.loss != "mse"):
            raise ValueError(f"loss={self.config.loss!r} and is_distributional={self.model.is_distributional} differ")

    def init(self, key: Key[Array, ""], params: Any = None, weights: LossWeights | None = None) -> ScaledQState:
        """The state before the first training step.

        Args:
          key: Random key.
          params: Initial parameters, such as those of other tasks (`with_new_heads`); random by default.
          weights: Weights of the terms of the loss; those of the configuration by default.
        """
        params_key, key = jax.random.split(key)
        params = self.model.init(params_key) if params is None else params
        config = self.config
        if weights is None:
            values = config.cql_weight, config.dr3_weight, config.weight_decay
            cql, regularization, decay = (jnp.asarray(value, jnp.float32) for value in values)
            weights = LossWeights(cql, regularization if config.dr3_weight else None, decay)
        target_params = jax.tree.map(jnp.array, params)
        return ScaledQState(params, target_params, self._optimizer.init(params), weights, key, jnp.zeros((), jnp.int32))

    def train_step(self, state: ScaledQState, data: Transitions) -> tuple[ScaledQState, Scalars]:
        """Gradient steps on random transitions.

        Args:
          state: The state.
          data: Logged transitions.

        Returns:
          The next state, and scalars: losses, values, diagnostics of the features.
        """
        key, step_key, rank_key = jax.random.split(state.key, 3)
        starts = find_starts(data, self.config.num_steps, self.config.time_limit)

        def gradient_step(state: ScaledQState, key: Key[Array, ""]) -> tuple[ScaledQState, Scalars]:
            return self.update(state, self.sample(data, starts, key, self.config.minibatch))

        state, scalars = jax.lax.scan(gradient_step, state, jax.random.split(step_key, self.config.num_gradient_steps))
        rows = self.sample(data, starts, rank_key, self.config.rank_samples).observation
        rank = effective_rank(self.model.network(state.params).features(rows))
        means = jax.tree.map(jnp.mean, scalars)
        return dataclasses.replace(state, key=key), means | {"effective_rank": rank}

    def sample(
        self, data: Transitions, starts: TransitionStarts, key: Key[Array, ""], num_samples: int
    ) -> OfflineSample:
        """Random transitions with scaled rewards.

        Args:
          data: Logged transitions.
          starts: From `find_starts`.
          key: Random key.
          num_samples: B.
        """
        config = self.config
        batch = sample(
            data,
            key,
            num_samples,
            config.num_steps,
            config.discount,
            starts=starts,
            balanced=config.balanced,
            time_limit=config.time_limit,
            decode=self.decode,
        )
        scaled = {name: config.reward_scale * getattr(batch, name) for name in ("reward", "return_to_go")}
        return dataclasses.replace(batch, **scaled)

    def update(self, state: ScaledQState, batch: OfflineSample) -> tuple[ScaledQState, Scalars]:
        """One gradient step, and a change of the target network if it is due."""
        target = jax.lax.stop_gradient(self.target(state, batch))
        (_, scalars), gradient = jax.value_and_grad(self.loss, has_aux=True)(state.params, batch, target, state.weights)
        if self.config.frozen:
            gradient = jax.tree_util.tree_map_with_path(_without_shared_parts, gradient)
        change, optimizer = self._optimizer.update(gradient, state.optimizer, state.params)
        decay = self.config.learning_rate * state.weights.decay
        params = jax.tree.map(lambda leaf, delta: leaf + delta - decay * leaf, state.params, change)
        number = state.gradient_step + 1
        rate = jnp.where(number % self.config.target_period == 0, self.config.target_rate, 0.0)
        target_params = jax.tree.map(lambda old, new: old + rate * (new - old), state.target_params, params)
        return ScaledQState(params, target_params, optimizer, state.weights, state.key, number), scalars

    def target(self, state: ScaledQState, batch: OfflineSample) -> Float[Array, "B M"]:
        """Targets of the logged actions: probabilities of the atoms, or a scalar (M = 1).

        Args:
          state: The state.
          batch: Transitions.
        """
        support, config = self.model.support, self.config
        if config.backup == "monte_carlo":
            return self._label(batch.return_to_go)
        network = self.model.network(state.target_params)
        features = network.features(batch.next_observation)
        following = self._read(network, features, batch.task, self._next_row(state, network, batch)).chosen
        if config.loss == "c51":
            values = batch.reward[:, None] + batch.discount[:, None] * support.atoms[None]
            return support.project(jax.nn.softmax(following), values)
        value = support.mean(following) if self.model.is_distributional else following[:, 0]
        return self._label(batch.reward + batch.discount * value)

    def loss(
        self, params: Any, batch: OfflineSample, target: Float[Array, "B M"], weights: LossWeights
    ) -> tuple[Float[Array, ""], Scalars]:
        """The loss, and scalars to log.

        Args:
          params: Parameters of the network.
          batch: Transitions.
          target: From `target`; no gradient flows into it.
          weights: Weights of the terms.
        """
        network = self.model.network(params)
        features, next_features = network.features(batch.observation), network.features(batch.next_observation)
        outputs = self._read(network, features, batch.task, network.row(batch.task, batch.action))
        error = masked_mean(self._error(outputs.chosen, target), self._is_valid(batch))
        gap = jnp.mean(outputs.soft_maximum - outputs.value)
        loss = error + weights.cql * gap
        if weights.dr3 is None:
            next_features = jax.lax.stop_gradient(next_features)
        else:
            loss = loss + weights.dr3 * jnp.mean(self.co_adaptation(features, next_features))
        scalars = {"loss": loss, "value_loss": error, "cql_gap": gap, "value": jnp.mean(outputs.value)}
        scalars |= {"largest_value": jnp.mean(outputs.largest)}
        if self.model.is_distributional:
            scalars |= {"end_mass": jnp.mean(end_mass(jax.nn.softmax(outputs.chosen)))}
        return loss, scalars | feature_scalars(features, next_features)

    def co_adaptation(self, features: Float[Array, "B F"], next_features: Float[Array, "B F"]) -> Float[Array, " B"]:
        """The term of DR3."""
        return dr3(features, next_features, self.config.dr3_absolute)

    def _next_row(self, state: ScaledQState, target: MultiTaskQ, batch: OfflineSample) -> Int[Array, " B"] | None:
        """Outputs of the actions after the transitions; None for those of the largest value of the target network.

        Args:
          state: The state.
          target: The target network.
          batch: Transitions.
        """
        if self.config.backup == "in_sample":
            return target.row(batch.task, batch.next_action)
        if self.config.double:
            network = self.model.network(state.params)
            return self._read(network, network.features(batch.next_observation), batch.task, None).row
        return None

    def _read(
        self, network: MultiTaskQ, features: Float[Array, "B F"], task: Int[Array, " B"], row: Int[Array, " B"] | None
    ) -> TaskOutputs:
        """Outputs for one action of each transition; see `read_outputs`."""
        is_ordered = self.config.balanced and len(features) % self.model.num_tasks == 0
        return read_outputs(network, features, task, row, is_ordered=is_ordered)

    def _label(self, value: Float[Array, " B"]) -> Float[Array, "B M"]:
        """Labels of scalar targets, which are clipped to the support."""
        support = self.model.support
        if self.config.loss == "mse":
            return jnp.clip(value, support.low, support.high)[:, None]
        if self.config.loss == "hl_gauss":
            return support.encode_gaussian(value, LABEL_SIGMA * support.spacing)
        return support.encode(value)

    def _error(self, chosen: Float[Array, "B M"], target: Float[Array, "B M"]) -> Float[Array, " B"]:
        """Squared error, or cross entropy in nats."""
        if self.config.loss == "mse":
            return (chosen[:, 0] - target[:, 0]) ** 2
        return -jnp.sum(target * jax.nn.log_softmax(chosen), axis=-1)

    def _is_valid(self, batch: OfflineSample) -> Float[Array, " B"]:
        """1 for transitions with a target: without a logged next action there is no in-sample one."""
        if self.config.backup != "in_sample":
            return jnp.ones_like(batch.reward)
        return (batch.has_next_action | (batch.discount == 0)).astype(jnp.float32)

    @property
    def _optimizer(self) -> optax.GradientTransformation:
        config = self.config
        num_steps = config.num_updates * config.num_gradient_steps
        rate = decaying_rate(config.learning_rate, config.final_rate, num_steps)
        clip = optax.clip_by_global_norm(config.max_gradient_norm)
        return optax.chain(clip, optax.adam(rate, eps=config.adam_epsilon))


def with_new_heads(model: MultiTaskQModel, params: Any, key: Key[Array, ""]) -> Any:
    """Parameters of a model with random heads, and the encoder of other parameters.

    Args:
      model: The model, whose tasks may differ from those of `params`.
      params: Parameters with the same encoder and features.
      key: Random key of the heads.

    Raises:
      ValueError: The encoders differ.
    """
    own = model.init(key)
    for part in SHARED_PARTS:
        shapes = [[leaf.shape for leaf in jax.tree.leaves(tree[part])] for tree in (own, params)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"the {part} of the given parameters has the shapes {shapes[1]}, not {shapes[0]}")
        own[part] = params[part]
    return own


def masked_mean(values: Float[Array, " B"], mask: Float[Array, " B"]) -> Float[Array, ""]:
    """Mean of the values with the mask 1; NaN without any."""
    return jnp.sum(jnp.where(mask > 0, values, 0.0)) / jnp.sum(mask)


def _without_shared_parts(path: Any, leaf: Array) -> Array:
    return jnp.zeros_like(leaf) if path[0].key in SHARED_PARTS else leaf
