"""Likelihoods of the features, and the realism score of a scene."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from waymax_sim.datatypes.agents import VEHICLE
from waymax_sim.metrics.realism import kinematics
from waymax_sim.metrics.realism.config import Bucket, Histogram, RealismConfig
from waymax_sim.metrics.realism.estimators import bernoulli_log_likelihood, histogram_log_likelihood
from waymax_sim.metrics.realism.features import Comparison, SceneFeatures
from waymax_sim.pytree import Array, pytree, tree_index

BUCKETS: tuple[Bucket, ...] = ("kinematic", "interactive", "map_based")
# Scale of the sigmoid that replaces the step function of events in soft scores, m.
SIGMOID_WIDTH = 0.1


@pytree
class AgentLogLikelihood:
    """The log-likelihood of one feature per agent.

    Attributes:
      value: Log-probability of the log, [F, E] per step, or [E] for events.
      counts: Mask of the values that are averaged.
    """

    value: Float[Array, "*b"]
    counts: Bool[Array, "*b"]


@pytree
class Score:
    """The realism of K rollouts of one scene.

    Attributes:
      likelihoods: By feature, in 0..1; NaN where it is defined for no agent.
      meta_metric: Their weighted sum.
      buckets: Their weighted means by group.
      ade: Mean displacement from the log over rollouts and agents, m.
      min_ade: That of the best rollout, m.
      simulated_rates: Shares of rollouts and agents with a collision, off the road, and with a red light violation.
      log_likelihoods: By feature, per agent.
    """

    likelihoods: dict[str, Float[Array, ""]]
    meta_metric: Float[Array, ""]
    buckets: dict[str, Float[Array, ""]]
    ade: Float[Array, ""]
    min_ade: Float[Array, ""]
    simulated_rates: dict[str, Float[Array, ""]]
    log_likelihoods: dict[str, AgentLogLikelihood]


def score(features: Comparison, config: RealismConfig, *, parity: bool = True, soft: bool = False) -> Score:
    """Scores rollouts against the log. Pure.

    Args:
      features: From `compare_rollouts`.
      config: Features and weights.
      parity: Reproduce the official code; must have the value with which the features were computed.
      soft: Differentiable with respect to the rollouts: simulated values are divided between two bins, and collisions
        and leaving the road are sigmoids of the distance. An approximation of the score.
    """
    log_likelihoods = agent_log_likelihoods(features, config, parity=parity, soft=soft)
    agents = features.agents
    likelihoods = {name: jnp.exp(_mean(item.value, item.counts)) for name, item in log_likelihoods.items()}
    displacement = features.sim.displacement
    if config.evaluate == "all":
        # Generated agents have no logged track.
        displacement = jnp.zeros_like(displacement)
    per_rollout = jax.vmap(lambda values: _mean(values, agents.exists))(displacement)
    return Score(
        likelihoods=likelihoods,
        meta_metric=_total(config, likelihoods),
        buckets={bucket: _total(config, likelihoods, bucket) for bucket in BUCKETS},
        ade=jnp.mean(per_rollout),
        min_ade=jnp.min(per_rollout),
        simulated_rates=_rates(features, soft),
        log_likelihoods=log_likelihoods,
    )


def agent_log_likelihoods(
    features: Comparison,
    config: RealismConfig,
    *,
    parity: bool = True,
    soft: bool = False,
    weight: Float[Array, " K"] | None = None,
) -> dict[str, AgentLogLikelihood]:
    """The log-likelihoods of all features per agent.

    Args:
      features: From `compare_rollouts`.
      config: Features and weights.
      parity: See `score`.
      soft: See `score`.
      weight: Number of times that each rollout counts; once by default.
    """
    agents = features.agents
    logged, vehicle = agents.logged, (agents.type == VEHICLE)[None]
    speeds = kinematics.has_valid_neighbors(logged)
    masks = dict.fromkeys(("linear_speed", "angular_speed"), speeds)
    masks |= dict.fromkeys(("linear_acceleration", "angular_acceleration"), kinematics.has_valid_neighbors(speeds))
    masks |= dict.fromkeys(("distance_to_nearest_object", "distance_to_road_edge"), logged)
    masks |= {"time_to_collision": logged & vehicle}
    log_events = tree_index(_events(tree_index(features.log, None), logged, vehicle, soft=False), 0)
    sim_events = _events(features.sim, logged, vehicle, soft=soft)

    log_likelihoods = {}
    for feature in config.features:
        name, estimator = feature.name, feature.estimator
        if isinstance(estimator, Histogram):
            log, sim = getattr(features.log, name), getattr(features.sim, name)
            value = histogram_log_likelihood(
                estimator,
                log,
                sim,
                agents.exists,
                pool_agents=config.pool_agents,
                parity=parity,
                soft=soft,
                weight=weight,
            )
            log_likelihoods[name] = AgentLogLikelihood(value, masks[name])
        else:
            log, sim = log_events[name] > 0, sim_events[name]
            value = bernoulli_log_likelihood(
                estimator, log, sim, agents.exists, pool_agents=config.pool_agents, weight=weight
            )
            log_likelihoods[name] = AgentLogLikelihood(value, agents.exists)
    return log_likelihoods


def meta_metric(
    config: RealismConfig, log_likelihoods: dict[str, AgentLogLikelihood], scored: Bool[Array, " E"] | None = None
) -> Float[Array, ""]:
    """The meta-metric.

    Args:
      config: Features and weights.
      log_likelihoods: From `agent_log_likelihoods`.
      scored: Agents of the mean; all that exist by default.
    """

    def mean(item: AgentLogLikelihood) -> Float[Array, ""]:
        # Agents are the last axis.
        counts = item.counts if scored is None else item.counts & jnp.broadcast_to(scored, item.counts.shape)
        return _mean(item.value, counts)

    means = {name: mean(item) for name, item in log_likelihoods.items()}
    return _total(config, {name: jnp.exp(value) for name, value in means.items()})


def _events(
    scenes: SceneFeatures, logged: Bool[Array, "F E"], vehicle: Bool[Array, "1 E"], soft: bool
) -> dict[str, Float[Array, "K E"]]:
    """1 for agents with an event at any step at which they are logged, else 0; values between them if softened."""
    deepest = jnp.min(jnp.where(logged[None], scenes.distance_to_nearest_object, jnp.inf), axis=1)
    furthest = jnp.max(jnp.where(logged[None], scenes.distance_to_road_edge, -jnp.inf), axis=1)
    red = jnp.any(scenes.traffic_light_violation & logged[None], axis=1)

    def event(excess):
        return jax.nn.sigmoid(excess / SIGMOID_WIDTH) if soft else (excess > 0).astype(jnp.float32)

    return {
        "collision_indication": event(-deepest),
        "offroad_indication": event(furthest),
        "traffic_light_violation": (red & vehicle).astype(jnp.float32),
    }


def _rates(features: Comparison, soft: bool) -> dict[str, Float[Array, ""]]:
    agents = features.agents
    events = _events(features.sim, agents.logged, (agents.type == VEHICLE)[None], soft)
    red = jnp.any(features.sim.traffic_light_violation & features.agents.logged[None], axis=1).astype(jnp.float32)
    flags = {
        "collision": events["collision_indication"],
        "offroad": events["offroad_indication"],
        "traffic_light_violation": red,
    }
    exists = jnp.broadcast_to(features.agents.exists[None], red.shape)
    return {name: _mean(flag, exists) for name, flag in flags.items()}


def _total(config: RealismConfig, likelihoods: dict[str, Float[Array, ""]], bucket: str | None = None) -> Array:
    """Weighted sum over all features, or weighted mean over those of a bucket; features of weight 0 are left out."""
    features = [item for item in config.features if item.weight and bucket in (None, item.bucket)]
    total = sum(item.weight * likelihoods[item.name] for item in features)
    return total if bucket is None else total / sum(item.weight for item in features)


def _mean(values: Float[Array, "*b"], counts: Bool[Array, "*b"]) -> Float[Array, ""]:
    """Mean of the values of the mask; NaN for an empty mask."""
    return jnp.sum(jnp.where(counts, values, 0.0)) / jnp.sum(counts).astype(jnp.float32)
