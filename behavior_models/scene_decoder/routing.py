"""Uncertainty-routed decoding: the consensus of sampled futures where there is one, otherwise the greedy future.

Source: the uncertainty-routed chain of thought of the Gemini 1.0 report (arXiv 2312.11805): the majority of k samples
if its share exceeds a threshold that is tuned on a validation set, otherwise the greedy answer. Futures agree if their
end points do.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from waymax_sim import geometry
from waymax_sim.pytree import Array, pytree, static_record


@static_record
class RoutingParams:
    """Constants of the routing; all are choices.

    Attributes:
      num_samples: Number of sampled futures K.
      cluster_radius: Distance between end points of the same cluster, m.
    """

    num_samples: int = 8
    cluster_radius: float = 2.0


ROUTING = RoutingParams()


@pytree
class Consensus:
    """The largest cluster of sampled futures.

    Attributes:
      share: Share of the samples in the cluster.
      medoid: Sample of the cluster with the smallest sum of distances to the others.
    """

    share: Float[Array, ""]
    medoid: Int[Array, ""]


def find_consensus(end_points: Float[Array, "K 2"], radius: float) -> Consensus:
    """The largest set of samples whose end points are within a radius of that of one of them.

    Ties go to the sample of the lowest index. End points that are not finite are in no cluster.

    Args:
      end_points: End points of K futures, m.
      radius: Radius of a cluster, m.
    """
    usable = jnp.all(jnp.isfinite(end_points), axis=-1)
    points = jnp.where(usable[:, None], end_points, 0.0)
    distance = geometry.norm(points[:, None] - points[None])
    is_near = (distance <= radius) & usable[:, None] & usable[None]
    count = jnp.sum(is_near, axis=-1)
    members = is_near[jnp.argmax(count)]
    spread = jnp.where(members, jnp.sum(jnp.where(members[None], distance, 0.0), axis=-1), jnp.inf)
    share = jnp.max(count).astype(jnp.float32) / end_points.shape[0]
    return Consensus(share, jnp.argmin(spread).astype(jnp.int32))


def uses_consensus(share: Float[Array, "*b"], threshold: Float[Array, ""] | float) -> Bool[Array, "*b"]:
    """Whether the medoid is executed: the share is at least the threshold and above zero."""
    return (share >= threshold) & (share > 0.0)


def route(
    samples: Any,
    greedy: Any,
    end_points: Float[Array, "K 2"],
    threshold: Float[Array, ""] | float,
    params: RoutingParams = ROUTING,
) -> tuple[Any, Consensus]:
    """The future to execute, and the consensus of the samples.

    With a threshold of 0 it is the medoid, with one above 1 the greedy future.

    Args:
      samples: Sampled futures, a tree of arrays [K, ...].
      greedy: The greedy future, the same tree without the first axis.
      end_points: End points of the samples, m.
      threshold: Smallest share of the cluster whose medoid is executed.
      params: Constants.
    """
    consensus = find_consensus(end_points, params.cluster_radius)
    is_chosen = uses_consensus(consensus.share, threshold)
    future = jax.tree.map(lambda many, one: jnp.where(is_chosen, many[consensus.medoid], one), samples, greedy)
    return future, consensus


def tune_threshold(
    share: Float[np.ndarray, " E"],
    medoid_cost: Float[np.ndarray, " E"],
    greedy_cost: Float[np.ndarray, " E"],
    thresholds: Sequence[float],
) -> float:
    """The threshold of the smallest mean cost on a validation set, the larger one of equal ones.

    Args:
      share: Shares of the consensus of E decisions.
      medoid_cost: Costs of the medoids.
      greedy_cost: Costs of the greedy futures.
      thresholds: Candidates.

    Raises:
      ValueError: There is no decision, or a cost is not finite.
    """
    if not len(share) or not np.isfinite([medoid_cost, greedy_cost]).all():
        raise ValueError("the threshold needs decisions with finite costs")
    costs = [np.mean(np.where(uses_consensus(share, one), medoid_cost, greedy_cost)) for one in thresholds]
    return max(threshold for threshold, cost in zip(thresholds, costs, strict=True) if cost <= min(costs) + 1e-12)
