"""Agents appear, act at the same time and leave, as PettingZoo has it."""

import dataclasses

import numpy as np
import pytest
from pettingzoo.test import parallel_api_test

import waymax_sim as ws
from tests.adapters.roads import LENGTH, Positions, roads
from waymax_sim.adapters.pettingzoo import MULTI_AGENT_ENV, DriveParallelEnv

pytestmark = pytest.mark.compile_heavy

POSITIONS = Positions("all")
BY_LOG = ws.Env(MULTI_AGENT_ENV.dynamics, dataclasses.replace(MULTI_AGENT_ENV.config, despawn="log"))


def comes_and_goes():
    """Agent 1 is valid from step 7 of 12, agent 2 until step 8; the current step is 5."""
    valid = np.ones((12, 3), bool)
    valid[:7, 1], valid[9:, 2] = False, False
    return roads(1, valid=valid)[0]


@pytest.fixture(scope="module")
def scenes():
    return [comes_and_goes(), *roads(1)]


@pytest.fixture
def env(scenes):
    return DriveParallelEnv(scenes, env=BY_LOG, observe=POSITIONS)


def idle(env):
    return {name: np.zeros(2, np.float32) for name in env.agents}


def test_conformance_with_the_parallel_api():
    parallel_api_test(DriveParallelEnv(roads(2), env=BY_LOG, observe=POSITIONS), num_cycles=40)


def test_agents_appear_where_the_log_has_them(env):
    observation, infos = env.reset(seed=0)
    assert env.possible_agents == ["agent_0", "agent_1", "agent_2"]
    assert env.agents == ["agent_0", "agent_2"] == list(observation) == list(infos)
    present = []
    for _ in range(3):
        observation, rewards, terminated, truncated, infos = env.step(idle(env))
        present.append(env.agents)
        assert observation.keys() == rewards.keys() == terminated.keys() == truncated.keys() == infos.keys()
    # The first of these steps leads to step 6.
    assert present == [["agent_0", "agent_2"], ["agent_0", "agent_1", "agent_2"], ["agent_0", "agent_1", "agent_2"]]
    np.testing.assert_allclose(observation["agent_1"][:2], [(3 - 20) / 100, 0], atol=1e-6)


def test_all_agents_leave_at_the_end_of_the_record(env):
    env.reset(seed=0)
    for _ in range(LENGTH - 1):
        env.step(idle(env))
    _, _, terminated, truncated, _ = env.step(idle(env))
    assert env.agents == [] and not any(terminated.values())
    # The third left before.
    assert truncated == {"agent_0": True, "agent_1": True}


def test_agents_leave_with_the_log_if_configured(env):
    env.reset(seed=0)
    left = []
    for _ in range(LENGTH - 1):
        truncated = env.step(idle(env))[3]
        left.append([name for name, flag in truncated.items() if flag])
    assert left == [[], [], [], ["agent_2"], []]
    assert env.agents == ["agent_0", "agent_1"]


def test_an_agent_that_is_terminal_when_it_appears_is_no_agent():
    """The road is 10 m wide: the second agent stands beyond its edge, from the start or from step 7 on."""
    for first in (0, 7):
        valid = np.ones((12, 3), bool)
        valid[:first, 1] = False
        scene = roads(1, valid=valid)[0]
        xyz = np.array(scene.log.xyz)
        xyz[:, 1, 1] += 40.0
        beside = dataclasses.replace(scene, log=dataclasses.replace(scene.log, xyz=xyz))
        env = DriveParallelEnv([beside], env=BY_LOG, observe=POSITIONS)
        env.reset(seed=0)
        seen = set(env.agents)
        for _ in range(3):
            _, rewards, terminated, _, _ = env.step(idle(env))
            seen |= set(env.agents)
            assert min(rewards.values()) > -0.5 and not any(terminated.values())
        assert seen == {"agent_0", "agent_2"}


def test_a_terminated_agent_leaves_and_coasts(env):
    env.reset(seed=0, options={"scene": 1})
    ends, lasts = {}, None
    for step in range(LENGTH):
        actions = idle(env)
        if "agent_0" in actions:
            actions["agent_0"] = np.array([1.0, -1.0], np.float32)
        observation, rewards, terminated, _, infos = env.step(actions)
        ends |= {name: step for name, flag in terminated.items() if flag}
        if terminated.get("agent_0"):
            assert infos["agent_0"]["offroad"] == 1 and rewards["agent_0"] < -0.5
            assert infos["agent_1"]["offroad"] == 0 and rewards["agent_1"] > 0
            lasts = np.asarray(env._episode.state.agents.velocity[0])
    assert list(ends) == ["agent_0"] and ends["agent_0"] < LENGTH - 1
    assert "agent_0" not in observation and "agent_1" in observation
    # It remains valid, and keeps its velocity.
    now = env._episode.state.agents
    assert bool(now.valid[0])
    np.testing.assert_allclose(now.velocity[0], lasts, atol=1e-6)


def test_rewards_are_of_each_agent(env):
    """Agent 2 brakes, so it makes less progress."""
    env.reset(seed=0, options={"scene": 1})
    actions = idle(env) | {"agent_2": np.array([-1.0, 0.0], np.float32)}
    rewards = env.step(actions)[1]
    expected = np.array([1.0, 1.0, (10 * 0.1 - 0.5 * 6 * 0.1**2) / 1.0]) / LENGTH
    np.testing.assert_allclose(list(rewards.values()), expected, atol=1e-5)


def test_agents_without_an_action_coast(env):
    env.reset(seed=0, options={"scene": 1})
    observation = env.step({})[0]
    assert observation["agent_0"][0] == pytest.approx(0.01) and list(observation) == ["agent_0", "agent_1", "agent_2"]


def test_spaces_are_the_same_object_each_time(env):
    assert env.action_space("agent_1") is env.action_space("agent_1")
    assert env.observation_space("agent_1") is env.observation_space("agent_1")
    assert env.observation_space("agent_1").shape == (4,)


def test_invalid_arguments_are_rejected(scenes, env):
    with pytest.raises(RuntimeError, match="reset before step"):
        env.step({})
    config = dataclasses.replace(MULTI_AGENT_ENV.config, evaluated="sdc")
    with pytest.raises(ValueError, match="use evaluated='all'"):
        DriveParallelEnv(scenes, env=ws.Env(config=config))


def test_actions_that_are_not_finite_are_refused(env):
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"action of agent_2\[0\] is nan"):
        env.step(idle(env) | {"agent_2": np.array([np.nan, 0.0], np.float32)})
