"""Paired differences between arms of a study, with intervals over scenes and training seeds."""

import dataclasses
from collections.abc import Hashable, Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from waymax_sim.evaluation.confidence import CONFIDENCE, NUM_BOOTSTRAP_SAMPLES, optional_float
from waymax_sim.results_dir import Json

# Seed of the bootstrap: equal tables give equal intervals.
BOOTSTRAP_SEED = 0


@dataclasses.dataclass(frozen=True)
class ClusterTable:
    """Sums of one arm over the vehicles of each scene, for S training seeds, C scenes and M columns.

    Attributes:
      total: Sums of valid values, [S, C, M].
      count: Numbers of valid values, [S, C, M].
    """

    total: Float[np.ndarray, "S C M"]
    count: Float[np.ndarray, "S C M"]

    @property
    def num_seeds(self) -> int:
        """S."""
        return self.total.shape[0]

    @property
    def mean(self) -> Float[np.ndarray, " M"]:
        """Means over all values; NaN without any."""
        return _divide(self.total.sum(axis=(0, 1)), self.count.sum(axis=(0, 1)))

    @property
    def seed_means(self) -> Float[np.ndarray, "S M"]:
        """Means of each training seed."""
        return _divide(self.total.sum(axis=1), self.count.sum(axis=1))

    def resampled_means(
        self, seed_weight: Float[np.ndarray, "B S"], scene_weight: Float[np.ndarray, "B C"]
    ) -> Float[np.ndarray, "B M"]:
        """Means of B bootstrap samples.

        Args:
          seed_weight: Multiplicity of each seed.
          scene_weight: Multiplicity of each scene.
        """
        total, count = (
            np.einsum("bs,bc,scm->bm", seed_weight, scene_weight, values, optimize=True)
            for values in (self.total, self.count)
        )
        return _divide(total, count)


def cluster_table(
    rows: Iterable[Mapping[str, object]],
    columns: Sequence[str],
    scenes: Sequence[Hashable],
    *,
    seed: str = "policy",
    scene: str = "scene",
) -> ClusterTable:
    """The table of an arm.

    Args:
      rows: Rows of all its seeds, with numbers, flags or None in the columns.
      columns: Names of the columns, M.
      scenes: Scenes in the order of the table, C; rows of other scenes are left out.
      seed: Column that names the training seed.
      scene: Column that names the scene.
    """
    position = {name: index for index, name in enumerate(scenes)}
    members = [row for row in rows if row[scene] in position]
    seeds = {name: index for index, name in enumerate(sorted({str(row[seed]) for row in members}))}
    shape = len(seeds), len(scenes), len(columns)
    total, count = np.zeros(shape), np.zeros(shape)
    for row in members:
        values = np.array([np.nan if row[name] is None else row[name] for name in columns], float)
        cell = seeds[str(row[seed])], position[row[scene]]
        total[cell] += np.nan_to_num(values)
        count[cell] += ~np.isnan(values)
    return ClusterTable(total, count)


def arm_intervals(arm: ClusterTable) -> list[Json]:
    """The mean of each column with its interval; None where it is undefined."""
    samples = arm.resampled_means(*_weights(arm.num_seeds, arm.total.shape[1]))
    return [_interval(float(value), column) for value, column in zip(arm.mean, samples.T, strict=True)]


def paired_intervals(arm: ClusterTable, reference: ClusterTable) -> list[Json]:
    """Differences and ratios of the means of two arms in the same scenes, for each column.

    A bootstrap sample draws scenes, the same ones for both arms, and training seeds within each arm (the cluster
    bootstrap, Efron and Tibshirani 1993; stratified by arm). An arm of one seed has no variation between seeds: its
    interval holds for that network only. With few seeds the variation between them is underestimated, by the factor
    (S - 1) / S of its variance.

    Args:
      arm: The arm.
      reference: The arm to compare with, on the same scenes.

    Returns:
      For each column `difference` and `ratio`, each with value, low and high.
    """
    if arm.total.shape[1:] != reference.total.shape[1:]:
        raise ValueError(f"tables of {arm.total.shape[1:]} and {reference.total.shape[1:]} scenes and columns differ")
    num_scenes = arm.total.shape[1]
    own_weight, scene_weight = _weights(arm.num_seeds, num_scenes)
    other_weight, _ = _weights(reference.num_seeds, num_scenes, stream=1)
    own = arm.resampled_means(own_weight, scene_weight)
    other = reference.resampled_means(other_weight, scene_weight)
    difference = arm.mean - reference.mean, own - other
    ratio = _divide(arm.mean, reference.mean), _divide(own, other)
    return [
        {
            name: _interval(float(value[column]), samples[:, column])
            for name, (value, samples) in (("difference", difference), ("ratio", ratio))
        }
        for column in range(len(arm.mean))
    ]


def _weights(num_seeds: int, num_scenes: int, stream: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Multiplicities of seeds, different in each stream, and of scenes, the same in all."""
    scene_weight = _multiplicity(np.random.default_rng(BOOTSTRAP_SEED), num_scenes)
    return _multiplicity(np.random.default_rng((BOOTSTRAP_SEED, stream + 1)), num_seeds), scene_weight


def _multiplicity(rng: np.random.Generator, number: int) -> Float[np.ndarray, "B n"]:
    if not number:
        return np.zeros((NUM_BOOTSTRAP_SAMPLES, 0))
    return rng.multinomial(number, np.full(number, 1 / number), NUM_BOOTSTRAP_SAMPLES).astype(float)


def _interval(value: float, samples: Float[np.ndarray, " B"]) -> Json:
    """A value with its percentile interval; without one if most samples are undefined."""
    defined = samples[np.isfinite(samples)]
    if not np.isfinite(value) or 2 * len(defined) <= len(samples):
        return {"value": optional_float(value) if np.isfinite(value) else None, "low": None, "high": None}
    outside = (1 - CONFIDENCE) / 2
    low, high = np.quantile(defined, (outside, 1 - outside))
    return {"value": float(value), "low": float(low), "high": float(high)}


def _divide(total: Float[np.ndarray, "*n"], count: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count != 0)
