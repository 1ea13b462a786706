"""Files of public converters that readers refused or misread."""

import jax
import numpy as np
import pytest

from tests.field.inputs import field_file
from waymax_sim.datasets.loader import load
from waymax_sim.datatypes.signals import CAUTION, GO, STOP
from waymax_sim.env import Env, EnvConfig


def read(name):
    return load(field_file(name)).read(0)


def test_lights_of_the_first_generation_of_scenarionet():
    """The light of lane 10 is not observed, red from step 5 on and green from step 30 on."""
    raw = read("scenarionet_first_generation_lights.pkl")
    assert raw.signal_lane_id.tolist() == [10]
    assert raw.signal_valid[:, 0].tolist() == [False] * 5 + [True] * 35
    assert raw.signal_state[5:, 0].tolist() == [STOP] * 25 + [GO] * 10
    np.testing.assert_array_equal(raw.signal_stop_point[5:, 0, :2], [[60, 0]] * 35)


def test_the_class_at_the_top_of_scenarionet_is_a_dict():
    raw = read("scenarionet_class_at_top.pkl")
    assert raw.valid.shape == (40, 3) and raw.current_step == 10 and raw.sdc_index == 0


def test_limits_route_and_left_out_features_of_nuplan():
    raw = read("scenarionet_nuplan_like.pkl")
    lanes = raw.feature_type == 2
    assert raw.speed_limit[lanes].tolist() == [13.4, 13.4]
    assert raw.on_route is not None and raw.on_route[lanes].tolist() == [True, False]
    assert not {"speed limits", "routes"} & set(raw.missing_fields)
    assert "1 map features of type ROAD_EDGE_SIDEWALK" in raw.missing_fields
    np.testing.assert_array_equal(raw.signal_stop_point[0], [[60, 0, 0], [70, 0, 0]])
    scenario = load(field_file("scenarionet_nuplan_like.pkl"))[0]
    assert scenario.routes is not None
    # The marked lane is at y = 0, the other one at y = 3.5.
    y = scenario.routes.xyz[..., 1].max(axis=-1, where=scenario.routes.valid, initial=-np.inf) + scenario.origin[1]
    assert y[scenario.routes.on_route].tolist() == [0.0]


@pytest.mark.compile_heavy
def test_the_ego_of_nuscenes_is_at_the_center_of_its_box():
    """The front bumper is about 3.4 m ahead of the rear axle, the rear of the other car 3.25 m."""
    raw = read("scenarionet_nuscenes_ego.pkl")
    ego = raw.sdc_index
    np.testing.assert_allclose(raw.xyz[:, ego, 0] - 0.5 * np.arange(40), 1.385)
    np.testing.assert_allclose(raw.xyz[:, ego, 1:], [[0, 1.56 / 2]] * 40)
    scenario = load(field_file("scenarionet_nuscenes_ego.pkl"))[0]
    env = Env(config=EnvConfig(metrics=("overlap",), rewards=()))
    _, out = jax.jit(env.reset)(scenario, jax.random.key(0))
    assert out.metrics["overlap"].value[ego] == 1 and out.metrics["overlap"].valid[ego]


def test_uncertain_states_of_commonroad_are_the_middles():
    raw = read("commonroad_uncertain_states.xml")
    row = raw.agent_id.tolist().index(11)
    assert raw.valid[:, row].all()
    np.testing.assert_allclose(raw.xyz[:3, row, :2], [[30, 3.5], [30.8, 3.5], [31.6, 3.5]])
    np.testing.assert_allclose(raw.velocity[:, row], [[8, 0]] * 30)
    assert not raw.yaw[:, row].any()
    assert "exact states of 1 obstacles" in raw.missing_fields


def test_lights_of_commonroad_follow_their_cycle():
    raw = read("commonroad_traffic_light.xml")
    assert raw.signal_lane_id.tolist() == [1] and raw.signal_valid.all()
    assert raw.signal_state[:, 0].tolist() == [STOP] * 20 + [CAUTION] * 5 + [GO] * 5
    np.testing.assert_array_equal(raw.signal_stop_point[:, 0], [[60, 0, 0]] * 30)


def test_records_of_the_testing_split_have_steps_to_simulate():
    raw = read("womd_test_split.tfrecord")
    assert (len(raw.timestamps), raw.current_step) == (91, 10)
    assert raw.valid[10].any() and not raw.valid[11:].any()
    np.testing.assert_allclose(np.diff(raw.timestamps), 0.1, atol=1e-9)
    assert "future states" in raw.missing_fields
