import dataclasses
import io
import json

import pytest
from rich.console import Console

from behavior_models import POLICIES
from waymax_sim.bench.plot import curves, plot
from waymax_sim.bench.rows import COLUMNS, Sampling
from waymax_sim.bench.run import Item, Settings, in_turn, names, plan, run, settings
from waymax_sim.bench.table import markdown, terminal_table
from waymax_sim.cli import main
from waymax_sim.metrics import METRICS

TINY = Settings(
    agents=8,
    points=600,
    batches=(2,),
    agent_sweep=(4, 8),
    point_sweep=(300, 600),
    sampling=Sampling(repeats=2, seconds=0.0, bandwidth=20.0),
    starts=1,
)
ALWAYS = ("transition", "judge", "rollout80_replay", "observe_all", "index_build", "load_store", "metric_wrong_way")
MORE = ("observe_ego", "metric_overlap", "metric_offroad")
JUDGED = ("judge", "rollout80_replay", "metric_overlap", "metric_offroad")
LEFT_OUT = ("rollout80_idm", "load_tf_example", "load_scenario_proto", "read_scene")


@pytest.fixture(scope="module", params=[ALWAYS, pytest.param((*ALWAYS, *MORE), marks=pytest.mark.slow)], ids=len)
def asked(request) -> tuple[str, ...]:
    return request.param


@pytest.fixture(scope="module")
def results(asked) -> dict:
    # Without policies: what needs them is left out, and compiled programs are few.
    return run(dataclasses.replace(TINY, only=(*asked, *LEFT_OUT)), {})


def test_all_work_has_a_name():
    promised = {*ALWAYS, *MORE, *LEFT_OUT, *(f"metric_{name}" for name in METRICS), "cold_start"}
    assert promised | {"rollout80_constant_velocity"} <= set(names(POLICIES))


def test_every_name_has_a_row_or_a_reason(asked, results):
    assert {row["name"] for row in results["rows"]} == set(asked)
    assert results["left_out"].keys() == set(LEFT_OUT)
    assert all(results["left_out"].values())


def test_rows_are_strict_json_with_the_columns_promised(results):
    assert json.loads(json.dumps(results, allow_nan=False)) == results
    assert all(tuple(row) == COLUMNS for row in results["rows"])
    promised = {"name", "batch", "agents", "valid_agents", "map_points", "wall_ms", "cpu_ms", "ratio_to_brute_force"}
    assert {*promised, "agent_steps_per_s", "scene_steps_per_s", "temp_mb", "compile_s"} <= set(COLUMNS)


def test_numbers_make_sense(results):
    for row in results["rows"]:
        assert row["wall_ms"] > 0 and row["cpu_ms"] >= 0 and row["samples"] >= 2
        if row["steps"] is not None:
            assert 0 < row["valid_agents"] <= row["agents"]
            per_second = row["batch"] * row["steps"] / row["wall_ms"] * 1e3
            assert row["scene_steps_per_s"] == pytest.approx(per_second)
            assert row["agent_steps_per_s"] == pytest.approx(per_second * row["valid_agents"])
            assert row["compile_s"] > 0 and row["temp_mb"] >= 0 and row["argument_mb"] > 0
        if row["bandwidth_share"] is not None:
            moved = row["accessed_mb"] / row["wall_ms"]  # GB/s
            assert row["bandwidth_share"] == pytest.approx(moved / 20.0)


def test_rollouts_are_80_steps(results):
    assert {row["steps"] for row in results["rows"] if row["name"].startswith("rollout80")} == {80}


def test_what_is_judged_is_compared_and_agrees(results):
    for row in results["rows"]:
        if row["name"] in JUDGED:
            assert row["ratio_to_brute_force"] > 0 and 0 < row["brute_force_share"] <= 1
            assert row["largest_difference"] < 1e-4
        if row["name"] == "metric_wrong_way":
            assert row["ratio_to_brute_force"] is None


