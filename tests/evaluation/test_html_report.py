"""The HTML report: charts, kinds of scenes, the table of scenes, events, and comparisons of policies by name."""

import json
import re

import numpy as np
import pytest

from tests.evaluation.evaluated import COLUMNS, scene_row, summary_of, two_policies, write_evaluation
from tests.viz.pages import busy_scene, shifted_trace
from waymax_sim.cli import main
from waymax_sim.evaluation import SceneViewer, compare_runs, html_report, write_report
from waymax_sim.evaluation.kinds import scene_kinds, scenes_by_kind
from waymax_sim.evaluation.report import scenes
from waymax_sim.evaluation.report.charts import (
    NUM_QUANTILES,
    cumulative,
    distribution,
    histogram_shares,
    interval_chart,
)
from waymax_sim.evaluation.report.scenes import scenes_data
from waymax_sim.evaluation.report.viewers import SceneEvent, first_events

RESULTS = [("a", "log_replay"), ("b<i>", "log_replay")]


def test_histograms_count_every_value_once():
    rng = np.random.default_rng(0)
    values = [rng.uniform(-2, 3, 57), np.array([-2.0, 3.0]), np.zeros(0)]
    shares = histogram_shares(values, -2.0, 3.0)
    edges = np.linspace(-2, 3, shares.shape[1] + 1)
    inside = (values[0][:, None] >= edges[:-1]) & (values[0][:, None] < edges[1:])
    np.testing.assert_allclose(shares[0], inside.mean(axis=0))
    np.testing.assert_array_equal(shares[1, [0, -1]], [0.5, 0.5])
    assert not shares[2].any()


def test_cumulative_shares_are_those_of_the_definition():
    values = np.array([1.0, 3.0, 1.0, 2.0])
    at, share = cumulative(values)
    np.testing.assert_array_equal(at, [1, 2, 3])
    np.testing.assert_array_equal(share, [0.5, 0.75, 1.0])
    many = np.random.default_rng(0).normal(size=999)
    at, share = cumulative(many)
    assert len(at) == NUM_QUANTILES and at[0] == many.min() and share[-1] == 1.0
    np.testing.assert_allclose(share, (many[:, None] <= at).mean(axis=0))


def test_charts_of_undefined_values_are_empty():
    assert "valid in no scene" in distribution("m", [np.array([np.nan]), np.zeros(0)])
    figure = distribution("m", [np.array([2.0, 2.0, np.nan]), np.array([np.nan])])
    assert figure.count('class="line s0"') == 2 and "nan" not in figure
    assert interval_chart("m", ["x"], [[None]]) == ""
    item = {"value": 0.5, "low": None, "high": None, "num_valid_scenes": 1}
    assert interval_chart("m", ["x", "y"], [[item, None]]).count("<circle") == 1


def test_kinds_of_scenes():
    still = {"speed": 0.0, "turn": 3.0, "conflicts": 0.0, "closeness": -9.0, "crowding": 0.0}
    assert scene_kinds(still) == ["stationary"]
    assert scene_kinds(still | {"speed": 20.0}) == ["turning", "high speed"]
    assert scene_kinds(still | {"speed": 2.0, "turn": 0.1, "conflicts": 2.0, "closeness": -0.5, "crowding": 9.0}) == [
        "straight",
        "crossing paths",
        "close agents",
        "dense traffic",
    ]
    assert scene_kinds({"speed": None}) == scene_kinds({}) == []
    rows = [scene_row(0, "a", (1.0, 1.0), speed=3.0), scene_row(1, "a", (1.0, 1.0), speed=3.0, turn=2.0)]
    assert scenes_by_kind([*rows, *rows, {"index": 2}])["turning"] == [1]
    assert scenes_by_kind([{"index": 2}]) == {}


