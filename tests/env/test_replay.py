"""Recorded scenes driven as recorded, exactly and through other dynamics models."""

import functools

import jax
import numpy as np
import pytest

from behavior_models import LogReplay
from tests.data import recorded
from tests.programs import compiled_rollout
from waymax_sim.datasets.loader import load
from waymax_sim.datatypes.agents import VEHICLE
from waymax_sim.dynamics import Bicycle, Delta, Teleport
from waymax_sim.env import Env, EnvConfig
from waymax_sim.metrics.divergence import displacement
from waymax_sim.pytree import tree_index

FILES = [
    "womd/scenario_637f20cafde22ff8.tfrecord",
    "womd/scenario_2a1e44d405a6833f.tfrecord",
    "womd/scenario_2a173b334be3d32c.tfrecord",
    "womd/tf_example_a3bb37c25ce56418.tfrecord",
]


@functools.cache
def first_scene(path):
    return load(path)[0]


def replay(path, dynamics):
    """The scenario, the simulated and the logged agents of the 8 s after now, as NumPy."""
    scenario = first_scene(path)
    env = Env(config=EnvConfig(controlled="all", height_source="log", metrics=("log_divergence",), rewards=()))
    trace = compiled_rollout(env, LogReplay(dynamics), scenario, jax.random.key(0), 80)
    logged = tree_index(scenario.log, slice(11, None))
    return scenario, trace, logged


@pytest.mark.parametrize("file", FILES)
def test_teleport_is_exact(file):
    _, trace, logged = replay(recorded(file), Teleport())
    valid = np.asarray(logged.valid)
    assert valid.sum() > 500
    for name in ("xyz", "yaw", "velocity"):
        np.testing.assert_array_equal(np.asarray(getattr(trace.agents, name))[valid], getattr(logged, name)[valid])
    divergence = trace.metrics["log_divergence"]
    np.testing.assert_array_equal(divergence.valid, valid)
    assert not np.any(divergence.value)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(
    ("dynamics", "limit"),
    [(Bicycle(), 0.10), (Delta(), 1e-3), (Delta(frame="body"), 1e-3)],
    ids=["bicycle", "world", "body"],
)
def test_vehicles_stay_near_the_log(file, dynamics, limit):
    scenario, trace, logged = replay(recorded(file), dynamics)
    error = jax.jit(displacement)(trace.agents, logged)
    counted = np.asarray(error.valid) & (np.asarray(scenario.agents.type) == VEHICLE)
    assert counted.sum() > 500
    assert np.asarray(error.value)[counted].mean() <= limit
