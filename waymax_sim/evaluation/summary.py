"""From rows to means with confidence intervals, and to the worst scenes."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from waymax_sim.evaluation.confidence import bootstrap
from waymax_sim.evaluation.evaluate import Column
from waymax_sim.evaluation.report import Json

# What tables show first where there is no room for everything.
HEADLINES = (
    "nuplan_score",
    "overlap",
    "at_fault_collision",
    "offroad",
    "red_light_violation",
    "time_to_collision",
    "route_progression",
    "log_divergence",
)


def headlines(columns: Iterable[str]) -> list[str]:
    """The columns that are shown first: some known ones, or all where none of these is there."""
    columns = list(columns)
    return [name for name in HEADLINES if name in columns] or columns


def result_of(rows: Sequence[Json], columns: Mapping[str, Column]) -> Json:
    """Means over scenes of one policy among one traffic. Each scene counts once, whatever the number of seeds.

    Args:
      rows: One per scene and seed, with `index` and a value for each column, None where it is not valid.
      columns: What is summarised.
    """
    scenes, table = by_scene(rows, columns)
    means, low, high = bootstrap(table)
    valid = (~np.isnan(table)).sum(axis=0)
    metrics = {
        name: {
            "value": number(means[place]),
            "low": number(low[place]),
            "high": number(high[place]),
            "valid_fraction": int(valid[place]) / len(scenes) if scenes else 0.0,
            "num_valid_scenes": int(valid[place]),
            **column._asdict(),
        }
        for place, (name, column) in enumerate(columns.items())
    }
    return {"num_scenes": len(scenes), "metrics": metrics}


def by_scene(rows: Iterable[Json], columns: Iterable[str]) -> tuple[list[int], Float[np.ndarray, "S C"]]:
    """Indices of scenes, and for each the means over seeds, NaN where nothing is valid."""
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


def worst(rows: Sequence[Json], columns: Mapping[str, Column], number: int) -> list[tuple[int, list[Json]]]:
    """The scenes with the worst mean of the first headline, and their rows, the worst first."""
    name = headlines(columns)[0]
    sign = 1.0 if columns[name].better == "higher" else -1.0
    scenes: dict[int, list[Json]] = {}
    for row in rows:
        if row[name] is not None:
            scenes.setdefault(row["index"], []).append(row)

    def goodness(index: int) -> float:
        return sign * float(np.mean([row[name] for row in scenes[index]]))

    return [
        (index, sorted(scenes[index], key=lambda row: sign * row[name]))
        for index in sorted(scenes, key=lambda index: (goodness(index), index))[:number]
    ]


def number(value: float) -> float | None:
    """A plain number; None for NaN."""
    return None if np.isnan(value) else float(value)
