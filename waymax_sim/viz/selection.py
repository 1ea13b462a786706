"""The tests of a model selection as an image."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Size of the image, inches.
FIGURE_SIZE = (9.0, 3.6)


def draw_selection(summary: Mapping[str, Any], path: Path) -> None:
    """Draws held-out errors of the classes, and the gap of each pair of classes against its tolerance.

    Args:
      summary: Result of `waymax-sim select`: "classes", "held_out_error", "chosen_index", and "gap" with "tolerance"
        or "share".
      path: Image to write.
    """
    names, chosen = summary["classes"], summary["chosen_index"]
    figure = Figure(figsize=FIGURE_SIZE, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    colors = ["tab:orange" if index == chosen else "tab:blue" for index in range(len(names))]
    left.bar(names, summary["held_out_error"], color=colors)
    left.set_ylabel("held-out squared error")
    left.tick_params(axis="x", rotation=30)
    if "gap" in summary:
        pairs = [(k, j) for k in range(len(names)) for j in range(k + 1, len(names))]
        gaps, tolerances = ([summary[field][k][j] for k, j in pairs] for field in ("gap", "tolerance"))
        labels = [f"{names[k]} / {names[j]}" for k, j in pairs]
        right.barh(labels, gaps, color="tab:blue", label="gap")
        right.plot(tolerances, labels, "k|", markersize=12, label="tolerance")
        right.set_xlabel("loss, smaller minus larger class")
        right.locator_params(axis="x", nbins=4)
        right.ticklabel_format(axis="x", style="sci", scilimits=(0, 0))
        right.legend()
    else:
        right.bar(names, summary["share"], color=colors)
        right.set_ylabel("share of certificates")
        right.tick_params(axis="x", rotation=30)
    figure.savefig(path, dpi=120)
