"""Interquartile means by hand, and their intervals."""

import numpy as np
import pytest

from waymax_sim.evaluation.interquartile import interquartile_mean, stratified_interval


def test_interquartile_mean_by_hand():
    assert interquartile_mean(np.array([100.0, 1.0, 2.0, 3.0])) == pytest.approx(2.5)
    np.testing.assert_allclose(interquartile_mean(np.array([[0.0, 0.0, 1.0, 1.0, 8.0], [2.0] * 5])), [2 / 3, 2.0])
    assert np.isnan(interquartile_mean(np.array([1.0, np.nan])))
    assert np.isnan(interquartile_mean(np.zeros((0,))))


def test_intervals_contain_the_mean_as_often_as_they_should():
    rng, hits = np.random.default_rng(0), 0
    for _ in range(100):
        interval = stratified_interval([rng.normal(0.5, 1.0, (1, 60)), rng.normal(0.5, 1.0, (1, 60))], "mean")
        hits += interval["low"] <= 0.5 <= interval["high"]
    assert 87 <= hits <= 100


def test_runs_are_drawn_within_tasks():
    # Tasks differ and runs do not: the interquartile mean of each sample is the same.
    interval = stratified_interval([np.full((3, 4), 0.0), np.full((3, 4), 1.0), np.full((3, 4), 5.0)])
    assert interval == {"value": 1.6, "low": 1.6, "high": 1.6}
    assert stratified_interval([np.array([[0.1, np.nan]])])["value"] is None
    assert stratified_interval([])["value"] is None
