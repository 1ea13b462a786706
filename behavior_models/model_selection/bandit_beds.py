"""Contextual bandits in two regimes, each of which one selection rule wins and another one loses; exact regret."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Key

from behavior_models.model_selection.batch_policy import (
    BanditParams,
    Predictions,
    complexity_coverage,
    fit_classes,
    hold_out,
    pessimistic_decisions,
    predict,
    slope,
)
from behavior_models.model_selection.linear import nested_masks
from waymax_sim.pytree import Array, pytree, static_record


@static_record
class NestedParams:
    """Regime A, good coverage: uniform logging, nested classes, of which the small ones are wrong.

    Attributes:
      num_columns: Gaussian columns of each context and action.
      true_dimension: Columns with an effect.
      num_actions: A.
      dimensions: Columns of each class.
      slope: Constant of SLOPE (`BanditParams.slope`).
    """

    num_columns: int = 40
    true_dimension: int = 8
    num_actions: int = 5
    dimensions: tuple[int, ...] = (2, 4, 8, 12, 16, 24, 32, 40)
    slope: float = 0.25

    @property
    def constants(self) -> BanditParams:
        """Constants for intervals that hold for all contexts."""
        confidence = float(np.sqrt(2 * np.log(20.0 * len(self.dimensions))))
        return BanditParams(confidence=confidence, complexity=1.0, slope=self.slope)


@static_record
class RegionParams:
    """Regime B, bad coverage: skewed logging, and classes that are all right, each efficient in one region.

    Class k has one shared model in region k and a model for each cell of the other regions.

    Attributes:
      num_columns: Gaussian columns of each context and action.
      num_regions: Regions, and classes.
      num_cells: Cells of a region.
      num_actions: A.
      skew: Share of the logged actions that are action 0 irrespective of the context.
      effect: Scale of the weights.
    """

    num_columns: int = 6
    num_regions: int = 4
    num_cells: int = 8
    num_actions: int = 6
    skew: float = 0.8
    effect: float = 1.5

    @property
    def dimension(self) -> int:
        """Columns of each class."""
        return self.num_columns * (1 + (self.num_regions - 1) * self.num_cells)

    @property
    def constants(self) -> BanditParams:
        """Constants for intervals of single contexts."""
        return BanditParams(confidence=2.0)


# Contexts that regret is the mean over.
NUM_TEST_CONTEXTS = 1000


@pytree
class Bandit:
    """Logged decisions and test contexts, with features common to all classes or of each class.

    Attributes:
      features: Of the logged contexts and all actions.
      action: Logged actions.
      outcome: Logged outcomes.
      masks: Columns of each class.
      contexts: Features of the test contexts.
      mean: Expected outcomes in the test contexts.
    """

    features: Float[Array, "*K n A D"]
    action: Int[Array, " n"]
    outcome: Float[Array, " n"]
    masks: Bool[Array, "K D"]
    contexts: Float[Array, "*K m A D"]
    mean: Float[Array, "m A"]

    @property
    def logged_features(self) -> Float[Array, "*K n D"]:
        """Features of the logged actions."""
        index = self.action.reshape((1,) * (self.features.ndim - 3) + (-1, 1, 1))
        return jnp.take_along_axis(self.features, index, axis=-2)[..., 0, :]


@pytree
class Regrets:
    """Regret of each class alone and of the rules, and the coverage of the certificates.

    Attributes:
      per_class: Of the pessimistic policy of each class.
      hold_out: Of the class of the least held-out error.
      slope: Of the class by SLOPE.
      complexity_coverage: Of the largest lower bound of any class.
      upper_bound: Of the largest upper bound of any class, the control.
      valid: Share of contexts in which the expected outcome is at least the certificate of complexity-coverage.
    """

    per_class: Float[Array, " K"]
    hold_out: Float[Array, ""]
    slope: Float[Array, ""]
    complexity_coverage: Float[Array, ""]
    upper_bound: Float[Array, ""]
    valid: Float[Array, ""]


def nested_bandit(key: Key[Array, ""], params: NestedParams, num_samples: int) -> Bandit:
    """A bandit of regime A.

    Args:
      key: Random key.
      params: The regime.
      num_samples: Logged decisions.
    """
    keys = jax.random.split(key, 5)
    size = params.true_dimension
    weights = jnp.zeros(params.num_columns).at[:size].set(jax.random.normal(keys[0], (size,)) / np.sqrt(size))
    shape = params.num_actions, params.num_columns
    features = jax.random.normal(keys[1], (num_samples, *shape))
    contexts = jax.random.normal(keys[2], (NUM_TEST_CONTEXTS, *shape))
    action = jax.random.randint(keys[3], (num_samples,), 0, params.num_actions)
    outcome = _outcomes(features @ weights, action, keys[4])
    masks = nested_masks(params.dimensions, params.num_columns)
    return Bandit(features, action, outcome, masks, contexts, contexts @ weights)


def region_bandit(key: Key[Array, ""], params: RegionParams, num_samples: int) -> Bandit:
    """A bandit of regime B.

    Args:
      key: Random key.
      params: The regime.
      num_samples: Logged decisions.
    """
    keys = jax.random.split(key, 6)
    weights = jax.random.normal(keys[0], (params.num_columns,)) / np.sqrt(params.num_columns) * params.effect
    raw, features = _region_features(keys[1], params, num_samples)
    raw_contexts, contexts = _region_features(keys[2], params, NUM_TEST_CONTEXTS)
    action = jax.random.randint(keys[3], (num_samples,), 0, params.num_actions)
    action = jnp.where(jax.random.uniform(keys[4], (num_samples,)) < params.skew, 0, action)
    masks = jnp.ones((params.num_regions, params.dimension), bool)
    outcome = _outcomes(raw @ weights, action, keys[5])
    return Bandit(features, action, outcome, masks, contexts, raw_contexts @ weights)


def _region_features(key: Key[Array, ""], params: RegionParams, count: int) -> tuple[Array, Array]:
    """Columns [m, A, 6] of random contexts and their columns by class [K, m, A, D]."""
    keys = jax.random.split(key, 3)
    raw = jax.random.normal(keys[0], (count, params.num_actions, params.num_columns))
    region = jax.random.randint(keys[1], (count,), 0, params.num_regions)
    cell = jax.random.randint(keys[2], (count,), 0, params.num_cells)
    return raw, region_columns(raw, region, cell, params.num_regions, params.num_cells)


def region_columns(
    raw: Float[Array, "m A d"], region: Int[Array, " m"], cell: Int[Array, " m"], num_regions: int, num_cells: int
) -> Float[Array, "K m A D"]:
    """Columns of classes that pool the cells of one region, and have a block of columns for each cell of the others.

    Args:
      raw: Columns of contexts and actions.
      region: Region of each context.
      cell: Cell of each context in its region.
      num_regions: Regions, and classes K.
      num_cells: Cells of a region.
    """
    classes = jnp.arange(num_regions)[:, None]
    other = region[None] - (region[None] > classes).astype(jnp.int32)
    block = jnp.where(region[None] == classes, 0, 1 + other * num_cells + cell[None])
    num_blocks = 1 + (num_regions - 1) * num_cells
    hot = jax.nn.one_hot(block, num_blocks)
    return jnp.einsum("kmb,mad->kmabd", hot, raw).reshape(*hot.shape[:2], raw.shape[1], num_blocks * raw.shape[-1])


def _outcomes(mean: Float[Array, "n A"], action: Int[Array, " n"], key: Key[Array, ""]) -> Float[Array, " n"]:
    """Outcomes with unit noise."""
    return jnp.take_along_axis(mean, action[:, None], axis=-1)[:, 0] + jax.random.normal(key, action.shape)


def compute_regrets(bandit: Bandit, params: BanditParams) -> Regrets:
    """All rules on one bandit.

    Args:
      bandit: The bandit.
      params: Constants.
    """
    rows = bandit.logged_features
    fits = fit_classes(rows, bandit.outcome, bandit.masks, params)
    predictions = predict(fits, bandit.contexts)
    upper_bound = Predictions(predictions.mean, -predictions.half_width)
    regret = functools.partial(_regret, bandit.mean)
    per_class = jax.vmap(regret)(pessimistic_decisions(predictions).action)
    held_out, _ = hold_out(rows, bandit.outcome, bandit.masks, params)
    composed = complexity_coverage(predictions)
    value = jnp.take_along_axis(bandit.mean, composed.action[:, None], axis=-1)[:, 0]
    return Regrets(
        per_class=per_class,
        hold_out=per_class[held_out],
        slope=per_class[slope(fits, predictions, params)],
        complexity_coverage=regret(composed.action),
        upper_bound=regret(complexity_coverage(upper_bound).action),
        valid=jnp.mean(value >= composed.certificate),
    )


def _regret(mean: Float[Array, "m A"], action: Int[Array, " m"]) -> Float[Array, ""]:
    return jnp.mean(jnp.max(mean, axis=-1) - jnp.take_along_axis(mean, action[:, None], axis=-1)[:, 0])


@jax.jit(static_argnums=(1, 2))
def run_bandits(keys: Key[Array, " I"], regime: NestedParams | RegionParams, num_samples: int) -> Regrets:
    """All rules on random bandits of a regime, [I], in one program.

    Args:
      keys: Random keys.
      regime: The regime.
      num_samples: Logged decisions.
    """
    make: Any = nested_bandit if isinstance(regime, NestedParams) else region_bandit
    return jax.lax.map(lambda key: compute_regrets(make(key, regime, num_samples), regime.constants), keys)
