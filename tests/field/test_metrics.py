"""Inputs from the field on the definitions of metrics."""

import functools

import jax
import numpy as np
import pytest

from behavior_models import LogReplay
from tests.field.inputs import field_file
from waymax_sim import load
from waymax_sim.env import Env, EnvConfig, rollout

OFFROAD = ("offroad", "offroad_outside_driveways")


@functools.cache
def replayed(name: str, metrics: tuple[str, ...], num_steps: int = 80) -> dict[str, np.ndarray]:
    """Values over time of metrics of the logged agents, NaN where they are not valid, [T, N]."""
    env = Env(config=EnvConfig(metrics=metrics, rewards=()))
    scenario = load(str(field_file(name)))[0]

    @jax.jit
    def run(scenario):
        return rollout(env, LogReplay(), scenario, jax.random.key(0), num_steps, record=("metrics",)).metrics

    values = jax.device_get(run(scenario))
    return {name: np.where(item.valid, item.value, np.nan) for name, item in values.items()}


@pytest.mark.parametrize("said", ["said", "not_said"])
def test_a_sign_controls_both_lanes_of_its_approach(said):
    scenario = load(str(field_file(f"womd_stop_sign_two_lanes_{said}.tfrecord")), pad_to_bucket=False)[0]
    assert scenario.roadmap.feature_id[scenario.graph.stop_sign].tolist() == [3, 4]
    assert not scenario.graph.has_unassigned_sign


@pytest.mark.compile_heavy
def test_a_car_that_runs_the_sign_on_either_lane_is_found():
    said, not_said = (
        replayed(f"womd_stop_sign_two_lanes_{said}.tfrecord", ("stop_sign_violation",))["stop_sign_violation"]
        for said in ("said", "not_said")
    )
    np.testing.assert_array_equal(not_said, said)
    assert np.nansum(not_said, axis=0)[:2].tolist() == [1, 1]


@pytest.mark.compile_heavy
def test_a_car_on_a_mapped_driveway_is_off_road_unless_driveways_are_excepted():
    values = replayed("womd_driveway.tfrecord", OFFROAD)
    np.testing.assert_array_equal(values["offroad"][:, 1], 1)
    np.testing.assert_array_equal(values["offroad_outside_driveways"][:, 1], 0)
    np.testing.assert_array_equal(values["offroad"][:, 0], values["offroad_outside_driveways"][:, 0])
