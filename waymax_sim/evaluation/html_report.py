"""The report of an evaluation: one HTML page without external resources."""

import html
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from waymax_sim.evaluation.columns import MetricInfo
from waymax_sim.evaluation.compare import read_evaluation
from waymax_sim.evaluation.kinds import KINDS_NOTE, scenes_by_kind
from waymax_sim.evaluation.report.charts import distribution, interval_chart, legend
from waymax_sim.evaluation.report.markup import escape, table
from waymax_sim.evaluation.report.scenes import MAX_SCENES_SHOWN, Result, scenes_data, script_text
from waymax_sim.evaluation.report.viewers import SceneViewer
from waymax_sim.evaluation.slices import SLICES_NOTE, slice_columns, slice_rows, summarize_slices
from waymax_sim.evaluation.summary import headlines, scene_means
from waymax_sim.evaluation.tables import (
    GOALS_NOTE,
    METRIC_NOTES,
    PRIVILEGED_NOTE,
    SAMPLES_NOTE,
    policy_marks,
    with_interval,
)
from waymax_sim.results_dir import Json, write_text

REPORT_DIR = Path(__file__).with_name("report")
REPORT = "report.html"
# Headlines with a chart by kind and by difficulty.
NUM_CHARTS = 2
SCENE_CONTROLS = """<div class="controls"><label>Policy <select id="result"></select></label>
<label>Kind <select id="kind"><option value="">all</option></select></label>
<label>Filter <input id="filter" type="search" placeholder="scene or file"></label><output id="count"></output></div>
<div id="scenes" tabindex="0" role="region" aria-label="Scenes"></div>"""
SCATTER_PLOT = """<div class="controls"><label>Metric <select id="metric"></select></label>
<label>x <select id="x"></select></label> <label>y <select id="y"></select></label></div>
<svg id="scatter" role="img" viewBox="0 0 360 360" width="360"></svg><p id="scatter-note"></p>"""


def write_report(
    folder: str | os.PathLike, path: str | os.PathLike | None = None, viewers: Sequence[SceneViewer] = ()
) -> Path:
    """Writes the HTML report of a finished evaluation; nothing is simulated.

    Args:
      folder: The folder of the evaluation, with `summary.json` and `rows.jsonl`.
      path: File to write; by default `report.html` in the folder.
      viewers: Scenes to play; see `worst_viewers`.

    Returns:
      The path of the report.

    Raises:
      ValueError: The folder holds no finished evaluation.
    """
    rows, summary = read_evaluation(Path(folder))
    path = Path(folder) / REPORT if path is None else Path(path)
    write_text(path, html_report(summary, rows, viewers))
    return path


def html_report(summary: Json, rows: Sequence[Json] = (), viewers: Sequence[SceneViewer] = ()) -> str:
    """The HTML report of an evaluation.

    Args:
      summary: The content of summary.json.
      rows: The rows of rows.jsonl; without them there are no distributions and no scenes.
      viewers: Scenes to play.

    Returns:
      HTML.
    """
    results, conditions = summary["results"], summary["conditions"]
    title = f"{', '.join(conditions['policies'])} in {conditions['path']}"
    names = headlines(conditions["metrics"])
    notes = [PRIVILEGED_NOTE, GOALS_NOTE, SAMPLES_NOTE, *(METRIC_NOTES[name] for name in names if name in METRIC_NOTES)]
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{summary['num_scenes']} scenes, {summary['num_failed']} could not be used. Means over scenes with half "
        f"the width of their 95% bootstrap intervals. {escape('; '.join(notes))}.</p>",
        *(f"<p>In {count} scenes: {escape(note)}.</p>" for note, count in summary.get("notes", {}).items()),
        "<h2>Policies among traffic</h2>",
        f'<div class="side">{"".join(_matrix(name, results, conditions) for name in names)}</div>',
        *_kinds(summary, rows),
        *_slices(summary),
        *(_scenes(summary, rows, viewers) if rows else []),
        *(["<h2>Worst scenes</h2>"] if viewers else []),
        *map(_viewer, viewers),
        "<h2>All metrics</h2>",
        _all_metrics(results, conditions),
        *(_distributions(summary, rows) if rows else []),
        *_failures(summary["failures"]),
        "<h2>Conditions</h2>",
        f"<pre>{html.escape(json.dumps(conditions, indent=2))}</pre>",
        *([f"<script>\n{_resource('report.js')}</script>"] if rows else []),
    ]
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>\n{_resource("report.css")}</style>'
    return f'<!doctype html>\n<html lang="en">\n{head}\n' + "\n".join(parts) + "\n"


def _resource(name: str) -> str:
    return (REPORT_DIR / name).read_text(encoding="utf-8")


def _matrix(name: str, results: Sequence[Json], conditions: Json) -> str:
    """A table of one metric: a row per policy, a column per traffic."""
    column = conditions["metrics"][name]
    values = {(item["policy"], item["traffic"]): with_interval(item["metrics"][name]) for item in results}
    rows = [[_name(p, conditions), *(values[p, t] for t in conditions["traffic"])] for p in conditions["policies"]]
    return table(["policy", *(f"among {t}" for t in conditions["traffic"])], rows, f"{_label(name, column)}")


