"""Results by the difficulty of scenes. No scene is simulated."""

import io

import numpy as np
from rich.console import Console

from waymax_sim.evaluation.columns import MetricInfo
from waymax_sim.evaluation.difficulty import FEATURES
from waymax_sim.evaluation.html_report import html_report
from waymax_sim.evaluation.slices import scene_slices, slice_rows, slices_table, summarize_slices
from waymax_sim.evaluation.summary import summarize_rows

COLUMNS = {"overlap": MetricInfo("1", "lower"), "speeding": MetricInfo("m/s", "lower")}


def rows(count: int) -> list[dict]:
    """Scenes whose difficulty falls with their index; the hardest tenth collides."""
    features = [dict.fromkeys(FEATURES, float(-index)) for index in range(count)]
    run = {"policy": "p", "traffic": "t", "speeding": 0.0}
    return [
        {"index": index, "difficulty": features[index], "overlap": float(index < count / 10), **run}
        for index in range(count)
    ]


def summary(given: list[dict]) -> dict:
    slices = summarize_slices(given, scene_slices(given), COLUMNS)
    metrics = {name: column._asdict() for name, column in COLUMNS.items()}
    about = {"policy": "p", "traffic": "t", "privileged": False, "observes_goals": False}
    results = [about | summarize_rows(given, COLUMNS) | {"slices": slices}]
    policies = {"p": {"privileged": False, "observes_goals": False}}
    conditions = {"path": "data", "policies": policies, "traffic": {"t": None}, "metrics": metrics}
    return {"num_scenes": len(given), "num_failed": 0, "failures": [], "results": results, "conditions": conditions}


def test_means_by_difficulty():
    given = rows(200)
    slices = scene_slices(given)
    assert slices["top 1%"] == [0, 1] and slices["top 10%"] == list(range(20))
    assert slices["decile 10"] == list(range(20)) and slices["decile 1"] == list(range(180, 200))
    means = {name: item["metrics"]["overlap"]["value"] for name, item in summary(given)["results"][0]["slices"].items()}
    assert means["top 10%"] == means["decile 10"] == 1.0 and means["decile 9"] == 0.0
    np.testing.assert_allclose([means["top 50%"], means["all"]], [0.2, 0.1])


def test_slices_are_shown_in_both_reports():
    given = summary(rows(40))
    console = Console(file=io.StringIO(), width=150)
    console.print(slices_table(given))
    text, page = console.file.getvalue(), html_report(given)
    for name in ("top 10%", "top 50%", "decile 1", "decile 10"):
        assert name in text and name in page
    assert "top 1%" not in text, "40 scenes have no hundredth"
    assert len(slice_rows(given)) == 3 + 10


def test_undefined_difficulty_is_in_no_slice():
    given = rows(30)
    given[0]["difficulty"] = dict.fromkeys(FEATURES)
    assert 0 not in scene_slices(given)["all"]
    old = [{name: value for name, value in row.items() if name != "difficulty"} for row in given]
    assert scene_slices(old) == {} and slices_table(summary(rows(1))) is None
