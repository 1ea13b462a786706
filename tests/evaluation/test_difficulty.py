"""Difficulty of scenes: hand-computed features, ranks, slices, weights, and a learned model with its control."""

import dataclasses

import numpy as np
import pytest

from tests.scenes import scene
from waymax_sim import geometry
from waymax_sim.datatypes.agents import AgentState
from waymax_sim.evaluation.difficulty import (
    FEATURES,
    PARAMS,
    agent_mask,
    count_conflicts,
    curriculum_weights,
    deciles,
    difficulty_scores,
    pairwise_risk,
    percentile_ranks,
    scene_features,
    top_slices,
)
from waymax_sim.evaluation.difficulty_model import (
    AGENT_FEATURES,
    DifficultyModel,
    agent_features,
    area_under_curve,
    fit_difficulty,
)


def states(xy, yaw=0.0, velocity=(0.0, 0.0)) -> AgentState:
    """States [T, N] at positions [T, N, 2]."""
    xy = np.asarray(xy, np.float32)
    return AgentState(
        np.concatenate([xy, np.zeros((*xy.shape[:2], 1), np.float32)], axis=-1),
        np.broadcast_to(np.float32(yaw), xy.shape[:2]),
        np.broadcast_to(np.asarray(velocity, np.float32), xy.shape),
        np.ones(xy.shape[:2], bool),
    )


def test_a_column_of_vehicles_by_hand():
    # Boxes of 4 m, 20 m apart, at 10 m/s in the middle of a road whose edges are 1.75 and 5.25 m away.
    found = scene_features(scene(num_agents=3))
    assert found == pytest.approx(
        {
            "closeness": -16.0,
            "urgency": -5.0,
            "speed": 10.0,
            "turn": 0.0,
            "conflicts": 0.0,
            "edge_closeness": -1.75,
            "crowding": 0.0,
        }
    )
    assert all(np.isnan(value) for value in scene_features(scene(), "pedestrian").values())


def test_agents_that_travel_are_those_of_the_environment():
    from waymax_sim.env import select_agents

    given = scene(num_agents=4)
    stops = dataclasses.replace(given.log, xyz=np.array(given.log.xyz))
    stops.xyz[:, 2] = stops.xyz[:1, 2]
    given = dataclasses.replace(given, log=stops)
    np.testing.assert_array_equal(agent_mask(given, "traveling"), np.asarray(select_agents(given, "traveling")))


def test_gaps_are_those_of_the_separating_axis_test():
    rng = np.random.default_rng(0)
    log = states(rng.uniform(-8, 8, (3, 5, 2)), rng.uniform(-3, 3, (3, 5)))
    size = rng.uniform(1, 5, (5, 3)).astype(np.float32)
    gap, time = pairwise_risk(log, size, np.array([1, 3]), PARAMS)
    boxes = geometry.Boxes.from_poses(log.xyz[..., :2], log.yaw, np.broadcast_to(size[None, :, :2], (3, 5, 2)))
    own = type(boxes)(*(np.asarray(leaf)[:, [1, 3], None] for leaf in boxes))
    others = type(boxes)(*(np.asarray(leaf)[:, None] for leaf in boxes))
    expected = np.array(geometry.box_separation(own, others))
    expected[:, 0, 1] = expected[:, 1, 3] = np.nan
    np.testing.assert_allclose(gap, expected, atol=1e-4)
    assert np.isnan(time[:, 0, 1]).all() and np.nanmax(time) <= PARAMS.max_time_to_collision


def test_time_to_collision_by_hand():
    log = states([[[0, 0], [24, 0], [24, 10]]], velocity=[[[10.0, 0.0], [0.0, 0.0], [0.0, 0.0]]])
    _, time = pairwise_risk(log, np.array([[4.0, 2.0, 1.5]] * 3), np.array([0]), PARAMS)
    # 20 m between the boxes at 10 m/s; the third agent is passed 10 m away.
    np.testing.assert_allclose(time[0, 0, 1:], [2.0, 5.0])


def test_conflicts_are_crossings_at_nearly_the_same_time():
    time = np.arange(9) * 0.5
    east = np.stack([10 * time - 20.1, 0 * time], axis=-1)
    north = np.stack([0 * time, 10 * time - 20.2], axis=-1)
    far = np.stack([0 * time, 10 * time + 5], axis=-1)
    log = states(np.stack([east, north, far], axis=1))
    np.testing.assert_array_equal(count_conflicts(log, np.arange(3)), [1, 1, 0])
    slow = np.stack([0 * time, 2.5 * time - 10], axis=-1)
    late = dataclasses.replace(PARAMS, max_conflict_time=1.0)
    assert count_conflicts(states(np.stack([east, slow], axis=1)), np.array([0]), late).tolist() == [0]


