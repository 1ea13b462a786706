"""The report of an evaluation: one HTML page without external resources."""

import html
import json
from collections.abc import Iterable, Sequence

from waymax_sim.evaluation.slices import SLICES_NOTE, slice_columns, slice_rows
from waymax_sim.evaluation.summary import headlines
from waymax_sim.evaluation.tables import (
    GOALS_NOTE,
    METRIC_NOTES,
    PRIVILEGED_NOTE,
    SAMPLES_NOTE,
    policy_marks,
    with_interval,
)
from waymax_sim.results_dir import Json
from waymax_sim.text import printable

STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif }
body { max-width: 75rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto }
th, td { padding: .2rem .8rem; border-bottom: 1px solid #8884; text-align: right; vertical-align: bottom }
th:first-child, td:first-child { text-align: left }
caption { text-align: left; font-weight: 600; white-space: nowrap }
.side { display: flex; flex-wrap: wrap; gap: 0 3rem }
pre { overflow-x: auto; background: #8881; padding: 1rem }
iframe { width: 100%; height: 640px; border: 1px solid #8884 }
"""


def html_report(summary: Json, worst: Sequence[tuple[str, str]] = ()) -> str:
    """The HTML report of an evaluation.

    Args:
      summary: The content of summary.json.
      worst: Titles and HTML pages of the scenes to show.

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
        "<h2>All metrics</h2>",
        _all_metrics(results, conditions),
        *_slices(summary),
        *(["<h2>Worst scenes</h2>"] if worst else []),
        *(f"<h3>{escape(name)}</h3>{_frame(name, content)}" for name, content in worst),
        *_failures(summary["failures"]),
        "<h2>Conditions</h2>",
        f"<pre>{html.escape(json.dumps(conditions, indent=2))}</pre>",
    ]
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
    return f'<!doctype html>\n<html lang="en">\n{head}\n' + "\n".join(parts) + "\n"


def _matrix(name: str, results: Sequence[Json], conditions: Json) -> str:
    """A table of one metric: a row per policy, a column per traffic."""
    column = conditions["metrics"][name]
    values = {(item["policy"], item["traffic"]): with_interval(item["metrics"][name]) for item in results}
    rows = [[_name(p, conditions), *(values[p, t] for t in conditions["traffic"])] for p in conditions["policies"]]
    return _table(["policy", *(f"among {t}" for t in conditions["traffic"])], rows, f"{_label(name, column)}")


def _all_metrics(results: Sequence[Json], conditions: Json) -> str:
    head = ["metric", *(f"{_name(item['policy'], conditions)} among {item['traffic']}" for item in results), "valid in"]
    rows = []
    for name, column in conditions["metrics"].items():
        values = [with_interval(item["metrics"][name]) for item in results]
        valid = "..".join(
            dict.fromkeys(str(f([r["metrics"][name]["num_valid_scenes"] for r in results])) for f in (min, max))
        )
        rows.append([_label(name, column), *values, valid])
    return _table(head, rows)


def _slices(summary: Json) -> Iterable[str]:
    rows = slice_rows(summary)
    if rows:
        yield "<h2>By difficulty</h2>"
        yield f"<p>{escape(SLICES_NOTE)}.</p>"
        yield _table(["policy", "traffic", "slice", "scenes", *slice_columns(summary)], rows)


def _failures(failures: Sequence[Json]) -> Iterable[str]:
    if failures:
        names = ("file", "record", "policy", "traffic", "seed", "field", "error", "remedy")
        rows = [["" if item[name] is None else str(item[name]) for name in names] for item in failures]
        yield "<h2>Failures</h2>"
        yield _table(names, rows)


def _frame(name: str, content: str) -> str:
    return f'<iframe title="{escape(name)}" loading="lazy" srcdoc="{html.escape(content)}"></iframe>'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "\n".join(row(cells, "td") for cells in rows)
    return (
        f"<table><caption>{escape(caption)}</caption>\n<thead>{row(head, 'th')}</thead>\n<tbody>{body}</tbody></table>"
    )


def escape(text: str) -> str:
    """One line of text in HTML; characters that are not printable are backslash escapes."""
    return html.escape(printable(text))


def _label(name: str, column: Json) -> str:
    unit = "" if column["unit"] == "1" else f" ({column['unit']})"
    return f"{name.replace('_', ' ')}{unit}, {column['better']} is better"


def _name(policy: str, conditions: Json) -> str:
    return policy + policy_marks(conditions["policies"][policy])
