"""The loop of the adapters is that of a rollout; scenarios get a common size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import waymax_sim as ws
from behavior_models import ConstantVelocity, Random
from tests.adapters.roads import LENGTH, place, roads
from waymax_sim.adapters.loop import DRIVE, SimulationLoop
from waymax_sim.adapters.scenes import scenes_of
from waymax_sim.env import Assignment
from waymax_sim.pytree import take


@pytest.fixture(scope="module")
def scenes():
    return jax.device_put(ws.stack_scenarios(roads(3)))


def test_traffic_is_driven_as_in_a_rollout(scenes):
    scenario, key = take(scenes, 1), jax.random.key(4)
    traffic, ego = Random(), ConstantVelocity()
    env = ws.Env(DRIVE.dynamics, ws.EnvConfig(metrics=(), rewards=()))
    drivers = [(traffic, "others"), (ego, "sdc")]
    trace = jax.jit(lambda: ws.rollout(env, drivers, scenario, key, LENGTH, record=("agents",)))()
    loop, others = SimulationLoop(env, place), Assignment.of(traffic)
    episode, _, _ = jax.jit(loop.reset)(scenario, key, others)
    step = jax.jit(loop.step_ego)
    for index in range(LENGTH):
        # No acceleration and no curvature is constant velocity here, where everybody drives straight.
        episode, seen, out = step(scenario, episode, jnp.zeros(2), others)
        now = take(trace.agents, index)
        for mine, other in zip(jax.tree.leaves(episode.state.agents), jax.tree.leaves(now), strict=True):
            np.testing.assert_allclose(mine, other, atol=1e-4)
        np.testing.assert_allclose(seen[:2], now.xyz[0, :2] / 100, atol=1e-5)
        assert out.truncated == (index == LENGTH - 1)
    assert np.ptp(trace.agents.xyz[-1, 1:, 1]) > 0.01


def test_scenes_get_a_common_size():
    small, large = roads(1, num_agents=3), roads(1, num_agents=5)
    found = scenes_of(small + large)
    assert [scenario.num_agents for scenario in found] == [5, 5] and len(found) == 2
    with pytest.raises(ValueError, match="larger than asked in N"):
        scenes_of(large, pad_to=scenes_of(small).pad_to)[0]
    # With a size given, nothing is read before it is asked for.
    assert len(scenes_of("synthetic:0:1000000", pad_to=found.pad_to)) == 1_000_000