def test_ranks_scores_and_slices():
    np.testing.assert_allclose(percentile_ranks(np.array([3.0, 1.0, np.nan, 1.0])), [1.0, 0.25, np.nan, 0.25])
    rows = [dict.fromkeys(FEATURES, float(value)) for value in range(40)]
    rows[5]["edge_closeness"] = np.nan
    rows.append(dict.fromkeys(FEATURES, np.nan))
    scores = difficulty_scores(rows)
    assert np.isnan(scores[-1]) and np.all(np.diff(scores[:-1]) > 0)
    slices = top_slices(scores)
    assert list(slices) == ["top 10%", "top 50%", "all"] and slices["top 10%"].tolist() == [36, 37, 38, 39]
    assert [part.tolist() for part in deciles(scores)][0] == [0, 1, 2, 3] and len(deciles(scores[:19])) == 0


def test_curriculum_weights_prefer_the_hardest():
    scores = np.array([*np.linspace(0, 1, 20), np.nan])
    weights = curriculum_weights(scores, share=0.1, mixture=0.5)
    assert weights.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(weights[[18, 19]], 0.5 / 21 + 0.25, rtol=1e-6)
    np.testing.assert_allclose(weights[[0, 17, 20]], 0.5 / 21, rtol=1e-6)
    np.testing.assert_allclose(curriculum_weights(scores, mixture=0.0), 1 / 21, rtol=1e-6)
    for wrong in ({"share": 0.0}, {"mixture": 1.5}):
        with pytest.raises(ValueError, match="must be in"):
            curriculum_weights(scores, **wrong)
    with pytest.raises(ValueError, match="no scene"):
        curriculum_weights(np.array([np.nan]))


def test_the_area_under_the_curve_counts_pairs():
    rng = np.random.default_rng(1)
    score, label = rng.integers(0, 6, 50).astype(float), rng.random(50) < 0.4
    pairs = score[label][:, None] - score[~label][None]
    assert area_under_curve(score, label) == pytest.approx(np.mean((pairs > 0) + 0.5 * (pairs == 0)))
    assert np.isnan(area_under_curve(score, np.zeros(50, bool)))


def test_a_model_finds_failures_and_none_in_shuffled_labels():
    rng = np.random.default_rng(2)
    features = rng.normal(size=(4000, 4))
    # Failures outside of a ring: not linear in the features.
    failed = features[:, 0] ** 2 + features[:, 1] + rng.normal(size=4000) > 2.0
    train, test = slice(0, 3000), slice(3000, None)
    model = fit_difficulty(features[train], failed[train])
    assert area_under_curve(model.predict(features[test]), failed[test]) > 0.85
    shuffled = fit_difficulty(features[train], rng.permutation(failed[train]))
    assert abs(area_under_curve(shuffled.predict(features[test]), failed[test]) - 0.5) < 0.07
    restored = DifficultyModel.from_json(model.to_json())
    np.testing.assert_array_equal(restored.predict(features[test]), model.predict(features[test]))
    with pytest.raises(ValueError, match="needs agents that failed"):
        fit_difficulty(features, np.zeros(4000, bool))


def test_newton_steps_end_at_the_optimum():
    rng = np.random.default_rng(3)
    features, failed = rng.normal(size=(200, 2)), rng.random(200) < 0.3
    model = fit_difficulty(features, failed)
    values = np.clip((features - model.center) / model.scale, -3, 3)
    design = np.column_stack([np.ones(200), values, values[:, 0] ** 2, values[:, 0] * values[:, 1], values[:, 1] ** 2])

    def loss(coefficients):
        logits = design @ coefficients
        penalty = 1.5 * np.sum(coefficients[1:] ** 2)
        return np.sum(np.logaddexp(0, logits) - failed * logits) + penalty

    best = loss(model.coefficients)
    for _ in range(50):
        assert loss(model.coefficients + 0.01 * rng.normal(size=6)) > best


def test_features_of_agents_by_hand():
    found = dict(zip(AGENT_FEATURES, agent_features(scene(), np.array([1]))[0], strict=True))
    expected = {"speed": 10, "goal_distance": 15, "speed_deficit": 0, "goal_angle": 0, "gap": 16, "length": 4}
    expected |= {"time_to_collision": 5, "num_near": 0, "num_moving_near": 0, "edge_distance": 1.75}
    assert found == pytest.approx(expected, abs=1e-4)
