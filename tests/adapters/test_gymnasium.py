"""What gymnasium documents holds, and many scenes side by side are the same as one after another."""

import importlib
import sys
import time

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import batch_space

import waymax_sim as ws
from tests.adapters.roads import LENGTH, place, roads
from tests.programs import equal
from waymax_sim.adapters.gymnasium import ID, DriveEnv, DriveVectorEnv
from waymax_sim.adapters.loop import DRIVE
from waymax_sim.pytree import take

NUM_ENVS = 3


@pytest.fixture(scope="module")
def scenes():
    return roads(6)


@pytest.fixture
def single(scenes):
    return DriveEnv(scenes, observe=place)


@pytest.fixture
def vector(scenes):
    return DriveVectorEnv(scenes, num_envs=NUM_ENVS, observe=place)


def same(ours, theirs, path="infos"):
    """The same nested records: the same keys, types of numbers and values."""
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys(), path
        for key, value in theirs.items():
            same(ours[key], value, f"{path}[{key!r}]")
    elif theirs.dtype == object:
        for mine, other in zip(ours, theirs, strict=True):
            assert (mine is None) == (other is None)
            if other is not None:
                equal(mine, other)
    else:
        assert ours.dtype == theirs.dtype or path.endswith("['scene']")
        np.testing.assert_allclose(ours, theirs, atol=1e-6, err_msg=path)


def test_the_checker_of_gymnasium_is_content(scenes):
    check_env(gymnasium.make(ID, scenarios=scenes, observe=place).unwrapped)


def test_the_checker_is_content_with_the_default_view(scenes):
    check_env(gymnasium.make(ID, scenarios=scenes[:1]).unwrapped, skip_render_check=True)


def test_numbers_without_a_limit_have_an_endless_space(scenes):
    env = DriveEnv(scenes, observe=lambda observation: observation.agents.velocity[0])
    assert env.observation_space == gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)


def test_spaces_follow_from_dynamics_and_observation(scenes, single):
    assert single.action_space == gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    assert single.observation_space == gymnasium.spaces.Box(-10, 10, (4,), np.float32)
    wide = DriveEnv(scenes, env=ws.Env(ws.Bicycle(), DRIVE.config), observe=place)
    low, high = ws.Bicycle().bounds
    assert wide.action_space == gymnasium.spaces.Box(low, high, dtype=np.float32)


def test_discrete_dynamics_give_a_discrete_space(scenes):
    dynamics = ws.Discrete(ws.Bicycle(), (2, 2))
    env = DriveEnv(scenes, env=ws.Env(dynamics, DRIVE.config), observe=place)
    assert env.action_space == gymnasium.spaces.Discrete(9)


def test_episodes_go_from_scene_to_scene(scenes, single):
    _, info = single.reset(seed=0)
    assert info == {"scene": 0}
    ends = [single.step(np.zeros(2))[2:4] for _ in range(LENGTH)]
    assert ends == [(False, False)] * (LENGTH - 1) + [(False, True)]
    seen, info = single.reset()
    assert info == {"scene": 1} and seen[1] == pytest.approx(0.001)
    assert single.reset(options={"scene": 4})[1] == {"scene": 4}
    assert single.reset(seed=0)[1] == {"scene": 0}
    single.reset(options={"scene": len(scenes) - 1})


def test_the_reward_is_the_share_of_the_way_and_crashes_cost(single):
    single.reset(seed=0)
    rewards = [single.step(np.zeros(2))[1] for _ in range(LENGTH)]
    np.testing.assert_allclose(rewards, 1 / LENGTH, atol=1e-5)
    single.reset(seed=0)
    # A sharp turn leads off the road.
    steps = [single.step(np.array([1.0, -1.0])) for _ in range(LENGTH)]
    (first,) = [index for index, step in enumerate(steps) if step[2]][:1]
    assert steps[first][4]["offroad"] == 1 and steps[first][1] < -0.5


def test_pictures(scenes):
    env = DriveEnv(scenes, observe=place, render_mode="rgb_array")
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.render()
    env.reset(seed=0)
    picture = env.render()
    assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.std() > 0
    assert DriveEnv(scenes, observe=place).render() is None


def test_side_by_side_is_the_same_as_gymnasiums_own_vector_env(scenes, vector):
    """The reference is `SyncVectorEnv` with the same autoreset mode, over single environments."""
    reference = SyncVectorEnv(
        [lambda i=i: DriveEnv(scenes[i::NUM_ENVS], observe=place) for i in range(NUM_ENVS)],
        autoreset_mode=AutoresetMode.SAME_STEP,
    )
    rng = np.random.default_rng(0)
    for seed in (7, None):
        ours, theirs = vector.reset(seed=seed), reference.reset(seed=seed)
        np.testing.assert_array_equal(ours[0], theirs[0])
        for _ in range(4 * LENGTH):
            # One of them turns hard, so that they do not all end together.
            actions = rng.uniform(-0.1, 0.1, (NUM_ENVS, 2)).astype(np.float32)
            actions[rng.integers(NUM_ENVS)] = (1.0, -1.0)
            ours, theirs = vector.step(actions), reference.step(actions)
            for mine, other in zip(ours[:4], theirs[:4], strict=True):
                assert mine.dtype == other.dtype
                np.testing.assert_allclose(mine, other, atol=1e-6)
            for infos in (ours[4], theirs[4], ours[4].get("final_info", {}), theirs[4].get("final_info", {})):
                # Single environments count their own scenes.
                infos.pop("scene", None), infos.pop("_scene", None)
            same(ours[4], theirs[4])


