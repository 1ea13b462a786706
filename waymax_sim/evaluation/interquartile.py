"""Interquartile means of scores over tasks and runs, with stratified bootstrap intervals.

Agarwal et al. 2021: Deep reinforcement learning at the edge of the statistical precipice.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float

from waymax_sim.evaluation.confidence import CONFIDENCE, NUM_BOOTSTRAP_SAMPLES
from waymax_sim.evaluation.paired import BOOTSTRAP_SEED
from waymax_sim.results_dir import Json


def interquartile_mean(values: Float[np.ndarray, "*lead n"]) -> Float[np.ndarray, "*lead"]:
    """Mean of the middle half of values, along the last axis; NaN if any value is not finite or there is none.

    A quarter of the values is cut off at each end, rounded down.
    """
    ordered = np.sort(np.asarray(values, float), axis=-1)
    cut = ordered.shape[-1] // 4
    middle = ordered[..., cut : ordered.shape[-1] - cut]
    defined = np.isfinite(ordered).all(axis=-1) & (middle.shape[-1] > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(defined, middle.sum(axis=-1) / max(middle.shape[-1], 1), np.nan)


def stratified_interval(
    scores: Sequence[Float[np.ndarray, "runs n"]], statistic: Literal["iqm", "mean"] = "iqm"
) -> Json:
    """A statistic over all runs of all tasks with its 95 % percentile interval.

    A bootstrap sample draws runs within each task, and within each run its episodes; the score of a run is the mean of
    its episodes. A task with one run has the variation of its episodes alone.

    Args:
      scores: For each task the scores of its runs (training seeds) and their episodes.
      statistic: Interquartile mean or mean of the scores of all runs.

    Returns:
      `value`, `low` and `high`; None where they are undefined.
    """
    reduce = interquartile_mean if statistic == "iqm" else lambda values: np.mean(values, axis=-1)
    tables = [np.asarray(table, float) for table in scores]
    if not tables or not all(table.size and np.isfinite(table).all() for table in tables):
        return {"value": None, "low": None, "high": None}
    value = float(reduce(np.concatenate([table.mean(axis=1) for table in tables])))
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    samples = reduce(np.concatenate([_resample(table, rng) for table in tables], axis=1))
    outside = (1 - CONFIDENCE) / 2
    low, high = np.quantile(samples, (outside, 1 - outside))
    return {"value": value, "low": float(low), "high": float(high)}


def _resample(table: Float[np.ndarray, "runs n"], rng: np.random.Generator) -> Float[np.ndarray, "B runs"]:
    """Scores of runs drawn with replacement, whose episodes are drawn with replacement."""
    num_runs, num_episodes = table.shape
    run = rng.integers(num_runs, size=(NUM_BOOTSTRAP_SAMPLES, num_runs))
    counts = rng.multinomial(num_episodes, np.full(num_episodes, 1 / num_episodes), (NUM_BOOTSTRAP_SAMPLES, num_runs))
    return np.einsum("bre,bre->br", counts / num_episodes, table[run])
