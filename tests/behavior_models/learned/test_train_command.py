"""The command `waymax-sim train`, from scenes to an evaluated policy."""

import json

import jax
import numpy as np
import pytest

from behavior_models.trainers.common import load_bank
from behavior_models.training.presets import GOAL_TASK
from waymax_sim.cli import main
from waymax_sim.plugins import resolve_policy

SCENES = "synthetic:0:2"


def train(tmp_path, *options: str) -> int:
    return main(["train", *options])


@pytest.mark.compile_heavy
def test_a_curriculum_prefers_difficult_scenes():
    weights = np.asarray(load_bank("synthetic:0:3", GOAL_TASK, 0.5).weights)
    np.testing.assert_allclose(sorted(weights), [1 / 6, 1 / 6, 2 / 3], rtol=1e-6)


@pytest.mark.slow
def test_policies_are_trained_stored_and_evaluated(tmp_path, capsys):
    bc, ppo = str(tmp_path / "bc"), str(tmp_path / "ppo")
    assert train(tmp_path, "bc", "--data", SCENES, "--out", bc, "--steps", "2", "--held-out", SCENES) == 0
    line = json.loads((tmp_path / "bc" / "log.jsonl").read_text().splitlines()[-1])
    assert line["step"] == 2 and 0 <= line["eval/goal"] <= 1 and line["eval/episodes"] > 0
    anchored = ("--kl-to", f"{bc}/policy", "--data", SCENES, "--out", ppo, "--steps", "2")
    assert train(tmp_path, "ppo", *anchored) == 0
    assert json.loads((tmp_path / "ppo" / "log.jsonl").read_text().splitlines()[-1])["anchor_kl"] > 0
    # Both have the same structure, and share one program.
    policies = [resolve_policy(f"{folder}/policy") for folder in (bc, ppo)]
    assert len({jax.tree.structure(policy.params) for policy in policies}) == 1
    out = ("--policy", f"{bc}/policy", "--metrics", "overlap", "log_divergence", "--steps", "8", "--agents", "vehicle")
    assert main(["evaluate", SCENES, *out, "--out", str(tmp_path / "out")]) == 0
    # Another seed needs another folder.
    assert (
        train(tmp_path, "bc", "--data", SCENES, "--out", bc, "--steps", "2", "--held-out", SCENES, "--seed", "1") == 2
    )
    assert "other seed" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("values", ["scalar", "distribution"])
def test_greedy_policies_are_trained_stored_and_evaluated(tmp_path, values):
    folder = str(tmp_path / "dqn")
    options = ("--values", values, "--data", SCENES, "--held-out", SCENES, "--out", folder, "--steps", "2")
    assert train(tmp_path, "dqn", *options) == 0
    line = json.loads((tmp_path / "dqn" / "log.jsonl").read_text().splitlines()[-1])
    assert line["step"] == 2 and line["loss"] > 0 and line["eval/episodes"] > 0
    policy = resolve_policy(f"{folder}/policy")
    assert policy.mode == "mode" and policy.interval == 2
    out = ("--metrics", "overlap", "log_divergence", "--steps", "8", "--agents", "vehicle")
    assert main(["evaluate", SCENES, "--policy", f"{folder}/policy", *out, "--out", str(tmp_path / "out")]) == 0