def test_what_ends_is_followed_within_the_same_step(vector):
    first, infos = vector.reset(seed=0)
    assert vector.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    np.testing.assert_array_equal(infos["scene"], [0, 1, 2])
    for _ in range(LENGTH - 1):
        seen, _, terminated, truncated, infos = vector.step(np.zeros((NUM_ENVS, 2), np.float32))
        assert not (terminated | truncated).any() and "final_obs" not in infos
    ended, _, terminated, truncated, infos = vector.step(np.zeros((NUM_ENVS, 2), np.float32))
    assert truncated.all() and not terminated.any()
    np.testing.assert_array_equal(infos["scene"], [3, 4, 5])
    # What is seen is the start of the next scene: elsewhere on the lane, and where scenes start along it.
    np.testing.assert_allclose(ended[:, 1] - first[:, 1], 0.003, atol=1e-6)
    np.testing.assert_allclose(ended[:, 0], first[:, 0], atol=1e-6)
    # What was seen at the end is one step further than before it.
    final = np.stack(list(infos["final_obs"]))
    np.testing.assert_allclose(final[:, 0] - seen[:, 0], 0.01, atol=1e-6)
    np.testing.assert_allclose(infos["final_info"]["log_progress"], 1 / LENGTH, atol=1e-5)
    assert infos["_final_obs"].all() and infos["_final_info"].all() and "log_progress" not in infos


def test_seeds_are_of_each_environment(scenes):
    env = DriveVectorEnv(scenes, num_envs=2, observe=place)
    env.reset(seed=[5, 6])
    keys = jax.random.key_data(env._keys)
    env.reset(seed=5)
    np.testing.assert_array_equal(jax.random.key_data(env._keys), keys)
    env.reset(seed=[None, 9])
    assert env._playing.tolist() == [2, 1]
    changed = jax.random.key_data(env._keys)
    assert (changed[0] == keys[0]).all() and (changed[1] != keys[1]).any()
    env.reset()
    assert env._playing.tolist() == [4, 3]
    with pytest.raises(ValueError, match="3 seeds for 2 environments"):
        env.reset(seed=[1, 2, 3])


def test_made_by_name(scenes):
    env = gymnasium.make_vec(ID, num_envs=2, scenarios=scenes, observe=place)
    assert isinstance(env, DriveVectorEnv) and env.num_envs == 2
    assert env.observation_space == batch_space(env.single_observation_space, 2)
    assert gymnasium.make(ID, scenarios=scenes, observe=place).spec.id == ID


def test_mistakes_are_named(scenes, single, vector):
    for env in (single, vector):
        with pytest.raises(gymnasium.error.ResetNeeded):
            env.step(env.action_space.sample())
    everyone = ws.Env(config=ws.EnvConfig(controlled="all"))
    for make in (DriveEnv, DriveVectorEnv):
        with pytest.raises(ValueError, match="drives the sdc, but the environment has controlled='all'"):
            make(scenes, env=everyone)
        with pytest.raises(ValueError, match="no scenarios"):
            make([])
    with pytest.raises(ValueError, match="num_envs=0"):
        DriveVectorEnv(scenes, num_envs=0)
    with pytest.raises(ValueError, match="render_mode='human'"):
        DriveEnv(scenes, render_mode="human")
    with pytest.raises(ValueError, match="different numbers of steps"):
        DriveEnv([scenes[0], take_steps(scenes[1])])


def take_steps(scenario):
    log, signals = take(scenario.log, slice(10)), scenario.signals
    return ws.Scenario(**{**scenario.__dict__, "log": log, "signals": signals, "timestamps": scenario.timestamps[:10]})


@pytest.mark.parametrize("library", ["gymnasium", "pettingzoo", "dm_env"])
def test_what_is_missing_is_named(library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, f"waymax_sim.adapters.{library}", raising=False)
    with pytest.raises(ImportError, match=rf"needs {library}.*pip install 'waymax-sim\[rl\]'"):
        importlib.import_module(f"waymax_sim.adapters.{library}")


@pytest.mark.slow
def test_side_by_side_is_many_times_faster():
    """64 environments in one call against a Python loop over single ones: time per environment and step."""
    # Nobody crashes on the first road, so nothing but steps is measured.
    scenes = 64 * roads(1)
    single, vector = DriveEnv(scenes), DriveVectorEnv(scenes, num_envs=64)
    actions = np.zeros((64, 2), np.float32)

    def cost(env, action, count):
        env.reset()
        start = time.perf_counter()
        for _ in range(LENGTH - 1):
            env.step(action)
        return (time.perf_counter() - start) / (LENGTH - 1) / count

    # One after the other, so that both meet the same load; the first of each compiles.
    pairs = [(cost(single, actions[0], 1), cost(vector, actions, 64)) for _ in range(16)][1:]
    alone, together = np.median(pairs, axis=0)
    print(f"single {1e6 * alone:.0f} us, side by side {1e6 * together:.0f} us, {alone / together:.1f} times faster")
    assert alone / together >= 20
