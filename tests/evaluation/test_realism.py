import dataclasses
import json
import math
import signal

import numpy as np
import pytest

from behavior_models import POLICIES
from tests.data import recorded
from tests.programs import FULLY_OPTIMIZED
from waymax_sim import results_dir
from waymax_sim.cli import main
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.formats.sim_agents_submission import read_rollouts, unpack_submission
from waymax_sim.datasets.formats.write import write_scenes
from waymax_sim.datasets.loader import load
from waymax_sim.evaluation.realism.evaluate import check_scene, evaluate_realism, from_rollout_file, to_rollout_file
from waymax_sim.evaluation.realism.report import summarize
from waymax_sim.metrics.realism import CONFIGS

pytestmark = pytest.mark.compile_heavy

SCENES = "synthetic:0:2"


def realism(out, *options, path=SCENES) -> int:
    return main(["realism", str(path), "--out", str(out), *map(str, options)])


def rows(out) -> list[dict]:
    return [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]


def summary(out) -> dict:
    return json.loads((out / "summary.json").read_text())


@pytest.fixture(scope="module")
def submitted(tmp_path_factory):
    """Scores of random driving, and the submission that was written with them."""
    folder = tmp_path_factory.mktemp("submitted")
    assert realism(folder / "out", "--policy", "random", "--submission", folder / "x.tar.gz", "--account", "a@b") == 0
    return folder


def test_rows_and_their_means_are_written(submitted):
    scored, total = rows(submitted / "out"), summary(submitted / "out")
    assert [row["record"] for row in scored] == [0, 1]
    assert (total["num_scenes"], total["num_failed"], total["undefined"]) == (2, 0, [])
    assert (total["config"], total["parity"]) == ("2025", True)
    for row in scored:
        assert (row["policy"], row["num_rollouts"], row["privileged"]) == ("random", 32, False)
        assert len(row["likelihoods"]) == 10 and len(row["buckets"]) == len(row["simulated_rates"]) == 3
    for group in ("likelihoods", "buckets", "simulated_rates"):
        for name, value in total[group].items():
            values = [row[group][name] for row in scored]
            assert value == pytest.approx(np.mean(values))
            low, high = total["confidence"][group][name]
            assert min(values) - 1e-9 <= low <= value + 1e-9 and value - 1e-9 <= high <= max(values) + 1e-9
    weights = {f"{feature.name}_likelihood": feature.weight for feature in CONFIGS["2025"].features}
    assert list(total["likelihoods"]) == list(weights)
    expected = sum(weight * total["likelihoods"][name] for name, weight in weights.items())
    assert total["meta_metric"] == pytest.approx(expected, abs=1e-6)
    assert total["min_ade"] <= total["ade"]


def test_a_submission_scores_the_same_when_it_is_read_back(submitted, capsys):
    out = submitted / "back"
    assert realism(out, "--from-submission", submitted / "x.tar.gz") == 0
    shown = capsys.readouterr().out
    assert "meta_metric" in shown and "parity" in shown
    for again, expected in zip(rows(out), rows(submitted / "out"), strict=True):
        for name in ("likelihoods", "meta_metric", "buckets", "ade", "min_ade", "simulated_rates", "num_evaluated"):
            assert again[name] == (expected[name] if FULLY_OPTIMIZED else pytest.approx(expected[name], rel=1e-6))


def test_a_submission_has_the_rollouts_of_the_current_agents(submitted, tmp_path):
    assert unpack_submission(submitted / "x.tar.gz", tmp_path) == 2
    for scenario in load(SCENES):
        found = read_rollouts(tmp_path, scenario.scenario_id)
        valid = scenario.log.valid[int(scenario.current_step)]
        assert sorted(found.object_id.tolist()) == sorted(scenario.agents.id[valid].tolist())
        assert found.heading.shape == (32, valid.sum(), 80)
        again = to_rollout_file(from_rollout_file(found, scenario), scenario)
        np.testing.assert_array_equal(again.xyz, found.xyz)
        np.testing.assert_array_equal(again.heading, found.heading)


