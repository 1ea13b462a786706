"""Gymnasium habits of users: ids, standard wrappers, vector wrappers, in the usual order and with default arguments."""

from importlib.util import find_spec

import gymnasium
import numpy as np
import pytest
from gymnasium import wrappers
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from tests.adapters.roads import LENGTH, Positions, ego_position, roads
from waymax_sim.adapters.gymnasium import DriveVectorEnv

pytestmark = pytest.mark.compile_heavy

# The module before the colon is imported by `gymnasium.make`.
ID = "waymax_sim.gym:waymax_sim/Drive-v0"
NUM_ENVS = 3
COAST = np.zeros(2, np.float32)


class Tables(Positions):
    """The observation as a table of one row."""

    def __call__(self, observation):
        return super().__call__(observation)[None]


@pytest.fixture(scope="module")
def scenes():
    return roads(6)


def make(scenes, **options):
    return gymnasium.make(ID, **({"scenarios": scenes, "observe": ego_position} | options))


def make_vec(scenes, **options):
    return gymnasium.make_vec(ID, num_envs=NUM_ENVS, scenarios=scenes, observe=ego_position, **options)


def play(env, num_steps=LENGTH, action=COAST):
    """Observations, rewards and the last info of an episode."""
    observations, rewards = [env.reset(seed=0)[0]], []
    for _ in range(num_steps):
        observation, reward, terminated, truncated, info = env.step(action)
        observations.append(observation)
        rewards.append(reward)
        if terminated or truncated:
            break
    return np.array(observations), np.array(rewards), info


def test_make_and_the_environment_checker(scenes):
    env = make(scenes)
    assert env.spec.id == "waymax_sim/Drive-v0" and env.spec.name == "Drive" and env.spec.version == 0
    check_env(env.unwrapped, skip_render_check=True)
    assert env.observation_space.contains(env.reset(seed=1)[0])


def test_record_episode_statistics(scenes):
    """All of the logged path is driven: a return of 1."""
    _, rewards, info = play(wrappers.RecordEpisodeStatistics(make(scenes)))
    assert info["episode"]["r"] == pytest.approx(1.0, abs=1e-5) == rewards.sum()
    assert info["episode"]["l"] == LENGTH and info["episode"]["t"] > 0


def test_normalize_observation(scenes):
    """The running moments are those of the observations, up to the initial pseudo-count."""
    plain, *_ = play(make(scenes))
    env = wrappers.NormalizeObservation(make(scenes))
    play(env)
    np.testing.assert_allclose(env.obs_rms.mean, plain.mean(axis=0), atol=1e-3)
    np.testing.assert_allclose(env.obs_rms.count, len(plain), atol=1e-3)


def test_normalize_reward(scenes):
    """Rewards are divided by the standard deviation of the discounted return, which stays near its initial 1."""
    _, plain, _ = play(make(scenes))
    env = wrappers.NormalizeReward(make(scenes), gamma=0.9)
    _, rewards, _ = play(env)
    returns = [plain[: t + 1] @ 0.9 ** np.arange(t, -1, -1) for t in range(LENGTH)]
    np.testing.assert_allclose(env.return_rms.mean, np.mean(returns), atol=1e-3)
    np.testing.assert_allclose(rewards[-1], plain[-1] / np.sqrt(env.return_rms.var + env.epsilon), rtol=1e-5)


def test_flatten_observation(scenes):
    table = make(scenes, observe=Tables())
    assert table.observation_space.shape == (1, 4)
    flat = wrappers.FlattenObservation(table)
    assert flat.observation_space.shape == (4,)
    np.testing.assert_allclose(flat.reset(seed=0)[0], make(scenes).reset(seed=0)[0])


def test_the_usual_chain_of_wrappers(scenes):
    """As in the one-file PPO of CleanRL for continuous actions."""
    env = wrappers.RecordEpisodeStatistics(wrappers.FlattenObservation(make(scenes)))
    env = wrappers.NormalizeObservation(wrappers.ClipAction(env))
    env = wrappers.TransformObservation(env, lambda values: np.clip(values, -10, 10), env.observation_space)
    env = wrappers.TransformReward(wrappers.NormalizeReward(env), lambda reward: np.clip(reward, -10, 10))
    observations, rewards, info = play(env, action=np.array([9.0, 0.0], np.float32))
    assert np.isfinite(observations).all() and np.isfinite(rewards).all() and info["episode"]["l"] == LENGTH


