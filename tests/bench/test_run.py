import dataclasses
import io
import json
import time

import jax.numpy as jnp
import pytest
from rich.console import Console

from behavior_models import POLICIES
from waymax_sim.bench.plugins import plugin_row
from waymax_sim.bench.rows import ROW_COLUMNS, Sampling
from waymax_sim.bench.run import Item, Settings, default_settings, interleave_sizes, list_items, row_names, run
from waymax_sim.bench.table import markdown, terminal_table
from waymax_sim.cli import main
from waymax_sim.metrics import METRICS

pytestmark = pytest.mark.compile_heavy

TINY = Settings(
    agents=8,
    points=600,
    batches=(2,),
    agent_sweep=(4, 8),
    point_sweep=(300, 600),
    sampling=Sampling(repeats=2, seconds=0.0),
)
BASIC_ROWS = (
    "transition",
    "evaluate_state",
    "rollout80_replay",
    "observe_all",
    "index_build",
    "load_store",
    "metric_wrong_way",
)
SLOW_ROWS = ("observe_ego", "metric_overlap", "metric_offroad")
COMPARED_ROWS = ("evaluate_state", "rollout80_replay", "metric_overlap", "metric_offroad")
UNAVAILABLE_ROWS = ("rollout80_idm", "load_tf_example", "load_scenario_proto", "read_scene")


@pytest.fixture(
    scope="module", params=[BASIC_ROWS, pytest.param((*BASIC_ROWS, *SLOW_ROWS), marks=pytest.mark.slow)], ids=len
)
def requested(request) -> tuple[str, ...]:
    return request.param


@pytest.fixture(scope="module")
def results(requested) -> dict:
    # Without policies and, but in the slow tests, with rollouts of one size, so that few programs are compiled.
    of_one_size = ("rollout80_replay",) if requested == BASIC_ROWS else ()
    rows = [name for name in requested if name not in of_one_size]
    results = run(dataclasses.replace(TINY, only=(*rows, *UNAVAILABLE_ROWS)), {})
    if of_one_size:
        one_size = dataclasses.replace(TINY, agent_sweep=(), point_sweep=(), only=of_one_size)
        results["rows"] += run(one_size, {})["rows"]
    return results


def test_rows_of_plugins():
    calls: list[str] = []

    def workload() -> dict:
        parts = {name: lambda index, name=name: calls.append(name) for name in ("total", "collect", "other")}
        return {"calls": parts, "agent_steps": 10.0, "batch": 4}

    sampling = Sampling(repeats=2, seconds=0.0)
    results = run(dataclasses.replace(TINY, only=("mine",), sampling=sampling), {}, plugins={"mine": workload})
    (row,) = results["rows"]
    assert tuple(row) == ROW_COLUMNS and set(calls) == {"total", "collect"}
    assert (row["name"], row["batch"], row["fit_cpu_ms"]) == ("mine", 4, None)
    assert row["agent_steps_per_s"] == pytest.approx(1e4 / row["wall_ms"]) and row["collect_cpu_ms"] >= 0
    assert "mine" in row_names({}, ["mine"]) and "mine" in markdown(results)


def test_baselines_of_plugins():
    def workload() -> dict:
        results = {"total": 0.001, "baseline": 0.004}
        parts = {name: lambda index, s=s: time.sleep(s) or jnp.full(3, s) for name, s in results.items()}
        return {"calls": parts, "agent_steps": 10.0, "batch": 4}

    row = plugin_row("mine", workload, Sampling(repeats=2, seconds=0.0))
    assert row["ratio_to_brute_force"] > 1
    assert row["largest_difference"] == pytest.approx(0.003)


def test_rows_have_names():
    expected = {*BASIC_ROWS, *SLOW_ROWS, *UNAVAILABLE_ROWS, *(f"metric_{name}" for name in METRICS)}
    assert expected | {"rollout80_constant_velocity"} <= set(row_names(POLICIES))


def test_every_name_has_a_row_or_a_reason(requested, results):
    assert {row["name"] for row in results["rows"]} == set(requested)
    assert results["left_out"].keys() == set(UNAVAILABLE_ROWS)
    assert all(results["left_out"].values())


def test_rows_are_strict_json_with_the_documented_columns(results):
    assert json.loads(json.dumps(results, allow_nan=False)) == results
    assert all(tuple(row) == ROW_COLUMNS for row in results["rows"])
    documented = {"name", "batch", "agents", "valid_agents", "map_points", "wall_ms", "cpu_ms", "ratio_to_brute_force"}
    assert {*documented, "agent_steps_per_s", "scene_steps_per_s", "temp_mb", "compile_s"} <= set(ROW_COLUMNS)


