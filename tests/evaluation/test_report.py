import json

import pytest

from behavior_models import LogReplay, Random
from waymax_sim.datasets.errors import DataError
from waymax_sim.env import Env, EnvConfig
from waymax_sim.evaluation.evaluate import SceneResult
from waymax_sim.evaluation.report import (
    append_rows,
    conditions_of,
    done,
    open_results,
    rows_of,
    summarize_rows,
    write_json,
)

ENV = Env(config=EnvConfig(metrics=("overlap", "off_route"), rewards=()))
CONDITIONS = conditions_of(ENV, LogReplay(), name="log_replay", path="x", seed=0, max_steps=None)


def rows(record: int, overlap: float, off_route: float | None) -> list[dict]:
    result = SceneResult("f", record, f"scene-{record}", {"overlap": overlap, "off_route": off_route})
    return rows_of(result, ENV.metrics, CONDITIONS)


def test_a_row_says_what_it_is_about():
    first, second = rows(3, 1.0, None)
    assert first == {
        "scenario_id": "scene-3",
        "file": "f",
        "record": 3,
        "metric": "overlap",
        "value": 1.0,
        "valid": True,
        "unit": "1",
        "policy": "log_replay",
        "privileged": True,
    }
    assert (second["metric"], second["value"], second["valid"], second["unit"]) == ("off_route", None, False, "m")


def test_scenes_are_averaged_where_they_are_valid():
    failure = DataError("broken", file="g", record=4, field="data")
    summary = summarize_rows(rows(0, 1.0, None) + rows(1, 0.0, 3.0), ENV.metrics, [failure], CONDITIONS)
    assert (summary["num_scenes"], summary["num_failed"]) == (2, 1)
    assert summary["failures"] == [{"file": "g", "record": 4, "field": "data", "error": "broken"}]
    overlap, off_route = summary["metrics"]["overlap"], summary["metrics"]["off_route"]
    assert (overlap["value"], overlap["valid_fraction"], overlap["num_valid_scenes"]) == (0.5, 1.0, 2)
    assert (off_route["value"], off_route["valid_fraction"], off_route["num_valid_scenes"]) == (3.0, 0.5, 1)
    assert (off_route["unit"], off_route["better"]) == ("m", "lower")
    assert summary["conditions"]["privileged"] is True


def test_where_nothing_is_valid_the_value_is_null():
    for some in ([], rows(0, 0.0, None)):
        item = summarize_rows(some, ENV.metrics, [], CONDITIONS)["metrics"]["off_route"]
        assert (item["value"], item["valid_fraction"]) == (None, 0.0)


def test_results_go_on_after_any_cut(tmp_path):
    assert open_results(tmp_path, CONDITIONS) == []
    append_rows(tmp_path, rows(0, 1.0, None))
    whole = (tmp_path / "rows.jsonl").read_text()
    append_rows(tmp_path, rows(1, 0.0, 2.5))
    text = (tmp_path / "rows.jsonl").read_text()
    for cut in range(len(whole), len(text)):
        (tmp_path / "rows.jsonl").write_text(text[:cut])
        assert done(open_results(tmp_path, CONDITIONS)) == {("f", 0)}
        assert (tmp_path / "rows.jsonl").read_text() == whole
    (tmp_path / "rows.jsonl").write_text(text)
    assert open_results(tmp_path, CONDITIONS) == rows(0, 1.0, None) + rows(1, 0.0, 2.5)


def test_results_of_other_conditions_are_left_alone(tmp_path):
    open_results(tmp_path, CONDITIONS)
    append_rows(tmp_path, rows(0, 1.0, None))
    other = conditions_of(ENV, Random(), name="random", path="x", seed=1, max_steps=None)
    with pytest.raises(ValueError, match="dynamics, policy, privileged, seed"):
        open_results(tmp_path, other)
    (tmp_path / "conditions.json").unlink()
    with pytest.raises(ValueError, match="another run"):
        open_results(tmp_path, CONDITIONS)
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 2


def test_json_is_strict_and_written_whole(tmp_path):
    write_json(tmp_path / "a.json", {"value": None})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"value": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"value": None}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
