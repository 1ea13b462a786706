"""The gymnasium adapter: conformance, episodes, and parallel environments against sequential ones."""

import importlib
import re
import subprocess
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
from tests.adapters.roads import LENGTH, ego_position, roads
from tests.programs import equal
from waymax_sim.adapters.gymnasium import ENV_ID, DriveEnv, DriveVectorEnv
from waymax_sim.adapters.loop import EGO_ENV
from waymax_sim.pytree import tree_index

pytestmark = pytest.mark.compile_heavy

NUM_ENVS = 3


@pytest.fixture(scope="module")
def scenes():
    return roads(6)


@pytest.fixture
def single(scenes):
    return DriveEnv(scenes, observe=ego_position)


@pytest.fixture
def vector(scenes):
    return DriveVectorEnv(scenes, num_envs=NUM_ENVS, observe=ego_position)


def same(vector_step, reference_step, path="infos"):
    """Checks that nested records have equal keys, dtypes and values."""
    if isinstance(reference_step, dict):
        assert vector_step.keys() == reference_step.keys(), path
        for key, value in reference_step.items():
            same(vector_step[key], value, f"{path}[{key!r}]")
    elif reference_step.dtype == object:
        for ours, other in zip(vector_step, reference_step, strict=True):
            assert (ours is None) == (other is None)
            if other is not None:
                equal(ours, other)
    else:
        assert vector_step.dtype == reference_step.dtype or path.endswith("['scene']")
        np.testing.assert_allclose(vector_step, reference_step, atol=1e-6, err_msg=path)


def test_the_environment_checker_reports_nothing(scenes):
    check_env(gymnasium.make(ENV_ID, scenarios=scenes, observe=ego_position).unwrapped)


def test_the_environment_checker_reports_nothing_about_the_default_view(scenes):
    check_env(gymnasium.make(ENV_ID, scenarios=scenes[:1]).unwrapped, skip_render_check=True)


def test_numbers_without_a_limit_have_an_endless_space(scenes):
    env = DriveEnv(scenes, observe=lambda observation: observation.agents.velocity[0])
    assert env.observation_space == gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)


def test_spaces_follow_from_dynamics_and_observation(scenes, single):
    assert single.action_space == gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    assert single.observation_space == gymnasium.spaces.Box(-10, 10, (4,), np.float32)
    wide = DriveEnv(scenes, env=ws.Env(ws.Bicycle(), EGO_ENV.config), observe=ego_position)
    low, high = ws.Bicycle().bounds
    assert wide.action_space == gymnasium.spaces.Box(low, high, dtype=np.float32)


def test_discrete_dynamics_give_a_discrete_space(scenes):
    dynamics = ws.Discrete(ws.Bicycle(), (2, 2))
    env = DriveEnv(scenes, env=ws.Env(dynamics, EGO_ENV.config), observe=ego_position)
    assert env.action_space == gymnasium.spaces.Discrete(9)


def test_episodes_go_from_scene_to_scene(scenes, single):
    _, info = single.reset(seed=0)
    assert info == {"scene": 0}
    ends = [single.step(np.zeros(2))[2:4] for _ in range(LENGTH)]
    assert ends == [(False, False)] * (LENGTH - 1) + [(False, True)]
    observation, info = single.reset()
    assert info == {"scene": 1} and observation[1] == pytest.approx(0.001)
    assert single.reset(options={"scene": 4})[1] == {"scene": 4}
    assert single.reset(seed=0)[1] == {"scene": 0}
    single.reset(options={"scene": len(scenes) - 1})


def test_the_reward_is_the_progress_minus_penalties(single):
    single.reset(seed=0)
    rewards = [single.step(np.zeros(2))[1] for _ in range(LENGTH)]
    np.testing.assert_allclose(rewards, 1 / LENGTH, atol=1e-5)
    single.reset(seed=0)
    # A sharp turn leads off the road.
    steps = [single.step(np.array([1.0, -1.0])) for _ in range(LENGTH)]
    (first,) = [index for index, step in enumerate(steps) if step[2]][:1]
    assert steps[first][4]["offroad"] == 1 and steps[first][1] < -0.5


