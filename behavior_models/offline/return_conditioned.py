"""Cloning of logged actions given the return that followed them.

A policy that is given a high return repeats the decisions that led to it. Sources: RvS (Emmons et al. 2022) for
feed-forward networks, the decision transformer (Chen et al. 2021) for the last decisions. Returns are given as levels,
quantiles of those of the same task; in closed loop the level is constant, since policies do not observe rewards.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Int, Key

from behavior_models.networks.return_conditioned import Context, ReturnConditionedModel
from behavior_models.offline.behavior_cloning import CloningState, decaying_rate, take_gradient_steps
from behavior_models.offline.transitions import Decoder, Transitions
from waymax_sim.pytree import Array, pytree

# Return to go, or its mean per remaining decision, which is stationary for rewards of every decision (RvS).
Condition = Literal["return", "mean_return"]


@pytree
class ConditionedTransitions:
    """Logged transitions with levels of the returns that followed.

    Attributes:
      transitions: The log.
      level: Level of the return after each row.
      age: Decisions of the episode before each row.
      index: Flat indices (row * S + stream) of the rows with a decision.
      edges: Quantiles of the returns of each of K tasks; the level is the number of those below a return.
      highest: Highest level of each task. It is lower than the number of levels minus 1 if the largest return is
        frequent; level 0 always exists.
    """

    transitions: Transitions
    level: Int[Array, "T S"]
    age: Int[Array, "T S"]
    index: Int[Array, " N"]
    edges: Float[Array, "K Q"]
    highest: Int[Array, " K"]


def condition_transitions(
    transitions: Transitions, num_levels: int = 10, condition: Condition = "return"
) -> ConditionedTransitions:
    """Levels of the returns of all rows.

    Args:
      transitions: The log.
      num_levels: Number of levels.
      condition: Kind of return.

    Raises:
      ValueError: A task has no decision.
    """
    active, ends = np.asarray(transitions.active), np.asarray(transitions.ended) | np.asarray(transitions.truncated)
    age, remaining = _count_decisions(active, ends)
    value = np.asarray(transitions.return_to_go) / (np.maximum(remaining, 1) if condition == "mean_return" else 1)
    task = np.broadcast_to(np.asarray(transitions.task)[None], active.shape)
    shares, level, edges = np.arange(1, num_levels) / num_levels, np.zeros(active.shape, np.int32), []
    highest = []
    for number in range(transitions.num_tasks):
        rows = active & (task == number)
        if not rows.any():
            raise ValueError(f"task {number} has no decision: leave it out of the set")
        edges.append(np.quantile(value[rows], shares, method="lower"))
        # A rare large return has a level of its own, also if most returns are equal.
        level[rows] = np.searchsorted(edges[-1], value[rows], side="left")
        highest.append(level[rows].max())
    return ConditionedTransitions(
        transitions,
        level,
        age,
        np.flatnonzero(active).astype(np.int32),
        np.stack(edges).astype(np.float32),
        np.asarray(highest, np.int32),
    )


@dataclasses.dataclass(frozen=True)
class ReturnConditionedConfig:
    """Hyperparameters.

    Attributes:
      num_updates: Training steps.
      num_gradient_steps: Gradient steps per training step.
      minibatch: Contexts per gradient step.
      learning_rate: Learning rate of AdamW.
      final_rate: Share of it at the last gradient step, reached linearly.
      weight_decay: Decay of the parameters per unit of the learning rate.
      max_gradient_norm: Larger gradients are scaled down (0.25 in Chen et al. 2021).
    """

    num_updates: int = 40
    num_gradient_steps: int = 250
    minibatch: int = 128
    learning_rate: float = 1e-3
    final_rate: float = 1.0
    weight_decay: float = 1e-4
    max_gradient_norm: float = 1.0


@dataclasses.dataclass(frozen=True)
class ReturnConditionedCloning:
    """The algorithm. Hashable: equal instances share programs.

    Attributes:
      model: The network.
      config: Hyperparameters.
      decode: Decoder of stored observations; by default they are converted to float32.
    """

    model: ReturnConditionedModel
    config: ReturnConditionedConfig = ReturnConditionedConfig()
    decode: Decoder | None = None

    def init(self, key: Key[Array, ""]) -> CloningState:
        """The state before the first training step."""
        params_key, key = jax.random.split(key)
        params = self.model.init(params_key)
        return CloningState(params, self._optimizer.init(params), key)

    def train_step(
        self, state: CloningState, data: ConditionedTransitions
    ) -> tuple[CloningState, dict[str, Float[Array, ""]]]:
        """Gradient steps on random contexts; the mean cross entropy and accuracy.

        Args:
          state: The state.
          data: Logged transitions.
        """

        def draw(key: Key[Array, ""]) -> Context:
            return sample_contexts(data, key, self.config.minibatch, self.model.context, decode=self.decode)

        return take_gradient_steps(state, draw, self.loss, self._optimizer, self.config.num_gradient_steps)

    def loss(self, params: Any, batch: Context) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Mean cross entropy of the logged actions, nats, and scalars to log.

        Args:
          params: Parameters.
          batch: Logged decisions.
        """
        logits = self.model.logits(params, batch)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch.action)
        is_equal = (jnp.argmax(logits, axis=-1) == batch.action).astype(jnp.float32)
        count = jnp.sum(batch.valid.astype(jnp.float32))
        loss, accuracy = (jnp.sum(jnp.where(batch.valid, item, 0.0)) / count for item in (loss, is_equal))
        return loss, {"loss": loss, "accuracy": accuracy}

    @property
    def _optimizer(self) -> optax.GradientTransformation:
        config = self.config
        num_steps = config.num_updates * config.num_gradient_steps
        rate = decaying_rate(config.learning_rate, config.final_rate, num_steps)
        clip = optax.clip_by_global_norm(config.max_gradient_norm)
        return optax.chain(clip, optax.adamw(rate, weight_decay=config.weight_decay))


