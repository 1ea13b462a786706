"""Pictures of a search over programs: progress, and the trade-off of length and fitness."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

SEARCH_FIGURE_SIZE = (8.0, 3.2)  # inches


def draw_search(curves: Float[np.ndarray, "S B"], front: Mapping[int, float], path: Path) -> None:
    """Draws the largest fitness over evaluations for each seed, and the largest fitness for each length.

    Args:
      curves: Largest fitness after each evaluation.
      front: Largest fitness of programs of a number of nodes.
      path: Image to write.
    """
    figure = Figure(figsize=SEARCH_FIGURE_SIZE, layout="constrained")
    FigureCanvasAgg(figure)
    progress, lengths = figure.subplots(1, 2)
    for curve in curves:
        progress.plot(np.arange(1, len(curve) + 1), curve, linewidth=0.8, alpha=0.6)
    progress.plot(np.arange(1, curves.shape[1] + 1), curves.mean(axis=0), color="black", label="mean of seeds")
    progress.set(xlabel="evaluated programs", ylabel="largest fitness", ylim=_limits(curves))
    progress.legend(fontsize=7)
    lengths.step(list(front), list(front.values()), where="post", marker="o", markersize=3)
    lengths.set(xlabel="nodes", ylabel="fitness", title="best program up to a length")
    figure.savefig(path, dpi=120)


def _limits(curves: Float[np.ndarray, "S B"]) -> tuple[float, float]:
    """Range without the first, poor programs."""
    low, high = float(np.quantile(curves, 0.02)), float(curves.max())
    margin = 0.05 * max(high - low, 1e-6)
    return low - margin, high + margin
