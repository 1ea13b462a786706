"""Outputs of networks of several tasks for one action of each row, and summaries of the values of its task."""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from behavior_models.networks.multi_task_q import MultiTaskQ
from waymax_sim.pytree import Array, pytree


@pytree
class TaskOutputs:
    """Outputs of a network for one action of each transition, and summaries of all actions of its task.

    Attributes:
      chosen: Outputs of the action.
      value: Its value.
      soft_maximum: Logarithm of the sum of the exponentials of all values.
      largest: Largest value.
      row: Position of the action among the outputs of all tasks.
    """

    chosen: Float[Array, "B M"]
    value: Float[Array, " B"]
    soft_maximum: Float[Array, " B"]
    largest: Float[Array, " B"]
    row: Int[Array, " B"]


def read_outputs(
    network: MultiTaskQ,
    features: Float[Array, "B F"],
    task: Int[Array, " B"],
    row: Int[Array, " B"] | None,
    *,
    is_ordered: bool,
) -> TaskOutputs:
    """Outputs and values of the tasks of rows.

    Args:
      network: The network.
      features: Its features.
      task: Index of the task.
      row: Output to read; None for that of the largest value.
      is_ordered: Whether all tasks have equal shares of the rows, in order. Then the outputs of other tasks are not
        computed, and rows in another order have the value NaN.
    """
    if not is_ordered:
        raw = network.raw(features)
        return _summarize(raw, network.values(raw, task), row, 0)
    parts, share = [], len(features) // network.model.num_tasks
    for own in range(network.model.num_tasks):
        block = slice(own * share, (own + 1) * share)
        raw, first = network.task_raw(features[block], own), network.model.task_rows(own)[0]
        values = jnp.where((task[block] == own)[:, None], network.expected(raw), jnp.nan)
        parts.append(_summarize(raw, values, None if row is None else row[block], first))
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def _summarize(
    raw: Float[Array, "B R M"], values: Float[Array, "B R"], row: Int[Array, " B"] | None, first: int
) -> TaskOutputs:
    """Outputs and values of one action of each transition.

    Args:
      raw: Outputs.
      values: Their values.
      row: Output to read; that of the largest value by default.
      first: Position of the first of these outputs among those of all tasks.
    """
    own = jnp.argmax(values, axis=-1).astype(jnp.int32) if row is None else row - first
    value = take_row(values[..., None], own)[:, 0]
    summaries = jax.nn.logsumexp(values, axis=-1), jnp.max(values, axis=-1)
    return TaskOutputs(take_row(raw, own), value, *summaries, own + first)


def take_row(values: Float[Array, "B R M"], row: Int[Array, " B"]) -> Float[Array, "B M"]:
    """One of the R outputs of each transition."""
    return jnp.take_along_axis(values, row[:, None, None], axis=1)[:, 0]
