"""Trainings with continuous actions, from scenes to stored policies, and the reproduction of BC-SAC."""

import json

import jax
import numpy as np
import pytest

from behavior_models.imitation.behavior_cloning import BCConfig, BehaviorCloning
from behavior_models.imitation.demonstrations import collect_demonstrations
from behavior_models.training.presets import GOAL_TASK
from examples.reproductions.bc_sac import Study, bound_share, histogram, jensen_shannon, main
from examples.reproductions.bc_sac_drives import Drives
from waymax_sim import load
from waymax_sim.cli import main as command
from waymax_sim.env.bank import build_bank
from waymax_sim.plugins import resolve_policy

SCENES = "synthetic:0:2"


def test_divergence_by_hand():
    assert jensen_shannon(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == pytest.approx(1.0)
    p, q = np.array([0.5, 0.5]), np.array([0.25, 0.75])
    middle = (p + q) / 2
    expected = sum(0.5 * np.sum(a * np.log2(a / middle)) for a in (p, q))
    assert jensen_shannon(p, q) == pytest.approx(expected) and jensen_shannon(p, p) == 0
    shares = histogram(np.array([[-1.0, 1.0], [5.0, -5.0], [0.01, 0.01], [0.01, 0.01]]))
    assert shares.sum() == pytest.approx(1.0) and sorted(shares[shares > 0]) == [0.25, 0.25, 0.5]
    drives = Drives(*[np.zeros(1)] * 5, actions=np.array([[1.0, 0.0], [0.0, -0.96]]))
    assert bound_share([drives]) == pytest.approx(0.5)


@pytest.mark.slow
def test_policies_of_continuous_actions_are_trained_and_stored(tmp_path):
    shared = ("--data", SCENES, "--steps", "2", "--held-out", SCENES)
    trainings = {
        "bc": ("bc", "--action", "bicycle"),
        "corners": ("bc", "--action", "bicycle", "--head", "mixture", "--expert", "corners"),
        "delta": ("bc", "--action", "delta"),
        "sac": ("sac",),
        "bc_sac": ("bc-sac", "--start", str(tmp_path / "bc" / "policy"), "--imitation-weight", "1.0"),
    }
    for name, options in trainings.items():
        assert command(["train", *options, *shared, "--out", str(tmp_path / name)]) == 0
        line = json.loads((tmp_path / name / "log.jsonl").read_text().splitlines()[-1])
        assert line["step"] == 2 and all(np.isfinite(value) for value in line.values())
        policy = resolve_policy(str(tmp_path / name / "policy"))
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(policy.params))
    assert line["imitation_loss"] != 0 and line["critic_loss"] > 0
    # A policy of another network or of other actions is no start.
    other = str(tmp_path / "delta" / "policy")
    assert command(["train", "sac", "--start", other, *shared, "--out", str(tmp_path / "other")]) != 0


@pytest.mark.slow
def test_the_reproduction_runs(tmp_path, capsys):
    main(Study(out=tmp_path, quick=True))
    report = json.loads((tmp_path / "report.json").read_text())
    names = {finding["name"].split()[0] for finding in report["findings"]}
    assert names == {"B1", "B2", "B3", "B4", "B5", "B6"}
    stationary = report["arms"]["stationary"]["all"]
    assert stationary[0]["value"] < 0.1 and stationary[2]["value"] < 0.5
    assert "bc-sac" in capsys.readouterr().out


@pytest.mark.slow
def test_clean_labels_are_memorized():
    """1,024 demonstrations whose labels look 0.6 s ahead on a smoothed log."""
    bank = build_bank(load("synthetic:0:4", pad_to_bucket=False), GOAL_TASK.env)
    data = collect_demonstrations(GOAL_TASK, bank, jax.random.key(0), num_decisions=40, num_envs=4)
    rows = np.random.default_rng(0).permutation(len(data))[:1024]
    data = jax.tree.map(lambda leaf: jax.device_put(leaf[rows]), data)
    config = BCConfig("hard", num_epochs=400, minibatch=128, learning_rate=2e-3, weight_decay=0.0)
    learner = BehaviorCloning(GOAL_TASK, len(rows), config)

    @jax.jit
    def train(state):
        return jax.lax.scan(lambda state, _: learner.train_step(state, data), state, length=config.num_epochs)[0]

    assert float(jax.jit(learner.accuracy)(train(learner.init(jax.random.key(1))).params, data)) >= 0.95
