"""Replay buffer in device memory: a ring of decisions of parallel streams of transitions.

A stream is one agent row of one environment. Rows of the ring are decisions in order, so the next observation of a
transition is the observation of its stream in the next row, and each observation is stored once (1.8 kB for 880 values
as float16). Multi-step returns end at the end of an episode. Sampling is proportional to priorities, or uniform for
`alpha=0`. Source: prioritized experience replay (Schaul et al. 2016).
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Key, Num

from behavior_models.training.collect import Decisions
from waymax_sim.pytree import Array, pytree

STORED_DTYPE = jnp.float16


@pytree
class ReplayRows:
    """T decisions of S streams.

    Attributes:
      observation: Encoded observations at the decisions.
      action: Actions.
      reward: Rewards of the decisions.
      ended: Decisions with which an episode ended. A record of fixed length whose remaining time is observed ends like
        any other episode; the value after its end is 0.
      active: Decisions of agents that acted; all others are neither sampled nor crossed.
    """

    observation: Float[Array, "T S D"]
    action: Num[Array, "T S A"]
    reward: Float[Array, "T S"]
    ended: Bool[Array, "T S"]
    active: Bool[Array, "T S"]

    @classmethod
    def from_decisions(cls, decisions: Decisions) -> "ReplayRows":
        """The rows of collected decisions: the streams are the agent rows of all environments."""
        result = decisions.result

        def flatten(values: Array) -> Array:
            return values.reshape(len(values), -1)

        def flatten_features(values: Array) -> Array:
            return values.reshape(len(values), -1, values.shape[-1])

        return cls(
            flatten_features(decisions.observation),
            flatten_features(decisions.action),
            flatten(result.reward),
            flatten(result.terminated | result.truncated),
            flatten(result.active),
        )


@pytree
class ReplayState:
    """Content of a replay buffer.

    Attributes:
      rows: The ring, R rows.
      priority: Priorities of transitions, to the power of `alpha`.
      can_start: Mask of the transitions that can be sampled: with an active agent, and either a stored observation
        after `num_steps` decisions of the same episode, or its end before that.
      max_priority: Largest priority of any transition, which is that of new transitions.
      position: The row that is written next.
      num_filled: Number of rows that were written.
    """

    rows: ReplayRows
    priority: Float[Array, "R S"]
    can_start: Bool[Array, "R S"]
    max_priority: Float[Array, ""]
    position: Int[Array, ""]
    num_filled: Int[Array, ""]


@pytree
class ReplaySample:
    """B transitions of up to `num_steps` decisions.

    Attributes:
      observation: Encoded observations.
      action: Actions.
      reward: Discounted sums of the rewards.
      discount: Factor of the value after the transition: 0 if the episode ended with it.
      next_observation: Observations after the transition; arbitrary stored ones where `discount` is 0.
      weight: Importance weights, at most 1; 0 if the buffer has no transition.
      index: Row and stream of each transition, for `update_priorities`.
    """

    observation: Float[Array, "B D"]
    action: Num[Array, "B A"]
    reward: Float[Array, " B"]
    discount: Float[Array, " B"]
    next_observation: Float[Array, "B D"]
    weight: Float[Array, " B"]
    index: Int[Array, "2 B"]


@dataclasses.dataclass(frozen=True)
class ReplayBuffer:
    """A replay buffer of a fixed size; its functions are pure.

    Attributes:
      num_rows: Decisions R that the ring holds of each stream.
      num_steps: Decisions of a multi-step return.
      discount: Discount factor per decision.
      alpha: Exponent of the priorities; 0 for uniform sampling.
      min_error: Added to the magnitude of errors: no transition has the priority 0. In units of the errors.

    Raises:
      ValueError: The ring is too small for one transition.
    """

    num_rows: int
    num_steps: int = 1
    discount: float = 0.985
    alpha: float = 0.0
    min_error: float = 1e-3

    def __post_init__(self):
        if not 1 <= self.num_steps < self.num_rows:
            raise ValueError(f"num_steps={self.num_steps} must be at least 1 and below num_rows={self.num_rows}")

    def init(self, num_streams: int, observation_size: int, action: Num[Array, " A"]) -> ReplayState:
        """An empty buffer.

        Args:
          num_streams: S.
          observation_size: D.
          action: An action of the type that is stored.
        """
        shape = self.num_rows, num_streams
        rows = ReplayRows(
            jnp.zeros((*shape, observation_size), STORED_DTYPE),
            jnp.zeros((*shape, len(action)), action.dtype),
            jnp.zeros(shape),
            jnp.zeros(shape, bool),
            jnp.zeros(shape, bool),
        )
        zero = jnp.zeros((), jnp.int32)
        return ReplayState(rows, jnp.zeros(shape), jnp.zeros(shape, bool), jnp.ones(()), zero, zero)

    def add(self, state: ReplayState, rows: ReplayRows) -> ReplayState:
        """Writes T rows, at most R, over the oldest ones.

        Args:
          state: The buffer.
          rows: The decisions that follow the last ones.
        """
        num_added = len(rows.reward)
        assert num_added <= self.num_rows, f"{num_added} rows exceed the {self.num_rows} rows of the buffer"
        index = (state.position + jnp.arange(num_added, dtype=jnp.int32)) % self.num_rows
        limit = float(jnp.finfo(STORED_DTYPE).max)
        rows = dataclasses.replace(rows, observation=jnp.clip(rows.observation, -limit, limit))
        ring = jax.tree.map(lambda old, new: old.at[index].set(new.astype(old.dtype)), state.rows, rows)
        position = (state.position + num_added) % self.num_rows
        num_filled = jnp.minimum(state.num_filled + num_added, self.num_rows)
        return ReplayState(
            ring,
            state.priority.at[index].set(state.max_priority),
            self._can_start(ring, position, num_filled),
            state.max_priority,
            position,
            num_filled,
        )

    def sample(self, state: ReplayState, key: Key[Array, ""], num_samples: int, beta: float | Array) -> ReplaySample:
        """Transitions drawn with replacement, stratified over the cumulative priorities.

        Args:
          state: The buffer.
          key: Random key.
          num_samples: B.
          beta: Exponent of the importance weights (N p)^-beta, relative to the largest of the sample.
        """
        priority = jnp.where(state.can_start, state.priority, 0.0).reshape(-1)
        flat, probability = _draw(priority, key, num_samples)
        row, stream = jnp.divmod(flat, state.priority.shape[1])
        ratio = jnp.sum(state.can_start).astype(jnp.float32) * probability
        weight = jnp.where(probability > 0, jnp.maximum(ratio, jnp.finfo(jnp.float32).tiny) ** -beta, 0.0)
        reward, discount = self._return(state.rows, row, stream)
        following = jnp.where(discount > 0, (row + self.num_steps) % self.num_rows, row)
        return ReplaySample(
            observation=state.rows.observation[row, stream].astype(jnp.float32),
            action=state.rows.action[row, stream],
            reward=reward,
            discount=discount,
            next_observation=state.rows.observation[following, stream].astype(jnp.float32),
            weight=weight / jnp.maximum(jnp.max(weight), jnp.finfo(jnp.float32).tiny),
            index=jnp.stack([row, stream]),
        )

    def update_priorities(self, state: ReplayState, index: Int[Array, "2 B"], error: Float[Array, " B"]) -> ReplayState:
        """Sets the priorities of sampled transitions; those with errors that are not finite keep theirs.

        Args:
          state: The buffer.
          index: From `ReplaySample`.
          error: Errors of the values; their sign is ignored.
        """
        row, stream = index
        priority = (jnp.abs(error) + self.min_error) ** self.alpha
        priority = jnp.where(jnp.isfinite(priority), priority, state.priority[row, stream])
        return dataclasses.replace(
            state,
            priority=state.priority.at[row, stream].set(priority),
            max_priority=jnp.maximum(state.max_priority, jnp.max(priority)),
        )

    def _can_start(self, rows: ReplayRows, position: Int[Array, ""], num_filled: Int[Array, ""]) -> Bool[Array, "R S"]:
        # 0 for the newest row; the row after a row of age a is stored if a > 0.
        age = (position - 1 - jnp.arange(self.num_rows, dtype=jnp.int32)) % self.num_rows
        valid, complete = rows.active & (age < num_filled)[:, None], rows.ended
        for step in range(1, self.num_steps + 1):
            continues = jnp.roll(rows.active, -step, axis=0) & (age >= step)[:, None]
            valid = valid & (complete | continues)
            complete = complete | jnp.roll(rows.ended, -step, axis=0)
        return valid

    def _return(
        self, rows: ReplayRows, row: Int[Array, " B"], stream: Int[Array, " B"]
    ) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
        """Discounted sums of rewards up to the end of the episode, and the factor of the value after them."""
        returns = multi_step_return(rows.reward, rows.ended, row, stream, self.num_steps, self.discount)
        return returns.reward, returns.discount


class MultiStepReturn(NamedTuple):
    """Returns of B transitions of several decisions.

    Attributes:
      reward: Discounted sums of rewards up to the end of the episode.
      discount: Factor of the value after them, 0 after a terminal decision.
      length: Number of decisions.
      truncated: Whether the last of them was truncated.
    """

    reward: Float[Array, " B"]
    discount: Float[Array, " B"]
    length: Int[Array, " B"]
    truncated: Bool[Array, " B"]


def multi_step_return(
    reward: Float[Array, "R S"],
    ended: Bool[Array, "R S"],
    row: Int[Array, " B"],
    stream: Int[Array, " B"],
    num_steps: int,
    discount: float,
    truncated: Bool[Array, "R S"] | None = None,
) -> MultiStepReturn:
    """Multi-step returns of transitions in a ring of R rows.

    Args:
      reward: Rewards of the decisions.
      ended: Decisions after which the value is 0.
      row: Rows of the first decisions.
      stream: Their streams.
      num_steps: Largest number of decisions.
      discount: Discount factor per decision.
      truncated: Decisions with which an episode ends although a value follows; none by default.
    """
    total, factor, length = jnp.zeros(row.shape), jnp.ones(row.shape), jnp.zeros(row.shape, jnp.int32)
    is_open, is_truncated = jnp.ones(row.shape, bool), jnp.zeros(row.shape, bool)
    for step in range(num_steps):
        index = (row + step) % reward.shape[0], stream
        total = total + jnp.where(is_open, factor * reward[index], 0.0)
        following = discount * jnp.where(ended[index], 0.0, factor)
        factor, length = jnp.where(is_open, following, factor), length + is_open.astype(jnp.int32)
        if truncated is not None:
            is_truncated = is_truncated | (is_open & truncated[index])
        is_open = is_open & ~ended[index] & ~is_truncated
    return MultiStepReturn(total, factor, length, is_truncated)


def _draw(
    priority: Float[Array, " N"], key: Key[Array, ""], num_samples: int
) -> tuple[Int[Array, " B"], Float[Array, " B"]]:
    """Indices drawn in proportion to priorities, and their probabilities; all 0 if every priority is 0."""
    cumulative = jnp.cumsum(priority)
    offset = jax.random.uniform(key, (num_samples,))
    threshold = (jnp.arange(num_samples, dtype=jnp.float32) + offset) / num_samples * cumulative[-1]
    index = jnp.searchsorted(cumulative, threshold, side="right").astype(jnp.int32)
    # Rounding may lead to an entry without priority, because parallel sums are not exactly monotonic.
    numbers = jnp.arange(len(priority), dtype=jnp.int32)
    last_positive = jax.lax.cummax(jnp.where(priority > 0, numbers, 0))
    index = last_positive[jnp.minimum(index, len(priority) - 1)]
    return index, priority[index] / jnp.maximum(cumulative[-1], jnp.finfo(jnp.float32).tiny)
