"""Paired intervals of arms: hand-computed means, known standard errors, and arms that do not differ."""

import numpy as np
import pytest

from waymax_sim.evaluation.paired import arm_intervals, cluster_table, paired_intervals


def rows(values: np.ndarray, first: int = 0) -> list[dict]:
    """Rows of the values [S, C, V] of seeds, scenes and vehicles; NaN is no value."""
    return [
        {"policy": f"seed {first + seed}", "scene": scene, "value": None if np.isnan(value) else float(value)}
        for (seed, scene, _), value in np.ndenumerate(values)
    ]


def table(values: np.ndarray):
    return cluster_table(rows(values), ["value"], range(values.shape[1]))


def test_means_by_hand():
    values = np.array([[[1.0, 0.0], [1.0, np.nan]], [[0.0, 0.0], [1.0, 1.0]]])
    arm = table(values)
    np.testing.assert_allclose(arm.seed_means[:, 0], [2 / 3, 1 / 2])
    (found,) = arm_intervals(arm)
    assert found["value"] == pytest.approx(4 / 7) and found["low"] <= found["value"] <= found["high"]
    (pair,) = paired_intervals(table(values), table(values[::-1] * 0.5))
    assert pair["difference"]["value"] == pytest.approx(2 / 7) and pair["ratio"]["value"] == pytest.approx(2.0)


def test_an_arm_does_not_differ_from_itself():
    values = np.random.default_rng(0).random((1, 30, 4))
    (found,) = paired_intervals(table(values), table(values))
    assert found["difference"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert found["ratio"] == {"value": 1.0, "low": 1.0, "high": 1.0}


def test_the_interval_is_that_of_clusters():
    # All vehicles of a scene share one value, so only scenes count: the standard error is that of 100 values.
    rng = np.random.default_rng(1)
    shift = np.repeat(rng.normal(size=(1, 100, 1)), 8, axis=2)
    base = np.repeat(rng.normal(size=(1, 100, 1)), 8, axis=2) * 10
    (found,) = paired_intervals(table(base + shift), table(base))
    width = found["difference"]["high"] - found["difference"]["low"]
    assert width == pytest.approx(2 * 1.96 * shift.std() / 10, rel=0.1)
    (alone,) = arm_intervals(table(base + shift))
    assert alone["high"] - alone["low"] > 5 * width


def test_seeds_of_an_arm_widen_its_interval():
    rng = np.random.default_rng(2)
    seeds = rng.normal(size=(5, 1, 1))
    values = seeds + 0.01 * rng.normal(size=(5, 200, 2))
    (found,) = arm_intervals(table(values))
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * seeds.std() / np.sqrt(5), rel=0.15)
    (single,) = arm_intervals(table(values[:1]))
    assert single["high"] - single["low"] < 0.02


def test_undefined_means_have_no_interval():
    values = np.full((1, 5, 1), np.nan)
    assert arm_intervals(table(values)) == [{"value": None, "low": None, "high": None}]
    zero = np.zeros((1, 5, 1))
    (found,) = paired_intervals(table(zero + 1), table(zero))
    assert found["ratio"] == {"value": None, "low": None, "high": None} and found["difference"]["value"] == 1.0
    with pytest.raises(ValueError, match="differ"):
        paired_intervals(table(zero), table(zero[:, :3]))