def test_pictures(scenes):
    env = DriveEnv(scenes, observe=ego_position, render_mode="rgb_array")
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.render()
    env.reset(seed=0)
    picture = env.render()
    assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.std() > 0
    assert DriveEnv(scenes, observe=ego_position).render() is None


@pytest.mark.parametrize("mode", AutoresetMode)
def test_parallel_environments_equal_the_vector_environment_of_gymnasium(scenes, mode):
    """The reference is `SyncVectorEnv` with the same autoreset mode, over single environments."""
    reference = SyncVectorEnv(
        [lambda i=i: DriveEnv(scenes[i::NUM_ENVS], observe=ego_position) for i in range(NUM_ENVS)],
        autoreset_mode=mode,
    )
    vector = DriveVectorEnv(scenes, num_envs=NUM_ENVS, observe=ego_position, autoreset_mode=mode.value)
    assert vector.metadata["autoreset_mode"] == mode
    rng = np.random.default_rng(0)
    for seed in (7, None):
        vector_step, reference_step = vector.reset(seed=seed), reference.reset(seed=seed)
        np.testing.assert_array_equal(vector_step[0], reference_step[0])
        for _ in range(4 * LENGTH):
            # One environment turns sharply, so that not all end together.
            actions = rng.uniform(-0.1, 0.1, (NUM_ENVS, 2)).astype(np.float32)
            actions[rng.integers(NUM_ENVS)] = (1.0, -1.0)
            vector_step, reference_step = vector.step(actions), reference.step(actions)
            for ours, other in zip(vector_step[:4], reference_step[:4], strict=True):
                assert ours.dtype == other.dtype
                np.testing.assert_allclose(ours, other, atol=1e-6)
            infos = [vector_step[4], reference_step[4]]
            for info in (*infos, *(info.get("final_info", {}) for info in infos)):
                # Single environments count their own scenes.
                info.pop("scene", None), info.pop("_scene", None)
            same(*infos)
            ended = vector_step[2] | vector_step[3]
            if mode == AutoresetMode.DISABLED and ended.any():
                with pytest.raises(gymnasium.error.ResetNeeded, match=re.escape(str(np.flatnonzero(ended).tolist()))):
                    vector.step(actions)
                ours, other = (env.reset(options={"reset_mask": ended})[0] for env in (vector, reference))
                np.testing.assert_allclose(ours, other, atol=1e-6)


def test_each_environment_is_drawn(scenes):
    env = DriveVectorEnv(scenes, num_envs=2, observe=ego_position, render_mode="rgb_array")
    env.reset(seed=0)
    first, second = env.render()
    assert first.shape == second.shape and first.dtype == np.uint8 and (first != second).any()
    with pytest.raises(ValueError, match="reset_mask is not a Boolean array"):
        env.reset(options={"reset_mask": np.zeros(2, bool)})


def test_environments_reset_within_the_step_that_ends_them(vector):
    first, infos = vector.reset(seed=0)
    assert vector.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    np.testing.assert_array_equal(infos["scene"], [0, 1, 2])
    for _ in range(LENGTH - 1):
        observation, _, terminated, truncated, infos = vector.step(np.zeros((NUM_ENVS, 2), np.float32))
        assert not (terminated | truncated).any() and "final_obs" not in infos
    ended, _, terminated, truncated, infos = vector.step(np.zeros((NUM_ENVS, 2), np.float32))
    assert truncated.all() and not terminated.any()
    np.testing.assert_array_equal(infos["scene"], [3, 4, 5])
    # The observation is the start of the next scene: another lateral offset, and the initial arc length.
    np.testing.assert_allclose(ended[:, 1] - first[:, 1], 0.003, atol=1e-6)
    np.testing.assert_allclose(ended[:, 0], first[:, 0], atol=1e-6)
    # The final observation is one step beyond the previous one.
    final = np.stack(list(infos["final_obs"]))
    np.testing.assert_allclose(final[:, 0] - observation[:, 0], 0.01, atol=1e-6)
    np.testing.assert_allclose(infos["final_info"]["log_progress"], 1 / LENGTH, atol=1e-5)
    assert infos["_final_obs"].all() and infos["_final_info"].all() and "log_progress" not in infos


