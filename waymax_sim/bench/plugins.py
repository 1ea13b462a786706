"""Rows that installed packages register as entry points of the group `waymax_sim.bench`.

An entry point is a function without arguments that returns a mapping: "calls" with functions of a running number that
wait for their result, "total" for the whole and others for its parts, of which the row has "collect" and "fit", or
"baseline" for the same result by brute force; "agent_steps" of one call; and "batch", the number of environments or
transitions.
"""

from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

from waymax_sim.bench.measure import interleaved
from waymax_sim.bench.rows import Json, Sampling, compare_to_brute_force, sample_times, single_row
from waymax_sim.plugins.entry_points import BENCH_GROUP, find_entry_points, load_entry_point

Workload = Mapping[str, Any]
WORKLOAD_PARTS = ("collect", "fit")
BASELINE = "baseline"


def plugin_workloads() -> dict[str, Callable[[], Workload]]:
    """The workloads of all installed packages by name; a module is imported when its workload is requested."""

    def prepare(entry_points: list) -> Workload:
        return load_entry_point(entry_points)()

    return {
        name: lambda entry_points=entry_points: prepare(entry_points)
        for name, entry_points in find_entry_points(BENCH_GROUP).items()
    }


def plugin_row(name: str, prepare: Callable[[], Workload], sampling: Sampling) -> Json:
    """Measures a workload, in turn with its parts and its baseline.

    Args:
      name: Name of the row.
      prepare: Returns the workload.
      sampling: Amount of measurement.
    """
    workload = prepare()
    calls = workload["calls"]
    names = ["total", *(part for part in (*WORKLOAD_PARTS, BASELINE) if part in calls)]
    measured = interleaved([calls[part] for part in names], sampling.repeats, sampling.seconds * len(names))
    samples = dict(zip(names, measured, strict=True))
    row = single_row(name=name, batch=workload["batch"]) | sample_times(samples["total"])
    row |= {f"{part}_cpu_ms": 1e3 * median(samples[part].cpu) for part in WORKLOAD_PARTS if part in samples}
    if BASELINE in samples:
        results = (calls[part](0) for part in ("total", BASELINE))
        row |= compare_to_brute_force(1.0, samples["total"], samples[BASELINE], *results)
    return row | {
        "agent_steps_per_s": 1e3 * workload["agent_steps"] / row["wall_ms"],
        "agent_steps_per_cpu_s": 1e3 * workload["agent_steps"] / row["cpu_ms"],
    }
