"""What must not change a score, and that the graph can be mapped, differentiated and left out."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.metrics.realism.scenes import PLACE, compared, judged, log_of, world
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.datatypes.padding import pad, sizes
from waymax_sim.metrics.realism import BUCKETS, CONFIGS, Rollouts, compare, score
from waymax_sim.pytree import stack, take

CONFIG = CONFIGS["2025"]
# Enough for the index of the made-up map whichever way it is turned, so that one program does for all.
ROOM = {"G": 32, "Q": 512, "L": 768, "C": 96}


def judge(raw, scenario, rollouts, parity=True):
    """Features and score."""
    features = compared(scenario, rollouts, log=log_of(raw, scenario), parity=parity)
    return jax.device_get((features, judged(features, config=CONFIG, parity=parity)))


def roomy(raw):
    """The scene with `ROOM` for its index."""
    scenario = to_scenario(raw, bucketed=False)
    return pad(
        scenario, {axis: ROOM.get(axis[-1], size) if "." in axis else size for axis, size in sizes(scenario).items()}
    )


def equal(found, expected, atol=1e-5):
    """Everything of a score, and per agent where the same agents are in the same order."""
    for mine, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=atol)


@pytest.fixture(scope="module")
def reference():
    raw, scenario, rollouts = world()
    return raw, scenario, rollouts, judge(raw, scenario, rollouts)[1]


def test_a_score_is_whole(reference):
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
    equal(judge(raw, scenario, take(rollouts, np.array([1, 0])))[1], expected)


def test_a8_the_order_of_agents_changes_nothing(reference):
    raw, _, rollouts, expected = reference
    order = np.random.default_rng(0).permutation(len(raw.agent_id))
    by_agent = {name: getattr(raw, name)[order] for name in ("agent_id", "agent_type", "to_predict", "of_interest")}
    by_step = {name: getattr(raw, name)[:, order] for name in ("xyz", "yaw", "velocity", "size", "valid")}
    mixed = dataclasses.replace(raw, sdc_index=int(np.flatnonzero(order == raw.sdc_index)[0]), **by_agent, **by_step)
    moved = Rollouts(rollouts.xyz[:, :, order], rollouts.yaw[:, :, order])
    equal(judge(mixed, to_scenario(mixed, bucketed=False), moved)[1], expected)


def test_agents_that_are_not_simulated_change_nothing(reference):
    raw, scenario, rollouts, expected = reference
    absent = np.flatnonzero(~raw.valid[int(scenario.current_step)])
    assert len(absent)
    xyz = np.array(rollouts.xyz)
    xyz[:, :, absent] = 0.0
    equal(judge(raw, scenario, Rollouts(xyz, rollouts.yaw))[1], expected)


@settings(max_examples=6)
@given(st.floats(-3, 3), st.floats(-4000, 4000), st.floats(-4000, 4000))
def test_a_corrected_score_does_not_depend_on_the_frame_of_the_world(turn, x, y):
    raw, _, rollouts = world()
    scenario = roomy(raw)
    features, expected = judge(raw, scenario, rollouts, parity=False)
    cos, sin = np.cos(turn), np.sin(turn)
    rotation = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])

    def moved(points):
        return (points - PLACE) @ rotation + (x, y, 100.0)

    turned = dataclasses.replace(
        raw,
        xyz=moved(raw.xyz),
        yaw=raw.yaw + turn,
        point_xyz=moved(raw.point_xyz),
        signal_stop_point=moved(raw.signal_stop_point),
    )
    there = roomy(turned)
    world_xyz = np.asarray(rollouts.xyz, float) + np.asarray(scenario.origin, float)
    xyz = (moved(world_xyz) - np.asarray(there.origin, float)).astype(np.float32)
    found, result = judge(turned, there, Rollouts(xyz, rollouts.yaw + np.float32(turn)), parity=False)
    for name in ("linear_speed", "distance_to_nearest_object", "time_to_collision", "distance_to_road_edge"):
        np.testing.assert_allclose(getattr(found.sim, name), getattr(features.sim, name), atol=5e-3)
    np.testing.assert_array_equal(found.sim.traffic_light_violation, features.sim.traffic_light_violation)
    # A value at the end of a bin may change sides.
    assert result.meta_metric == pytest.approx(expected.meta_metric, abs=5e-3)


def test_scenes_are_mapped_together_as_one_by_one(reference):
    raw, scenario, rollouts, _ = reference
    other, log = take(rollouts, np.array([1, 1])), log_of(raw, scenario)
    mapped = jax.vmap(lambda rolls: compared(scenario, rolls, log=log))(stack([rollouts, other]))
    for index, rolls in enumerate((rollouts, other)):
        equal(take(mapped, index), compared(scenario, rolls, log=log))


def test_the_soft_score_is_near_and_has_finite_gradients(reference):
    raw, scenario, rollouts, expected = reference
    log = log_of(raw, scenario)

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1))
    def realism(xyz, yaw):
        features = compare(scenario, Rollouts(xyz, yaw), log=log)
        return score(features, CONFIG, soft=True).meta_metric

    value, gradients = realism(rollouts.xyz, rollouts.yaw)
    assert value == pytest.approx(expected.meta_metric, abs=0.05)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    step = 1e-2 * gradients[0] / jnp.linalg.norm(gradients[0])
    assert realism(rollouts.xyz + step, rollouts.yaw)[0] > value


def test_nobody_to_count_is_not_a_number(reference):
    raw, scenario, rollouts, _ = reference
    types = dataclasses.replace(scenario.agents, type=np.full_like(scenario.agents.type, 2))
    found = judge(raw, dataclasses.replace(scenario, agents=types), rollouts)[1]
    assert np.isnan(found.likelihoods["time_to_collision"]) and np.isnan(found.meta_metric)
    assert np.isfinite(found.likelihoods["linear_speed"])