@dataclasses.dataclass(frozen=True)
class ConditionedActions:
    """A network of one decision as a function to actions of driving tasks (`behaviors.RowsActor`).

    Its parameters are those of the network and the level of the return of each task.

    Attributes:
      model: The network, with `context=1`.
      tasks: Index of the model's task for each index of the caller.
    """

    model: ReturnConditionedModel
    tasks: tuple[int, ...]

    def __call__(
        self,
        params: tuple[Any, Int[Array, " K"]],
        rows: Float[Array, "E D"],
        task: Int[Array, " E"],
        mask: Array,
        key: Key[Array, ""],
    ) -> Int[Array, " E"]:
        """The most likely actions of E environments.

        Args:
          params: Parameters of the network, and levels.
          rows: Encoded observations.
          task: Indices of the tasks.
          mask: Permitted actions, [E, L].
          key: Not used.
        """
        weights, levels = params
        own = jnp.asarray(self.tasks, jnp.int32)[task]
        no_action, valid = jnp.zeros((len(rows), 1), jnp.int32), jnp.ones((len(rows), 1), bool)
        context = Context(rows.astype(jnp.float32)[:, None], no_action, levels[own][:, None], valid, own)
        logits = self.model.logits(weights, context)[:, 0]
        return jnp.argmax(jnp.where(mask, logits, -jnp.inf), axis=-1).astype(jnp.int32)


def sample_contexts(
    data: ConditionedTransitions,
    key: Key[Array, ""],
    num_samples: int,
    length: int,
    *,
    decode: Decoder | None = None,
) -> Context:
    """Contexts that end with a random decision, drawn with replacement.

    Args:
      data: Logged transitions.
      key: Random key.
      num_samples: B.
      length: Decisions of a context C; those before the episode are not valid.
      decode: Decoder of stored observations.
    """
    log, index = data.transitions, jnp.asarray(data.index)
    chosen = index[jax.random.randint(key, (num_samples,), 0, index.shape[0])]
    row, stream = jnp.divmod(chosen, log.active.shape[1])
    back = jnp.arange(length - 1, -1, -1, dtype=jnp.int32)[None]
    valid = back <= jnp.asarray(data.age)[row, stream][:, None]
    cells = jnp.maximum(row[:, None] - back, 0), jnp.broadcast_to(stream[:, None], valid.shape)
    stored = jnp.asarray(log.observation)[cells]
    return Context(
        observation=stored.astype(jnp.float32) if decode is None else decode(stored),
        action=jnp.asarray(log.action)[cells],
        level=jnp.asarray(data.level)[cells],
        valid=valid,
        task=jnp.asarray(log.task)[stream],
    )


def _count_decisions(active: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Decisions of the episode before each row, and from it on."""
    age, remaining = np.zeros(active.shape, np.int32), np.zeros(active.shape, np.int32)
    for row in range(1, len(active)):
        age[row] = np.where(active[row] & active[row - 1] & ~ends[row - 1], age[row - 1] + 1, 0)
    following = np.zeros(active.shape[1], np.int32)
    for row in range(len(active) - 1, -1, -1):
        following = np.where(active[row], 1 + np.where(ends[row], 0, following), 0)
        remaining[row] = following
    return age, remaining
