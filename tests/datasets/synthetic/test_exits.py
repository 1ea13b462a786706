"""Exits of junctions: equal before the junction, balanced, and each on its own route."""

import itertools

import numpy as np
import pytest

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.datasets.synthetic.exits import ExitParams, exit_scenes
from waymax_sim.datatypes.validate import validate


@pytest.fixture(scope="module")
def junctions():
    return [exit_scenes(5, index) for index in range(6)]


def test_scenes_of_a_junction_differ_behind_the_separation_alone(junctions):
    for scenes in junctions:
        assert len(scenes) >= 3
        first, now = scenes[0], scenes[0].current_step
        for number, raw in enumerate(scenes):
            # The current position is at least the smallest approach before the separation of the paths.
            for name in ("xyz", "yaw", "velocity", "valid"):
                one, other = getattr(raw, name)[: now + 1], getattr(first, name)[: now + 1]
                np.testing.assert_allclose(one, other, atol=1e-6)
            for name in ("point_xyz", "feature_type", "links"):
                np.testing.assert_array_equal(getattr(raw, name), getattr(first, name))
            np.testing.assert_array_equal(raw.routes.xyz, first.routes.xyz)
            assert raw.routes.on_route.tolist() == [index == number for index in range(len(scenes))]
            assert raw.valid.all()


def test_the_sdc_drives_its_route_to_an_exit_of_its_own(junctions):
    for scenes in junctions:
        ends = np.stack([raw.xyz[-1, 0, :2] for raw in scenes])
        gap = np.linalg.norm(ends[:, None] - ends[None], axis=-1) + 100 * np.eye(len(ends))
        assert gap.min() > 10.0
        for raw in scenes:
            path = raw.routes.xyz[raw.routes.on_route][0][raw.routes.valid[raw.routes.on_route][0]]
            distance = np.linalg.norm(raw.xyz[:, 0, None, :2] - path[None, :, :2], axis=-1).min(axis=1)
            assert distance.max() < 0.3
            step = np.linalg.norm(np.diff(raw.xyz[:, 0, :2], axis=0), axis=1) / 0.1
            assert (step > 0.9 * ExitParams().min_speed).all() and (step < 1.01 * ExitParams().max_speed).all()


def test_exits_are_in_order_from_left_to_right(junctions):
    for scenes in junctions:
        turn = [np.unwrap(raw.yaw[:, 0])[-1] - raw.yaw[0, 0] for raw in scenes]
        assert all(a > b for a, b in itertools.pairwise(turn))


def test_scenes_are_valid_and_reproducible(junctions):
    assert validate(to_scenario(junctions[0][1], pad_to_bucket=False)) == []
    np.testing.assert_array_equal(exit_scenes(5, 2)[1].xyz, junctions[2][1].xyz)
    with pytest.raises(DataError, match="must not be negative"):
        exit_scenes(0, -1)
