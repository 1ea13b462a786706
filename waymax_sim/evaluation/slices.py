"""Results of evaluations by the difficulty of scenes."""

from collections.abc import Mapping, Sequence

import numpy as np
from rich import box
from rich.table import Table

from waymax_sim.evaluation.columns import MetricInfo
from waymax_sim.evaluation.difficulty import FEATURES, deciles, difficulty_scores, top_slices
from waymax_sim.evaluation.summary import headlines, summarize_rows
from waymax_sim.evaluation.tables import with_interval
from waymax_sim.results_dir import Json
from waymax_sim.text import printable

SLICES_NOTE = "difficulty: mean percentile rank of features of the recorded scene, among the evaluated scenes"


def scene_slices(rows: Sequence[Json]) -> dict[str, list[int]]:
    """Indices of scenes by slice: the shares of the most difficult ones, then the deciles, the easiest first.

    Args:
      rows: Rows with `index` and `difficulty`, the features of their scene; those of earlier versions have none.
    """
    difficulty = scene_difficulty(rows)
    if not difficulty:
        return {}
    indices, scores = np.array(list(difficulty), int), np.array(list(difficulty.values()))
    parts = top_slices(scores) | {f"decile {number}": part for number, part in enumerate(deciles(scores), start=1)}
    return {name: indices[part].tolist() for name, part in parts.items()}


def scene_difficulty(rows: Sequence[Json]) -> dict[int, float]:
    """Difficulty of each scene in [0, 1] by its index, in ascending order of indices; NaN where it is undefined.

    Args:
      rows: See `scene_slices`.
    """
    features = {row["index"]: row["difficulty"] for row in rows if row.get("difficulty")}
    if not features:
        return {}
    indices = sorted(features)
    defined = [{name: _number(features[index].get(name)) for name in FEATURES} for index in indices]
    return dict(zip(indices, difficulty_scores(defined).tolist(), strict=True))


def summarize_slices(
    rows: Sequence[Json], slices: Mapping[str, Sequence[int]], columns: Mapping[str, MetricInfo]
) -> Json:
    """Means of the headlines of one policy among one traffic in each slice.

    Args:
      rows: Rows of the policy.
      slices: Indices of scenes by slice.
      columns: All columns of the rows.
    """
    shown = {name: columns[name] for name in headlines(columns)}
    members = {name: set(indices) for name, indices in slices.items()}
    return {name: summarize_rows([row for row in rows if row["index"] in own], shown) for name, own in members.items()}


def slices_table(summary: Json) -> Table | None:
    """A row per policy, traffic and slice with the headlines; None where there are no slices.

    Args:
      summary: As an evaluation writes it.
    """
    rows = slice_rows(summary)
    if not rows:
        return None
    table = Table(title="By difficulty of the scenes, the most difficult first", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("policy", "traffic", "slice", "scenes"):
        table.add_column(name, justify="right" if name == "scenes" else "left")
    for name in slice_columns(summary):
        table.add_column(name.replace("_", " "), justify="right", vertical="bottom")
    for row in rows:
        table.add_row(*map(printable, row))
    table.caption = SLICES_NOTE
    return table


def slice_columns(summary: Json) -> list[str]:
    """The columns of `slice_rows` after policy, traffic, slice and number of scenes."""
    return headlines(summary["conditions"]["metrics"])


def slice_rows(summary: Json) -> list[list[str]]:
    """Texts of a table: policy, traffic, slice, number of scenes, and the means of the headlines.

    Args:
      summary: As an evaluation writes it; those of earlier versions have no slices.
    """
    return [
        [
            result["policy"],
            result["traffic"],
            name,
            str(item["num_scenes"]),
            *(with_interval(item["metrics"][column]) for column in slice_columns(summary)),
        ]
        for result in summary["results"]
        for name, item in result.get("slices", {}).items()
    ]


def _number(value: float | None) -> float:
    return np.nan if value is None else float(value)
