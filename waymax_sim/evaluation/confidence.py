"""Confidence intervals of means over scenes by the bootstrap (Efron 1979)."""

import numpy as np
from jaxtyping import Float

# Number of bootstrap samples.
NUM_BOOTSTRAP_SAMPLES = 1000
# Confidence level of the intervals.
CONFIDENCE = 0.95
# Samples that are drawn together, which bounds the memory.
SAMPLE_BATCH = 50


def bootstrap(
    table: Float[np.ndarray, "S C"],
) -> tuple[Float[np.ndarray, " C"], Float[np.ndarray, " C"], Float[np.ndarray, " C"]]:
    """Means of columns and the bounds of their 95% intervals.

    The samples depend on the number of scenes alone, and are the same for all columns.

    Args:
      table: One row per scene; NaN where a value is undefined.

    Returns:
      Means, lower and upper bounds; NaN for undefined means, and for intervals of fewer than two scenes.
    """
    defined = ~np.isnan(table)
    values, count = np.where(defined, table, 0.0), defined.sum(axis=0)
    undefined = np.full(table.shape[1], np.nan)
    means = np.divide(values.sum(axis=0), count, out=undefined.copy(), where=count > 0)
    if len(table) < 2:
        return means, undefined, undefined.copy()
    rng, samples = np.random.default_rng(0), []
    for _ in range(NUM_BOOTSTRAP_SAMPLES // SAMPLE_BATCH):
        # A sample is represented by the multiplicity of each scene.
        draws = rng.multinomial(len(table), np.full(len(table), 1 / len(table)), SAMPLE_BATCH).astype(float)
        weight = draws @ defined
        samples.append(np.divide(draws @ values, weight, out=np.full(weight.shape, np.nan), where=weight > 0))
    low, high = undefined.copy(), undefined.copy()
    enough = count > 1
    outside = (1 - CONFIDENCE) / 2
    low[enough], high[enough] = np.nanquantile(np.concatenate(samples)[:, enough], (outside, 1 - outside), axis=0)
    return means, low, high


def optional_float(value: float) -> float | None:
    """A float; None for NaN."""
    return None if np.isnan(value) else float(value)
