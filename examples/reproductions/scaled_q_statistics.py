"""Interquartile means of runs over tasks and seeds, and their differences in the same scenes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from waymax_sim.evaluation.interquartile import interquartile_mean

NUM_RESAMPLES = 2000
INTERVAL = (0.025, 0.975)
# Scores of the runs of an arm: tasks, training seeds, scenes.
Scores = Float[np.ndarray, "K S E"]


def point(scores: Scores) -> float:
    """Interquartile mean of the runs of all tasks, whose scores are the means of their scenes."""
    return float(interquartile_mean(scores.mean(axis=-1).ravel()))


class Resamples:
    """Bootstrap samples, stratified by task: of scenes, which all arms share, and of training seeds.

    Args:
      arms: Scores of each arm, all in the same scenes.
    """

    def __init__(self, arms: Mapping[str, Scores]):
        num_tasks, _, num_scenes = next(iter(arms.values())).shape
        rng, share = np.random.default_rng(0), np.full(num_scenes, 1 / num_scenes)
        self._counts = rng.multinomial(num_scenes, share, (NUM_RESAMPLES, num_tasks)) / num_scenes
        self.samples = {name: self._sample(scores, index) for index, (name, scores) in enumerate(arms.items())}
        self.points = {name: point(scores) for name, scores in arms.items()}

    def _sample(self, scores: Scores, index: int) -> Float[np.ndarray, " B"]:
        """Interquartile mean of an arm in each bootstrap sample.

        Args:
          scores: Scores of the arm.
          index: Number of the arm, the seed of its draws of runs.
        """
        num_tasks, num_runs, _ = scores.shape
        runs = np.einsum("bke,kse->bks", self._counts, scores)
        drawn = np.random.default_rng([1, index]).integers(num_runs, size=(NUM_RESAMPLES, num_tasks, num_runs))
        return interquartile_mean(np.take_along_axis(runs, drawn, axis=-1).reshape(NUM_RESAMPLES, -1))

    def interval(self, name: str) -> tuple[float, float, float]:
        """Interquartile mean of an arm and its 95 % interval."""
        return (self.points[name], *quantiles(self.samples[name]))

    def difference(self, first: str, second: str) -> tuple[float, float, float]:
        """Difference of two arms and its 95 % interval."""
        return self.points[first] - self.points[second], *quantiles(self.samples[first] - self.samples[second])

    def slope(self, names: Mapping[str, float]) -> tuple[float, float, float]:
        """Least-squares slope of the interquartile mean over the logarithm of size to base 2, and its 95 % interval.

        Args:
          names: Number of parameters of each arm.
        """
        x = np.log2(np.array(list(names.values()), float))
        weights = (x - x.mean()) / np.sum((x - x.mean()) ** 2)
        samples = sum(weight * self.samples[name] for weight, name in zip(weights, names, strict=True))
        value = sum(float(weight) * self.points[name] for weight, name in zip(weights, names, strict=True))
        return value, *quantiles(samples)


def quantiles(samples: Any) -> tuple[float, float]:
    """Bounds of the 95 % interval; NaN if a sample is not finite."""
    if not np.isfinite(samples).all():
        return np.nan, np.nan
    low, high = np.quantile(samples, INTERVAL)
    return float(low), float(high)