def test_scenes_are_ordered_and_limited(monkeypatch):
    rows = [*two_policies(4), scene_row(9, "a", (None, 1.0))]
    rows[0]["nuplan_score"] = rows[1]["nuplan_score"] = 0.1
    viewer = SceneViewer("s", "", 0, (SceneEvent(("b<i>", "log_replay", 0), "overlap", 7, 12),))
    data = scenes_data(rows, RESULTS, COLUMNS, [viewer])
    assert [item["index"] for item in data["scenes"]] == [0, 1, 2, 3, 9]
    assert data["pair"] == [0, 1] and [metric["name"] for metric in data["metrics"]] == list(COLUMNS)
    first, last = data["scenes"][0], data["scenes"][-1]
    assert first["values"] == [[0.1, 0.0], [0.1, 0.0]] and last["values"] == [[None, 1.0], [None, None]]
    assert first["events"] == [{"result": 1, "text": "overlap, step 7", "hash": "step=7&agent=12"}]
    assert first["kinds"] == ["straight", "close agents"] and 0 <= first["difficulty"] <= 1
    monkeypatch.setattr(scenes, "MAX_SCENES_SHOWN", 2)
    assert [item["index"] for item in scenes_data(rows, RESULTS, COLUMNS, [])["scenes"]] == [0, 1]


def test_the_first_event_of_each_metric():
    """The shifted sdc overlaps from entry 3 on; other metrics have no events."""
    scenario = busy_scene()
    run = ("a", "log_replay", 0)
    sdc = int(scenario.agents.id[scenario.agents.is_sdc][0])
    step = int(scenario.current_step) + 4
    trace = shifted_trace(scenario, 9)
    assert list(first_events(scenario, {run: trace})) == [SceneEvent(run, "overlap", step, sdc)]
    trace.metrics["overlap"].valid[3] = False
    assert [event.step for event in first_events(scenario, {run: trace})] == [step + 1]
    trace.metrics["overlap"].value[:] = 0
    assert list(first_events(scenario, {run: trace})) == []


def test_a_report_is_written_from_the_folder_of_an_evaluation(tmp_path):
    folder = write_evaluation(tmp_path / "run", two_policies(20))
    assert write_report(folder) == folder / "report.html"
    text = write_report(folder, tmp_path / "other.html", [SceneViewer("<s>", "<p>x", 3)]).read_text(encoding="utf-8")
    assert not re.findall(r"(?:src|href)=|https?://|@import|url\(", text)
    for heading in ("By kind of scene", "By difficulty", "Two policies scene by scene", "Distributions over scenes"):
        assert f"<h2>{heading}</h2>" in text
    assert "b<i>" not in text and "b&lt;i&gt;" in text and '<section id="viewer-3"><h3>&lt;s&gt;</h3>' in text
    (data,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', text)
    assert len(json.loads(data)["scenes"]) == 20
    assert text.count("<figure>") == 2 * 2 + len(COLUMNS)
    with pytest.raises(ValueError, match="no finished evaluation"):
        write_report(tmp_path)


def test_reports_of_earlier_versions_and_of_no_scene():
    """Rows without difficulty have no kinds; without rows there are tables only."""
    rows = [{name: value for name, value in row.items() if name != "difficulty"} for row in two_policies(3)]
    assert "By kind" not in html_report(summary_of(rows), rows)
    plain = html_report(summary_of(two_policies(3)))
    assert "<script" not in plain and "All metrics" in plain


def test_policies_of_different_names_are_compared(tmp_path, capsys):
    rows = [row | {"policy": "b=c" if row["policy"] == "b<i>" else "a"} for row in two_policies(4)]
    run = write_evaluation(tmp_path / "run", rows)
    other = write_evaluation(tmp_path / "other", [row | {"policy": "d", "traffic": "idm"} for row in rows[::2]])
    assert main(["compare", str(run), "--pair", "a=b=c", "--json"]) == 0
    (difference,) = json.loads(capsys.readouterr().out)
    assert (difference["a"]["policy"], difference["b"]["policy"], difference["num_scenes"]) == ("a", "b=c", 4)
    # The scores are 0, 1/4, 1/2, 3/4 and their complements.
    assert difference["metrics"]["nuplan_score"]["difference"] == pytest.approx(0.25)
    # The only traffic of each differs.
    (difference,) = compare_runs(run, other, [("a", "d")])
    assert difference["b"]["traffic"] == "idm" and difference["metrics"]["nuplan_score"]["difference"] == 0.0
    for arguments in (["--pair", "a=x"], ["--pair", "a"], []):
        assert main(["compare", str(run), *arguments]) == 2
    assert "a, b=c" in capsys.readouterr().err
