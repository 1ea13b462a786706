"""The result of a benchmark as a table for a terminal or as Markdown."""

import math
from typing import Any

from rich import box
from rich.table import Table

Json = dict[str, Any]
# Columns of a table and their headings.
TABLE_COLUMNS = {
    "name": "name",
    "batch": "batch",
    "agents": "agents",
    "valid_agents": "valid",
    "map_points": "points",
    "wall_ms": "wall ms",
    "wall_ms_spread": "±",
    "cpu_ms": "CPU ms",
    "cpu_ms_per_scene_step": "CPU ms per scene-step",
    "ratio_to_brute_force": "speedup over brute force",
    "agent_steps_per_s": "agent-steps/s",
    "agent_steps_per_cpu_s": "agent-steps/CPU s",
    "auto_reset_ratio": "ratio to no reset",
    "collect_cpu_ms": "collect CPU ms",
    "fit_cpu_ms": "fit CPU ms",
    "bank_mb_per_scene": "bank MB",
    "temp_mb": "temp MB",
    "accessed_mb": "moved MB",
    "compile_s": "compile s",
}
# Columns of the Markdown table only, which is wider.
MARKDOWN_ONLY = {
    "valid_agents",
    "wall_ms_spread",
    "cpu_ms",
    "accessed_mb",
    "bank_mb_per_scene",
    "collect_cpu_ms",
    "fit_cpu_ms",
}


def terminal_table(results: Json) -> Table:
    """One line per row, at most 120 columns wide."""
    columns = [column for column in _nonempty_columns(results) if column not in MARKDOWN_ONLY]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        justify = "left" if column == "name" else "right"
        table.add_column(TABLE_COLUMNS[column].replace(" ", "\n"), justify=justify, vertical="bottom", no_wrap=True)
    for row in results["rows"]:
        table.add_row(*(_format(row[column]) for column in columns))
    return table


def markdown(results: Json) -> str:
    """A Markdown table after one line of conditions."""
    columns = _nonempty_columns(results)
    lines = [conditions_text(results), "", "| " + " | ".join(TABLE_COLUMNS[column] for column in columns) + " |"]
    lines.append("|" + "|".join("---" if column == "name" else "---:" for column in columns) + "|")
    lines += ["| " + " | ".join(_format(row[column]) for column in columns) + " |" for row in results["rows"]]
    return "\n".join([*lines, "", *(f"- left out: `{name}` ({why})" for name, why in results["left_out"].items())])


def conditions_text(results: Json) -> str:
    """The conditions in one or two sentences."""
    conditions = results["conditions"]
    versions = ", ".join(f"{name} {version}" for name, version in conditions["versions"].items())
    return (
        f"{conditions['date']}: {conditions['num_devices']} x {conditions['device']} ({conditions['cpu']}, "
        f"{conditions['cores']} cores, load {conditions['load_average'][0]:.1f} before), {versions}. "
        f"Scene {conditions['scenario_id']}, record {conditions['record']}. "
        f"Medians of at least {conditions['repeats']} samples; ± is the interquartile range."
    )


def _nonempty_columns(results: Json) -> list[str]:
    return [column for column in TABLE_COLUMNS if any(row[column] is not None for row in results["rows"])]


def _format(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str | int):
        return str(value)
    if value >= 1e4:
        power = math.floor(math.log10(value) / 3)
        return f"{value / 1e3**power:.3g} {' kMGT'[power]}"
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"
