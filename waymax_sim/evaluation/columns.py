"""Columns of evaluations: units and directions of metrics, and of the nuPlan score."""

from collections.abc import Iterable
from typing import Literal, NamedTuple

from waymax_sim.metrics import NUPLAN_METRICS, resolve
from waymax_sim.metrics.nuplan import MULTIPLIERS, WEIGHTS

# Name of the score that is computed wherever `NUPLAN_METRICS` are evaluated.
NUPLAN_SCORE = "nuplan_score"


class MetricInfo(NamedTuple):
    """Unit and direction of a metric.

    Attributes:
      unit: Its unit.
      better: Whether lower or higher is better.
    """

    unit: str
    better: Literal["lower", "higher"]


def metric_columns(metrics: Iterable[str]) -> dict[str, MetricInfo]:
    """Unit and direction of the given metrics, and of the nuPlan score and its parts if it is computed from them."""
    columns = {name: MetricInfo(metric.unit, metric.better) for name, metric in resolve(metrics).items()}
    scores = (NUPLAN_SCORE, *MULTIPLIERS, *WEIGHTS) if columns.keys() >= set(NUPLAN_METRICS) else ()
    return dict.fromkeys(scores, MetricInfo("1", "higher")) | columns
