"""Synthetic scenes are reproducible, valid, and have the flaws of recorded ones."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.datasets.synthetic.quality import EVERY_LAYOUT, scene
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.scene import RawScene, to_scenario
from waymax_sim.datasets.synthetic import synthetic_scene
from waymax_sim.datatypes.agents import CYCLIST, PEDESTRIAN, VEHICLE
from waymax_sim.datatypes.validate import validate


@pytest.fixture(params=EVERY_LAYOUT)
def raw(request) -> RawScene:
    return scene(3, request.param)


def test_same_pair_same_scene():
    for index in (1, 5):
        one, two = (dataclasses.asdict(make(3, index)) for make in (scene, synthetic_scene))
        jax.tree.map(np.testing.assert_array_equal, one, two)


def test_scenes_are_the_same_on_every_machine():
    """Where the sdc is now in the first scenes; changes only when the scenes are meant to change."""
    positions = [(8224.592, -2622.386, 20.756), (8600.687, -2230.711, 20.887), (8851.411, -2641.501, 26.243)]
    for index, position in enumerate(positions):
        raw = scene(0, index)
        np.testing.assert_allclose(raw.xyz[raw.current_step, raw.sdc_index], position, atol=2e-3)


def test_pairs_differ():
    points = {tuple(scene(seed, index).point_xyz[0]) for seed in (0, 3) for index in range(4)}
    assert len(points) == 8


@pytest.mark.parametrize("pair", [(-1, 0), (0, -1)])
def test_negative_numbers_are_refused(pair):
    with pytest.raises(DataError, match="must not be negative"):
        synthetic_scene(*pair)


def test_scenes_are_valid(raw):
    assert validate(to_scenario(raw)) == []


def test_cast(raw):
    assert 8 <= len(raw.agent_id) <= 128
    assert (raw.agent_type == VEHICLE).sum() >= 5
    assert len(np.unique(raw.agent_id)) == len(raw.agent_id)
    assert raw.sdc_index > 0 and raw.agent_type[raw.sdc_index] == VEHICLE
    assert raw.valid[:, raw.sdc_index].all()
    assert raw.to_predict.any() and not (raw.of_interest & ~raw.to_predict).any()
    assert not raw.to_predict[raw.sdc_index]


def test_all_kinds_of_agents_occur():
    scenes = [scene(3, index) for index in EVERY_LAYOUT]
    types = np.concatenate([raw.agent_type for raw in scenes])
    assert set(types) == {VEHICLE, PEDESTRIAN, CYCLIST}
    length = np.concatenate([np.where(raw.valid, raw.size[..., 0], 0.0).max(axis=0) for raw in scenes])
    assert (length > 7.0).any(), "a truck or bus"
    still = [~np.where(raw.valid[..., None], raw.velocity, 0.0).any(axis=(0, 2)) for raw in scenes]
    assert (np.concatenate(still) & (types == VEHICLE)).any(), "a parked car"


def test_the_sdc_gets_somewhere():
    driven = [np.linalg.norm(np.ptp(raw.xyz[:, raw.sdc_index], axis=0)) for raw in (scene(3, i) for i in EVERY_LAYOUT)]
    assert np.median(driven) > 20.0


def test_records_have_the_flaws_of_recorded_ones(raw):
    valid = raw.valid
    assert (~valid[0] & valid.any(axis=0)).any(), "an agent appears"
    assert (valid[0] & ~valid[-1]).any(), "an agent disappears"
    assert (np.abs(raw.xyz[~valid]) > 1.0).any(), "garbage where nothing is valid"
    assert (np.where(valid, raw.yaw, 0.0) > np.pi).any(), "a heading that is not wrapped"
    assert valid.any(axis=0).all(), "each agent is valid at some step"


def test_agents_are_valid_within_sensor_range(raw):
    apart = np.linalg.norm(raw.xyz[..., :2] - raw.xyz[:, [raw.sdc_index], :2], axis=-1)
    assert apart[raw.valid].max() < 80.0


def test_velocities_are_differences_of_positions(raw):
    both = raw.valid[1:] & raw.valid[:-1]
    moved = np.diff(raw.xyz[..., :2], axis=0) / 0.1
    np.testing.assert_allclose(moved[both], raw.velocity[1:][both], atol=2e-5)


def test_motion_is_smooth(raw):
    both = raw.valid[1:] & raw.valid[:-1] & (raw.agent_type != PEDESTRIAN)
    speed = np.linalg.norm(raw.velocity, axis=-1)
    turned = np.mod(np.diff(raw.yaw, axis=0) + np.pi, 2 * np.pi) - np.pi
    fast = both & (speed[1:] > 3.0)
    assert np.quantile(np.abs(turned[fast]) / 0.1, 0.999) < 1.2
    forward = raw.velocity[..., 0] * np.cos(raw.yaw) + raw.velocity[..., 1] * np.sin(raw.yaw)
    along = forward[1:][fast] / speed[1:][fast]
    assert along.min() > 0.9


def test_speeds_are_plausible_for_the_type(raw):
    def distance(kind: int) -> np.ndarray:
        of_kind = raw.agent_type == kind
        moved = np.linalg.norm(raw.xyz[10:, of_kind, :2] - raw.xyz[:-10, of_kind, :2], axis=-1)
        return moved[raw.valid[10:, of_kind] & raw.valid[:-10, of_kind]]

    for kind, limit in ((VEHICLE, 35.0), (CYCLIST, 6.5), (PEDESTRIAN, 2.2)):
        assert (distance(kind) < limit).all()


def test_routes(raw):
    routes = raw.routes
    assert routes is not None and routes.on_route.sum() == 1
    for xyz, arc, valid in zip(routes.xyz, routes.arc_length, routes.valid, strict=True):
        assert arc[0] == 0.0 and valid[0]
        step = np.linalg.norm(np.diff(xyz[valid][:, :2], axis=0), axis=-1)
        np.testing.assert_allclose(np.diff(arc[valid]), step, atol=5e-3)
    driven = routes.xyz[routes.on_route][0][routes.valid[routes.on_route][0]]
    # Before a change of lanes the sdc was on the next lane.
    apart = [np.linalg.norm(driven[:, :2] - at[:2], axis=-1).min() for at in raw.xyz[:, raw.sdc_index]]
    assert max(apart) < 4.5 and apart[-1] < 4.5 and np.median(apart) < 4.2


def test_a_driver_can_be_exchanged():
    """Drivers that never accelerate and brake only for leaders and stop lines."""

    def idle(observation, params):
        distance = np.minimum(observation.gap, observation.stop_distance)
        return np.where(distance < 2.0 * observation.speed + 3.0, -4.0, 0.0)

    raw, default = synthetic_scene(3, 0, driver=idle), scene(3, 0)
    np.testing.assert_array_equal(raw.point_xyz[:, 2].shape, default.point_xyz[:, 2].shape)
    speed = np.linalg.norm(raw.velocity, axis=-1)
    moving = raw.valid.all(axis=0) & (raw.agent_type == VEHICLE)
    assert (np.diff(speed[:, moving], axis=0) < 0.7).all(), "speeds increase by noise only"
    assert not np.array_equal(raw.xyz.shape, default.xyz.shape) or not np.allclose(raw.xyz, default.xyz)
