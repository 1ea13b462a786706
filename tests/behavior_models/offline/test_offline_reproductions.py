"""Reproductions of offline learning: their criteria on numbers by hand, and a quick run."""

import json

import numpy as np
import pytest

from examples.reproductions import dr3, scaled_q_learning


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


def test_grades_and_interquartile_means():
    scores = np.array([0.9, 0.1, 0.5, 0.8, 0.3])
    # Means of the worst ones in order: 0.1, 0.2, 0.3, 0.425, 0.52.
    assert scaled_q_learning.select_grades(scores) == [1, 4, 2, 3, 0]
    assert scaled_q_learning.select_grades(scores + 0.1) == [1, 4, 2]
    assert scaled_q_learning.interquartile_mean(np.array([[0.0, 100.0], [1.0, 3.0]])) == pytest.approx(2.0)


@pytest.mark.slow
def test_quick_runs(tmp_path):
    dr3.main(dr3.Study(tmp_path / "dr3", quick=True))
    assert len(json.loads((tmp_path / "dr3" / "report.json").read_text())["criteria"]) == 13
    scaled_q_learning.main(scaled_q_learning.Study(tmp_path / "scaled", quick=True))
    report = json.loads((tmp_path / "scaled" / "report.json").read_text())
    assert all(np.isfinite(rows).all() for rows in report["scores"].values())
