"""Summaries of rows: means with confidence intervals, and the worst scenes."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from waymax_sim.evaluation.columns import MetricInfo
from waymax_sim.evaluation.confidence import bootstrap, optional_float
from waymax_sim.results_dir import Json

# Columns of tables without room for all, in order.
HEADLINES = (
    "nuplan_score",
    "overlap",
    "at_fault_collision",
    "road_departure",
    "offroad",
    "red_light_violation",
    "time_to_collision",
    "route_progression",
    "log_divergence",
)


def headlines(columns: Iterable[str]) -> list[str]:
    """The columns of `HEADLINES` among the given ones, or all of them if there is none."""
    columns = list(columns)
    names = [name for name in HEADLINES if name in columns]
    # Road departures replace the off-road rate, to which agents that are parked off the road contribute.
    return [name for name in names if name != "offroad" or "road_departure" not in names] or columns


def summarize_rows(rows: Sequence[Json], columns: Mapping[str, MetricInfo]) -> Json:
    """Means over scenes of one policy among one traffic. Each scene counts once, regardless of the number of seeds.

    Args:
      rows: One per scene and seed, with `index` and a value for each column, None where it is not valid.
      columns: The columns to summarize.
    """
    scenes, table = scene_means(rows, columns)
    means, low, high = bootstrap(table)
    valid = (~np.isnan(table)).sum(axis=0)
    metrics = {
        name: {
            "value": optional_float(means[index]),
            "low": optional_float(low[index]),
            "high": optional_float(high[index]),
            "valid_fraction": int(valid[index]) / len(scenes) if scenes else 0.0,
            "num_valid_scenes": int(valid[index]),
            **column._asdict(),
        }
        for index, (name, column) in enumerate(columns.items())
    }
    return {"num_scenes": len(scenes), "metrics": metrics}


def scene_means(rows: Iterable[Json], columns: Iterable[str]) -> tuple[list[int], Float[np.ndarray, "S C"]]:
    """Indices of scenes, and their means over seeds, NaN where no value is valid."""
    names, scenes = list(columns), {}
    for row in rows:
        values = [np.nan if row[name] is None else row[name] for name in names]
        scenes.setdefault(row["index"], []).append(values)
    order = sorted(scenes)
    if not order:
        return [], np.zeros((0, len(names)))
    stacked = [np.array(scenes[index], float) for index in order]
    count = np.array([(~np.isnan(values)).sum(axis=0) for values in stacked])
    total = np.array([np.nansum(values, axis=0) for values in stacked])
    return order, np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def worst_scenes(rows: Sequence[Json], columns: Mapping[str, MetricInfo], number: int) -> list[tuple[int, list[Json]]]:
    """The scenes with the worst mean of the first headline, and their rows, the worst first.

    Args:
      rows: One per scene, policy, traffic and seed.
      columns: The columns of the rows.
      number: Number of scenes.
    """
    name = headlines(columns)[0]
    sign = 1.0 if columns[name].better == "higher" else -1.0
    scenes: dict[int, list[Json]] = {}
    for row in rows:
        if row[name] is not None:
            scenes.setdefault(row["index"], []).append(row)

    def quality(index: int) -> float:
        return sign * float(np.mean([row[name] for row in scenes[index]]))

    return [
        (index, sorted(scenes[index], key=lambda row: sign * row[name]))
        for index in sorted(scenes, key=lambda index: (quality(index), index))[:number]
    ]
