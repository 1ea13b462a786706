"""The results of a benchmark as a table: for a terminal, or as Markdown for a page."""

import math
from typing import Any

from rich import box
from rich.table import Table

Json = dict[str, Any]
SHOWN = {
    "name": "name",
    "batch": "batch",
    "agents": "agents",
    "valid_agents": "valid",
    "map_points": "points",
    "wall_ms": "wall ms",
    "wall_ms_spread": "±",
    "cpu_ms": "CPU ms",
    "cpu_ms_per_scene_step": "CPU ms a scene-step",
    "ratio_to_brute_force": "times brute force",
    "agent_steps_per_s": "agent-steps/s",
    "agent_steps_per_cpu_s": "agent-steps/CPU s",
    "auto_reset_ratio": "times without reset",
    "bank_mb_per_scene": "bank MB",
    "temp_mb": "temp MB",
    "accessed_mb": "moved MB",
    "bandwidth_share": "of bandwidth",
    "compile_s": "compile s",
}
# Shown on a page only, which is wider.
ON_A_PAGE = {"valid_agents", "wall_ms_spread", "cpu_ms", "accessed_mb", "bank_mb_per_scene"}


def terminal_table(results: Json) -> Table:
    """One line per row, at most 120 columns wide."""
    columns = [column for column in _columns(results) if column not in ON_A_PAGE]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        justify = "left" if column == "name" else "right"
        table.add_column(SHOWN[column].replace(" ", "\n"), justify=justify, vertical="bottom", no_wrap=True)
    for row in results["rows"]:
        table.add_row(*(_text(row[column]) for column in columns))
    return table


def markdown(results: Json) -> str:
    """A Markdown table, after a line on the conditions."""
    columns = _columns(results)
    lines = [conditions_text(results), "", "| " + " | ".join(SHOWN[column] for column in columns) + " |"]
    lines.append("|" + "|".join("---" if column == "name" else "---:" for column in columns) + "|")
    lines += ["| " + " | ".join(_text(row[column]) for column in columns) + " |" for row in results["rows"]]
    return "\n".join([*lines, "", *(f"- left out: `{name}` ({why})" for name, why in results["left_out"].items())])


def conditions_text(results: Json) -> str:
    """The conditions in a sentence or two."""
    found = results["conditions"]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    load = found["load_average"][0]
    return (
        f"{found['date']}: {found['num_devices']} x {found['device']} ({found['cpu']}, {found['cores']} cores, "
        f"load {load:.1f} before), {versions}. Scene {found['scenario_id']}, record {found['record']}. "
        f"Medians of at least {found['repeats']} samples; ± is the distance between the quartiles."
    )


def _columns(results: Json) -> list[str]:
    return [column for column in SHOWN if any(row[column] is not None for row in results["rows"])]


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str | int):
        return str(value)
    if value >= 1e4:
        power = math.floor(math.log10(value) / 3)
        return f"{value / 1e3**power:.3g} {' kMGT'[power]}"
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"