@pytest.mark.slow
def test_arrays_are_scored_and_corrections_are_labeled(submitted, tmp_path, capsys):
    unpack_submission(submitted / "x.tar.gz", tmp_path)
    scenario = load("synthetic:0:1")[0]
    found = read_rollouts(tmp_path, scenario.scenario_id)
    columns = dict(zip("xyz", np.moveaxis(found.xyz, -1, 0), strict=True))
    np.savez(tmp_path / "a.npz", object_id=found.object_id, heading=found.heading, **columns)
    options = ("--from-npz", tmp_path / "a.npz")
    assert realism(tmp_path / "out", *options, path="synthetic:0:1") == 0
    assert summary(tmp_path / "out")["meta_metric"] == rows(submitted / "out")[0]["meta_metric"]
    assert summary(tmp_path / "out")["confidence"]["meta_metric"] is None
    # It is unknown whether the rollouts of a file used the logged future.
    assert rows(tmp_path / "out")[0]["privileged"] == "unknown"
    assert "privileged: unknown" in " ".join(capsys.readouterr().out.split())
    capsys.readouterr()
    assert realism(tmp_path / "other", *options, "--corrected", path="synthetic:0:1") == 0
    shown = capsys.readouterr().out
    assert "CORRECTED" in shown and "not comparable" in " ".join(shown.split())
    corrected = summary(tmp_path / "other")
    assert corrected["parity"] is False and rows(tmp_path / "other")[0]["parity"] is False
    assert corrected["meta_metric"] != summary(tmp_path / "out")["meta_metric"]
    assert realism(tmp_path / "third", *options) == 2


def test_an_interrupted_run_is_resumed(submitted, tmp_path, monkeypatch, capsys):
    out, append = tmp_path / "out", results_dir.append_rows
    options = ("--from-submission", submitted / "x.tar.gz")

    def interrupted(out, rows):
        append(out, rows)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(results_dir, "append_rows", interrupted)
    assert realism(out, *options) == 130
    assert [row["record"] for row in rows(out)] == [0] and not (out / "summary.json").exists()
    monkeypatch.setattr(results_dir, "append_rows", append)
    assert realism(out, *options) == 0
    assert [row["record"] for row in rows(out)] == [0, 1]
    assert realism(out, *options, "--seed", 1) == 2
    assert "different: seed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ((), "give one of --policy"),
        (("--policy", "random", "--from-npz", "a.npz"), "give one of --policy"),
        (("--policy", "hope"), "unknown policy 'hope'; known are "),
        (("--policy", "random", "--rollouts", "0"), "--rollouts 0"),
        (("--policy", "random", "--rollouts", "4", "--submission", "x"), "with 32 rollouts"),
        (("--policy", "random", "--config", "2022"), "2022"),
    ],
)
def test_wrong_calls_are_refused(options, reason, tmp_path, capsys):
    assert realism(tmp_path / "out", *options) == 2
    assert reason in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_files_that_do_not_fit_are_refused(tmp_path, capsys):
    (tmp_path / "noise.binproto").write_bytes(b"\xff" * 9)
    assert realism(tmp_path / "out", "--from-submission", tmp_path / "noise.binproto") == 1
    assert "noise.binproto" in capsys.readouterr().err
    names = dict.fromkeys(("x", "y", "z", "heading"), np.zeros((2, 1, 80), np.float32))
    np.savez(tmp_path / "a.npz", object_id=np.array([1]), **names)
    assert realism(tmp_path / "other", "--from-npz", tmp_path / "a.npz", path="synthetic:0:1") == 1
    assert "agents are missing" in capsys.readouterr().err


def test_scenes_that_cannot_be_scored_are_refused():
    scenario = load(SCENES)[0]
    assert check_scene(scenario) >= 1
    now, agents = int(scenario.current_step), scenario.agents
    valid = np.array(scenario.log.valid)
    valid[now, np.argmax(agents.is_sdc)] = False
    no_edges = dataclasses.replace(scenario.edges, valid=np.zeros_like(scenario.edges.valid))
    no_agents = dataclasses.replace(agents, is_sdc=agents.is_sdc & False, to_predict=agents.to_predict & False)
    broken = {
        "road edges": dataclasses.replace(scenario, edges=no_edges),
        "not valid": dataclasses.replace(scenario, log=dataclasses.replace(scenario.log, valid=valid)),
        "no agent": dataclasses.replace(scenario, agents=no_agents),
        "no step": dataclasses.replace(scenario, current_step=np.array(scenario.num_steps - 1, np.int32)),
    }
    for reason, scene in broken.items():
        with pytest.raises(DataError, match=reason):
            check_scene(scene)


