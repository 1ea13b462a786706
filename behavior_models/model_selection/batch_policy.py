"""Batch policy optimization in contextual bandits with several linear classes, each rule with its certificate.

Source: "Model Selection in Batch Policy Optimization", arXiv 2112.12320. Regret has three sources: the approximation
error of a class, its complexity, and the coverage of the logged actions. No rule is near-optimal in all three.
`complexity_coverage` assumes that all classes are right, `slope` and `hold_out` that coverage is good.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from behavior_models.model_selection.linear import Ridge, factorize, gram_matrix, solve, widths
from waymax_sim.pytree import Array, pytree, static_record


@static_record
class BanditParams:
    """Constants of the confidence intervals; the theory gives their order, not their values.

    The half-width of class k at features phi is noise (complexity sqrt(d_k) + confidence) ||phi||_(V_k^-1).

    Attributes:
      noise: Standard deviation of outcomes around their mean, in units of outcomes.
      confidence: Half-width of a single prediction in standard deviations.
      complexity: Factor of sqrt(d_k): 1 for intervals that hold for all contexts, 0 for those of one context.
      penalty: Ridge penalty of squared weights.
      slope: Half-width of a value estimate by SLOPE in units of noise sqrt(d_k / n); chosen among 0.25, 0.5, 1 and 2 on
        instances of `bandit_beds` that no table has.
      hold_out_fraction: Share of the rows that fit the classes whose losses `hold_out` compares.
    """

    noise: float = 1.0
    confidence: float = 2.0
    complexity: float = 0.0
    penalty: float = 1.0
    slope: float = 0.25
    hold_out_fraction: float = 0.5


@pytree
class FittedClasses:
    """Ridge regressions of K classes.

    Attributes:
      ridge: The factorized regressions: of nested classes with common features, or K regressions of one class each.
      weights: Their weights.
      scale: Half-width of a prediction in units of ||phi||.
      num_rows: Logged decisions.
    """

    ridge: Ridge
    weights: Float[Array, "K D"]
    scale: Float[Array, " K"]
    num_rows: Int[Array, ""]

    @property
    def dimension(self) -> Float[Array, " K"]:
        """Number of columns of each class."""
        return jnp.sum(self.ridge.mask, axis=-1).reshape(-1).astype(jnp.float32)


@pytree
class Predictions:
    """Predicted outcomes of m contexts with A actions by K classes, and half-widths of their intervals."""

    mean: Float[Array, "K m A"]
    half_width: Float[Array, "K m A"]

    @property
    def lower(self) -> Float[Array, "K m A"]:
        """Lower bounds; minus infinity where they are not finite."""
        bound = self.mean - self.half_width
        return jnp.where(jnp.isfinite(bound), bound, -jnp.inf)


@pytree
class BanditDecisions:
    """Decisions in m contexts, by one rule or by each of K.

    Attributes:
      action: Chosen actions.
      certificate: Lower bound of the expected outcome of the chosen action, if the assumptions of the rule hold.
      chosen_class: Class of that bound.
    """

    action: Int[Array, "*K m"]
    certificate: Float[Array, "*K m"]
    chosen_class: Int[Array, "*K m"]


def fit_classes(
    features: Float[Array, "*K n D"], outcome: Float[Array, " n"], masks: Bool[Array, "K D"], params: BanditParams
) -> FittedClasses:
    """Regressions of all classes.

    Args:
      features: Of the logged context and action, common to nested classes, or of each class.
      outcome: Logged outcomes.
      masks: Columns of each class.
      params: Constants.
    """
    fit = functools.partial(_fit, outcome=outcome, params=params)
    if features.ndim == 2:
        ridge, weights = fit(features, masks)
    else:
        ridge, weights = jax.vmap(lambda rows, mask: fit(rows, mask[None]))(features, jnp.asarray(masks))
        weights = weights[:, 0]
    dimension = jnp.sum(jnp.asarray(masks), axis=-1).astype(jnp.float32)
    scale = params.noise * (params.complexity * jnp.sqrt(dimension) + params.confidence)
    return FittedClasses(ridge, weights, scale, jnp.int32(outcome.shape[0]))


def _fit(
    features: Float[Array, "n D"], masks: Bool[Array, "K D"], outcome: Float[Array, " n"], params: BanditParams
) -> tuple[Ridge, Float[Array, "K D"]]:
    """Regressions of nested classes.

    Args:
      features: Of the logged contexts and actions.
      masks: Columns of each class.
      outcome: Logged outcomes.
      params: Constants.
    """
    ridge = factorize(gram_matrix(features), masks, jnp.full(features.shape[-1], params.penalty))
    return ridge, solve(ridge, (outcome @ features)[None])[0]


def predict(fits: FittedClasses, contexts: Float[Array, "*K m A D"]) -> Predictions:
    """Predictions of all classes for all actions.

    Args:
      fits: The regressions.
      contexts: Features of each context and action, common to all classes or of each class.
    """
    if contexts.ndim == 3:
        mean, norm = jnp.einsum("kd,mad->kma", fits.weights, contexts), widths(fits.ridge, contexts)
    else:
        mean = jnp.einsum("kd,kmad->kma", fits.weights, contexts)
        norm = jax.vmap(widths)(fits.ridge, contexts)[:, 0]
    return Predictions(mean, fits.scale[:, None, None] * norm)


def pessimistic_decisions(predictions: Predictions) -> BanditDecisions:
    """The actions of the largest lower bound by each class alone, [K, m] ("Algorithm 1")."""
    lower = predictions.lower
    action = jnp.argmax(lower, axis=-1).astype(jnp.int32)
    classes = jnp.broadcast_to(jnp.arange(lower.shape[0], dtype=jnp.int32)[:, None], action.shape)
    return BanditDecisions(action, jnp.max(lower, axis=-1), classes)


def complexity_coverage(predictions: Predictions) -> BanditDecisions:
    """The action of the largest lower bound of any class, in each context ("Algorithm 2").

    At least as good as the best single class if all classes contain the truth; a small wrong class misleads it.
    """
    lower = predictions.lower
    chosen = jnp.argmax(lower, axis=0)
    best = jnp.max(lower, axis=0)
    action = jnp.argmax(best, axis=-1).astype(jnp.int32)
    chosen_class = jnp.take_along_axis(chosen, action[:, None], axis=-1)[:, 0].astype(jnp.int32)
    return BanditDecisions(action, jnp.max(best, axis=-1), chosen_class)


def slope(fits: FittedClasses, predictions: Predictions, params: BanditParams) -> Int[Array, ""]:
    """The class whose pessimistic policy has the best value by SLOPE ("Algorithm 3", after Lepski).

    Each policy is estimated by every class. Going from the largest class to smaller ones, the intervals of the
    estimates are intersected; the smallest class before the intersection is empty gives the estimate of the policy.

    Args:
      fits: The regressions.
      predictions: Their predictions for the contexts of the estimate.
      params: Constants.
    """
    action = pessimistic_decisions(predictions).action
    # Estimate of policy i by class k.
    per_class = jax.vmap(lambda chosen: jnp.take_along_axis(predictions.mean, chosen[None, :, None], axis=-1)[..., 0])
    value = jnp.mean(per_class(action), axis=-1)
    half = 2 * params.slope * params.noise * jnp.sqrt(fits.dimension / fits.num_rows.astype(jnp.float32))[None]
    low = jax.lax.cummax(value - half, axis=1, reverse=True)
    high = jax.lax.cummin(value + half, axis=1, reverse=True)
    estimator = jnp.argmax(low <= high, axis=1)
    estimate = jnp.take_along_axis(value, estimator[:, None], axis=1)[:, 0]
    return jnp.argmax(jnp.where(jnp.isfinite(estimate), estimate, -jnp.inf)).astype(jnp.int32)


def hold_out(
    features: Float[Array, "*K n D"], outcome: Float[Array, " n"], masks: Bool[Array, "K D"], params: BanditParams
) -> tuple[Int[Array, ""], Float[Array, " K"]]:
    """The class of the least squared error on held-out rows, and the errors.

    Args:
      features: Of the logged contexts and actions, common to all classes or of each class.
      outcome: Logged outcomes; rows must be independent of their order.
      masks: Columns of each class.
      params: Constants.

    Raises:
      ValueError: A part would have no rows.
    """
    count = int(params.hold_out_fraction * outcome.shape[0])
    if not 0 < count < outcome.shape[0]:
        raise ValueError(f"{outcome.shape[0]} rows cannot be split with hold_out_fraction={params.hold_out_fraction}")
    fits = fit_classes(features[..., :count, :], outcome[:count], masks, params)
    rows = features[..., count:, :]
    predicted = jnp.einsum("kd,nd->kn" if rows.ndim == 2 else "kd,knd->kn", fits.weights, rows)
    loss = jnp.mean((outcome[None, count:] - predicted) ** 2, axis=-1)
    return jnp.argmin(jnp.where(jnp.isfinite(loss), loss, jnp.inf)).astype(jnp.int32), loss
