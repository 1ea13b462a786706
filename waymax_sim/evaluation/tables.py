"""Descriptions of scenes and results of evaluations as text and tables for a terminal."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from waymax_sim.evaluation.summary import headlines
from waymax_sim.text import printable

# Largest number of scenes named in a row of a table.
MAX_NAMED_SCENES = 3
PRIVILEGED_NOTE = "* privileged: observes the logged future"
GOALS_NOTE = "+ observes its goal: that of the scenario, otherwise the end of its log"
SAMPLES_NOTE = "(n): mean of the n scenes in which the metric is valid, not of all"
# Footnotes of metrics whose definition a reader needs in order not to misread them.
METRIC_NOTES = {
    "offroad": "offroad: agents off the road at any step, those parked off the road included",
    "road_departure": "road departure: vehicles and cyclists that leave the road, of those that start on it",
}


def info_text(facts: dict[str, Any]) -> str:
    """A few lines about one record, from `describe_scene` with `file`, `record` and `lacks` added."""
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
    return "\n".join(map(printable, lines))


def evaluation_table(summary: dict[str, Any]) -> Table:
    """A table with a row per metric for a single policy and traffic, else a row per policy and traffic with headlines.

    Args:
      summary: As an evaluation writes it.
    """
    results, conditions = summary["results"], summary["conditions"]
    if len(results) == 1:
        return _metrics_table(results[0], summary["num_scenes"])
    names = headlines(conditions["metrics"])
    title = f"{summary['num_scenes']} scenes, means and half widths of their 95% intervals"
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("policy", no_wrap=True)
    table.add_column("traffic", no_wrap=True)
    for name in names:
        # One word per line: the numbers determine the width of a column.
        head = _spaced(name, conditions["metrics"][name]["unit"]).replace(" ", "\n")
        table.add_column(head, justify="right", vertical="bottom", no_wrap=True)
    for result in results:
        table.add_row(
            _starred(result), printable(result["traffic"]), *(with_interval(result["metrics"][name]) for name in names)
        )
    table.caption = _notes(names, results)
    return table


def _metrics_table(result: dict[str, Any], num_scenes: int) -> Table:
    title = printable(
        f"{_starred(result)} controls {result['agents']} in {num_scenes} scenes, {result['traffic']} the others"
    )
    table = Table(title=title, caption=_notes(result["metrics"], [result]))
    for name in ("metric", "value", "95% interval", "unit", "better", "valid scenes"):
        table.add_column(name, justify="left" if name in ("metric", "unit", "better") else "right")
    for name, item in result["metrics"].items():
        interval = "" if item["low"] is None else f"{item['low']:.3f} .. {item['high']:.3f}"
        value, valid = number_text(item["value"]), str(item["num_valid_scenes"])
        table.add_row(name, value, interval, item["unit"], item["better"], valid)
    return table


def comparison_table(results: Sequence[dict[str, Any]]) -> Table:
    """One row per metric and one column per result; "-" where a metric is valid in no scene."""
    notes = _notes(results[0]["metrics"], results)
    table = Table(caption=notes, caption_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    for result in results:
        policy = _starred(result).replace("_", "\n")
        table.add_column(f"{policy}\n({result['agents']})", justify="right", vertical="bottom")
    for name, item in results[0]["metrics"].items():
        items = [result["metrics"][name] for result in results]
        values = [number_text(item["value"]) + samples_text(item) for item in items]
        table.add_row(_spaced(name, item["unit"]), *values)
    return table


def difference_table(comparison: dict[str, Any]) -> Table:
    """One row per metric of two evaluations, from `compare_runs`."""
    a, b = (" among ".join(comparison[run].values()) for run in ("a", "b"))
    table = Table(title=printable(f"from {a} to {b}, {comparison['num_scenes']} scenes"))
    for name in ("metric", "difference", "95% interval", "better in", "worse in", "changed most"):
        table.add_column(name, justify="left" if name in ("metric", "changed most") else "right")
    for name, item in comparison["metrics"].items():
        interval = "" if item["low"] is None else f"{item['low']:+.3f} .. {item['high']:+.3f}"
        difference = "-" if item["difference"] is None else f"{item['difference']:+.3f}"
        most = ", ".join(printable(scene["scenario_id"]) for scene in item["changed"][:MAX_NAMED_SCENES])
        table.add_row(name, difference, interval, str(item["num_better"]), str(item["num_worse"]), most)
    return table


def with_interval(item: dict[str, Any]) -> str:
    """A mean with the half width of its interval, and the number of scenes if the metric is not valid in all."""
    if item["low"] is None:
        return number_text(item["value"]) + samples_text(item)
    return f"{item['value']:.3f} ± {(item['high'] - item['low']) / 2:.3f}{samples_text(item)}"


def samples_text(item: dict[str, Any]) -> str:
    """The number of scenes of a mean, in parentheses; empty where the metric is valid in all scenes or in none."""
    return f" ({item['num_valid_scenes']})" if 0 < item["valid_fraction"] < 1 else ""


def number_text(value: float | None) -> str:
    """Three decimals; "-" for none."""
    return "-" if value is None else f"{value:.3f}"


def _notes(names: Collection[str], results: Sequence[dict[str, Any]]) -> str | None:
    """The footnotes of a table with these metrics."""
    notes = [PRIVILEGED_NOTE] if any(result["privileged"] for result in results) else []
    notes += [GOALS_NOTE] if any(result["observes_goals"] for result in results) else []
    notes += [METRIC_NOTES[name] for name in names if name in METRIC_NOTES]
    items = [result["metrics"][name] for result in results for name in names]
    notes += [SAMPLES_NOTE] if any(map(samples_text, items)) else []
    return "\n".join(notes) or None


def _starred(result: dict[str, Any]) -> str:
    return printable(result["policy"]) + policy_marks(result)


def policy_marks(about: Mapping[str, Any]) -> str:
    """The signs of a policy in tables that footnotes explain."""
    return ("*" if about["privileged"] else "") + ("+" if about["observes_goals"] else "")


def _spaced(name: str, unit: str) -> str:
    return name.replace("_", " ") + ("" if unit == "1" else f" ({unit})")


def _by_type(counts: dict[str, int]) -> str:
    return f" ({', '.join(f'{name} {count}' for name, count in counts.items())})" if counts else ""
