"""Reproductions of offline learning: their criteria on numbers by hand, and a quick run."""

import json

import numpy as np
import pytest

from behavior_models.offline.transitions import Transitions
from examples.reproductions import (
    dr3,
    scaled_q_learning,
    scaled_q_runs,
    scaled_q_statistics,
    scaled_q_transfer,
)


def co_adaptation_rows(last_return: float, shuffled_return: float) -> dict[str, dict[str, np.ndarray]]:
    """Numbers of five seeds that satisfy all other criteria."""

    def row(early, last, value, average, final, unlearning):
        values = (early, last, 100.0, value, average, final, unlearning)
        names = ("dot early", "dot last", "rank last", "value last", "average return", "last return", "unlearning")
        return {name: np.full(5, number) for name, number in zip(names, values, strict=True)}

    rows = {
        "Q-learning": row(30.0, 300.0, 10.0, 8.0, 8.0, 0.2),
        "Q-learning + DR3": row(5.0, 8.0, 10.5, 10.0, 10.0, 0.0),
        "CQL": row(30.0, 300.0, 10.0, 15.0, 14.0, 0.3),
        "CQL + DR3": row(5.0, 8.0, 10.0, 18.0, last_return, 0.0),
        "CQL + DR3, shuffled pairs": row(5.0, 8.0, 10.0, 18.0, shuffled_return, 0.0),
        dr3.DECAY_ARM: row(5.0, 8.0, 10.0, 15.0, 14.0, 0.3),
    }
    return rows | {name: row(30.0, 31.0, 10.0, 20.0, 20.0, 0.0) for name in ("Monte Carlo", "SARSA")}


def failures(rows) -> list[str]:
    return [each.name for each in dr3.find_criteria(rows) if not each.passed]


def test_criteria_of_co_adaptation():
    assert failures(co_adaptation_rows(24.0, 16.0)) == []
    assert failures(co_adaptation_rows(24.0, 24.0)) == ["control: share of the gain that shuffled pairs keep"]
    # Without a gain there is no share of it.
    assert len(failures(co_adaptation_rows(13.9, 14.0))) == 3
    assert len(failures(co_adaptation_rows(np.nan, 14.0))) == 3


def run_scores(mean: float, num_tasks: int = 4) -> np.ndarray:
    """Scores of three seeds in eight scenes with a small deviation that all arms share."""
    return mean + 0.01 * np.random.default_rng(0).normal(size=(num_tasks, 3, 8))


def scaled_results(**means: float) -> dict[str, dict[str, np.ndarray]]:
    """Scores that satisfy all criteria, apart from the given arms of the suboptimal log."""
    default = {"data": 0.5, "cloning": 0.55, "return-conditioned cloning": 0.6, "permuted rewards (control)": 0.2}
    default |= {"permuted rewards of mean 0 (control)": 0.1}
    default |= {"squared error": 0.6, "not normalized": 0.6, "Scaled Q-learning": 0.8}
    for position, size in enumerate((1, 3), 1):
        default |= {f"Scaled Q-learning, size {size}": 0.4 + 0.1 * position}
        default |= {f"squared error, not normalized, size {size}": 0.3 + 0.02 * position}
    default |= {"squared error, not normalized": 0.38}
    suboptimal = {name: run_scores(mean) for name, mean in (default | means).items()}
    near = {name: run_scores(0.9) for name in ("Scaled Q-learning", "return-conditioned cloning")}
    return {"suboptimal": suboptimal, "near_optimal": near}


def failed_criteria(**means: float) -> list[str]:
    parameters = {
        name: 1000 * 2 ** int(name[-1]) if name[-1].isdigit() else 2**8 * 1000 for name in scaled_q_learning.ARMS
    }
    criteria = scaled_q_learning.find_criteria(scaled_results(**means), parameters)
    return [each.name for each in criteria if not each.passed]


def test_criteria_of_scaled_q_learning():
    assert failed_criteria() == []
    assert failed_criteria(**{"permuted rewards (control)": 0.7}) == ["gain of permuted rewards (control) over cloning"]
    assert failed_criteria(cloning=0.82) == [
        "Q1 gain over cloning",
        "Q1 lower 95 % bound of the gain over cloning",
    ]
    # A slope that is not positive has no share.
    assert len(failed_criteria(**{"Scaled Q-learning, size 1": 0.9, "Scaled Q-learning, size 3": 0.9})) == 2
    assert len(failed_criteria(**{"Scaled Q-learning": np.nan})) > 5


def test_differences_are_those_of_the_same_scenes():
    # Scenes differ by far more than the arms do.
    scenes = np.random.default_rng(1).normal(size=(4, 1, 30)) + np.zeros((4, 3, 30))
    resamples = scaled_q_statistics.Resamples({"first": scenes + 0.1, "second": scenes})
    value, low, high = resamples.difference("first", "second")
    assert value == pytest.approx(0.1) and low == pytest.approx(0.1) and high == pytest.approx(0.1)
    low, high = resamples.interval("first")[1:]
    assert high - low > 0.1
    # Least squares through 0, 1 and 2 at sizes 2, 4 and 8.
    arms = {str(size): np.full((4, 3, 5), float(size)) for size in range(3)}
    slope = scaled_q_statistics.Resamples(arms).slope({"0": 2.0, "1": 4.0, "2": 8.0})
    assert slope == pytest.approx((1.0, 1.0, 1.0))


def test_permuted_rewards_remain_in_their_task():
    rng, shape = np.random.default_rng(0), (6, 4)
    task, active = np.array([0, 1, 0, 1], np.int32), rng.random(shape) < 0.7
    reward = np.where(active, 10.0 * task[None] + rng.random(shape), 0.0).astype(np.float32)
    no = np.zeros(shape, bool)
    observation, action = np.zeros((*shape, 2), np.float16), np.zeros(shape, np.int32)
    data = Transitions(observation, action, reward, no, no, active, task, reward, num_tasks=2)
    permuted = scaled_q_runs.permute_rewards(data, 0, is_centered=False).reward
    centered = scaled_q_runs.permute_rewards(data, 0, is_centered=True).reward
    assert not np.array_equal(permuted, reward) and not np.any(permuted[~active])
    for own in range(2):
        columns = task == own
        assert sorted(permuted[:, columns].ravel()) == sorted(reward[:, columns].ravel())
        assert np.mean(centered[:, columns][active[:, columns]]) == pytest.approx(0.0, abs=1e-5)


@pytest.mark.slow
def test_quick_runs(tmp_path):
    dr3.main(dr3.Study(tmp_path / "dr3", quick=True))
    assert len(json.loads((tmp_path / "dr3" / "report.json").read_text())["criteria"]) == 13
    folder = tmp_path / "scaled"
    scaled_q_learning.main(scaled_q_learning.Study(folder, quick=True))
    assert np.isfinite(list(json.loads((folder / "report.json").read_text())["rows"].values())).all()
    scaled_q_transfer.main(scaled_q_transfer.Study(folder, quick=True))
    assert np.isfinite(list(json.loads((folder / "transfer.json").read_text())["rows"].values())).all()
