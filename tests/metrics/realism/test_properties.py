"""Invariance of the score, and its functions under `vmap` and gradients."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.metrics.realism.scenes import WORLD_POSITION, compare_jitted, log_of, score_features, world
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.datatypes.padding import axis_lengths, pad
from waymax_sim.metrics.realism import BUCKETS, CONFIGS, RealismRollouts, compare_rollouts, score
from waymax_sim.pytree import stack, tree_index

pytestmark = pytest.mark.compile_heavy

CONFIG = CONFIGS["2025"]
# Sizes for the index of the synthetic map at any rotation, so that all share one program.
INDEX_SIZES = {"G": 32, "Q": 512, "L": 768, "C": 96}


def evaluate(raw, scenario, rollouts, parity=True):
    """Features and score."""
    features = compare_jitted(scenario, rollouts, log=log_of(raw, scenario), parity=parity)
    return jax.device_get((features, score_features(features, config=CONFIG, parity=parity)))


def pad_index(raw):
    """The scene with `INDEX_SIZES` for its index."""
    scenario = to_scenario(raw, pad_to_bucket=False)
    return pad(
        scenario,
        {
            axis: INDEX_SIZES.get(axis[-1], size) if "." in axis else size
            for axis, size in axis_lengths(scenario).items()
        },
    )


def equal(found, expected, atol=1e-5):
    """All leaves agree."""
    for leaf, expected_leaf in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(leaf, expected_leaf, atol=atol)


@pytest.fixture(scope="module")
def reference():
    raw, scenario, rollouts = world()
    return raw, scenario, rollouts, evaluate(raw, scenario, rollouts)[1]


def test_a_score_is_complete(reference):
    *_, found = reference
    names = {feature.name for feature in CONFIGS["2025"].features}
    assert found.likelihoods.keys() == found.log_likelihoods.keys() == names
    assert all(0 < value <= 1 for value in found.likelihoods.values())
    total = sum(feature.weight * found.likelihoods[feature.name] for feature in CONFIGS["2025"].features)
    assert found.meta_metric == pytest.approx(total, abs=1e-6)
    for bucket in BUCKETS:
        members = [feature for feature in CONFIGS["2025"].features if feature.bucket == bucket]
        mean = sum(item.weight * found.likelihoods[item.name] for item in members) / sum(
            item.weight for item in members
        )
        assert found.buckets[bucket] == pytest.approx(mean, abs=1e-6)
    assert 0 < found.min_ade <= found.ade
    for item in found.log_likelihoods.values():
        assert (item.value[item.counts] <= 0).all()


def test_a8_the_order_of_rollouts_changes_nothing(reference):
    raw, scenario, rollouts, expected = reference
    equal(evaluate(raw, scenario, tree_index(rollouts, np.array([1, 0])))[1], expected)


def test_a8_the_order_of_agents_changes_nothing(reference):
    raw, _, rollouts, expected = reference
    order = np.random.default_rng(0).permutation(len(raw.agent_id))
    by_agent = {name: getattr(raw, name)[order] for name in ("agent_id", "agent_type", "to_predict", "of_interest")}
    by_step = {name: getattr(raw, name)[:, order] for name in ("xyz", "yaw", "velocity", "size", "valid")}
    mixed = dataclasses.replace(raw, sdc_index=int(np.flatnonzero(order == raw.sdc_index)[0]), **by_agent, **by_step)
    moved = RealismRollouts(rollouts.xyz[:, :, order], rollouts.yaw[:, :, order])
    equal(evaluate(mixed, to_scenario(mixed, pad_to_bucket=False), moved)[1], expected)


def test_agents_that_are_not_simulated_change_nothing(reference):
    raw, scenario, rollouts, expected = reference
    absent = np.flatnonzero(~raw.valid[int(scenario.current_step)])
    assert len(absent)
    xyz = np.array(rollouts.xyz)
    xyz[:, :, absent] = 0.0
    equal(evaluate(raw, scenario, RealismRollouts(xyz, rollouts.yaw))[1], expected)


@settings(max_examples=6)
@given(st.floats(-3, 3), st.floats(-4000, 4000), st.floats(-4000, 4000))
def test_a_corrected_score_does_not_depend_on_the_frame_of_the_world(turn, x, y):
    raw, _, rollouts = world()
    scenario = pad_index(raw)
    features, expected = evaluate(raw, scenario, rollouts, parity=False)
    cos, sin = np.cos(turn), np.sin(turn)
    rotation = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])

    def moved(points):
        return (points - WORLD_POSITION) @ rotation + (x, y, 100.0)

    turned = dataclasses.replace(
        raw,
        xyz=moved(raw.xyz),
        yaw=raw.yaw + turn,
        point_xyz=moved(raw.point_xyz),
        signal_stop_point=moved(raw.signal_stop_point),
    )
    other = pad_index(turned)
    world_xyz = np.asarray(rollouts.xyz, float) + np.asarray(scenario.origin, float)
    xyz = (moved(world_xyz) - np.asarray(other.origin, float)).astype(np.float32)
    found, result = evaluate(turned, other, RealismRollouts(xyz, rollouts.yaw + np.float32(turn)), parity=False)
    for name in ("linear_speed", "distance_to_nearest_object", "time_to_collision", "distance_to_road_edge"):
        np.testing.assert_allclose(getattr(found.sim, name), getattr(features.sim, name), atol=5e-3)
    np.testing.assert_array_equal(found.sim.traffic_light_violation, features.sim.traffic_light_violation)
    # A value at the edge of a bin may change to its neighbor.
    assert result.meta_metric == pytest.approx(expected.meta_metric, abs=5e-3)


def test_mapped_scenes_equal_single_scenes(reference):
    raw, scenario, rollouts, _ = reference
    other, log = tree_index(rollouts, np.array([1, 1])), log_of(raw, scenario)
    mapped = jax.vmap(lambda rolls: compare_jitted(scenario, rolls, log=log))(stack([rollouts, other]))
    for index, rolls in enumerate((rollouts, other)):
        equal(tree_index(mapped, index), compare_jitted(scenario, rolls, log=log))


def test_the_soft_score_is_near_and_has_finite_gradients(reference):
    raw, scenario, rollouts, expected = reference
    log = log_of(raw, scenario)

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1))
    def realism(xyz, yaw):
        features = compare_rollouts(scenario, RealismRollouts(xyz, yaw), log=log)
        return score(features, CONFIG, soft=True).meta_metric

    value, gradients = realism(rollouts.xyz, rollouts.yaw)
    assert value == pytest.approx(expected.meta_metric, abs=0.05)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    step = 1e-2 * gradients[0] / jnp.linalg.norm(gradients[0])
    assert realism(rollouts.xyz + step, rollouts.yaw)[0] > value


def test_without_scored_agents_the_score_is_nan(reference):
    raw, scenario, rollouts, _ = reference
    types = dataclasses.replace(scenario.agents, type=np.full_like(scenario.agents.type, 2))
    found = evaluate(raw, dataclasses.replace(scenario, agents=types), rollouts)[1]
    assert np.isnan(found.likelihoods["time_to_collision"]) and np.isnan(found.meta_metric)
    assert np.isfinite(found.likelihoods["linear_speed"])