def _all_metrics(results: Sequence[Json], conditions: Json) -> str:
    head = ["metric", *(f"{_name(item['policy'], conditions)} among {item['traffic']}" for item in results), "valid in"]
    rows = []
    for name, column in conditions["metrics"].items():
        values = [with_interval(item["metrics"][name]) for item in results]
        valid = "..".join(
            dict.fromkeys(str(f([r["metrics"][name]["num_valid_scenes"] for r in results])) for f in (min, max))
        )
        rows.append([_label(name, column), *values, valid])
    return table(head, rows)


def _kinds(summary: Json, rows: Sequence[Json]) -> Iterable[str]:
    """Headlines by kind of scene."""
    members, columns = scenes_by_kind(rows), _columns(summary)
    if members:
        by_kind = [
            result | {"slices": summarize_slices(_result_rows(rows, result), members, columns)}
            for result in summary["results"]
        ]
        yield from _groups(summary | {"results": by_kind}, "By kind of scene", KINDS_NOTE, "kind")


def _slices(summary: Json) -> Iterable[str]:
    yield from _groups(summary, "By difficulty", SLICES_NOTE, "slice")


def _groups(summary: Json, title: str, note: str, name: str) -> Iterable[str]:
    """Charts of the first headlines and a table of all of them, by groups of scenes.

    Args:
      summary: As an evaluation writes it, with the groups as its slices.
      title: Title of the section.
      note: Definition of the groups.
      name: Name of a group.
    """
    rows = slice_rows(summary)
    if not rows:
        return
    results = summary["results"]
    sizes = {group: item["num_scenes"] for result in results for group, item in result.get("slices", {}).items()}
    categories = [f"{group} ({size})" for group, size in sizes.items()]
    yield f"<h2>{title}</h2>"
    yield f"<p>{escape(note)}. Numbers of scenes in parentheses.</p>"
    yield legend([_result_text(result) for result in results])
    charts = [
        interval_chart(
            _label(metric, summary["conditions"]["metrics"][metric]),
            categories,
            [[_metric(result, group, metric) for group in sizes] for result in results],
        )
        for metric in slice_columns(summary)[:NUM_CHARTS]
    ]
    yield f'<div class="figures">{"".join(charts)}</div>'
    head = ["policy", "traffic", name, "scenes", *slice_columns(summary)]
    yield f"<details><summary>Table</summary>{table(head, rows)}</details>"


def _metric(result: Json, group: str, metric: str) -> Json | None:
    own = result.get("slices", {}).get(group)
    return own and own["metrics"][metric]


def _distributions(summary: Json, rows: Sequence[Json]) -> Iterable[str]:
    """Histogram and cumulative distribution of each metric over scenes, means over seeds."""
    columns, results = _columns(summary), summary["results"]
    tables = [scene_means(_result_rows(rows, result), columns)[1] for result in results]
    yield "<h2>Distributions over scenes</h2>"
    yield legend([_result_text(result) for result in results])
    figures = [
        distribution(_label(name, info._asdict()), [np.asarray(table[:, index]) for table in tables])
        for index, (name, info) in enumerate(columns.items())
    ]
    yield f'<div class="figures">{"".join(figures)}</div>'


def _scenes(summary: Json, rows: Sequence[Json], viewers: Sequence[SceneViewer]) -> Iterable[str]:
    """The scatter plot of two policies and the table of scenes, which the script fills."""
    pairs: list[Result] = [(result["policy"], result["traffic"]) for result in summary["results"]]
    data = scenes_data(rows, pairs, _columns(summary), viewers)
    yield "<h2>Two policies scene by scene</h2>"
    yield SCATTER_PLOT
    yield "<h2>Scenes</h2>"
    if summary["num_scenes"] > MAX_SCENES_SHOWN:
        yield f"<p>The worst {MAX_SCENES_SHOWN} of {summary['num_scenes']} scenes, here and in the plot above.</p>"
    yield SCENE_CONTROLS
    yield f'<script id="data" type="application/json">{script_text(data)}</script>'


def _viewer(item: SceneViewer) -> str:
    """The viewer of a scene, which links of the table address."""
    anchor = "" if item.index is None else f' id="viewer-{item.index}"'
    frame = f'<iframe title="{escape(item.title)}" loading="lazy" srcdoc="{html.escape(item.page)}"></iframe>'
    return f"<section{anchor}><h3>{escape(item.title)}</h3>{frame}</section>"


def _failures(failures: Sequence[Json]) -> Iterable[str]:
    if failures:
        names = ("file", "record", "policy", "traffic", "seed", "field", "error", "remedy")
        rows = [["" if item[name] is None else str(item[name]) for name in names] for item in failures]
        yield "<h2>Failures</h2>"
        yield table(names, rows)


def _columns(summary: Json) -> dict[str, MetricInfo]:
    return {name: MetricInfo(**column) for name, column in summary["conditions"]["metrics"].items()}


def _result_rows(rows: Sequence[Json], result: Json) -> list[Json]:
    """The rows of the policy and the traffic of a result."""
    return [row for row in rows if (row["policy"], row["traffic"]) == (result["policy"], result["traffic"])]


def _result_text(result: Json) -> str:
    return f"{result['policy']} among {result['traffic']}"


def _label(name: str, column: Json) -> str:
    unit = "" if column["unit"] == "1" else f" ({column['unit']})"
    return f"{name.replace('_', ' ')}{unit}, {column['better']} is better"


def _name(policy: str, conditions: Json) -> str:
    return policy + policy_marks(conditions["policies"][policy])
