"""Scenarios converted to raw scenes and back are the same, bit for bit."""

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given, settings

from tests.data import recorded
from tests.datasets.encode import PAST, small_scene
from tests.datasets.random_scenes import random_scene, scene_arguments
from tests.datasets.same import assert_same
from waymax_sim.datasets.loader import load
from waymax_sim.datasets.raw_from_scenario import to_raw_scene
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.datatypes.padding import stack_scenarios
from waymax_sim.pytree import tree_index


def assert_bits(found, expected) -> None:
    leaves, _ = jax.tree_util.tree_flatten_with_path(expected)
    for (path, leaf), other in zip(leaves, jax.tree.leaves(found), strict=True):
        assert leaf.dtype == other.dtype and leaf.shape == other.shape, path
        assert leaf.tobytes() == other.tobytes(), path


@pytest.mark.parametrize("pad_to_bucket", [True, False])
def test_a_scene_comes_back(pad_to_bucket):
    raw = small_scene()
    found = to_raw_scene(to_scenario(raw, pad_to_bucket=pad_to_bucket))
    size = np.broadcast_to(raw.size[PAST], raw.size.shape).copy()
    size[:, 2] = raw.size[PAST, 2]
    yaw = np.array(np.mod(raw.yaw + np.pi, 2 * np.pi) - np.pi, np.float32)
    limit = np.float32(raw.speed_limit)
    # Routes were derived.
    assert_same(found, dataclasses.replace(raw, size=size, yaw=yaw, speed_limit=limit, routes=found.routes))
    assert not found.xyz[~raw.valid].any()


# Small maps, because indexing of maps of kilometers takes long.
@given(scene_arguments(agents=5, features=1))
@settings(max_examples=10)
def test_any_scenario_comes_back_bit_by_bit(arguments):
    scenario = to_scenario(random_scene(**arguments), pad_to_bucket=False)
    assert_bits(to_scenario(to_raw_scene(scenario), pad_to_bucket=False), scenario)


def test_nothing_that_is_there_passes_for_padding():
    raw = small_scene()
    odd = dataclasses.replace(
        raw,
        feature_id=np.where(raw.feature_type == 17, -1, raw.feature_id),
        feature_type=np.where(raw.feature_type == 17, -1, raw.feature_type),
        signal_valid=raw.signal_valid & [True, False],
        signal_lane_id=np.array([-1, 10]),
    )
    found = to_raw_scene(to_scenario(odd))
    assert found.feature_id.tolist() == odd.feature_id.tolist() and found.point_feature.max() == 4
    assert found.signal_lane_id.tolist() == [-1, 10]


@pytest.mark.parametrize("yaw", [np.pi, -np.pi, 1e-12, -1e-20])
def test_headings_at_the_seam_and_near_zero_come_back(yaw):
    raw = small_scene()
    scenario = to_scenario(dataclasses.replace(raw, yaw=np.full_like(raw.yaw, yaw)))
    assert_bits(to_scenario(to_raw_scene(scenario)), scenario)


@pytest.mark.parametrize("name", ["synthetic:0:1", "womd/scenario_637f20cafde22ff8.tfrecord"])
def test_scenes_of_real_size_come_back_bit_by_bit(name):
    scenario = load(name if name.startswith("synthetic") else recorded(name))[0]
    assert_bits(to_scenario(to_raw_scene(scenario)), scenario)


def test_padding_to_the_size_of_others_is_dropped():
    scenarios = [load("synthetic:0:3")[i] for i in range(3)]
    batch = stack_scenarios(scenarios)
    for i, scenario in enumerate(scenarios):
        assert_bits(to_scenario(to_raw_scene(tree_index(batch, i))), scenario)
