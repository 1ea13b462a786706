"""How probable the log is, when the rollouts are what can happen."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from waymax_sim.metrics.realism.config import Bernoulli, Histogram
from waymax_sim.pytree import Array


def edges(histogram: Histogram) -> Float[np.ndarray, " edges"]:
    """Ends of the bins in float32, as the official code computes them."""
    low, high = np.float32(histogram.low), np.float32(histogram.high)
    width = (high - low) / np.float32(histogram.num_bins)
    steps = low + np.arange(histogram.num_bins, dtype=np.float32) * width
    return np.append(steps, high)


def memberships(
    histogram: Histogram, values: Float[Array, "*b"], *, parity: bool = True, soft: bool = False
) -> Float[Array, "*b bins"]:
    """How much each value belongs to each bin, in all 1.

    Args:
      histogram: The bins.
      values: Values; NaN belongs to the last bin with parity, otherwise to none.
      parity: See above.
      soft: Share a value between the two bins whose centres are nearest, in proportion, so that there is a gradient.
    """
    ends, unknown = edges(histogram), jnp.isnan(values)
    known = jnp.clip(jnp.where(unknown, ends[0], values), ends[0], ends[-1])[..., None]
    lead = (None,) * values.ndim
    if soft:
        width = (ends[-1] - ends[0]) / np.float32(histogram.num_bins)
        centre = (ends[:-1] + ends[1:]) / 2
        share = jnp.maximum(1 - jnp.abs(jnp.clip(known, centre[0], centre[-1]) - centre[lead]) / width, 0.0)
    else:
        # The last bin holds its upper end too.
        upper = np.append(ends[1:-1], np.float32(np.inf))
        share = ((known >= ends[:-1][lead]) & (known < upper[lead])).astype(jnp.float32)
    last = (np.arange(histogram.num_bins) == histogram.num_bins - 1) & parity
    return jnp.where(unknown[..., None], last.astype(np.float32)[lead], share)


def histogram_log_likelihood(
    histogram: Histogram,
    log: Float[Array, "T E"],
    sim: Float[Array, "K T E"],
    present: Bool[Array, " E"],
    *,
    pool_agents: bool = False,
    parity: bool = True,
    soft: bool = False,
) -> Float[Array, "T E"]:
    """Log-probability of the bin of each logged value, by how often rollouts are in it.

    Values of all rollouts and, unless `per_step`, of all steps of an agent count together; with `pool_agents` also
    those of all agents that are `present`.
    """
    member = jnp.where(present[None, None, :, None], memberships(histogram, sim, parity=parity, soft=soft), 0.0)
    axes = (0,) if histogram.per_step else (0, 1)
    count = jnp.sum(member, axis=(*axes, 2) if pool_agents else axes, keepdims=True)[0]
    total = jnp.sum(count, axis=-1, keepdims=True)
    c = histogram.pseudocount
    log_p = jnp.log((count + c) / (total + histogram.num_bins * c))
    return jnp.sum(memberships(histogram, log, parity=parity) * log_p, axis=-1)


def bernoulli_log_likelihood(
    bernoulli: Bernoulli,
    log: Bool[Array, " E"],
    sim: Float[Array, "K E"],
    present: Bool[Array, " E"],
    *,
    pool_agents: bool = False,
) -> Float[Array, " E"]:
    """Log-probability of what the log did, by how often rollouts did it.

    Args:
      bernoulli: The estimator.
      log: Whether it happened.
      sim: 1 where it happened, 0 where it did not, or how nearly it did.
      present: Agents that count.
      pool_agents: One probability for all of them.
    """
    counted = jnp.where(present[None], sim, 0.0)
    yes, total = jnp.sum(counted, axis=0), jnp.full(sim.shape[1], sim.shape[0], jnp.float32)
    if pool_agents:
        yes = jnp.broadcast_to(jnp.sum(yes), yes.shape)
        total = jnp.broadcast_to(jnp.sum(jnp.where(present, total, 0.0)), yes.shape)
    c = bernoulli.pseudocount
    return jnp.log((jnp.where(log, yes, total - yes) + c) / (total + 2 * c))
