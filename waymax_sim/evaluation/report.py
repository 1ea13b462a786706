"""Results in a folder: rows that grow scene by scene, and their summary.

`conditions.json` says what was run, `rows.jsonl` has one row per scene and metric, and `summary.json` is written
when all scenes are done. A run that was interrupted goes on where it stopped. All three are strict JSON.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from waymax_sim.datasets.errors import DataError
from waymax_sim.env import Env, Policy
from waymax_sim.evaluation.evaluate import SceneResult
from waymax_sim.metrics import Metric

Json = dict[str, Any]


def conditions_of(env: Env, policy: Policy, *, name: str, path: str, seed: int, max_steps: int | None) -> Json:
    """All that the numbers of an evaluation depend on.

    Args:
      env: Rules and metrics.
      policy: Who drives.
      name: Name of the policy.
      path: Where the scenes come from.
      seed: Seed of all random draws.
      max_steps: Steps simulated at most; None for the whole record.
    """
    config = env.config
    return {
        "path": path,
        "policy": name,
        "privileged": policy.privileged,
        "dynamics": repr(policy.dynamics or env.dynamics),
        "agents": config.controlled,
        "metrics": list(env.metrics),
        "steps": max_steps,
        "seed": seed,
        "env": {"birth": config.birth, "death": config.death, "z": config.z, "dt": config.dt},
        "versions": {"waymax_sim": version(), "jax": jax.__version__},
        "device": jax.devices()[0].device_kind,
    }


def rows_of(result: SceneResult, metrics: Mapping[str, Metric], conditions: Json) -> list[Json]:
    """One row per metric of a scene; `value` is null where the metric is not valid."""
    return [
        {
            "scenario_id": result.scenario_id,
            "file": result.file,
            "record": result.record,
            "metric": name,
            "value": value,
            "valid": value is not None,
            "unit": metrics[name].unit,
            "policy": conditions["policy"],
            "privileged": conditions["privileged"],
        }
        for name, value in result.values.items()
    ]


def summarize_rows(
    rows: Sequence[Json], metrics: Mapping[str, Metric], failures: Iterable[DataError], conditions: Json
) -> Json:
    """Means over scenes. `num_scenes` counts the scenes that were judged, `num_failed` what could not be."""
    failed = [{"file": e.file, "record": e.record, "field": e.field, "error": e.problem} for e in failures]
    num_scenes = len({_source(row) for row in rows})
    return {
        "num_scenes": num_scenes,
        "num_failed": len(failed),
        "failures": failed,
        "metrics": {name: _over_scenes(metric, rows, num_scenes) for name, metric in metrics.items()},
        "conditions": conditions,
    }


def open_results(out: Path, conditions: Json) -> list[Json]:
    """Makes the folder, or opens one to go on with, and returns the rows of the scenes that are done.

    A scene whose rows are not all there is dropped from the file.

    Raises:
      ValueError: The folder holds results of other conditions.
    """
    out.mkdir(parents=True, exist_ok=True)
    remembered, rows_file = out / "conditions.json", out / "rows.jsonl"
    if not remembered.exists() and not rows_file.exists():
        write_json(remembered, conditions)
        return []
    known = json.loads(remembered.read_text(encoding="utf-8")) if remembered.exists() else {}
    if known != conditions:
        differ = sorted(key for key in known.keys() | conditions.keys() if known.get(key) != conditions.get(key))
        raise ValueError(f"{out} holds results of another run (different: {', '.join(differ)}); choose another --out")
    text = rows_file.read_text(encoding="utf-8") if rows_file.exists() else ""
    rows = _complete(text, len(conditions["metrics"]))
    if _lines(rows) != text:
        _replace(rows_file, _lines(rows))
    return rows


def append_rows(out: Path, rows: Sequence[Json]) -> None:
    """Adds the rows of one scene."""
    with (out / "rows.jsonl").open("a", encoding="utf-8") as file:
        file.write(_lines(rows))


def write_json(path: Path, data: Any) -> None:
    """Writes strict JSON, all of it or none."""
    _replace(path, json.dumps(data, indent=2, allow_nan=False) + "\n")


def done(rows: Iterable[Json]) -> set[tuple[str, int]]:
    """The (file, record) of the scenes that the rows are about."""
    return {_source(row) for row in rows}


def _source(row: Json) -> tuple[str, int]:
    return row["file"], row["record"]


def _over_scenes(metric: Metric, rows: Sequence[Json], num_scenes: int) -> Json:
    values = [row["value"] for row in rows if row["metric"] == metric.name and row["valid"]]
    return {
        "value": sum(values) / len(values) if values else None,
        "valid_fraction": len(values) / num_scenes if num_scenes else 0.0,
        "num_valid_scenes": len(values),
        "unit": metric.unit,
        "better": metric.better,
        "per": metric.per,
        "over_time": metric.over_time,
        "over_agents": metric.over_agents,
    }


def _complete(text: str, num_metrics: int) -> list[Json]:
    """Rows of the scenes that have one for every metric. The end of a file may be cut anywhere."""
    scenes: dict[tuple[str, int], list[Json]] = {}
    for line in text.splitlines(keepends=True):
        if line.endswith("\n"):
            row = json.loads(line)
            scenes.setdefault(_source(row), []).append(row)
    return [row for rows in scenes.values() if len(rows) == num_metrics for row in rows]


def _lines(rows: Iterable[Json]) -> str:
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)


def _replace(path: Path, text: str) -> None:
    """Another process sees the old file or the new one, never half of it."""
    half = path.with_name(path.name + ".part")
    half.write_text(text, encoding="utf-8")
    os.replace(half, path)


def version() -> str:
    try:
        return metadata.version("waymax-sim")
    except metadata.PackageNotFoundError:
        return "not installed"
