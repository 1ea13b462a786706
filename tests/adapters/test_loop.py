"""The loop of the adapters is that of a rollout; scenarios get a common size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import waymax_sim as ws
from behavior_models import ConstantVelocity, Random
from tests.adapters.roads import LENGTH, ego_position, roads
from waymax_sim.adapters.loop import EGO_ENV, SimulationLoop
from waymax_sim.adapters.scenes import load_scenes
from waymax_sim.env import Assignment
from waymax_sim.pytree import tree_index


@pytest.fixture(scope="module")
def scenes():
    return jax.device_put(ws.stack_scenarios(roads(3)))


def test_traffic_is_driven_as_in_a_rollout(scenes):
    scenario, key = tree_index(scenes, 1), jax.random.key(4)
    traffic, ego = Random(), ConstantVelocity()
    env = ws.Env(EGO_ENV.dynamics, ws.EnvConfig(metrics=(), rewards=()))
    drivers = [(traffic, "others"), (ego, "sdc")]
    trace = jax.jit(lambda: ws.rollout(env, drivers, scenario, key, LENGTH, record=("agents",)))()
    loop, others = SimulationLoop(env, ego_position), Assignment.from_policies(traffic)
    episode, _, _ = jax.jit(loop.reset)(scenario, key, others)
    step = jax.jit(loop.step_ego)
    for index in range(LENGTH):
        # Zero acceleration and curvature are constant velocity here, as all agents drive straight.
        episode, observation, out = step(scenario, episode, jnp.zeros(2), others)
        now = tree_index(trace.agents, index)
        for ours, other in zip(jax.tree.leaves(episode.state.agents), jax.tree.leaves(now), strict=True):
            np.testing.assert_allclose(ours, other, atol=1e-4)
        np.testing.assert_allclose(observation[:2], now.xyz[0, :2] / 100, atol=1e-5)
        assert out.truncated == (index == LENGTH - 1)
    assert np.ptp(trace.agents.xyz[-1, 1:, 1]) > 0.01


def test_scenes_get_a_common_size():
    small, large = roads(1, num_agents=3), roads(1, num_agents=5)
    scenes = load_scenes(small + large)
    assert [scenario.num_agents for scenario in scenes] == [5, 5] and len(scenes) == 2
    with pytest.raises(ValueError, match="axes N are longer"):
        load_scenes(large, pad_to=load_scenes(small).pad_to)[0]
    # With given lengths, scenes are read on access.
    assert len(load_scenes("synthetic:0:1000000", pad_to=scenes.pad_to)) == 1_000_000
