"""The functional environment against bookkeeping in NumPy, for the sdc and for all traveling vehicles."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from behavior_models import ConstantSpeed
from tests.adapters.roads import LENGTH, ego_position, roads
from waymax_sim import Bicycle, Env, EnvConfig
from waymax_sim.adapters.functional import FunctionalEnv
from waymax_sim.adapters.loop import EGO_ENV, SimulationLoop, episode_key
from waymax_sim.env import PRESETS, Assignment
from waymax_sim.env.bank import build_bank
from waymax_sim.env.flat_view import FlatView
from waymax_sim.pytree import tree_index

pytestmark = pytest.mark.compile_heavy

NUM_ENVS = 4
# Agents drive 10 m/s for 0.6 s: the goal is 6 m ahead, and reached within 2 m.
RULES = dataclasses.replace(PRESETS["goal"], max_controlled=3)
ALL = FunctionalEnv(Env(Bicycle(normalized=True), RULES), FlatView(num_agents=3, num_polylines=3))
NAMES = ("active", "reward", "terminated", "truncated", "episode_return", "episode_length", "done", "scene", "agent")


@pytest.fixture(scope="module")
def bank():
    return build_bank(roads(3), EGO_ENV)


# Six environments of the sdc side by side.
SDC = FunctionalEnv(observe=ego_position)
reset_six = jax.jit(jax.vmap(SDC.reset, in_axes=(None, 0)))
step_six = jax.jit(jax.vmap(SDC.step, in_axes=(None, 0, 0)))


def run(env: FunctionalEnv, bank, keys, actions, **first):
    """All transitions of some steps, [T, B, ...], in one program; and the states after each step."""

    @jax.jit
    def scan(bank, keys, actions):
        running, observation = jax.vmap(lambda key: env.reset(bank, key, **first))(keys)

        def body(running, action):
            running, out = jax.vmap(env.step, in_axes=(None, 0, 0))(bank, running, action)
            return running, (out, running)

        return running, observation, jax.lax.scan(body, running, actions)[1]

    return scan(bank, keys, actions)


def test_episodes_of_the_sdc_follow_each_other_in_the_graph(bank):
    """The reference is a loop in Python that resets by hand, without a bank."""
    env, scenes = FunctionalEnv(observe=ego_position), jax.device_put(roads(3))
    keys = jax.random.split(jax.random.key(3), NUM_ENVS)
    actions = jnp.zeros((3 * LENGTH, NUM_ENVS, 2)).at[2::5, 1].set(jnp.array([1.0, -1.0]))
    _, first, (out, running) = jax.device_get(run(env, bank, keys, actions))
    loop, no_traffic = SimulationLoop(env.env, ego_position), Assignment((), ())
    reset, step = jax.jit(loop.reset), jax.jit(loop.step_ego)
    for index in range(NUM_ENVS):
        count, scene = 0, int(out.scene[0, index])
        episode, observation, _ = reset(scenes[scene], first_key(keys[index], 0), no_traffic)
        np.testing.assert_allclose(first[index], observation, atol=1e-6)
        for t in range(3 * LENGTH):
            result = tree_index(out, (t, index))
            episode, observation, expected = step(scenes[scene], episode, actions[t, index], no_traffic)
            np.testing.assert_allclose(result.final_observation, observation, atol=1e-6)
            np.testing.assert_allclose(result.reward, expected.reward[0], atol=1e-6)
            ended = bool(expected.terminated | expected.truncated)
            assert (bool(result.terminated), bool(result.done)) == (bool(expected.terminated), ended)
            if ended:
                count += 1
                before, scene = scene, int(running.scene[t, index])
                assert scene != before
                episode, observation, _ = reset(scenes[scene], first_key(keys[index], count), no_traffic)
            np.testing.assert_allclose(result.observation, observation, atol=1e-6)
            assert running.count[t, index] == count
    # The one that turns ends early, the others at the end of the record.
    assert out.terminated[:, 1].any() and not out.terminated[:, 0].any()
    assert np.asarray(out.truncated)[:, 0].nonzero()[0].tolist() == [5, 11, 17]
    np.testing.assert_array_equal(out.episode_length[np.asarray(out.truncated)], LENGTH)


def first_key(key, count: int):
    return jax.random.fold_in(episode_key(key, count), 1)


@pytest.fixture(scope="module")
def long_run():
    """1,000 steps of all traveling vehicles of 32 scenarios, 8 environments, random actions."""
    bank = build_bank(roads(32), ALL.env)
    keys = jax.random.split(jax.random.key(0), 8)
    actions = jax.random.uniform(jax.random.key(1), (1000, 8, 3, 2), minval=-1.0)
    return bank, keys, actions, run(ALL, bank, keys, actions)


def test_bookkeeping_of_every_agent(long_run):
    _, _, _, (_, _, (out, _)) = long_run
    result = {name: np.asarray(getattr(out, name)) for name in NAMES}
    ends = result["terminated"] | result["truncated"]
    returns, lengths = np.zeros((8, 3)), np.zeros((8, 3), int)
    alive = np.ones((8, 3), bool)
    for t in range(1000):
        # All agents of an episode act until their own end; at the end of the scenario all start again.
        np.testing.assert_array_equal(result["active"][t], alive)
        assert not result["reward"][t][~alive].any() and not ends[t][~alive].any()
        returns, lengths = returns + result["reward"][t], lengths + alive
        np.testing.assert_allclose(result["episode_return"][t], np.where(ends[t], returns, 0), atol=1e-5)
        np.testing.assert_array_equal(result["episode_length"][t], np.where(ends[t], lengths, 0))
        alive = alive & ~ends[t]
        np.testing.assert_array_equal(result["done"][t], ~alive.any(axis=-1))
        again = result["done"][t][:, None]
        returns, lengths = np.where(again | ends[t], 0, returns), np.where(again | ends[t], 0, lengths)
        alive = alive | again
        if t:
            changed = result["scene"][t] != result["scene"][t - 1]
            np.testing.assert_array_equal(changed, result["done"][t - 1])
    assert (result["agent"] == np.arange(3)).all()
    # Ends of all kinds occur, all scenarios are played, and a goal is paid once.
    assert result["terminated"].any() and result["truncated"].any()
    assert np.bincount(result["scene"].ravel(), minlength=32).min() > 0
    assert result["episode_return"].max() <= 1 + 0.01 * 6 + 1e-5
    reached = np.asarray(out.metrics["goal_reached"].value) > 0
    assert (result["terminated"][reached & result["active"]]).all() and reached.sum() > 50


def test_the_observation_after_an_end_is_that_of_the_next_scenario(long_run):
    _, _, _, (_, _, (out, _)) = long_run
    done, observation, final = (np.asarray(x) for x in (out.done, out.observation, out.final_observation))
    np.testing.assert_array_equal(observation[~done], final[~done])
    # Remaining time: 0.6 s at the start, in units of 10 s.
    time = ALL.observe.spec().features
    begin = sum(feature.size for feature in time[:3])
    np.testing.assert_allclose(observation[done][:, :, begin], 0.06, atol=1e-6)


def test_results_do_not_depend_on_the_batch_size(long_run):
    bank, keys, actions, (_, _, (out, _)) = long_run
    _, _, (few, _) = run(ALL, bank, keys[2:4], actions[:200, 2:4])
    for name in NAMES:
        ours, all_ = np.asarray(getattr(few, name)), np.asarray(getattr(out, name))[:200, 2:4]
        if ours.dtype == np.float32:
            np.testing.assert_allclose(ours, all_, atol=1e-5, err_msg=name)
        else:
            np.testing.assert_array_equal(ours, all_, err_msg=name)


def test_the_next_scenario_starts_when_all_agents_have_ended_although_others_may_appear(bank):
    """The sdc turns off the road; with the rules of the log for absent agents, none of its own is still to come."""
    config = dataclasses.replace(EGO_ENV.config, ends="agent", at_end="remove")
    env = FunctionalEnv(dataclasses.replace(EGO_ENV, config=config), ego_position)
    actions = jnp.full((LENGTH, 1, 2), jnp.array([1.0, -1.0]))
    _, _, (out, _) = run(env, bank, jax.random.split(jax.random.key(0), 1), actions)
    assert out.terminated.any() and (out.done == (out.terminated | out.truncated)).all()


def test_scenarios_follow_a_given_order(bank):
    env = FunctionalEnv(observe=ego_position, sampling="order")
    ordered = dataclasses.replace(bank, order=jnp.array([2, 0, 1, 1, 0], jnp.int32))

    @jax.jit
    def scan(bank, keys):
        running, _ = jax.vmap(env.reset, in_axes=(None, 0, None, 0, None))(bank, keys, None, jnp.arange(2), 2)

        def body(running, _):
            running, out = jax.vmap(env.step, in_axes=(None, 0, 0))(bank, running, jnp.zeros((2, 2)))
            return running, out.scene

        return jax.lax.scan(body, running, length=4 * LENGTH)[1]

    scene = np.asarray(scan(ordered, jax.random.split(jax.random.key(0), 2)))[::LENGTH]
    np.testing.assert_array_equal(scene, [[2, 0], [1, 1], [0, 2], [0, 1]])


def test_an_environment_in_a_replaced_scenario_begins_another_episode(bank):
    running, _ = reset_six(bank, jax.random.split(jax.random.key(0), 6))
    replaced = dataclasses.replace(bank, version=bank.version.at[1].add(1))
    after, out = step_six(replaced, running, jnp.zeros((6, 2)))
    stale = np.asarray(running.scene) == 1
    assert stale.any() and not stale.all()
    np.testing.assert_array_equal(out.done, stale)
    np.testing.assert_array_equal(out.active, ~stale)
    assert not np.asarray(out.reward)[stale].any() and (np.asarray(after.count) == stale).all()


def test_traffic_and_controlled_agents_move_together(bank):
    """Agents of the caller and of a policy with the same action move alike; the log moves none of them."""
    env = FunctionalEnv(observe=ego_position)
    running, _ = jax.jit(env.reset)(bank, jax.random.key(0), ConstantSpeed())
    assert np.asarray(running.episode.state.controller).tolist() == [1, 3, 3]
    after, _ = jax.jit(env.step)(bank, running, jnp.zeros(2), ConstantSpeed())
    moved = after.episode.state.agents.xyz[:, 0] - running.episode.state.agents.xyz[:, 0]
    np.testing.assert_allclose(moved, 1.0, atol=1e-5)


def test_an_action_that_is_not_finite_is_reported(bank):
    running, _ = reset_six(bank, jax.random.split(jax.random.key(0), 6))
    actions = np.zeros((6, 2), np.float32)
    actions[0, 0] = np.nan
    after, out = jax.device_get(step_six(bank, running, actions))
    coasted, fine = jax.device_get(step_six(bank, running, np.zeros((6, 2), np.float32)))
    np.testing.assert_array_equal(out.invalid_action, np.arange(6) == 0)
    assert not fine.invalid_action.any() and out.reward[0] <= 0 < fine.reward.min()
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        after.episode.state.agents,
        coasted.episode.state.agents,
    )


def test_absent_agents_have_inactive_rows():
    config = EnvConfig(controlled="pedestrian", metrics=(), rewards=(), max_controlled=2)
    env = FunctionalEnv(Env(Bicycle(), config), ego_position)
    bank = build_bank(roads(1), env.env)
    _, _, (out, _) = run(env, bank, jax.random.split(jax.random.key(0), 1), jnp.zeros((2, 1, 2, 2)))
    assert (out.agent == -1).all() and not out.active.any() and not out.terminated.any()
