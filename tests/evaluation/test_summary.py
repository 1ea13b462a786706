"""Summaries of rows: means, worst scenes, differences, tables and the HTML report. No scene is simulated."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from waymax_sim.evaluation import SceneViewer, compare_runs, html_report
from waymax_sim.evaluation.columns import MetricInfo
from waymax_sim.evaluation.summary import headlines, scene_means, summarize_rows, worst_scenes
from waymax_sim.evaluation.tables import (
    SAMPLES_NOTE,
    comparison_table,
    difference_table,
    evaluation_table,
    with_interval,
)
from waymax_sim.results_dir import write_json, write_rows

COLUMNS = {"nuplan_score": MetricInfo("1", "higher"), "speeding": MetricInfo("m/s", "lower")}


def row(index: int, score: float | None, speeding: float | None, policy="idm", traffic="log_replay", seed=0) -> dict:
    source = {
        "index": index,
        "file": "folder/f",
        "record": index,
        "scenario_id": f"scene {index}",
        "digest": f"{index}",
    }
    run = {"policy": policy, "traffic": traffic, "seed": seed}
    return source | run | {"nuplan_score": score, "speeding": speeding}


def write(folder: Path, rows: list[dict]) -> Path:
    folder.mkdir()
    write_rows(folder / "rows.jsonl", rows)
    metrics = {name: column._asdict() for name, column in COLUMNS.items()}
    write_json(folder / "summary.json", {"conditions": {"metrics": metrics}})
    return folder


def summarize_all(*rows: dict) -> dict:
    pairs = dict.fromkeys((item["policy"], item["traffic"]) for item in rows)
    results = [
        {"policy": policy, "traffic": traffic, "privileged": policy == "log_replay", "observes_goals": False}
        | {"agents": "sdc"}
        | summarize_rows([item for item in rows if (item["policy"], item["traffic"]) == (policy, traffic)], COLUMNS)
        for policy, traffic in pairs
    ]
    return {
        "num_scenes": len({item["index"] for item in rows}),
        "num_failed": 1,
        "failures": [
            {
                "file": "<f>",
                "record": 3,
                "policy": None,
                "traffic": None,
                "seed": None,
                "field": "",
                "error": "e",
                "remedy": "",
            }
        ],
        "results": results,
        "conditions": {
            "path": "data",
            "policies": {
                policy: {"privileged": policy == "log_replay", "observes_goals": False} for policy, _ in pairs
            },
            "traffic": dict.fromkeys(traffic for _, traffic in pairs),
            "metrics": {name: column._asdict() for name, column in COLUMNS.items()},
        },
    }


def test_each_scene_counts_once_for_any_number_of_seeds():
    rows = [row(0, 1.0, 2.0), row(0, 0.0, None, seed=1), row(1, 0.9, None), row(2, None, None)]
    scenes, table = scene_means(rows, COLUMNS)
    assert scenes == [0, 1, 2]
    np.testing.assert_array_equal(table, [[0.5, 2.0], [0.9, np.nan], [np.nan, np.nan]])
    found = summarize_rows(rows, COLUMNS)
    assert found["num_scenes"] == 3
    score, speeding = found["metrics"]["nuplan_score"], found["metrics"]["speeding"]
    assert (score["value"], score["num_valid_scenes"], score["valid_fraction"]) == (0.7, 2, 2 / 3)
    assert (score["low"], score["high"]) == (0.5, 0.9)
    assert (speeding["value"], speeding["low"], speeding["unit"], speeding["better"]) == (2.0, None, "m/s", "lower")


def test_without_valid_values_the_mean_is_null():
    for rows in ([], [row(0, None, None)]):
        item = summarize_rows(rows, COLUMNS)["metrics"]["nuplan_score"]
        assert (item["value"], item["low"], item["valid_fraction"]) == (None, None, 0.0)


def test_means_state_their_number_of_scenes_where_it_is_not_all():
    rows = [row(0, 1.0, 2.0), row(1, 0.9, None), row(2, 0.8, None)]
    items = summarize_rows(rows, COLUMNS)["metrics"]
    assert with_interval(items["speeding"]) == "2.000 (1)" and "(" not in with_interval(items["nuplan_score"])
    assert with_interval(summarize_rows([row(0, None, None)], COLUMNS)["metrics"]["speeding"]) == "-"
    file = io.StringIO()
    console = Console(file=file, width=200)
    summary = summarize_all(*rows, row(0, 0.7, 1.0, "other"), row(1, None, 1.0, "other"))
    console.print(evaluation_table(summary))
    console.print(comparison_table(summary["results"]))
    shown = " ".join(file.getvalue().split())
    assert shown.count("0.700 (1)") == 2 and "2.000 (1)" in shown and shown.count(SAMPLES_NOTE) == 2


def test_worst_scenes_come_first_and_the_worst_run_of_each():
    rows = [row(0, 0.9, 0.0), row(1, 0.1, 0.0), row(1, 0.0, 0.0, seed=1), row(2, 0.5, 0.0), row(3, None, 0.0)]
    found = worst_scenes(rows, COLUMNS, 2)
    assert [(index, [item["seed"] for item in rows]) for index, rows in found] == [(1, [1, 0]), (2, [0])]
    ((index, _),) = worst_scenes([row(0, None, 1.0), row(1, None, 3.0)], {"speeding": COLUMNS["speeding"]}, 1)
    assert index == 1


def test_headlines():
    assert headlines(["speeding", "overlap", "nuplan_score"]) == ["nuplan_score", "overlap"]
    assert headlines(["speeding", "custom"]) == ["speeding", "custom"]
    assert headlines(["offroad", "overlap"]) == ["overlap", "offroad"]
    assert headlines(["offroad", "road_departure"]) == ["road_departure"]


def test_differences_are_paired(tmp_path):
    a = write(tmp_path / "a", [row(0, 0.5, 1.0), row(1, 0.5, None), row(2, 0.2, 3.0), row(7, 0.0, 0.0)])
    changed = row(2, 0.1, 1.0) | {"digest": "other", "file": "elsewhere/f"}
    b = write(tmp_path / "b", [row(0, 0.5 + 1e-9, 1.0), row(1, 0.9, 2.0), changed, row(8, 0.0, 0.0)])
    (found,) = compare_runs(a, b)
    assert found["a"] == found["b"] == {"policy": "idm", "traffic": "log_replay"}
    assert (found["num_scenes"], found["num_other_content"]) == (3, 1)
    score, speeding = found["metrics"]["nuplan_score"], found["metrics"]["speeding"]
    assert score["difference"] == pytest.approx((0.4 - 0.1) / 3)
    assert score["low"] < score["difference"] < score["high"]
    assert (score["num_better"], score["num_worse"]) == (1, 1)
    assert [(item["record"], item["a"], item["b"]) for item in score["changed"]] == [(1, 0.5, 0.9), (2, 0.2, 0.1)]
    # Less is better here; where one run has no value there is no difference, yet the scene has changed.
    assert speeding["difference"] == -1.0
    assert (speeding["num_better"], speeding["num_worse"]) == (1, 0)
    assert [(item["record"], item["a"]) for item in speeding["changed"]] == [(2, 3.0), (1, None)]


def test_runs_of_one_policy_each_are_compared_even_with_different_names(tmp_path):
    a = write(tmp_path / "a", [row(0, 0.5, 1.0)])
    b = write(tmp_path / "b", [row(0, 0.6, 1.0, policy="pdm")])
    (found,) = compare_runs(a, b)
    assert (found["a"]["policy"], found["b"]["policy"]) == ("idm", "pdm")
    several = write(tmp_path / "c", [row(0, 0.6, 1.0, policy="pdm"), row(0, 0.6, 1.0, policy="mppi")])
    with pytest.raises(ValueError, match="in common"):
        compare_runs(a, several)
    with pytest.raises(ValueError, match="no finished evaluation"):
        compare_runs(a, tmp_path)


def test_tables_show_policies_among_traffic(tmp_path):
    rows = [
        row(i, 0.1 * i, 1.0, policy, t)
        for i in range(4)
        for policy in ("idm", "log_replay")
        for t in ("idm", "log_replay")
    ]
    console = Console(width=150, record=True)
    console.print(evaluation_table(summarize_all(*rows)))
    console.print(evaluation_table(summarize_all(*rows[:1])))
    (found,) = compare_runs(write(tmp_path / "a", rows[::4]), write(tmp_path / "b", rows[1::4]))
    console.print(difference_table(found))
    text = console.export_text()
    assert text.count("0.150 ± 0.") == 4
    assert "log_replay*" in text
    assert "idm controls sdc in 1 scenes, idm the others" in text
    assert "from idm among idm to idm among log_replay, 4 scenes" in text


def test_the_html_report_is_self_contained():
    rows = [
        row(i, 0.1 * i, 1.0, policy, t)
        for i in range(4)
        for policy in ("idm", "log_replay")
        for t in ("idm", "log_replay")
    ]
    text = html_report(summarize_all(*rows), viewers=[SceneViewer("<scene>", "<p>viewer & more</p>")])
    assert not re.findall(r"(?:src|href)=|https?://|@import", text)
    assert text.count("0.150 ± 0.") == 8
    assert "among log_replay" in text
    assert '<iframe title="&lt;scene&gt;" loading="lazy" srcdoc="&lt;p&gt;viewer &amp; more' in text
    assert "&lt;f&gt;" in text and "<h2>Failures</h2>" in text
    assert "<h2>Worst scenes</h2>" not in html_report(summarize_all(*rows))
