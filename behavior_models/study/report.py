"""Summaries of studies: arms with intervals, paired differences, slices by difficulty, tables."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float
from rich import box
from rich.table import Table

from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.evaluation.difficulty import difficulty_scores, scene_features, top_slices
from waymax_sim.evaluation.difficulty_model import agent_features, cross_validate
from waymax_sim.evaluation.paired import ClusterTable, arm_intervals, cluster_table, paired_intervals
from waymax_sim.results_dir import Json
from waymax_sim.text import printable

DRIVING_COLUMNS = ("goal", "collision", "offroad", "at_fault", "displacement", "arrival", "infeasible", "progress")
REALISM_COLUMNS = ("realism", "kinematic", "interactive", "map_based", "ade", "min_ade")
# Columns that are shares, shown in percent.
PERCENT = frozenset(("goal", "collision", "offroad", "at_fault", "infeasible", "progress"))
UNITS = {"displacement": "m", "arrival": "s", "ade": "m", "min_ade": "m"} | dict.fromkeys(PERCENT, "%")
Cell = tuple[str, str]  # setting and traffic


def summarize_study(rows: Sequence[Json], scenarios: Sequence[Scenario], reference: str) -> Json:
    """The summary of a study.

    Args:
      rows: Rows of all arms.
      scenarios: The scenes by index, in host memory.
      reference: Arm that the others are compared with in the same scenes.

    Returns:
      `results` of each arm, setting and traffic; `differences` from the reference; `difficulty` of each scene.
    """
    difficulty = difficulty_scores([scene_features(scenario, "traveling") for scenario in scenarios])
    slices = {name: indices.tolist() for name, indices in top_slices(difficulty).items()}
    arms, results, differences = list(dict.fromkeys(row["arm"] for row in rows)), [], []
    for setting, traffic in dict.fromkeys((row["setting"], row["traffic"]) for row in rows):
        cell = [row for row in rows if (row["setting"], row["traffic"]) == (setting, traffic)]
        columns = REALISM_COLUMNS if setting == "realism" else DRIVING_COLUMNS
        scenes = sorted({row["scene"] for row in cell})
        own_rows = {arm: [row for row in cell if row["arm"] == arm] for arm in arms}
        tables = {arm: cluster_table(own, columns, scenes) for arm, own in own_rows.items() if own}
        header = {"setting": setting, "traffic": traffic}
        for arm, table in tables.items():
            result = _arm_result(own_rows[arm], table, columns)
            if setting != "realism":
                result |= {"slices": _failure_slices(own_rows[arm], slices)}
                result |= {"learned_difficulty": learned_difficulty(own_rows[arm], scenarios)}
            results.append({"arm": arm, **header, **result})
        if reference in tables:
            for arm, table in tables.items():
                pairs = dict(zip(columns, paired_intervals(table, tables[reference]), strict=True))
                if arm != reference:
                    differences.append({"arm": arm, "reference": reference, **header, "columns": pairs})
    scores = [None if np.isnan(value) else float(value) for value in difficulty]
    return {"results": results, "differences": differences, "difficulty": scores}


def _arm_result(rows: Sequence[Json], table: ClusterTable, columns: Sequence[str]) -> Json:
    seeds = sorted({row["policy"] for row in rows})
    own = [[None if np.isnan(value) else float(value) for value in means] for means in table.seed_means]
    return {
        "num_seeds": table.num_seeds,
        "num_scenes": len({row["scene"] for row in rows}),
        "num_rows": len(rows),
        "columns": dict(zip(columns, arm_intervals(table), strict=True)),
        "seeds": {seed: dict(zip(columns, means, strict=True)) for seed, means in zip(seeds, own, strict=True)},
    }


def _failure_slices(rows: Sequence[Json], slices: Mapping[str, Sequence[int]]) -> Json:
    """Shares of vehicles that do not reach their goal without harm, in the most difficult scenes."""
    failures = [row | {"failure": not row["goal"]} for row in rows]
    shares = {}
    for name, scenes in slices.items():
        table = cluster_table(failures, ["failure"], scenes)
        if table.num_seeds:
            shares[name] = {"num_scenes": len(scenes), **arm_intervals(table)[0]}
    return shares


def learned_difficulty(rows: Sequence[Json], scenarios: Sequence[Scenario]) -> Json | None:
    """Area under the curve of failures that are predicted from the initial scene, in scenes left out of the fit.

    Args:
      rows: Rows of one arm.
      scenarios: The scenes by index.

    Returns:
      The area for the labels, and for labels that are shuffled among all vehicles as a control; None if an area is
      undefined.
    """
    features, failed, groups = failure_data(rows, scenarios)
    areas = cross_validate(features, failed, groups)
    return None if areas is None else dict(zip(("auc", "shuffled_auc"), areas, strict=True))


def failure_data(
    rows: Iterable[Json], scenarios: Sequence[Scenario]
) -> tuple[Float[np.ndarray, "n F"], np.ndarray, np.ndarray]:
    """Features of the driven vehicles, whether they failed, and their scenes.

    Args:
      rows: Rows of driven vehicles.
      scenarios: The scenes by index.
    """
    by_scene: dict[int, list[Json]] = {}
    for row in rows:
        by_scene.setdefault(row["scene"], []).append(row)
    features, failed, groups = [], [], []
    for scene, own in by_scene.items():
        ids = np.asarray(scenarios[scene].agents.id)
        slots = np.array([int(np.flatnonzero(ids == row["agent"])[0]) for row in own])
        features.append(agent_features(scenarios[scene], slots))
        failed += [not row["goal"] for row in own]
        groups += [scene] * len(own)
    return np.concatenate(features), np.array(failed), np.array(groups)


def study_tables(summary: Json) -> list[Table]:
    """Tables for a terminal: one of arms and one of differences for each setting and traffic."""
    tables = []
    for cell in dict.fromkeys((item["setting"], item["traffic"]) for item in summary["results"]):
        tables.append(_results_table(cell, _in_cell(summary["results"], cell)))
        differences = _in_cell(summary["differences"], cell)
        if differences:
            tables.append(_differences_table(cell, differences))
    return tables


def _in_cell(items: Iterable[Json], cell: Cell) -> list[Json]:
    return [item for item in items if (item["setting"], item["traffic"]) == cell]


def _results_table(cell: Cell, items: Sequence[Json]) -> Table:
    first, (setting, traffic) = items[0], cell
    title = f"{setting}, among {traffic}: {first['num_scenes']} scenes; means and 95% intervals"
    table = _table(title, ["arm", "seeds", "rows"], first["columns"])
    for item in items:
        cells = [interval_text(name, value) for name, value in item["columns"].items()]
        table.add_row(printable(item["arm"]), str(item["num_seeds"]), str(item["num_rows"]), *cells)
    return table


def _differences_table(cell: Cell, items: Sequence[Json]) -> Table:
    title = f"{cell[0]}, among {cell[1]}: differences from {printable(items[0]['reference'])}, paired by scene"
    table = _table(title, ["arm"], items[0]["columns"])
    for item in items:
        cells = [interval_text(name, value["difference"], signed=True) for name, value in item["columns"].items()]
        table.add_row(printable(item["arm"]), *cells)
    return table


def _table(title: str, head: Sequence[str], columns: Iterable[str]) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False)
    for name in head:
        table.add_column(name)
    for name in columns:
        table.add_column(f"{name.replace('_', ' ')}\n{UNITS.get(name, '')}", justify="right", vertical="bottom")
    return table


def interval_text(name: str, item: Json, *, signed: bool = False) -> str:
    """A value with its interval, shares in percent; "-" where it is undefined.

    Args:
      name: Name of the column.
      item: Value, low and high.
      signed: Whether to show a positive sign.
    """
    if item["value"] is None:
        return "-"
    scale, digits = (100.0, 1) if name in PERCENT else (1.0, 2 if name in UNITS else 3)
    sign = "+" if signed else ""
    text = f"{scale * item['value']:{sign}.{digits}f}"
    if item["low"] is None:
        return text
    return f"{text}\n[{scale * item['low']:{sign}.{digits}f}, {scale * item['high']:{sign}.{digits}f}]"


def results_csv(summary: Json) -> str:
    """One line per arm, setting, traffic and column: the value and the paired difference with their intervals."""
    pairs = {
        (item["arm"], item["setting"], item["traffic"], name): value["difference"]
        for item in summary["differences"]
        for name, value in item["columns"].items()
    }
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    head = ("arm", "setting", "traffic", "seeds", "scenes", "rows", "column", "value", "low", "high")
    writer.writerow((*head, "difference", "difference_low", "difference_high"))
    for item in summary["results"]:
        own = item["arm"], item["setting"], item["traffic"]
        counts = item["num_seeds"], item["num_scenes"], item["num_rows"]
        for name, value in item["columns"].items():
            pair = pairs.get((*own, name), {"value": None, "low": None, "high": None})
            cells = [*own, *counts, name, *(item[key] for item in (value, pair) for key in ("value", "low", "high"))]
            writer.writerow(["" if cell is None else printable(str(cell)) for cell in cells])
    return file.getvalue()
