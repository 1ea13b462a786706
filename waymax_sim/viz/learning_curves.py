"""Learning curves of a training, from its log."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Scalars with a panel of their own, those of the log that exist; rates have horizontal lines of the baselines.
RATES = ("goal", "collision", "offroad")
DIAGNOSTICS = ("value", "feature_dot", "feature_norm", "feature_cosine", "effective_rank", "end_mass")
PANELS = (*RATES, "return", "loss", "agent_steps_per_s", *DIAGNOSTICS)
EVALUATED = "eval/"
INTERVAL = "/ci95"
PANEL_SIZE = 3.2  # inches
MAX_COLUMNS = 3
BASELINE_STYLES = ("--", ":", "-.", (0, (1, 3)))


def draw_learning_curves(
    lines: Sequence[Mapping[str, Any]], baselines: Mapping[str, Mapping[str, float]], path: Path
) -> None:
    """Draws scalars over training steps: those of the training, those of evaluations, and the baselines.

    Args:
      lines: Lines of the log, with "step".
      baselines: Rates of policies by name, drawn as horizontal lines.
      path: Image to write.
    """
    panels = [name for name in PANELS if any(name in line or EVALUATED + name in line for line in lines)]
    columns = min(MAX_COLUMNS, max(len(panels), 1))
    rows = -(-len(panels) // columns) or 1
    figure = Figure(figsize=(PANEL_SIZE * columns, 0.8 * PANEL_SIZE * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).reshape(-1)
    for axis, name in zip(axes, panels, strict=False):
        draw_panel(axis, lines, name, baselines if name in RATES else {})
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    figure.savefig(path, dpi=120)


def draw_panel(
    axes: Axes, lines: Sequence[Mapping[str, Any]], name: str, baselines: Mapping[str, Mapping[str, float]]
) -> None:
    """Draws one scalar with its interval over seeds.

    Args:
      axes: The panel.
      lines: Lines of the log.
      name: Name of the scalar.
      baselines: Rates of policies by name.
    """
    for column, label, marker in ((name, "training", ""), (EVALUATED + name, "held-out", "o")):
        points = [line for line in lines if column in line]
        if not points:
            continue
        steps, values = [line["step"] for line in points], [line[column] for line in points]
        axes.plot(steps, values, label=label, marker=marker, markersize=3)
        widths = [line.get(column + INTERVAL) for line in points]
        if all(width is not None for width in widths):
            low = [value - width for value, width in zip(values, widths, strict=True)]
            high = [value + width for value, width in zip(values, widths, strict=True)]
            axes.fill_between(steps, low, high, alpha=0.2)
    for style, (policy, rates) in zip(BASELINE_STYLES, baselines.items(), strict=False):
        axes.axhline(rates[name], color="gray", linestyle=style, linewidth=1, label=policy)
    axes.set(title=name, xlabel="training step")
    axes.legend(fontsize=6)