@pytest.mark.skipif(find_spec("moviepy") is None, reason="moviepy is not installed; `pip install moviepy`")
def test_record_video(scenes, tmp_path):
    env = wrappers.RecordVideo(make(scenes, render_mode="rgb_array"), str(tmp_path / "videos"), disable_logger=True)
    play(env)
    env.close()
    (video,) = tmp_path.glob("videos/*.mp4")
    assert video.stat().st_size > 1000


def test_render_collection(scenes):
    """All images of an episode, one per state; the last two differ."""
    env = wrappers.RenderCollection(make(scenes, render_mode="rgb_array"))
    play(env, num_steps=1)
    first, second = env.render()
    assert first.shape == second.shape and first.dtype == np.uint8 and (first != second).any()


@pytest.mark.parametrize("mode", AutoresetMode)
def test_make_vec_counts_each_episode_in_all_autoreset_modes(scenes, mode):
    """Statistics of the vector wrapper over two episodes of each environment; a return of 1 each."""
    env = wrappers.vector.RecordEpisodeStatistics(make_vec(scenes, autoreset_mode=mode))
    env.reset(seed=0)
    returns, lengths = [], []
    for _ in range(2 * LENGTH + (mode == AutoresetMode.NEXT_STEP)):
        _, _, terminated, truncated, infos = env.step(np.tile(COAST, (NUM_ENVS, 1)))
        ended = terminated | truncated
        if ended.any():
            episode = infos["episode"]
            returns += episode["r"][ended].tolist()
            lengths += episode["l"][ended].tolist()
            if mode == AutoresetMode.DISABLED:
                env.reset(options={"reset_mask": ended})
    np.testing.assert_allclose(returns, np.ones(2 * NUM_ENVS), atol=1e-5)
    assert lengths == [LENGTH] * (2 * NUM_ENVS)


def test_vector_normalization(scenes):
    env = make_vec(scenes)
    plain = [env.reset(seed=0)[0]] + [env.step(np.tile(COAST, (NUM_ENVS, 1)))[0] for _ in range(LENGTH - 1)]
    normalized = wrappers.vector.NormalizeReward(wrappers.vector.NormalizeObservation(env))
    normalized.reset(seed=0)
    for _ in range(LENGTH - 1):
        observations, rewards, *_ = normalized.step(np.tile(COAST, (NUM_ENVS, 1)))
    np.testing.assert_allclose(normalized.env.obs_rms.mean, np.mean(plain, axis=(0, 1)), atol=1e-3)
    assert np.isfinite(observations).all() and np.isfinite(rewards).all() and rewards.shape == (NUM_ENVS,)


def test_a_seed_repeats_an_episode(scenes):
    first, *_ = play(make(scenes))
    np.testing.assert_array_equal(play(make(scenes))[0], first)
    env = make_vec(scenes)
    observations = env.reset(seed=4)[0]
    env.step(np.tile(COAST, (NUM_ENVS, 1)))
    np.testing.assert_array_equal(env.reset(seed=4)[0], observations)
    env.action_space.seed(0)
    sample = env.action_space.sample()
    env.action_space.seed(0)
    np.testing.assert_array_equal(env.action_space.sample(), sample)


def test_spaces_of_parallel_environments(scenes):
    env = make_vec(scenes)
    assert isinstance(env.unwrapped, DriveVectorEnv)
    # The default of gymnasium, which its vector wrappers expect.
    assert env.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    assert (
        env.observation_space.shape == (NUM_ENVS, 4) and env.single_observation_space == make(scenes).observation_space
    )
    assert env.action_space.shape == (NUM_ENVS, 2) and env.single_action_space == make(scenes).action_space
    assert env.observation_space.contains(env.reset(seed=0)[0])


def test_closing_is_repeatable(scenes):
    for env in (make(scenes), make_vec(scenes), wrappers.RecordEpisodeStatistics(make(scenes))):
        env.reset(seed=0)
        env.close()
        env.close()