def test_the_plan_covers_each_axis_without_repeats():
    base = Item("", 1, 128, 20000)
    items = plan(Settings(agent_sweep=(8, 128), point_sweep=(1000, 20000)), ["judge", "metric_offroad", "other"], base)
    sizes = {
        name: [dataclasses.astuple(item)[1:] for item in items if item.name == name] for name in ("judge", "other")
    }
    assert sizes["judge"] == [(1, 128, 20000), (16, 128, 20000), (64, 128, 20000), (16, 8, 20000), (16, 128, 1000)]
    assert sizes["other"] == sizes["judge"][:3]
    assert [item for item in items if item.name == "metric_offroad"] == [
        Item("metric_offroad", 16, agents, points) for agents, points in ((128, 20000), (8, 20000), (128, 1000))
    ]
    assert len(items) == 14
    judged = next(group for group in in_turn(items) if (group[0].name, group[0].batch) == ("judge", 16))
    assert [(size.agents, size.points) for size in judged] == [(128, 20000), (8, 20000), (128, 1000)]
    assert sorted(map(str, items)) == sorted(str(size) for group in in_turn(items) for size in group)


def test_curves_are_in_order_of_their_axis(asked, results):
    assert [row["agents"] for row in curves(results, "agents")["judge"]] == [4, 8]
    for name in {"judge", "metric_offroad"} & set(asked):
        assert [row["map_points"] for row in curves(results, "map_points")[name]] == [300, 600]
    assert curves(results, "batch") == {}


def test_conditions_say_what_the_numbers_depend_on(results):
    found = results["conditions"]
    assert found["versions"].keys() == {"waymax-sim", "jax", "jaxlib", "numpy", "python"}
    assert found["data"].startswith("synthetic:") and found["scenario_id"]
    assert {"date", "load_average", "device", "num_devices", "cpu", "cores", "repeats"} <= found.keys()


def test_results_are_printed_and_drawn(results, tmp_path):
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(terminal_table(results))
    text = console.export_text()
    page = markdown(results)
    for name in ALWAYS:
        assert name in text
        assert f"| {name} |" in page
    lines = [line for line in page.splitlines() if line.startswith("|")]
    assert len(lines) == len(results["rows"]) + 2
    assert len({line.count("|") for line in lines}) == 1
    plot(results, tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")


def test_new_processes_are_started():
    rows = run(dataclasses.replace(TINY, only=("cold_start", "cold_start_warm_cache", "first_batch")), {})["rows"]
    assert [row["name"] for row in rows] == ["cold_start", "cold_start_warm_cache", "first_batch"]
    assert all(row["wall_ms"] > 0 and row["peak_rss_mb"] > 0 and row["map_points"] > 0 for row in rows)


def test_a_quick_run_measures_less():
    quick, full = (settings(quick, (), 900.0) for quick in (True, False))
    assert full.only == () and set(quick.only) < set(names(POLICIES))
    assert settings(True, ("judge",), None).only == ("judge",)
    assert quick.sampling.bandwidth == full.sampling.bandwidth == 900.0
    base = Item("", 1, 128, 20000)
    assert len(plan(quick, ["judge"], base)) < len(plan(full, ["judge"], base))


def test_what_would_take_too_long_is_left_out(monkeypatch):
    monkeypatch.setattr("waymax_sim.bench.run.LONGEST", 0.0)
    found = run(dataclasses.replace(TINY, batches=(1, 2), only=("metric_overlap", "transition")), {})
    assert [(row["name"], row["batch"]) for row in found["rows"]] == [("transition", 1), ("metric_overlap", 2)]
    (reason,) = found["left_out"].items()
    assert "transition at batch 2" in reason[0] and "one call would take" in reason[1]


def test_the_command_prints_json(capsys):
    assert main(["bench", "--quick", "--json", "--only", "index_build", "load_tf_example"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in found["rows"]] == ["index_build"]
    assert found["left_out"].keys() == {"load_tf_example"}


@pytest.mark.parametrize(("form", "mark"), [([], "index_build"), (["--markdown"], "| index_build |")])
def test_the_command_prints_a_table(form, mark, capsys, tmp_path):
    options = ["--quick", "--only", "index_build", "--plot", str(tmp_path / "new" / "plot.png")]
    assert main(["bench", *options, *form]) == 0
    assert mark in capsys.readouterr().out
    assert (tmp_path / "new" / "plot.png").exists()


@pytest.mark.parametrize(
    "options",
    [["--json", "--markdown"], ["--only", "flying"], ["--plot", "plot.txt"], ["--bandwidth", "0"]],
    ids=lambda options: options[0],
)
def test_wrong_calls_are_refused(options, capsys):
    assert main(["bench", *options]) == 2
    assert "error:" in capsys.readouterr().err


def test_missing_data_is_said(tmp_path, capsys):
    assert main(["bench", "--data", str(tmp_path / "nothing")]) == 1
    assert "no such file" in capsys.readouterr().err
