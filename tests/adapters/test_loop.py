"""The loop of the adapters is that of a rollout, and the functional adapter resets itself as written."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import waymax_sim as ws
from behavior_models import ConstantVelocity, Random
from tests.adapters.roads import LENGTH, place, roads
from waymax_sim.adapters.functional import FunctionalEnv
from waymax_sim.adapters.loop import DRIVE, Loop, episode_key
from waymax_sim.adapters.scenes import scenes_of
from waymax_sim.pytree import take

NUM_ENVS = 4


@pytest.fixture(scope="module")
def scenes():
    return jax.device_put(ws.stack_scenarios(roads(3)))


@pytest.fixture(scope="module")
def training(scenes):
    """All that happens in many steps of a few environments, and the actions."""
    env = FunctionalEnv(observe=place)
    keys = jax.random.split(jax.random.key(3), NUM_ENVS)
    actions = jnp.zeros((3 * LENGTH, NUM_ENVS, 2)).at[2::5, 1].set(jnp.array([1.0, -1.0]))

    @jax.jit
    def train(keys):
        running, first = jax.vmap(env.reset, in_axes=(None, 0))(scenes, keys)

        def body(running, action):
            then, out = jax.vmap(env.step, in_axes=(None, 0, 0))(scenes, running, action)
            return then, (out, then)

        return first, running, jax.lax.scan(body, running, actions)[1]

    first, start, (out, running) = train(keys)
    return env, actions, first, start, out, running


def test_traffic_is_driven_as_in_a_rollout(scenes):
    scenario, key = take(scenes, 1), jax.random.key(4)
    traffic, ego = Random(), ConstantVelocity()
    env = ws.Env(DRIVE.dynamics, ws.EnvConfig(metrics=(), rewards=()))
    drivers = [(traffic, "others"), (ego, "sdc")]
    trace = jax.jit(lambda: ws.rollout(env, drivers, scenario, key, LENGTH, record=("agents",)))()
    loop = Loop(env, place, traffic)
    episode, _, _ = jax.jit(loop.reset)(scenario, key)
    step = jax.jit(loop.step_sdc)
    for index in range(LENGTH):
        # No acceleration and no curvature is constant velocity here, where everybody drives straight.
        episode, seen, out = step(scenario, episode, jnp.zeros(2))
        now = take(trace.agents, index)
        for mine, other in zip(jax.tree.leaves(episode.state.agents), jax.tree.leaves(now), strict=True):
            np.testing.assert_allclose(mine, other, atol=1e-4)
        np.testing.assert_allclose(seen[:2], now.xyz[0, :2] / 100, atol=1e-5)
        assert out.truncated == (index == LENGTH - 1)
    assert np.ptp(trace.agents.xyz[-1, 1:, 1]) > 0.01


def test_episodes_follow_each_other_in_the_graph(scenes, training):
    """The reference is a loop in Python that resets by hand."""
    env, actions, first, start, out, running = training
    loop = Loop(env.env, place)
    reset, step = jax.jit(loop.reset), jax.jit(loop.step_sdc)
    for index in range(NUM_ENVS):
        state = take(start, index)
        count, scenario = 0, take(scenes, int(state.scene))
        episode = state.episode
        np.testing.assert_allclose(first[index], loop.observe(loop.env.observe(scenario, episode.state)), atol=1e-6)
        for t in range(3 * LENGTH):
            told = take(out, (t, index))
            episode, seen, judged = step(scenario, episode, actions[t, index])
            np.testing.assert_allclose(told.final_observation, seen, atol=1e-6)
            np.testing.assert_allclose(told.reward, judged.reward[0], atol=1e-6)
            assert (told.terminated, told.truncated) == (judged.terminated, judged.truncated)
            if judged.terminated or judged.truncated:
                count += 1
                scenario = take(scenes, int(running.scene[t, index]))
                own = episode_key(state.key, count)
                episode, seen, _ = reset(scenario, jax.random.fold_in(own, 1))
            np.testing.assert_allclose(told.observation, seen, atol=1e-6)
            assert running.count[t, index] == count
    # The one that turns ends early, the others at the end of the record.
    assert out.terminated[:, 1].any() and not out.terminated[:, 0].any()
    assert np.asarray(out.truncated)[:, 0].nonzero()[0].tolist() == [5, 11, 17]


def test_scenes_are_drawn_evenly(scenes):
    env = FunctionalEnv(observe=place)
    keys = jax.random.split(jax.random.key(0), 300)
    running, _ = jax.jit(jax.vmap(env.reset, in_axes=(None, 0)))(scenes, keys)
    assert np.bincount(running.scene, minlength=3).min() > 70


def test_only_the_sdc_is_driven():
    with pytest.raises(ValueError, match="controlled='all'"):
        FunctionalEnv(env=ws.Env(config=ws.EnvConfig(controlled="all")))


def test_scenes_get_a_common_size():
    small, large = roads(1, num_agents=3), roads(1, num_agents=5)
    found = scenes_of(small + large)
    assert [scenario.num_agents for scenario in found] == [5, 5] and len(found) == 2
    with pytest.raises(ValueError, match="larger than asked in N"):
        scenes_of(large, pad_to=scenes_of(small).pad_to)[0]
    # With a size given, nothing is read before it is asked for.
    assert len(scenes_of("synthetic:0:1000000", pad_to=found.pad_to)) == 1_000_000
