"""Aggregation of values per step and agent to one number per metric and scene."""

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Bool

from waymax_sim.metrics.metric import Metric, MetricValue, masked_value
from waymax_sim.pytree import Array


def summarize(
    values: Mapping[str, MetricValue],
    metrics: Mapping[str, Metric],
    active: Bool[Array, " T"],
    evaluated: Bool[Array, " N"],
) -> dict[str, MetricValue]:
    """One value per metric for a scene: each metric's own aggregation over time, then over agents.

    Args:
      values: Values over an episode: [T, N] per agent, [T] per scene.
      metrics: The metrics by name.
      active: Mask of the steps to aggregate.
      evaluated: Mask of the agents to aggregate.

    Returns:
      Scalars; not valid where no evaluated agent was valid at any active step.
    """
    over_time = {name: reduce_over_time(metrics[name], values[name], active) for name in values}
    return {name: _over_agents(metrics[name], over_time[name], evaluated) for name in values}


def reduce_over_time(metric: Metric, values: MetricValue, active: Bool[Array, " T"]) -> MetricValue:
    """The aggregation of a metric over time.

    Args:
      metric: The metric.
      values: Values over an episode: [T, N] per agent, [T] per scene.
      active: Mask of the steps to aggregate.

    Returns:
      One value per agent, or for the scene.
    """
    mask = values.valid & active.reshape(active.shape + (1,) * (values.valid.ndim - 1))
    count = jnp.sum(mask, axis=0)
    valid = count > 0
    match metric.over_time:
        case "mean":
            value = jnp.sum(jnp.where(mask, values.value, 0.0), axis=0) / jnp.maximum(count, 1).astype(jnp.float32)
        case "sum":
            value = jnp.sum(jnp.where(mask, values.value, 0.0), axis=0)
        case "min":
            value = jnp.min(jnp.where(mask, values.value, jnp.inf), axis=0)
        case "max":
            value = jnp.max(jnp.where(mask, values.value, -jnp.inf), axis=0)
        case "last":
            steps = jnp.arange(mask.shape[0]).reshape(active.shape + (1,) * (mask.ndim - 1))
            last = jnp.max(jnp.where(mask, steps, 0), axis=0, keepdims=True)
            value = jnp.take_along_axis(values.value, last, axis=0)[0]
        case "onset":
            first = jnp.argmax(mask, axis=0, keepdims=True)
            valid = valid & (jnp.take_along_axis(values.value, first, axis=0)[0] <= 0)
            value = jnp.max(jnp.where(mask, values.value, -jnp.inf), axis=0)
    return masked_value(value, valid)


def _over_agents(metric: Metric, values: MetricValue, evaluated: Bool[Array, " N"]) -> MetricValue:
    if metric.per == "scene":
        return values
    mask = values.valid & evaluated
    count = jnp.sum(mask)
    if metric.over_agents == "max":
        value = jnp.max(jnp.where(mask, values.value, -jnp.inf))
    else:
        value = jnp.sum(jnp.where(mask, values.value, 0.0)) / jnp.maximum(count, 1).astype(jnp.float32)
    return masked_value(value, count > 0)
