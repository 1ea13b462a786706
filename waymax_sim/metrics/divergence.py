"""Displacement of simulated agents from the log."""

import jax.numpy as jnp

from waymax_sim import geometry
from waymax_sim.datatypes.agents import AgentState
from waymax_sim.metrics.metric import MetricValue, Snapshot, masked_value
from waymax_sim.pytree import tree_index


def log_divergence(snapshot: Snapshot) -> MetricValue:
    """Distance in the plane between an agent and its logged position at the same step (m)."""
    logged = snapshot.select_evaluated(tree_index(snapshot.scenario.log, snapshot.step))
    return displacement(snapshot.evaluated_agents, logged)


def displacement(agents: AgentState, logged: AgentState) -> MetricValue:
    """Distance in the plane (m) between simulated and logged agents; valid where both are."""
    valid = agents.valid & logged.valid
    # Masked before the norm, so that the content of invalid states does not reach gradients.
    offset = jnp.where(valid[..., None], agents.xyz[..., :2] - logged.xyz[..., :2], 0.0)
    return masked_value(geometry.norm(offset), valid)


def average_displacement_error(agents: AgentState, logged: AgentState) -> MetricValue:
    """ADE (m) per agent: mean displacement over valid steps. Both are [T, N]."""
    error = displacement(agents, logged)
    count = jnp.sum(error.valid, axis=-2)
    mean = jnp.sum(error.value, axis=-2) / jnp.maximum(count, 1).astype(jnp.float32)
    return masked_value(mean, count > 0)


def final_displacement_error(agents: AgentState, logged: AgentState) -> MetricValue:
    """FDE (m) per agent: displacement at the last valid step. Both are [T, N]."""
    error = displacement(agents, logged)
    steps = jnp.arange(error.valid.shape[-2])
    last = jnp.max(jnp.where(error.valid, steps[:, None], -1), axis=-2)
    value = jnp.take_along_axis(error.value, jnp.maximum(last, 0)[None], axis=-2)[0]
    return masked_value(value, last >= 0)


def min_over_rollouts(errors: MetricValue) -> MetricValue:
    """The smallest error of K rollouts per agent: minADE from ADEs, minFDE from FDEs. From [K, N] to [N]."""
    best = jnp.min(jnp.where(errors.valid, errors.value, jnp.inf), axis=0)
    return masked_value(best, jnp.any(errors.valid, axis=0))
