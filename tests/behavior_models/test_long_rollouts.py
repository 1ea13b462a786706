"""Rule-based traffic beyond the first path of a driver: lanes may be longer than the points of a path."""

import jax
import numpy as np
import pytest

from behavior_models.traffic.idm import IDM
from tests.programs import compiled_rollout
from tests.scenes import raw_scene
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.env import Env, EnvConfig

pytestmark = pytest.mark.compile_heavy
NUM_STEPS = 420
ENV = Env(config=EnvConfig("all", metrics=("overlap",), rewards=()))


def long_road():
    """A lane of 1 km; a vehicle at 10 m/s and a stationary one 450 m ahead of it."""
    base = raw_scene(num_agents=2, num_steps=NUM_STEPS)
    xyz, velocity = base.xyz.copy(), base.velocity.copy()
    xyz[:, 1, 0], velocity[:, 1] = 450.0, 0.0
    along = np.arange(-100.0, 900.5, 1.0)
    lines = [(0.0, 1), (3.5, -1), (-1.75, 1), (5.25, -1)]
    points = [np.stack([along[::step], np.full_like(along, y), np.zeros_like(along)], axis=-1) for y, step in lines]
    return to_scenario(
        raw_scene(
            num_agents=2,
            num_steps=NUM_STEPS,
            xyz=xyz,
            velocity=velocity,
            point_xyz=np.concatenate(points),
            point_feature=np.repeat(np.arange(4), len(along)),
        ),
        pad_to_bucket=False,
    )


def test_a_driver_stops_behind_a_vehicle_beyond_its_first_path():
    trace = compiled_rollout(ENV, IDM(), long_road(), jax.random.key(0), NUM_STEPS - 10)
    x, speed = trace.agents.xyz[:, 0, 0], np.linalg.norm(trace.agents.velocity[:, 0], axis=-1)
    # Its first path ends after 258 m.
    assert x.max() > 400.0
    assert not trace.metrics["overlap"].value.any()
    assert speed[-1] < 1.0 and 0.0 < 450.0 - x[-1] - 4.0 < 8.0
