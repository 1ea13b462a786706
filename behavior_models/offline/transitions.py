"""Logged transitions and their sampling in the graph.

Decisions are rows of parallel streams, and each observation is stored once: the observation after a transition is that
of its stream in a later row. Sampled transitions are uniform over the set, or over tasks.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Key, Num

from behavior_models.training.replay_buffer import multi_step_return
from waymax_sim.pytree import Array, pytree, static

# From stored observations [B, D'] to encoded ones [B, D], such as `Raster.dequantize`.
Decoder = Callable[[Array], Array]


@pytree
class Transitions:
    """T rows of S streams of decisions. A stream holds the episodes of one task, one after another.

    An episode ends in a row with `ended` or `truncated`. The row after a truncated one holds, without a decision, the
    last observation of the episode; without such a row the value after the episode is unknown, and transitions that
    need it are not sampled.

    Attributes:
      observation: Encoded observations, as stored: float32, float16 or bytes.
      action: Indices of discrete actions.
      reward: Rewards of the decisions.
      ended: Terminal decisions; the value after them is 0.
      truncated: Decisions after which the record ends although the episode would continue.
      active: Rows with a decision.
      task: Index of the task of each stream.
      return_to_go: Sum of the rewards from a row to the end of its episode, not discounted.
      num_tasks: Number of tasks.
    """

    observation: Num[Array, "T S D"]
    action: Int[Array, "T S"]
    reward: Float[Array, "T S"]
    ended: Bool[Array, "T S"]
    truncated: Bool[Array, "T S"]
    active: Bool[Array, "T S"]
    task: Int[Array, " S"]
    return_to_go: Float[Array, "T S"]
    num_tasks: int = static(default=1)

    @property
    def count(self) -> Int[Array, ""]:
        """Number of decisions."""
        return jnp.sum(self.active, dtype=jnp.int32)


@pytree
class OfflineSample:
    """B logged transitions of up to `num_steps` decisions.

    Attributes:
      observation: Encoded observations.
      action: Actions.
      reward: Discounted sums of the rewards; NaN if the set has no transition.
      discount: Factor of the value after the transition; 0 if the episode ended with it.
      next_observation: Observations after the transition; arbitrary stored ones where `discount` is 0.
      next_action: The logged actions there, for values of the logged policy.
      has_next_action: Whether there is a next action; not at the end of an episode.
      return_to_go: Sum of the rewards from the observation to the end of the episode.
      task: Index of the task.
    """

    observation: Float[Array, "B D"]
    action: Int[Array, " B"]
    reward: Float[Array, " B"]
    discount: Float[Array, " B"]
    next_observation: Float[Array, "B D"]
    next_action: Int[Array, " B"]
    has_next_action: Bool[Array, " B"]
    return_to_go: Float[Array, " B"]
    task: Int[Array, " B"]


class TransitionStarts(NamedTuple):
    """The rows that can be sampled.

    Attributes:
      index: Flat indices (row * S + stream), ascending within a task, those of task 0 first; then all others.
      count: Number of them in each of K tasks.
    """

    index: Int[Array, " N"]
    count: Int[Array, " K"]


def find_starts(
    transitions: Transitions, num_steps: int, time_limit: Literal["bootstrap", "terminal"] = "bootstrap"
) -> TransitionStarts:
    """The rows whose transition of `num_steps` decisions, or up to the end of the episode, is complete.

    Args:
      transitions: The set.
      num_steps: Decisions of a multi-step return.
      time_limit: See `sample`.
    """
    assert num_steps >= 1, f"num_steps={num_steps} must be at least 1"
    ended, truncated = _ends(transitions, time_limit)
    active = jnp.asarray(transitions.active)
    has_final = truncated & ~_shift(active, 1) & _shift(jnp.ones_like(active), 1)
    # Whether the return from a row is known if it takes the row and no later one.
    complete, valid = ended | has_final, active
    is_open = active & ~ended & ~truncated
    for step in range(1, num_steps + 1):
        # Rows of an open episode that is still open after `step` decisions need the next row.
        follows = _shift(active, step)
        valid = valid & (~is_open | follows)
        if step < num_steps:
            complete = complete | (is_open & _shift(ended | has_final, step))
            is_open = is_open & ~_shift(ended | truncated, step)
    valid = valid & (complete | is_open)
    task = jnp.broadcast_to(jnp.asarray(transitions.task)[None], valid.shape)
    group = jnp.where(valid, task, transitions.num_tasks).reshape(-1)
    count = jnp.zeros(transitions.num_tasks + 1, jnp.int32).at[group].add(1)
    return TransitionStarts(jnp.argsort(group, stable=True).astype(jnp.int32), count[:-1])


def sample(
    transitions: Transitions,
    key: Key[Array, ""],
    num_samples: int,
    num_steps: int = 1,
    discount: float = 0.99,
    *,
    starts: TransitionStarts | None = None,
    balanced: bool = False,
    time_limit: Literal["bootstrap", "terminal"] = "bootstrap",
    decode: Decoder | None = None,
) -> OfflineSample:
    """Transitions drawn with replacement, in the graph.

    Args:
      transitions: The set.
      key: Random key.
      num_samples: B.
      num_steps: Decisions of a multi-step return.
      discount: Discount factor per decision.
      starts: From `find_starts` with the same options; computed in every call by default, which sorts the set.
      balanced: Whether all tasks that have transitions have equal shares of the sample, in order of the tasks; else
        each transition is equally probable.
      time_limit: Whether the value after a truncated episode is that of its last observation, or 0, which is right if
        the remaining time is observed.
      decode: Decoder of stored observations; by default they are converted to float32.
    """
    starts = find_starts(transitions, num_steps, time_limit) if starts is None else starts
    flat = starts.index[_draw(starts.count, key, num_samples, balanced)]
    row, stream = jnp.divmod(flat, transitions.active.shape[1])
    ended, truncated = _ends(transitions, time_limit)
    reward = jnp.asarray(transitions.reward)
    returns = multi_step_return(reward, ended, row, stream, num_steps, discount, truncated)
    following = jnp.where(returns.discount > 0, row + returns.length, row), stream
    decode = _to_float32 if decode is None else decode
    observation = jnp.asarray(transitions.observation)
    has_next = (returns.discount > 0) & ~returns.truncated & jnp.asarray(transitions.active)[following]
    return OfflineSample(
        observation=decode(observation[row, stream]),
        action=jnp.asarray(transitions.action)[row, stream],
        reward=jnp.where(jnp.sum(starts.count) > 0, returns.reward, jnp.nan),
        discount=returns.discount,
        next_observation=decode(observation[following]),
        next_action=jnp.where(has_next, jnp.asarray(transitions.action)[following], 0),
        has_next_action=has_next,
        return_to_go=jnp.asarray(transitions.return_to_go)[row, stream],
        task=jnp.asarray(transitions.task)[stream],
    )


def _draw(count: Int[Array, " K"], key: Key[Array, ""], num_samples: int, balanced: bool) -> Int[Array, " B"]:
    """Positions in `TransitionStarts.index`.

    Args:
      count: Number of transitions of each task.
      key: Random key.
      num_samples: B.
      balanced: Whether tasks have equal shares.
    """
    if not balanced:
        return jax.random.randint(key, (num_samples,), 0, jnp.maximum(jnp.sum(count), 1))
    # Equal shares of the tasks that have transitions, in order.
    present = jnp.argsort(count == 0, stable=True)
    slot = jnp.arange(num_samples, dtype=jnp.int32)
    task = present[slot * jnp.maximum(jnp.sum(count > 0), 1) // num_samples]
    first = jnp.cumsum(count) - count
    return first[task] + jax.random.randint(key, (num_samples,), 0, jnp.maximum(count[task], 1))


def _ends(transitions: Transitions, time_limit: str) -> tuple[Bool[Array, "T S"], Bool[Array, "T S"]]:
    """Terminal and truncated decisions."""
    ended, truncated = jnp.asarray(transitions.ended), jnp.asarray(transitions.truncated)
    return (ended | truncated, jnp.zeros_like(truncated)) if time_limit == "terminal" else (ended, truncated)


def _shift(mask: Bool[Array, "T S"], num_rows: int) -> Bool[Array, "T S"]:
    """The mask `num_rows` later; False beyond the last row."""
    padded = jnp.concatenate([mask, jnp.zeros((num_rows, mask.shape[1]), bool)])
    return padded[num_rows:]


def _to_float32(observation: Num[Array, "B D"]) -> Float[Array, "B D"]:
    return observation.astype(jnp.float32)


def returns_to_go(
    reward: Float[np.ndarray, "T S"], ends: Bool[np.ndarray, "T S"], active: Bool[np.ndarray, "T S"]
) -> Float[np.ndarray, "T S"]:
    """Sums of rewards from each row to the end of its episode; 0 in rows without a decision.

    Args:
      reward: Rewards.
      ends: Last decisions of episodes.
      active: Rows with a decision.
    """
    total, rows = np.zeros(reward.shape[1], np.float32), []
    for own_reward, own_end, own_active in zip(reward[::-1], ends[::-1], active[::-1], strict=True):
        total = np.where(own_active, own_reward + np.where(own_end, 0.0, total), 0.0).astype(np.float32)
        rows.append(total)
    return np.stack(rows[::-1])