def test_each_environment_has_its_own_seed(scenes):
    env = DriveVectorEnv(scenes, num_envs=2, observe=ego_position)
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


# Run without an import of the package; gymnasium imports the module that the id names.
MAKE = """
import sys, gymnasium
name = "waymax_sim.gym:waymax_sim/Drive-v0"
assert "waymax_sim" not in sys.modules
env = gymnasium.make(name, scenarios="synthetic:3:1", render_mode="rgb_array")
assert env.render_mode == "rgb_array" and env.observation_space.shape == (1269,)
envs = gymnasium.make_vec(name, num_envs=2, scenarios="synthetic:3:1")
assert envs.observation_space.shape == (2, 1269)
"""


def test_an_environment_is_made_by_id_alone():
    subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", MAKE], check=True, timeout=600)


def test_an_environment_is_made_by_its_registered_id(scenes):
    env = gymnasium.make_vec(ENV_ID, num_envs=2, scenarios=scenes, observe=ego_position)
    assert isinstance(env, DriveVectorEnv) and env.num_envs == 2
    assert env.observation_space == batch_space(env.single_observation_space, 2)
    assert gymnasium.make(ENV_ID, scenarios=scenes, observe=ego_position).spec.id == ENV_ID


def test_invalid_arguments_are_rejected(scenes, single, vector):
    for env in (single, vector):
        with pytest.raises(gymnasium.error.ResetNeeded):
            env.step(env.action_space.sample())
    all_controlled = ws.Env(config=ws.EnvConfig(controlled="all"))
    for make in (DriveEnv, DriveVectorEnv):
        with pytest.raises(ValueError, match="drives the sdc, but the environment has controlled='all'"):
            make(scenes, env=all_controlled)
        with pytest.raises(ValueError, match="no scenarios"):
            make([])
    with pytest.raises(ValueError, match="num_envs=0"):
        DriveVectorEnv(scenes, num_envs=0)
    with pytest.raises(ValueError, match="render_mode='human'"):
        DriveEnv(scenes, render_mode="human")
    with pytest.raises(ValueError, match="different numbers of steps"):
        DriveEnv([scenes[0], take_steps(scenes[1])])


def take_steps(scenario):
    log, signals = tree_index(scenario.log, slice(10)), scenario.signals
    return ws.Scenario(**{**scenario.__dict__, "log": log, "signals": signals, "timestamps": scenario.timestamps[:10]})


@pytest.mark.parametrize("library", ["gymnasium", "pettingzoo", "dm_env"])
def test_a_missing_library_is_named(library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, f"waymax_sim.adapters.{library}", raising=False)
    with pytest.raises(ImportError, match=rf"needs {library}.*pip install 'waymax-sim\[rl\]'"):
        importlib.import_module(f"waymax_sim.adapters.{library}")


@pytest.mark.slow
def test_parallel_environments_are_faster_than_single_ones():
    """64 environments in one call against a Python loop over single ones: time per environment and step."""
    # No episode ends early on the first road, so only steps are measured.
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


def test_actions_that_are_not_finite_are_refused(single, vector):
    single.reset(seed=0)
    with pytest.raises(ValueError, match=r"action\[1\] is nan"):
        single.step(np.array([0.0, np.nan], np.float32))
    vector.reset(seed=0)
    actions = np.zeros((NUM_ENVS, 2), np.float32)
    actions[1, 0] = np.inf
    with pytest.raises(ValueError, match=r"action\[1, 0\] is inf"):
        vector.step(actions)
