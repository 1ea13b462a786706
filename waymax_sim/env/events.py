"""Events in recorded rollouts: steps at which a metric with values 0 or 1 is not 0. In NumPy on the host."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Int

from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.datatypes.state import LOG
from waymax_sim.env.rollout import Trace
from waymax_sim.metrics import METRICS, MetricValue


def event_metrics(traces: Iterable[Trace]) -> set[str]:
    """Names of metrics with events: those with values 0 or 1 in all rollouts, of which 0 is better."""

    def has_events(name: str, values: np.ndarray) -> bool:
        unit, better = (METRICS[name].unit, METRICS[name].better) if name in METRICS else ("1", "lower")
        return (unit, better) == ("1", "lower") and bool(np.isin(values, (0.0, 1.0)).all())

    return {name for name, values in metric_values(traces).items() if has_events(name, values)}


def evaluated_rows(scenario: Scenario, trace: Trace) -> Int[np.ndarray, " n"]:
    """Rows of the agents whose metrics are shown: the sdc, and those that the log does not control."""
    controller = np.asarray(trace.final.controller)
    return np.flatnonzero(scenario.agents.exists & ((controller != LOG) | scenario.agents.is_sdc))


def metric_values(traces: Iterable[Trace]) -> dict[str, np.ndarray]:
    """Defined values of each metric over all rollouts, in the order of `METRICS`."""
    recorded: dict[str, list[np.ndarray]] = {}
    for trace in traces:
        for name, item in (trace.metrics or {}).items():
            recorded.setdefault(name, []).append(np.asarray(item.value)[is_defined(item)].astype(float))
    names = [*(name for name in METRICS if name in recorded), *sorted(recorded.keys() - METRICS.keys())]
    return {name: np.concatenate(recorded[name]) for name in names}


def is_defined(metric: MetricValue) -> Bool[np.ndarray, "*shape"]:
    """Where a metric is valid and finite."""
    return np.asarray(metric.valid) & np.isfinite(np.asarray(metric.value))
