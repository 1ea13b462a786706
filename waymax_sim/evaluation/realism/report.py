"""Rows of realism scores, one per scene, and their means with confidence intervals."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from rich.table import Table

from waymax_sim.datasets.errors import DataError
from waymax_sim.evaluation.confidence import bootstrap
from waymax_sim.evaluation.environment import environment_info
from waymax_sim.evaluation.evaluate import scenario_digest
from waymax_sim.evaluation.realism.evaluate import RealismResult
from waymax_sim.evaluation.tables import GOALS_NOTE, PRIVILEGED_NOTE
from waymax_sim.metrics.realism import BUCKETS, CONFIGS, Score
from waymax_sim.results_dir import Json
from waymax_sim.text import printable

GROUPS = ("likelihoods", "buckets", "simulated_rates")
SIMULATED_RATES = ("collision", "offroad", "traffic_light_violation")  # of `Score.simulated_rates`
SCALARS = ("meta_metric", "ade", "min_ade")
CORRECTED = "defects of the official code corrected: not comparable with its numbers"


def realism_conditions(
    *,
    path: str,
    source: str,
    source_hash: str | None,
    config: str,
    parity: bool,
    privileged: bool | None,
    observes_goals: bool,
    num_rollouts: int | None,
    seed: int,
) -> Json:
    """The conditions that the scores depend on.

    Args:
      path: Source of the scenes.
      source: Source of the rollouts: the name of a policy or of a file.
      source_hash: SHA-256 of the file with rollouts; None with a policy.
      config: Name of the configuration.
      parity: Whether the official code is reproduced, defects included.
      privileged: Whether the policy observes the logged future; None for rollouts of a file, where it is unknown.
      observes_goals: Whether the policy observes goals.
      num_rollouts: Number of rollouts; None with a file.
      seed: Seed of all random draws.
    """
    return {
        "path": path,
        "policy": source,
        "source_hash": source_hash,
        "privileged": "unknown" if privileged is None else privileged,
        "observes_goals": observes_goals,
        "config": config,
        "parity": parity,
        "rollouts": num_rollouts,
        "seed": seed,
        **environment_info(),
    }


def score_row(result: RealismResult, conditions: Json) -> Json:
    """The row of one scene: its scores under their official names, None where they are undefined."""
    return {
        "scenario_id": result.scenario.scenario_id,
        "file": result.file,
        "record": result.record,
        "digest": scenario_digest(result.scenario),
        **{name: conditions[name] for name in ("policy", "privileged", "config", "parity")},
        "num_rollouts": result.rollouts.yaw.shape[0],
        "num_evaluated": result.num_evaluated,
        "scored": result.score is not None,
        "rollout_contributions": None
        if result.contributions is None
        else [_to_float(value) for value in result.contributions],
        **score_values(result.score),
    }


def score_values(score: Score | None) -> Json:
    """Scores as floats under the names of the official code; None where they are undefined, or without a score."""
    # In the order of the configuration: JAX returns dictionaries sorted by name.
    names = [feature.name for feature in CONFIGS["2025"].features]
    if score is None:
        groups = {
            "likelihoods": [f"{name}_likelihood" for name in names],
            "buckets": [f"{name}_metrics" for name in BUCKETS],
            "simulated_rates": [f"simulated_{name}_rate" for name in SIMULATED_RATES],
        }
        return dict.fromkeys(SCALARS) | {group: dict.fromkeys(keys) for group, keys in groups.items()}
    groups: Json = {
        "likelihoods": {f"{name}_likelihood": score.likelihoods[name] for name in names},
        "buckets": {f"{name}_metrics": score.buckets[name] for name in BUCKETS},
        "simulated_rates": {f"simulated_{name}_rate": value for name, value in score.simulated_rates.items()},
    }
    groups = {group: {name: _to_float(value) for name, value in values.items()} for group, values in groups.items()}
    return {name: _to_float(getattr(score, name)) for name in SCALARS} | groups


def summarize(rows: Sequence[Json], failures: Iterable[DataError], conditions: Json) -> Json:
    """Means over scenes and their 95% bootstrap intervals.

    Scenes with an undefined score are left out of all means and listed; so are scenes without a recorded future, which
    have no score. There is no interval for fewer than two scenes.

    Args:
      rows: Rows of the scored scenes.
      failures: Errors of the other scenes.
      conditions: The conditions of the run.
    """
    failed = [{"file": e.file, "record": e.record, "field": e.field, "error": e.problem} for e in failures]
    # Rows of earlier versions have a score.
    unscored = [row["scenario_id"] for row in rows if not row.get("scored", True)]
    flat = [_flat(row) for row in rows if row.get("scored", True)]
    defined = [list(values.values()) for values in flat if None not in values.values()]
    names = list(flat[0]) if flat else []
    means, low, high = (
        [_to_float(value) for value in column]
        for column in bootstrap(np.array(defined, float).reshape(len(defined), len(names)))
    )
    return {
        "num_scenes": len(rows),
        "num_defined": len(defined),
        "num_failed": len(failed),
        "failures": failed,
        "unscored": unscored,
        "undefined": [row["scenario_id"] for row in rows if row.get("scored", True) and None in _flat(row).values()],
        "config": conditions["config"],
        "parity": conditions["parity"],
        **_nested(names, means),
        "confidence": _nested(names, [None if a is None else [a, b] for a, b in zip(low, high, strict=True)]),
        "conditions": conditions,
    }


def realism_table(summary: Json) -> Table:
    """A table with one row per score of a summary."""
    conditions = summary["conditions"]
    star = {True: "*", False: ""}.get(conditions["privileged"], " (privileged: unknown)")
    star += "+" if conditions["observes_goals"] else ""
    mode = "parity" if summary["parity"] else "CORRECTED"
    title = (
        f"{printable(conditions['policy'])}{star} in {summary['num_scenes']} scenes, config {summary['config']}, {mode}"
    )
    notes = [PRIVILEGED_NOTE] if conditions["privileged"] is True else []
    notes += [GOALS_NOTE] if conditions["observes_goals"] else []
    notes += [] if summary["parity"] else [CORRECTED]
    if summary["unscored"]:
        notes.append(f"{len(summary['unscored'])} scenes without score: no future in the record")
    if summary["undefined"]:
        notes.append(f"means of {summary['num_defined']} scenes: scores of {len(summary['undefined'])} are undefined")
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
    """All scores of a row in one mapping, by group and name."""
    return {(name,): row[name] for name in SCALARS} | {
        (group, name): value for group in GROUPS for name, value in row[group].items()
    }


def _nested(names: Sequence[tuple[str, ...]], values: Sequence[Any]) -> Json:
    nested: Json = dict.fromkeys(SCALARS) | {group: {} for group in GROUPS}
    for name, value in zip(names, values, strict=False):
        if len(name) == 1:
            nested[name[0]] = value
        else:
            nested[name[0]][name[1]] = value
    return nested


def _to_float(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
