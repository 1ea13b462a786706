"""Realism scores in a folder: one row per scene, and their means with confidence intervals."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from rich.table import Table

from waymax_sim.datasets.errors import DataError
from waymax_sim.evaluation.confidence import bootstrap
from waymax_sim.evaluation.realism.evaluate import RealismResult
from waymax_sim.evaluation.report import Json, circumstances
from waymax_sim.evaluation.tables import PRIVILEGED_NOTE
from waymax_sim.metrics.realism import BUCKETS, CONFIGS, Score

GROUPS = ("likelihoods", "buckets", "simulated_rates")
SINGLES = ("meta_metric", "ade", "min_ade")
CORRECTED = "defects of the official code corrected: not comparable with its numbers"


def conditions_of(
    *, path: str, source: str, config: str, parity: bool, privileged: bool, num_rollouts: int | None, seed: int
) -> Json:
    """All that the scores depend on.

    Args:
      path: Where the scenes come from.
      source: Where the rollouts come from: the name of a policy or of a file.
      config: Name of the configuration.
      parity: Whether the official code is reproduced, defects included.
      privileged: Whether the policy sees the logged future.
      num_rollouts: How many there are; None where a file says so.
      seed: Seed of all random draws.
    """
    return {
        "path": path,
        "policy": source,
        "privileged": privileged,
        "config": config,
        "parity": parity,
        "rollouts": num_rollouts,
        "seed": seed,
        **circumstances(),
    }


def row_of(result: RealismResult, conditions: Json) -> Json:
    """The scores of one scene under their official names; null where nothing counts."""
    return {
        "scenario_id": result.scenario.scenario_id,
        "file": result.file,
        "record": result.record,
        **{name: conditions[name] for name in ("policy", "privileged", "config", "parity")},
        "num_rollouts": result.rollouts.yaw.shape[0],
        "num_evaluated": result.num_evaluated,
        **numbers(result.score),
    }


def numbers(score: Score) -> Json:
    """Plain numbers by the names that the official code gives them; None where they are not defined."""
    # The order of a configuration; JAX sorts what it returns by name.
    names = [feature.name for feature in CONFIGS["2025"].features]
    found: Json = {
        "likelihoods": {f"{name}_likelihood": score.likelihoods[name] for name in names},
        "buckets": {f"{name}_metrics": score.buckets[name] for name in BUCKETS},
        "simulated_rates": {f"simulated_{name}_rate": value for name, value in score.simulated_rates.items()},
    }
    found = {group: {name: _number(value) for name, value in values.items()} for group, values in found.items()}
    return {name: _number(getattr(score, name)) for name in SINGLES} | found


def summarize(rows: Sequence[Json], failures: Iterable[DataError], conditions: Json) -> Json:
    """Means over scenes, each counting once, and 95% intervals from drawing scenes anew.

    Scenes in which something is not defined are left out of all means and listed. There is no interval for less than
    two scenes.
    """
    failed = [{"file": e.file, "record": e.record, "field": e.field, "error": e.problem} for e in failures]
    flat = [_flat(row) for row in rows]
    defined = [list(values.values()) for values in flat if None not in values.values()]
    names = list(flat[0]) if flat else []
    means, low, high = (
        [_number(value) for value in column]
        for column in bootstrap(np.array(defined, float).reshape(len(defined), len(names)))
    )
    return {
        "num_scenes": len(rows),
        "num_failed": len(failed),
        "failures": failed,
        "undefined": [row["scenario_id"] for row, values in zip(rows, flat, strict=True) if None in values.values()],
        "config": conditions["config"],
        "parity": conditions["parity"],
        **_nested(names, means),
        "confidence": _nested(names, [None if a is None else [a, b] for a, b in zip(low, high, strict=True)]),
        "conditions": conditions,
    }


def realism_table(summary: Json) -> Table:
    """One row per number of a summary."""
    conditions = summary["conditions"]
    star = "*" if conditions["privileged"] else ""
    mode = "parity" if summary["parity"] else "CORRECTED"
    title = f"{conditions['policy']}{star} in {summary['num_scenes']} scenes, config {summary['config']}, {mode}"
    notes = ([PRIVILEGED_NOTE] if star else []) + ([] if summary["parity"] else [CORRECTED])
    table = Table(title=title, caption="\n".join(notes) or None)
    table.add_column("")
    table.add_column("mean", justify="right")
    table.add_column("95% interval", justify="right")
    values, intervals = _flat(summary), _flat(summary["confidence"])
    for key, value in values.items():
        interval = intervals[key]
        text = "" if interval is None else f"{interval[0]:.4f} .. {interval[1]:.4f}"
        table.add_row(key[-1], "-" if value is None else f"{value:.4f}", text)
    return table


def _flat(row: Json) -> dict[tuple[str, ...], Any]:
    """All numbers of a row in one mapping, by where they are."""
    found = {(name,): row[name] for name in SINGLES}
    return found | {(group, name): value for group in GROUPS for name, value in row[group].items()}


def _nested(names: Sequence[tuple[str, ...]], values: Sequence[Any]) -> Json:
    found: Json = dict.fromkeys(SINGLES) | {group: {} for group in GROUPS}
    for name, value in zip(names, values, strict=False):
        if len(name) == 1:
            found[name[0]] = value
        else:
            found[name[0]][name[1]] = value
    return found


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
