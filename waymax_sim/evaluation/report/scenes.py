"""Scenes of an evaluation as data for the script of the report: kinds, difficulty, headlines, and links to events."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from waymax_sim.evaluation.columns import MetricInfo
from waymax_sim.evaluation.kinds import scene_kinds
from waymax_sim.evaluation.report.viewers import SceneViewer
from waymax_sim.evaluation.slices import scene_difficulty
from waymax_sim.evaluation.summary import headlines, scene_means, worst_scenes
from waymax_sim.results_dir import Json
from waymax_sim.text import printable

# Largest number of scenes in the table and in the scatter plot, which bounds the size of a report; the worst ones.
MAX_SCENES_SHOWN = 1000
# Significant digits of values.
DIGITS = 4

Result = tuple[str, str]


def scenes_data(
    rows: Sequence[Json], results: Sequence[Result], columns: Mapping[str, MetricInfo], viewers: Sequence[SceneViewer]
) -> Json:
    """The data of the table and the scatter plot.

    Args:
      rows: Rows of the evaluation.
      results: Policy and traffic of each result.
      columns: Metrics of the rows.
      viewers: Scenes to play.

    Returns:
      `metrics`, `results`, `pair` (two results to compare first) and `scenes`, the worst first. A scene has `values`,
      for each result those of the metrics, means over its seeds, None where not valid.
    """
    names = headlines(columns)
    order = _order(rows, columns)[:MAX_SCENES_SHOWN]
    about = {row["index"]: row for row in rows}
    values = [_values([row for row in rows if (row["policy"], row["traffic"]) == result], names) for result in results]
    difficulty = scene_difficulty(rows)
    links = {item.index: _links(item, results) for item in viewers if item.index is not None}
    return {
        "metrics": [{"name": name} | columns[name]._asdict() for name in names],
        "results": [f"{printable(policy)} among {printable(traffic)}" for policy, traffic in results],
        "pair": [0, _other_policy(results)],
        "scenes": [
            {
                "index": index,
                "id": printable(about[index].get("scenario_id", index)),
                "file": printable(Path(about[index].get("file", "")).name),
                "kinds": scene_kinds(about[index].get("difficulty") or {}),
                "difficulty": _rounded(difficulty.get(index, np.nan)),
                "values": [table.get(index, [None] * len(names)) for table in values],
                "events": links.get(index, []),
            }
            for index in order
        ],
    }


def script_text(data: Json) -> str:
    """JSON that an element `script` of a page can hold."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _other_policy(results: Sequence[Result]) -> int:
    """Position of the first result of another policy than the first one, among the same traffic if possible."""
    (policy, traffic), others = results[0], range(1, len(results))
    same_traffic = [index for index in others if results[index][0] != policy and results[index][1] == traffic]
    return next(iter([*same_traffic, *others]), 0)


def _order(rows: Sequence[Json], columns: Mapping[str, MetricInfo]) -> list[int]:
    """Indices of all scenes, the worst first, those without a valid headline last."""
    everything = dict.fromkeys(row["index"] for row in rows)
    worst = [index for index, _ in worst_scenes(rows, columns, len(everything))]
    return list(dict.fromkeys([*worst, *everything]))


def _values(rows: Sequence[Json], names: Sequence[str]) -> dict[int, list[float | None]]:
    indices, table = scene_means(rows, names)
    return {index: [_rounded(value) for value in line] for index, line in zip(indices, table.tolist(), strict=True)}


def _rounded(value: float) -> float | None:
    return float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None


def _links(viewer: SceneViewer, results: Sequence[Result]) -> list[Json]:
    """Links to the events of the results: position of the result, text, and the hash of the viewer."""
    return [
        {
            "result": results.index((event.run[0], event.run[1])),
            "text": f"{event.metric}, step {event.step}",
            "hash": f"step={event.step}" + ("" if event.agent is None else f"&agent={event.agent}"),
        }
        for event in viewer.events
        if (event.run[0], event.run[1]) in results
    ]
