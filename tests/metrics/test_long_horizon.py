"""Headway, speed ratio and consistency of style in cases computed by hand."""

import functools

import jax
import numpy as np
import pytest

from tests.scenes import agent_state, measure, scene
from waymax_sim.metrics import MetricValue
from waymax_sim.metrics.long_horizon import StyleParams, speed_ratio, style_consistency, time_headway, window_means

SCENE = scene(num_agents=5)
# Windows of 4 steps, of which 2 must be valid.
PARAMS = StyleParams(window=0.4, min_duration=0.2, min_agents=3)
consistency = jax.jit(functools.partial(style_consistency, time_step=0.1, params=PARAMS))


def cars(*rows):
    """Agents at x, y, yaw, speed; boxes are 4 m long and 2 m wide."""
    x, y, yaw, speed = np.array([*rows, *[(-90.0, 3.5, np.pi, 0.0)] * (5 - len(rows))]).T
    velocity = speed[:, None] * np.stack([np.cos(yaw), np.sin(yaw)], axis=-1)
    return agent_state(np.stack([x, y, np.full(5, 0.75)], axis=-1), yaw, velocity)


def test_headway_is_the_gap_to_the_nearest_leader_over_the_speed():
    # 16 m between bumpers at 8 m/s; the second follows the third at 26 m and 10 m/s.
    headway = measure(time_headway, SCENE, cars((0, 0, 0, 8), (20, 0.5, 0, 10), (50, 0, 0.1, 10)))
    np.testing.assert_allclose(headway.value[:3], [2.0, 2.6, 0.0], rtol=1e-5)
    assert headway.valid.tolist() == [True, True, False, False, False]


@pytest.mark.parametrize(
    "other",
    [
        pytest.param((20, 2.1, 0, 8), id="in the next lane"),
        pytest.param((20, 0, np.pi, 8), id="oncoming"),
        pytest.param((-20, 0, 0, 8), id="behind"),
        pytest.param((60, 0, 0, 8), id="too far"),
    ],
)
def test_other_agents_are_no_leaders(other):
    assert not measure(time_headway, SCENE, cars((0, 0, 0, 8), other)).valid[0]


def test_slow_agents_have_no_headway():
    assert not measure(time_headway, SCENE, cars((0, 0, 0, 1.9), (10, 0, 0, 8))).valid[0]


def test_speed_ratio_is_that_to_the_limit_of_the_lane():
    ratio = measure(speed_ratio, SCENE, cars((0, 0, 0, 6.7), (20, 0, 0, 13.4), (40, 30, 0, 10)))
    np.testing.assert_allclose(ratio.value[:2], [0.5, 1.0], rtol=1e-5)
    assert ratio.valid[:3].tolist() == [True, True, False]


def values(first, last, steps=10):
    """Values of each agent in the first and the last half of an episode; NaN for absent ones."""
    value = np.concatenate([np.tile(first, (steps // 2, 1)), np.tile(last, (steps // 2, 1))]).astype(np.float32)
    return MetricValue(np.nan_to_num(value), np.isfinite(value))


def test_consistency_is_the_correlation_over_agents():
    first, last = np.array([1.0, 2.0, 3.0, 4.0, 9.0]), np.array([2.0, 1.0, 4.0, 3.0, np.nan])
    result = consistency(values(first, last))
    assert result.valid and float(result.value) == pytest.approx(np.corrcoef(first[:4], last[:4])[0, 1], abs=1e-5)
    assert float(consistency(values(first, first)).value) == pytest.approx(1.0, abs=1e-5)
    assert float(consistency(values(first, -first)).value) == pytest.approx(-1.0, abs=1e-5)


def test_windows_are_the_ends_of_the_episode():
    value = np.arange(20, dtype=np.float32).reshape(10, 2)
    valid = np.ones((10, 2), bool)
    valid[0, 0] = valid[7:, 1] = False
    first, last = window_means(MetricValue(value, valid), 4, 2)
    np.testing.assert_allclose(first.value, [(2 + 4 + 6) / 3, (1 + 3 + 5 + 7) / 4])
    # Agent 1 is valid for one step of the last window, less than two.
    np.testing.assert_allclose(last.value, [(12 + 14 + 16 + 18) / 4, 0.0])
    assert last.valid.tolist() == [True, False]
    with pytest.raises(ValueError, match="do not fit"):
        window_means(MetricValue(value, valid), 6, 2)


@pytest.mark.parametrize(
    ("first", "last"),
    [
        pytest.param([1.0, 2.0, np.nan], [1.0, 2.0, 3.0], id="too few agents"),
        pytest.param([2.0, 2.0, 2.0], [1.0, 2.0, 3.0], id="equal agents"),
    ],
)
def test_consistency_without_variation_is_not_valid(first, last):
    assert not consistency(values(np.array(first), np.array(last))).valid


def test_values_that_are_not_finite_do_not_count():
    item = values(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 2.0, 3.0, 4.0]))
    broken = MetricValue(np.where(np.arange(4) == 3, np.nan, item.value), item.valid)
    assert float(consistency(broken).value) == pytest.approx(1.0, abs=1e-5)
