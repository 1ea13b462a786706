"""Charts as inline SVG: histograms, cumulative distributions, and means with intervals."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from waymax_sim.evaluation.report.markup import escape
from waymax_sim.results_dir import Json

# Size of one plot and its margins, pixels.
WIDTH = 250
HEIGHT = 110
MARGIN = 18
# Bins of a histogram, and largest number of steps of a cumulative distribution.
NUM_BINS = 20
NUM_QUANTILES = 80
# Colors that CSS defines; series of equal index modulo this number share one.
NUM_COLORS = 5
# Height of one mark of a chart of intervals, and width of the names of its categories, pixels.
MARK_HEIGHT = 9
NAME_WIDTH = 130

Point = tuple[float, float]


def distribution(title: str, series: Sequence[Float[np.ndarray, "_"]]) -> str:
    """A figure with the histogram and the cumulative distribution of each series; NaN is left out.

    Args:
      title: Metric and unit.
      series: Values of each policy and traffic, one per scene.
    """
    defined = [values[np.isfinite(values)] for values in series]
    everything = np.concatenate([np.zeros(0), *defined])
    if not len(everything):
        return f"<figure><figcaption>{escape(title)}: valid in no scene</figcaption></figure>"
    low, high = float(everything.min()), float(everything.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    histograms = histogram_shares(defined, low, high)
    top = float(histograms.max())
    bars = [_histogram_points(shares, top) for shares in histograms]
    curves = [_cumulative_points(values, low, high) for values in defined]
    plots = _plot(bars, (low, high), top, "share of scenes") + _plot(curves, (low, high), 1.0, "cumulative")
    return f"<figure><figcaption>{escape(title)}</figcaption>{plots}</figure>"


def histogram_shares(series: Sequence[Float[np.ndarray, "_"]], low: float, high: float) -> Float[np.ndarray, "S bins"]:
    """Share of the values of each series in each of `NUM_BINS` bins of equal width; zeros for an empty series.

    Args:
      series: Finite values.
      low: Lower limit of the first bin.
      high: Upper limit of the last bin, inclusive.
    """
    edges = np.linspace(low, high, NUM_BINS + 1)
    counts = np.array([np.histogram(values, edges)[0] for values in series], float)
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1.0)


def cumulative(values: Float[np.ndarray, " n"]) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Distinct values in ascending order and the share of values up to each, thinned to `NUM_QUANTILES` of them."""
    distinct, counts = np.unique(values, return_counts=True)
    share = np.cumsum(counts) / len(values)
    if len(distinct) <= NUM_QUANTILES:
        return distinct, share
    chosen = np.unique(np.linspace(0, len(distinct) - 1, NUM_QUANTILES).round().astype(int))
    return distinct[chosen], share[chosen]


def interval_chart(title: str, categories: Sequence[str], series: Sequence[Sequence[Json | None]]) -> str:
    """Means with their intervals: a row per category, a mark per series.

    Args:
      title: Metric and unit.
      categories: Names of the rows.
      series: For each policy and traffic a summary of the metric per category; None without scenes.
    """
    items = [item for values in series for item in values if item and item["value"] is not None]
    if not items:
        return ""
    limits = [item[end] for item in items for end in ("value", "low", "high") if item[end] is not None]
    low, high = min(0.0, *limits), max(limits)
    row_height = MARK_HEIGHT * len(series) + 6
    width, height = NAME_WIDTH + int(1.4 * WIDTH), row_height * len(categories) + MARGIN
    right = width - MARGIN

    def column(value: float) -> float:
        return NAME_WIDTH + (value - low) / ((high - low) or 1.0) * (right - NAME_WIDTH)

    parts = []
    for index, name in enumerate(categories):
        top = index * row_height
        parts.append(_text(NAME_WIDTH - 8, top + row_height / 2 + 4, name, "end"))
        parts.append(f'<path class="rule" d="M{NAME_WIDTH} {top}H{right}"/>')
        for color, values in enumerate(series):
            item = values[index]
            if item and item["value"] is not None:
                parts.append(_mark(item, column, top + MARK_HEIGHT * (color + 0.5) + 3, color))
    ticks = _text(NAME_WIDTH, height - 4, f"{low:.3g}", "start") + _text(right, height - 4, f"{high:.3g}", "end")
    figure = _svg(width, height, "".join(parts) + ticks, f"{title} with 95% intervals")
    return f"<figure><figcaption>{escape(title)}</figcaption>{figure}</figure>"


def legend(names: Sequence[str]) -> str:
    """The colors of series."""
    items = "".join(f'<li class="s{index % NUM_COLORS}">{escape(name)}</li>' for index, name in enumerate(names))
    return f'<ul class="legend">{items}</ul>'


def _histogram_points(shares: Float[np.ndarray, " bins"], top: float) -> list[Point]:
    """The outline of a histogram in the unit square."""
    edges = np.repeat(np.linspace(0.0, 1.0, len(shares) + 1), 2)
    levels = np.concatenate([[0.0], np.repeat(shares / (top or 1.0), 2), [0.0]])
    return list(zip(edges.tolist(), levels.tolist(), strict=True))


def _cumulative_points(values: Float[np.ndarray, " n"], low: float, high: float) -> list[Point]:
    """The steps of a cumulative distribution in the unit square; no point without values."""
    if not len(values):
        return []
    at, share = cumulative(values)
    x = np.append(np.repeat((at - low) / (high - low), 2), 1.0)
    y = np.concatenate([[0.0], np.repeat(share, 2)])
    return list(zip(x.tolist(), y.tolist(), strict=True))


def _plot(lines: Sequence[Sequence[Point]], limits: Point, top: float, name: str) -> str:
    """A plot of lines in the unit square.

    Args:
      lines: Points of each line.
      limits: Smallest and largest value.
      top: Largest share.
      name: Name of the shares.
    """
    inner_width, inner_height = WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN
    base = HEIGHT - MARGIN
    paths = [f'<path class="rule" d="M{MARGIN} {MARGIN}V{base}H{WIDTH - MARGIN}"/>']
    for color, points in enumerate(lines):
        steps = " ".join(f"{MARGIN + x * inner_width:.1f} {base - y * inner_height:.1f}" for x, y in points)
        if steps:
            paths.append(f'<path class="line s{color % NUM_COLORS}" d="M{steps}"/>')
    low, high = (f"{limit:.3g}" for limit in limits)
    ticks = _text(MARGIN, HEIGHT - 4, low, "start") + _text(WIDTH - MARGIN, HEIGHT - 4, high, "end")
    head = _text(MARGIN, MARGIN - 5, f"{name}, up to {top:.2g}", "start")
    return _svg(WIDTH, HEIGHT, "".join(paths) + ticks + head, name)


def _mark(item: Json, column, row: float, color: int) -> str:
    low, high = (item["value"] if item[end] is None else item[end] for end in ("low", "high"))
    style = f's{color % NUM_COLORS}"'
    line = f'<path class="line {style} d="M{column(low):.1f} {row:.1f}H{column(high):.1f}"/>'
    title = f"<title>{item['value']:.3f}, {item['num_valid_scenes']} scenes</title>"
    return line + f'<circle class="dot {style} cx="{column(item["value"]):.1f}" cy="{row:.1f}" r="3.5">{title}</circle>'


def _text(x: int | float, y: int | float, text: str, anchor: str) -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(width: int, height: int, content: str, label: str) -> str:
    view = f'viewBox="0 0 {width} {height}" width="{width}"'
    return f'<svg role="img" aria-label="{escape(label)}" {view}>{content}</svg>'
