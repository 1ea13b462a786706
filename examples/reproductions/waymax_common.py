"""Criteria with their controls, and intervals by resampling of scenes."""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Int, Shaped

NUM_RESAMPLES = 2000


@dataclasses.dataclass(frozen=True)
class Criterion:
    """A statement about a result.

    Attributes:
      name: The statement.
      value: The number that it is about; a number that is not finite satisfies no bound.
      low: Smallest value that satisfies it.
      high: Largest value that satisfies it.
    """

    name: str
    value: float
    low: float = -np.inf
    high: float = np.inf

    def __post_init__(self) -> None:
        # Numbers of single precision cannot be written as JSON.
        object.__setattr__(self, "value", float(self.value))

    @property
    def passed(self) -> bool:
        """Whether the value is finite and within the bounds."""
        return bool(np.isfinite(self.value) and self.low <= self.value <= self.high)

    def __str__(self) -> str:
        signs = ((">=", self.low), ("<=", self.high))
        bounds = [f"{sign} {bound:g}" for sign, bound in signs if np.isfinite(bound)]
        return f"{'pass' if self.passed else 'FAIL'}  {self.name}: {self.value:.3g} ({', '.join(bounds)})"


def resample_scenes(scene: Int[np.ndarray, " E"], seed: int = 0) -> list[Int[np.ndarray, " _"]]:
    """Bootstrap samples of episodes by scene: all episodes of a drawn scene are in the sample.

    Args:
      scene: Scene of each episode.
      seed: Seed of the draws.
    """
    rng, members = np.random.default_rng(seed), [np.flatnonzero(scene == one) for one in np.unique(scene)]
    draws = rng.integers(len(members), size=(NUM_RESAMPLES, len(members)))
    return [np.concatenate([members[index] for index in row]) for row in draws]


def mean_interval(values: Shaped[np.ndarray, " E"], scene: Int[np.ndarray, " E"]) -> tuple[float, float, float]:
    """Mean of episodes and its 95 % bootstrap interval."""
    means = [np.mean(values[rows]) for rows in resample_scenes(scene)]
    low, high = np.quantile(means, (0.025, 0.975))
    return float(np.mean(values)), float(low), float(high)


def ratio_interval(
    first: Shaped[np.ndarray, " E"], second: Shaped[np.ndarray, " E"], scene: Int[np.ndarray, " E"]
) -> tuple[float, float, float]:
    """Ratio of two means over the same episodes, and its 95 % bootstrap interval; infinite where the second is 0.

    Args:
      first: Values of the numerator.
      second: Values of the denominator.
      scene: Scene of each episode.
    """

    def ratio(rows: Int[np.ndarray, " _"]) -> float:
        below = float(np.mean(second[rows]))
        return float(np.mean(first[rows])) / below if below > 0 else np.inf

    # Quantiles that interpolate between infinities are not numbers.
    low, high = np.quantile([ratio(rows) for rows in resample_scenes(scene)], (0.025, 0.975), method="nearest")
    return ratio(np.arange(len(scene))), float(low), float(high)


def effect_share(value: float, effect: float) -> float:
    """A value as a share of an effect; NaN, which satisfies no criterion, without a positive effect."""
    return value / effect if effect > 0 else float("nan")


def table_line(name: str, cells: Mapping[str, float | str]) -> str:
    """A row of a Markdown table.

    Args:
      name: First cell.
      cells: Further cells; numbers are rounded to three digits.
    """
    texts = [cell if isinstance(cell, str) else f"{cell:.3g}" for cell in cells.values()]
    return f"| {' | '.join([name, *texts])} |"
