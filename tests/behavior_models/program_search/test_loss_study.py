"""The study of losses: statistics and controls, and a quick run."""

import numpy as np
import pytest

from behavior_models.program_search.domains.rl_loss import LOSS_SPACE
from behavior_models.program_search.export import to_formula
from examples.reproductions import rl_loss_search
from examples.reproductions.rl_loss_search import LossStudy, interval, rewardless_program

RNG = np.random.default_rng(0)
DQN = RNG.uniform(0.7, 0.9, (2, 20))


def _passed(found, reg, rewardless):
    scores = {"DQN": DQN, "found": DQN + found, "DQNReg": DQN + reg, "no rewards": DQN + rewardless}
    return [item.passed for item in rl_loss_search.criteria(scores)]


def test_criteria_reject_worse_losses_and_controls_that_are_not():
    noise = RNG.normal(0.0, 0.1, DQN.shape)
    assert _passed(0.05 + noise, noise, noise - 0.5) == [True, True, True]
    assert _passed(noise - 0.2, noise - 0.2, noise) == [False, False, False]


def test_interval_of_the_mean():
    mean, low, high = interval(DQN)
    spread = 1.96 * DQN.std(axis=1).mean() / np.sqrt(DQN.size)
    assert mean == pytest.approx(DQN.mean())
    assert low == pytest.approx(mean - spread, abs=0.01)
    assert high == pytest.approx(mean + spread, abs=0.01)


def test_the_control_has_no_reward():
    formula = to_formula(LOSS_SPACE, rewardless_program())
    assert "reward" not in formula and "max_a q_target" in formula


@pytest.mark.slow
def test_a_quick_study_is_resumed(tmp_path):
    results = rl_loss_search.main(LossStudy(tmp_path, quick=True))
    assert all(np.isfinite(item.value) for item in results)
    stored = (tmp_path / "test.json").read_bytes()
    assert rl_loss_search.main(LossStudy(tmp_path, quick=True)) == results
    assert (tmp_path / "test.json").read_bytes() == stored
