"""The vector environment of Stable-Baselines3 against that of gymnasium, with the library or with its interface."""

import importlib
import sys
from importlib.util import find_spec

import numpy as np
import pytest

from tests.adapters import sb3_interface
from tests.adapters.roads import LENGTH, ego_position, roads
from waymax_sim.adapters.gymnasium import DriveVectorEnv
from waymax_sim.env import Assignment

pytestmark = [
    pytest.mark.compile_heavy,
    # PyTorch announces its own deprecations when it is imported.
    pytest.mark.filterwarnings("ignore:::torch"),
]

IS_INSTALLED = find_spec("stable_baselines3") is not None
NUM_ENVS = 3
TURN = np.array([1.0, -1.0], np.float32)


@pytest.fixture(scope="module")
def adapter():
    if IS_INSTALLED:
        yield importlib.import_module("waymax_sim.adapters.stable_baselines3")
    else:
        with pytest.MonkeyPatch.context() as patch:
            for name, module in sb3_interface.modules().items():
                patch.setitem(sys.modules, name, module)
            yield importlib.import_module("waymax_sim.adapters.stable_baselines3")
        del sys.modules["waymax_sim.adapters.stable_baselines3"]


@pytest.fixture(scope="module")
def scenes():
    return roads(6)


@pytest.fixture
def env(adapter, scenes):
    return adapter.DriveVecEnv(scenes, NUM_ENVS, observe=ego_position)


def test_steps_equal_those_of_gymnasium(env, scenes):
    """One environment leaves the road, the others end with the record: both kinds of ends, twice."""
    reference = DriveVectorEnv(scenes, NUM_ENVS, observe=ego_position)
    env.seed(7)
    np.testing.assert_array_equal(env.reset(), reference.reset(seed=7)[0])
    assert [info["scene"] for info in env.reset_infos] == [0, 1, 2]
    actions = np.zeros((NUM_ENVS, 2), np.float32)
    actions[1] = TURN
    ends = []
    for _ in range(2 * LENGTH):
        observations, rewards, dones, infos = env.step(actions)
        expected = reference.step(actions)
        np.testing.assert_allclose(observations, expected[0], atol=1e-6)
        np.testing.assert_allclose(rewards, expected[1], atol=1e-6)
        assert rewards.dtype == np.float32 and dones.dtype == bool
        np.testing.assert_array_equal(dones, expected[2] | expected[3])
        for index, info in enumerate(infos):
            assert ("terminal_observation" in info) == ("TimeLimit.truncated" in info) == dones[index]
            assert "offroad" in info and "final_obs" not in info
            if dones[index]:
                ends.append((index, info["TimeLimit.truncated"], info["offroad"]))
                np.testing.assert_allclose(info["terminal_observation"], expected[4]["final_obs"][index])
                assert env.reset_infos[index] == {"scene": int(expected[4]["scene"][index])}
    assert (0, True, 0.0) in ends and (1, False, 1.0) in ends


def test_seeds_apply_once(env):
    env.seed(3)
    first = env.reset()
    second = env.reset()
    env.seed(3)
    np.testing.assert_array_equal(env.reset(), first)
    # Without a seed the next scenes are played, at other lateral offsets.
    np.testing.assert_allclose(second[:, 1] - first[:, 1], 0.003, atol=1e-6)
    assert [info["scene"] for info in env.reset_infos] == [0, 1, 2]


def test_attributes_and_methods_are_those_of_the_vector_environment(env):
    assert env.get_attr("num_envs") == [NUM_ENVS] * NUM_ENVS and env.get_attr("num_envs", 1) == [NUM_ENVS]
    traffic = Assignment.from_policies(None)
    env.set_attr("traffic", traffic)
    assert all(item is traffic for item in env.get_attr("traffic", indices=[0, 2]))
    with pytest.raises(ValueError, match="set it without indices"):
        env.set_attr("traffic", traffic, indices=0)
    with pytest.raises(AttributeError):
        env.get_attr("missing")
    observation, _ = env.env_method("reset", indices=[1], seed=5)[0]
    assert observation.shape == (NUM_ENVS, 4)
    assert env.env_is_wrapped(object) == [False] * NUM_ENVS and env.env_is_wrapped(object, indices=[0]) == [False]


def test_images_are_tiled_and_closing_is_repeatable(adapter, scenes, env):
    assert env.get_images() == [None] * NUM_ENVS and env.render_mode is None
    drawn = adapter.DriveVecEnv(scenes, NUM_ENVS, observe=ego_position, render_mode="rgb_array")
    drawn.reset()
    images = drawn.get_images()
    assert drawn.render().size >= NUM_ENVS * images[0].size and images[0].dtype == np.uint8
    drawn.close()
    drawn.close()


def test_misuse_is_refused(adapter, scenes, env):
    env.reset()
    with pytest.raises(RuntimeError, match="step_async before step_wait"):
        env.step_wait()
    env.set_options({"scene": 3})
    with pytest.raises(ValueError, match=r"options .* are not supported"):
        env.reset()
    with pytest.raises(ValueError, match="leave it out"):
        adapter.DriveVecEnv(scenes, autoreset_mode="NextStep")


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "stable_baselines3.common.vec_env", None)
    monkeypatch.delitem(sys.modules, "waymax_sim.adapters.stable_baselines3", raising=False)
    with pytest.raises(ImportError, match=r"needs stable_baselines3.*pip install 'waymax-sim\[sb3\]'"):
        importlib.import_module("waymax_sim.adapters.stable_baselines3")


@pytest.mark.skipif(not IS_INSTALLED, reason="stable_baselines3 is not installed; `pip install .[sb3]`")
def test_ppo_of_the_library_trains(env):
    """With the wrappers that its users apply: monitored, normalized, saved actions within the bounds."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

    normalized = VecNormalize(VecMonitor(env))
    model = PPO("MlpPolicy", normalized, n_steps=2 * LENGTH, batch_size=12, n_epochs=1, seed=0, device="cpu")
    before = [value.detach().clone() for value in model.policy.parameters()]
    model.learn(4 * NUM_ENVS * LENGTH)
    changed = [not bool((a == b).all()) for a, b in zip(before, model.policy.parameters(), strict=True)]
    assert all(changed) and len(model.ep_info_buffer) >= 2 * NUM_ENVS
    assert max(info["l"] for info in model.ep_info_buffer) == LENGTH
    mean, _ = evaluate_policy(model, VecMonitor(env), n_eval_episodes=NUM_ENVS)
    assert -1 <= mean <= 1.01
    normalized.close()
