"""How sure a mean over scenes is: intervals from drawing the scenes anew (bootstrap, Efron 1979)."""

import numpy as np
from jaxtyping import Float

# Samples of scenes, the part of them that lies inside an interval, and samples that are looked at together.
NUM_SAMPLES, CONFIDENCE = 1000, 0.95
TOGETHER = 50


def bootstrap(
    table: Float[np.ndarray, "S C"],
) -> tuple[Float[np.ndarray, " C"], Float[np.ndarray, " C"], Float[np.ndarray, " C"]]:
    """Means of columns and the ends of their 95% intervals.

    The same draws are used for all columns, and whenever there are as many scenes.

    Args:
      table: One row per scene; NaN where a number is not defined.

    Returns:
      Means, lower ends and upper ends; NaN where nothing is defined, and no interval for less than two scenes.
    """
    defined = ~np.isnan(table)
    values, count = np.where(defined, table, 0.0), defined.sum(axis=0)
    nothing = np.full(table.shape[1], np.nan)
    means = np.divide(values.sum(axis=0), count, out=nothing.copy(), where=count > 0)
    if len(table) < 2:
        return means, nothing, nothing.copy()
    rng, samples = np.random.default_rng(0), []
    for _ in range(NUM_SAMPLES // TOGETHER):
        # How often each scene is drawn says all about a sample.
        draws = rng.multinomial(len(table), np.full(len(table), 1 / len(table)), TOGETHER).astype(float)
        weight = draws @ defined
        samples.append(np.divide(draws @ values, weight, out=np.full(weight.shape, np.nan), where=weight > 0))
    low, high = nothing.copy(), nothing.copy()
    enough = count > 1
    outside = (1 - CONFIDENCE) / 2
    low[enough], high[enough] = np.nanquantile(np.concatenate(samples)[:, enough], (outside, 1 - outside), axis=0)
    return means, low, high
