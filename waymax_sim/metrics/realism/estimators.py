"""Log-likelihoods of the log under distributions estimated from rollouts."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from waymax_sim.metrics.realism.config import Bernoulli, Histogram
from waymax_sim.pytree import Array


def bin_edges(histogram: Histogram) -> Float[np.ndarray, " edges"]:
    """Edges of the bins in float32, computed as in the official code."""
    low, high = np.float32(histogram.low), np.float32(histogram.high)
    width = (high - low) / np.float32(histogram.num_bins)
    steps = low + np.arange(histogram.num_bins, dtype=np.float32) * width
    return np.append(steps, high)


def bin_membership(
    histogram: Histogram, values: Float[Array, "*b"], *, parity: bool = True, soft: bool = False
) -> Float[Array, "*b bins"]:
    """Membership of each value in each bin; the memberships of a value add up to 1.

    Args:
      histogram: The bins.
      values: Values; NaN belongs to the last bin with parity, otherwise to none.
      parity: Reproduce the official code for NaN.
      soft: Divide a value between the two bins with the nearest centers, by linear interpolation, for gradients.
    """
    edges, is_nan = bin_edges(histogram), jnp.isnan(values)
    clipped = jnp.clip(jnp.where(is_nan, edges[0], values), edges[0], edges[-1])[..., None]
    lead = (None,) * values.ndim
    if soft:
        width = (edges[-1] - edges[0]) / np.float32(histogram.num_bins)
        center = (edges[:-1] + edges[1:]) / 2
        share = jnp.maximum(1 - jnp.abs(jnp.clip(clipped, center[0], center[-1]) - center[lead]) / width, 0.0)
    else:
        # The last bin includes its upper edge.
        upper = np.append(edges[1:-1], np.float32(np.inf))
        share = ((clipped >= edges[:-1][lead]) & (clipped < upper[lead])).astype(jnp.float32)
    last = (np.arange(histogram.num_bins) == histogram.num_bins - 1) & parity
    return jnp.where(is_nan[..., None], last.astype(np.float32)[lead], share)


def histogram_log_likelihood(
    histogram: Histogram,
    log: Float[Array, "T E"],
    sim: Float[Array, "K T E"],
    present: Bool[Array, " E"],
    *,
    pool_agents: bool = False,
    parity: bool = True,
    soft: bool = False,
    weight: Float[Array, " K"] | None = None,
) -> Float[Array, "T E"]:
    """Log-probability of the bin of each logged value, from the frequency of the bin in the rollouts.

    The values of all rollouts and, unless `per_step`, of all steps of an agent are pooled.

    Args:
      histogram: The bins.
      log: Logged values.
      sim: Values of the rollouts.
      present: Mask of the agents that exist.
      pool_agents: Pool the values of all agents that exist.
      parity: Reproduce the official code for NaN.
      soft: Differentiable membership of the values of the rollouts, see `bin_membership`.
      weight: Number of times that each rollout counts; once by default.
    """
    member = jnp.where(present[None, None, :, None], bin_membership(histogram, sim, parity=parity, soft=soft), 0.0)
    member = member if weight is None else member * weight[:, None, None, None]
    axes = (0,) if histogram.per_step else (0, 1)
    count = jnp.sum(member, axis=(*axes, 2) if pool_agents else axes, keepdims=True)[0]
    total = jnp.sum(count, axis=-1, keepdims=True)
    c = histogram.pseudocount
    log_p = jnp.log((count + c) / (total + histogram.num_bins * c))
    return jnp.sum(bin_membership(histogram, log, parity=parity) * log_p, axis=-1)


def bernoulli_log_likelihood(
    bernoulli: Bernoulli,
    log: Bool[Array, " E"],
    sim: Float[Array, "K E"],
    present: Bool[Array, " E"],
    *,
    pool_agents: bool = False,
    weight: Float[Array, " K"] | None = None,
) -> Float[Array, " E"]:
    """Log-probability of the logged event or its absence, from the frequency of the event in the rollouts.

    Args:
      bernoulli: The estimator.
      log: Whether the event happened in the log.
      sim: 1 where the event happened in a rollout, 0 where it did not, or a value between them if it is softened.
      present: Mask of the agents that exist.
      pool_agents: One probability for all agents that exist.
      weight: Number of times that each rollout counts; once by default.
    """
    times = jnp.ones(sim.shape[0]) if weight is None else jnp.asarray(weight)
    yes = jnp.sum(jnp.where(present[None], sim * times[:, None], 0.0), axis=0)
    total = jnp.full(sim.shape[1], jnp.sum(times), jnp.float32)
    if pool_agents:
        yes = jnp.broadcast_to(jnp.sum(yes), yes.shape)
        total = jnp.broadcast_to(jnp.sum(jnp.where(present, total, 0.0)), yes.shape)
    c = bernoulli.pseudocount
    return jnp.log((jnp.where(log, yes, total - yes) + c) / (total + 2 * c))
