"""From values per step and agent to one number per metric and scene."""

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Bool

from waymax_sim.metrics.metric import Metric, MetricValue, masked_value
from waymax_sim.pytree import Array


def summarize(
    values: Mapping[str, MetricValue],
    metrics: Mapping[str, Metric],
    active: Bool[Array, " T"],
    judged: Bool[Array, " N"],
) -> dict[str, MetricValue]:
    """One value per metric for a scene: each metric's own aggregation over time, then over agents.

    Args:
      values: Values over an episode: [T, N] per agent, [T] per scene.
      metrics: The metrics by name.
      active: Steps that count.
      judged: Agents that count.

    Returns:
      Scalars; not valid where no judged agent was valid at any active step.
    """
    return {
        name: _over_agents(metrics[name], over_time(metrics[name], values[name], active), judged) for name in values
    }


def over_time(metric: Metric, values: MetricValue, active: Bool[Array, " T"]) -> MetricValue:
    """One value per agent, or for the scene, from [T, ...] values."""
    counted = values.valid & active.reshape(active.shape + (1,) * (values.valid.ndim - 1))
    count = jnp.sum(counted, axis=0)
    match metric.over_time:
        case "mean":
            value = jnp.sum(jnp.where(counted, values.value, 0.0), axis=0) / jnp.maximum(count, 1).astype(jnp.float32)
        case "sum":
            value = jnp.sum(jnp.where(counted, values.value, 0.0), axis=0)
        case "min":
            value = jnp.min(jnp.where(counted, values.value, jnp.inf), axis=0)
        case "max":
            value = jnp.max(jnp.where(counted, values.value, -jnp.inf), axis=0)
        case "last":
            steps = jnp.arange(counted.shape[0]).reshape(active.shape + (1,) * (counted.ndim - 1))
            last = jnp.max(jnp.where(counted, steps, 0), axis=0, keepdims=True)
            value = jnp.take_along_axis(values.value, last, axis=0)[0]
    return masked_value(value, count > 0)


def _over_agents(metric: Metric, values: MetricValue, judged: Bool[Array, " N"]) -> MetricValue:
    if metric.per == "scene":
        return values
    counted = values.valid & judged
    count = jnp.sum(counted)
    if metric.over_agents == "max":
        value = jnp.max(jnp.where(counted, values.value, -jnp.inf))
    else:
        value = jnp.sum(jnp.where(counted, values.value, 0.0)) / jnp.maximum(count, 1).astype(jnp.float32)
    return masked_value(value, count > 0)
