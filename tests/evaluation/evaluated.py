"""Finished evaluations by hand: rows and summaries of policies. No scene is simulated."""

from collections.abc import Mapping
from pathlib import Path

from waymax_sim.evaluation.columns import MetricInfo
from waymax_sim.evaluation.difficulty import FEATURES
from waymax_sim.evaluation.slices import scene_slices, summarize_slices
from waymax_sim.evaluation.summary import summarize_rows
from waymax_sim.results_dir import write_json, write_rows

COLUMNS = {"nuplan_score": MetricInfo("1", "higher"), "log_divergence": MetricInfo("m", "lower")}


def scene_row(index: int, policy: str, values: tuple[float | None, float | None], **changes) -> dict:
    """A row whose scene has the features of difficulty `changes`, -1 elsewhere."""
    source = {"index": index, "file": f"data/f{index % 2}", "record": index, "scenario_id": f"scene {index}"}
    run = {"digest": str(index), "policy": policy, "traffic": "log_replay", "seed": 0}
    return (
        source | run | dict(zip(COLUMNS, values, strict=True)) | {"difficulty": dict.fromkeys(FEATURES, -1.0) | changes}
    )


def two_policies(num_scenes: int) -> list[dict]:
    """Rows of policies with the scores i / n and 1 - i / n in scene i; scenes turn where i is odd."""
    return [
        scene_row(index, policy, (share if policy == "a" else 1 - share, 2.0 * index), speed=5.0, turn=float(index % 2))
        for index, share in enumerate(i / num_scenes for i in range(num_scenes))
        for policy in ("a", "b<i>")
    ]


def summary_of(rows: list[dict]) -> dict:
    """The summary of an evaluation with these rows."""
    about = {"privileged": False, "observes_goals": False}
    policies, slices = list(dict.fromkeys(row["policy"] for row in rows)), scene_slices(rows)

    def result(own: list[dict]) -> Mapping:
        by_difficulty = {"slices": summarize_slices(own, slices, COLUMNS)}
        run = {"policy": own[0]["policy"], "traffic": own[0]["traffic"], "agents": "sdc"}
        return run | about | summarize_rows(own, COLUMNS) | by_difficulty

    return {
        "num_scenes": len({row["index"] for row in rows}),
        "num_failed": 0,
        "failures": [],
        "results": [result([row for row in rows if row["policy"] == policy]) for policy in policies],
        "conditions": {
            "path": "data",
            "policies": dict.fromkeys(policies, about),
            "traffic": {"log_replay": None},
            "metrics": {name: column._asdict() for name, column in COLUMNS.items()},
        },
    }


def write_evaluation(folder: Path, rows: list[dict]) -> Path:
    """A folder of a finished evaluation."""
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "rows.jsonl", rows)
    write_json(folder / "summary.json", summary_of(rows))
    return folder
