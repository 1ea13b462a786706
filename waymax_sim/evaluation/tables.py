"""Facts and numbers as text for a terminal."""

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.table import Table

PRIVILEGED_NOTE = "* privileged: sees the logged future"


def info_text(facts: dict[str, Any]) -> str:
    """A few lines about one record, from `describe` with `file`, `record` and `lacks` added."""
    bounds = facts["bounds"] or {}
    extent = ", ".join(f"{axis} {low:.0f}..{high:.0f}" for axis, (low, high) in bounds.items()) or "nothing to bound"
    origin = ", ".join(f"{value:.0f}" for value in facts["origin"])
    sdc = "no sdc" if facts["sdc_index"] is None else f"sdc is row {facts['sdc_index']}"
    features = sum(facts["map_features_by_type"].values())
    agents = f"{facts['num_agents']}{_by_type(facts['agents_by_type'])}"
    lines = [
        f"{facts['scenario_id']}  ({facts['file']}, record {facts['record']})",
        f"  agents    {agents}, {facts['num_valid_now']} valid now, {sdc}",
        f"  steps     {facts['num_steps']}, now is {facts['current_step']}",
        f"  features  {features}{_by_type(facts['map_features_by_type'])}",
        f"  points    {facts['num_map_points']}{_by_type(facts['map_points_by_type'])}",
        f"  lights    {facts['num_lights']}",
        f"  bounds    {extent} m from the origin ({origin})",
        *([f"  lacks     {', '.join(facts['lacks'])}"] if facts["lacks"] else []),
        *(f"  problem   {problem}" for problem in facts["problems"]),
    ]
    return "\n".join(lines)


def metrics_table(summary: dict[str, Any]) -> Table:
    """One row per metric of one evaluation."""
    conditions = summary["conditions"]
    star = "*" if conditions["privileged"] else ""
    title = f"{conditions['policy']}{star} drives {conditions['agents']} in {summary['num_scenes']} scenes"
    table = Table(title=title, caption=PRIVILEGED_NOTE if star else None)
    for name in ("metric", "value", "unit", "better", "valid scenes"):
        table.add_column(name, justify="right" if name in ("value", "valid scenes") else "left")
    for name, item in summary["metrics"].items():
        table.add_row(name, _number(item["value"]), item["unit"], item["better"], str(item["num_valid_scenes"]))
    return table


def comparison_table(summaries: Sequence[dict[str, Any]]) -> Table:
    """One row per metric and one column per evaluation; "-" where a metric is valid in no scene."""
    table = Table(caption=PRIVILEGED_NOTE, box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    for summary in summaries:
        conditions = summary["conditions"]
        policy = conditions["policy"].replace("_", "\n") + ("*" if conditions["privileged"] else "")
        table.add_column(f"{policy}\n({conditions['agents']})", justify="right", vertical="bottom")
    for name, item in summaries[0]["metrics"].items():
        unit = "" if item["unit"] == "1" else f" ({item['unit']})"
        values = [_number(summary["metrics"][name]["value"]) for summary in summaries]
        table.add_row(name.replace("_", " ") + unit, *values)
    return table


def _by_type(counts: dict[str, int]) -> str:
    return f" ({', '.join(f'{name} {count}' for name, count in counts.items())})" if counts else ""


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