def test_numbers_are_consistent(results):
    for row in results["rows"]:
        assert row["wall_ms"] > 0 and row["cpu_ms"] >= 0 and row["samples"] >= 2
        if row["steps"] is not None:
            assert 0 < row["valid_agents"] <= row["agents"]
            per_second = row["batch"] * row["steps"] / row["wall_ms"] * 1e3
            assert row["scene_steps_per_s"] == pytest.approx(per_second)
            assert row["agent_steps_per_s"] == pytest.approx(per_second * row["valid_agents"])
            assert row["compile_s"] > 0 and row["temp_mb"] >= 0 and row["argument_mb"] > 0


def test_rollouts_are_80_steps(results):
    assert {row["steps"] for row in results["rows"] if row["name"].startswith("rollout80")} == {80}


def test_results_agree_with_brute_force(results):
    for row in results["rows"]:
        if row["name"] in COMPARED_ROWS:
            assert row["ratio_to_brute_force"] > 0 and 0 < row["brute_force_share"] <= 1
            assert row["largest_difference"] < 1e-4
        if row["name"] == "metric_wrong_way":
            assert row["ratio_to_brute_force"] is None


def test_items_cover_each_axis_without_repetition():
    base = Item("", 1, 128, 20000)
    items = list_items(
        Settings(agent_sweep=(8, 128), point_sweep=(1000, 20000)), ["evaluate_state", "metric_offroad", "other"], base
    )
    sizes = {
        name: [dataclasses.astuple(item)[1:] for item in items if item.name == name]
        for name in ("evaluate_state", "other")
    }
    assert sizes["evaluate_state"] == [
        (1, 128, 20000),
        (16, 128, 20000),
        (64, 128, 20000),
        (16, 8, 20000),
        (16, 128, 1000),
    ]
    assert sizes["other"] == sizes["evaluate_state"][:3]
    assert [item for item in items if item.name == "metric_offroad"] == [
        Item("metric_offroad", 16, agents, points) for agents, points in ((128, 20000), (8, 20000), (128, 1000))
    ]
    assert len(items) == 11
    group = next(
        group for group in interleave_sizes(items) if (group[0].name, group[0].batch) == ("evaluate_state", 16)
    )
    assert [(size.agents, size.points) for size in group] == [(128, 20000), (8, 20000), (128, 1000)]
    assert sorted(map(str, items)) == sorted(str(size) for group in interleave_sizes(items) for size in group)


def test_conditions_name_machine_and_versions(results):
    conditions = results["conditions"]
    assert conditions["versions"].keys() == {"waymax-sim", "jax", "jaxlib", "numpy", "python"}
    assert conditions["data"].startswith("synthetic:") and conditions["scenario_id"]
    assert {"date", "load_average", "device", "num_devices", "cpu", "cores", "repeats"} <= conditions.keys()


def test_results_are_printed(results):
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(terminal_table(results))
    text = console.export_text()
    page = markdown(results)
    for name in BASIC_ROWS:
        assert name in text
        assert f"| {name} |" in page
    lines = [line for line in page.splitlines() if line.startswith("|")]
    assert len(lines) == len(results["rows"]) + 2
    assert len({line.count("|") for line in lines}) == 1


def test_a_quick_run_measures_less():
    quick, full = (default_settings(quick, ()) for quick in (True, False))
    assert full.only == () and set(quick.only) < set(row_names(POLICIES))
    assert default_settings(True, ("evaluate_state",)).only == ("evaluate_state",)
    base = Item("", 1, 128, 20000)
    assert len(list_items(quick, ["evaluate_state"], base)) < len(list_items(full, ["evaluate_state"], base))


def test_long_calls_are_left_out(monkeypatch):
    monkeypatch.setattr("waymax_sim.bench.run.MAX_CALL_S", 0.0)
    results = run(dataclasses.replace(TINY, batches=(1, 2), only=("metric_overlap", "transition")), {})
    assert [(row["name"], row["batch"]) for row in results["rows"]] == [("transition", 1), ("metric_overlap", 2)]
    (reason,) = results["left_out"].items()
    assert "transition at batch 2" in reason[0] and "one call would take" in reason[1]


def test_the_command_prints_json(capsys):
    assert main(["bench", "--quick", "--json", "--only", "index_build", "load_tf_example"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in results["rows"]] == ["index_build"]
    assert results["left_out"].keys() == {"load_tf_example"}


@pytest.mark.parametrize(("form", "mark"), [([], "index_build"), (["--markdown"], "| index_build |")])
def test_the_command_prints_a_table(form, mark, capsys):
    assert main(["bench", "--quick", "--only", "index_build", *form]) == 0
    assert mark in capsys.readouterr().out


@pytest.mark.parametrize(
    "options",
    [["--json", "--markdown"], ["--only", "flying"]],
    ids=lambda options: options[0],
)
def test_invalid_options_are_refused(options, capsys):
    assert main(["bench", *options]) == 2
    assert "error:" in capsys.readouterr().err


def test_missing_data_is_reported(tmp_path, capsys):
    assert main(["bench", "--data", str(tmp_path / "nothing")]) == 1
    assert "no such file" in capsys.readouterr().err