def test_scenes_without_a_number_are_listed_and_left_out(submitted):
    found = rows(submitted / "out")
    broken = json.loads(json.dumps(found[1]))
    broken["likelihoods"]["time_to_collision_likelihood"] = broken["meta_metric"] = None
    total = summarize([found[0], broken], [], json.loads((submitted / "out" / "conditions.json").read_text()))
    assert total["undefined"] == [broken["scenario_id"]] and total["num_scenes"] == 2
    assert total["meta_metric"] == found[0]["meta_metric"] and total["confidence"]["meta_metric"] is None
    nothing = summarize([broken], [], total["conditions"])
    assert nothing["meta_metric"] is None and set(nothing["likelihoods"].values()) == {None}


@pytest.fixture(scope="module")
def testing_file(tmp_path_factory):
    """A record that ends with its current step, of the shape of the scenes that are scored here."""
    raw = load(SCENES).read(0)
    steps = raw.current_step + 1
    names = ("timestamps", "xyz", "yaw", "velocity", "size", "valid", "signal_state", "signal_stop_point")
    cut = {name: getattr(raw, name)[:steps] for name in (*names, "signal_valid")}
    path = tmp_path_factory.mktemp("testing") / "testing.tfrecord"
    write_scenes(path, [dataclasses.replace(raw, **cut)], "scenario_proto")
    return path


def test_scenes_without_a_future_are_submitted_and_not_scored(testing_file, tmp_path, capsys):
    options = ("--policy", "random", "--submission", tmp_path / "x.tar.gz", "--account", "a@b")
    assert realism(tmp_path / "out", *options, path=testing_file) == 0
    assert "1 scenes without score: no future in the record" in " ".join(capsys.readouterr().out.split())
    (row,), total = rows(tmp_path / "out"), summary(tmp_path / "out")
    assert not row["scored"] and row["num_rollouts"] == 32
    assert row["meta_metric"] is None and {*row["likelihoods"].values(), *row["simulated_rates"].values()} == {None}
    assert row.keys() == rows(tmp_path / "out")[0].keys()
    assert total["unscored"] == [row["scenario_id"]] and total["undefined"] == [] and total["meta_metric"] is None
    assert unpack_submission(tmp_path / "x.tar.gz", tmp_path) == 1
    scenario = load(testing_file)[0]
    found = read_rollouts(tmp_path, scenario.scenario_id)
    assert found.heading.shape == (32, scenario.log.valid[10].sum(), 80)
    assert np.isfinite(found.xyz).all() and np.isfinite(found.heading).all()


def test_scenes_without_a_future_are_not_scored_without_a_submission(testing_file, tmp_path, capsys):
    assert realism(tmp_path / "out", "--policy", "random", "--rollouts", 1, path=testing_file) == 1
    assert "no future in the record" in " ".join(capsys.readouterr().err.split())


def test_replay_follows_the_log():
    (result,) = evaluate_realism(load("synthetic:0:1"), policy=POLICIES["log_replay"](), num_rollouts=2)
    assert not isinstance(result, DataError)
    # Agents coast after the end of their log.
    assert result.score.ade < 0.5
    assert result.score.likelihoods["linear_speed"] > 0.3 and math.isfinite(result.score.meta_metric)


def test_the_official_example_scores_the_official_number(tmp_path):
    scene = recorded("womd/scenario_637f20cafde22ff8.tfrecord")
    assert realism(tmp_path, "--from-submission", recorded("wosac/test_submission.binproto"), path=scene) == 0
    expected = json.loads(recorded("wosac/637f20cafde22ff8/metrics_test_submission.json").read_text())
    official = expected["configs"]["2025_sim_agents"]
    found = summary(tmp_path)
    assert found["meta_metric"] == pytest.approx(official["metametric"], abs=1e-5)
    for name, value in found["likelihoods"].items():
        assert value == pytest.approx(official[name], abs=1e-5)
    assert found["simulated_rates"] == pytest.approx({name: official[name] for name in found["simulated_rates"]})
    assert found["min_ade"] == pytest.approx(official["min_average_displacement_error"], abs=1e-5)
