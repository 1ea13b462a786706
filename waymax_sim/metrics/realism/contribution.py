"""Contributions of rollouts and of agents to the realism of a set: the metric with all, minus that without one."""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from waymax_sim.metrics.realism.config import RealismConfig
from waymax_sim.metrics.realism.features import Comparison
from waymax_sim.metrics.realism.score import agent_log_likelihoods, meta_metric
from waymax_sim.pytree import Array


def rollout_contributions(features: Comparison, config: RealismConfig, *, parity: bool = True) -> Float[Array, " K"]:
    """The meta-metric of K rollouts minus that without each of them; positive for one that adds realism.

    Exact, at the cost of one score: only the counts in the histograms change. A reward of single rollouts for
    fine-tuning. Pure.

    Args:
      features: From `compare_rollouts`; at least two rollouts.
      config: Features and weights.
      parity: Reproduce the official code, see `score`.

    Raises:
      ValueError: There is one rollout only.
    """
    num_rollouts = features.sim.linear_speed.shape[0]
    if num_rollouts < 2:
        raise ValueError("a set of one rollout has no metric without it; compare two or more")

    def metric(weight: Float[Array, " K"]) -> Float[Array, ""]:
        return meta_metric(config, agent_log_likelihoods(features, config, parity=parity, weight=weight))

    return metric(jnp.ones(num_rollouts)) - jax.vmap(metric)(1.0 - jnp.eye(num_rollouts))


def agent_contributions(features: Comparison, config: RealismConfig, *, parity: bool = True) -> Float[Array, " E"]:
    """The meta-metric of E scored agents minus that without each of them; negative for one of low realism.

    NaN for padding, and where a feature is defined for no other agent. Pure.

    Args:
      features: From `compare_rollouts`.
      config: Features and weights, without pooled agents.
      parity: Reproduce the official code, see `score`.

    Raises:
      ValueError: The configuration pools the values of agents, which have no separate likelihoods then.
    """
    if config.pool_agents:
        raise ValueError("the configuration pools the values of agents: they have no separate contributions")
    log_likelihoods, exists = agent_log_likelihoods(features, config, parity=parity), features.agents.exists
    others = jax.vmap(lambda left_out: meta_metric(config, log_likelihoods, ~left_out))(
        jnp.eye(len(exists), dtype=bool)
    )
    return jnp.where(exists, meta_metric(config, log_likelihoods) - others, jnp.nan)
