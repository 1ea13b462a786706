"""Measures of recall: loss by position against the optimum, recall by length and depth, and fits of power laws."""

import dataclasses
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Key

from behavior_models.long_context.habit_bed import HabitBed, draw_needles
from behavior_models.long_context.recall_network import RecallModel
from waymax_sim.pytree import Array

# Exponents among which `fit_power_law` selects.
EXPONENTS = np.linspace(-2.0, -0.05, 1951)
# First record of the fits.
FIRST_RECORD = 4
# Points of a curve in a fit.
NUM_CURVE_BINS = 40
# Largest block of attention.
CHUNK = 512


@dataclasses.dataclass(frozen=True)
class PowerLaw:
    """The curve scale * x^exponent + offset.

    Attributes:
      scale: Factor.
      exponent: Exponent.
      offset: Limit for large x.
      r_squared: Share of the variance that it explains.
    """

    scale: float
    exponent: float
    offset: float
    r_squared: float


def fit_power_law(x: Float[np.ndarray, " N"], y: Float[np.ndarray, " N"]) -> PowerLaw:
    """Least squares over scale and offset for each of `EXPONENTS`, and the best of them."""
    best = PowerLaw(np.nan, np.nan, np.nan, -np.inf)
    variance = np.sum((y - y.mean()) ** 2)
    for exponent in EXPONENTS:
        design = np.stack([x**exponent, np.ones_like(x)], axis=1)
        solution, *_ = np.linalg.lstsq(design, y, rcond=None)
        r_squared = 1.0 - np.sum((design @ solution - y) ** 2) / variance
        if r_squared > best.r_squared:
            best = PowerLaw(float(solution[0]), float(exponent), float(solution[1]), float(r_squared))
    return best


def log_bins(curve: Float[np.ndarray, " N"], num_bins: int = NUM_CURVE_BINS) -> tuple[np.ndarray, np.ndarray]:
    """Means of a curve over records in bins of equal logarithmic width from `FIRST_RECORD` on, and those of x = n.

    Args:
      curve: Values of the records n = 1, 2, ....
      num_bins: Largest number of bins.
    """
    edges = np.unique(np.round(np.geomspace(FIRST_RECORD, len(curve) + 1, num_bins + 1)).astype(int))
    bins = [np.arange(low, high) for low, high in itertools.pairwise(edges)]
    return np.array([own.mean() for own in bins]), np.array([curve[own - 1].mean() for own in bins])


@functools.partial(jax.jit, static_argnums=(0, 1, 4, 5))
def position_curve(
    model: RecallModel, bed: HabitBed, params: Any, key: Key[Array, ""], num_histories: int, num_records: int
) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
    """Mean negative log-likelihood of each record, and its excess over the optimum of the same histories.

    Args:
      model: The network.
      bed: Distribution of the histories.
      params: Parameters.
      key: Random key.
      num_histories: Number of histories.
      num_records: Records of each.
    """

    def one(key: Key[Array, ""]) -> tuple[Array, Array]:
        histories = bed.draw(key, 1, num_records)
        nll = model.nll(params, histories)[0]
        return nll, nll - np.log(bed.num_maneuvers) * is_first(histories.situation[0], bed.num_situations)

    nll, excess = jax.lax.map(one, jax.random.split(key, num_histories))
    return jnp.mean(nll, axis=0), jnp.mean(excess, axis=0)


def is_first(situation: Int[Array, " N"], num_situations: int) -> Float[Array, " N"]:
    """1 for records of situations that did not occur before, otherwise 0."""
    number = jnp.arange(situation.shape[0], dtype=jnp.int32)
    first = jnp.full(num_situations, situation.shape[0], jnp.int32).at[situation].min(number)
    return (first[situation] == number).astype(jnp.float32)


@functools.partial(jax.jit, static_argnums=(0, 1, 4, 5))
def _recall(
    model: RecallModel,
    bed: HabitBed,
    params: Any,
    key: Key[Array, ""],
    num_histories: int,
    num_records: int,
    records: Int[Array, "Q 2"],
) -> tuple[Array, Array]:
    """Whether the last and the first maneuver of each needle are recalled, [B, Q]."""

    def one(key: Key[Array, ""]) -> tuple[Array, Array]:
        needles = draw_needles(bed, key, 1, num_records, records)
        chunk = min(CHUNK, 2 * num_records)
        logits = model.network(params).recall(needles.histories, needles.query, chunk)
        answer = jnp.argmax(logits, axis=-1)
        return (answer == needles.last)[0], (answer == needles.first)[0]

    return jax.lax.map(one, jax.random.split(key, num_histories))


def recall_rates(
    model: RecallModel,
    bed: HabitBed,
    params: Any,
    key: Key[Array, ""],
    num_histories: int,
    num_tokens: int,
    depths: tuple[tuple[float, float], ...],
) -> tuple[list[float], list[float]]:
    """Rates of recall of the last and of the first maneuver of each needle.

    Args:
      model: The network.
      bed: Distribution of the other records.
      params: Parameters.
      key: Random key.
      num_histories: Number of histories.
      num_tokens: Length of a history with the query, tokens.
      depths: First and last record of each needle as shares of the history; above 1 for a control without needles.
    """
    num_records = num_tokens // 2 - 1
    depth = np.array(depths)
    records = np.where(depth > 1, num_records, depth * (num_records - 1)).astype(np.int32)
    last, first = _recall(model, bed, params, key, num_histories, num_records, records)
    return np.mean(last, axis=0).tolist(), np.mean(first, axis=0).tolist()
