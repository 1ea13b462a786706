"""Gymnasium environments of one scene, and of many scenes in one compiled call.

Importing this module registers `waymax_sim/Drive-v0`. `gymnasium.make` imports it for the id
`waymax_sim.gym:waymax_sim/Drive-v0`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, Key, Num

from waymax_sim.adapters import missing_library
from waymax_sim.adapters.loop import (
    EGO_ENV,
    EGO_VIEW,
    ObservationFn,
    SimulationLoop,
    ego_outputs,
    episode_key,
    jit_with_loop,
    random_key,
    require_sdc,
    step_ego,
    to_action,
)
from waymax_sim.adapters.scenes import load_scenes
from waymax_sim.adapters.spaces import action_space, observation_space
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.datatypes.state import State
from waymax_sim.env import Assignment, Env, EpisodeState, Policies
from waymax_sim.pytree import Array, stack, tree_index

try:
    import gymnasium
    from gymnasium.utils import seeding
    from gymnasium.vector import AutoresetMode
    from gymnasium.vector.utils import batch_space
except ImportError as error:
    raise missing_library("gymnasium") from error

ENV_ID = "waymax_sim/Drive-v0"
DEFAULT_SCENARIOS = "synthetic:0:8"
# Environments per call of a partial restart.
RESTART_BATCH = 8


class DriveEnv(gymnasium.Env):
    """Control of the sdc in a cyclic sequence of scenes, one per episode.

    `reset` starts the next scene of `scenarios`; with a seed it restarts the sequence; `reset(options={"scene": i})`
    selects scene i. `info` holds the index of the scene at a reset, and the valid metrics of the sdc at a step. An
    episode is truncated at the end of the record.

    Args:
      scenarios: A path as in `waymax_sim.load`, or a sequence of scenarios.
      env: Dynamics, metrics, rewards and terminating metrics; the caller must control the sdc.
      observe: Observation of the caller: an encoder, or any function of an `Observation` to a float32 array.
      traffic: A policy for all other agents, or an assignment; None for the log. Set `traffic` to an `Assignment` to
        replace weights: policies of equal structure share one program.
      pad_to: Axis lengths to pad scenes to (see `waymax_sim.adapters.scenes.load_scenes`).
      render_mode: "rgb_array" for images, or None.

    Raises:
      ValueError: The environment does not control the sdc, or the scenes are incompatible.
      DataError: A scene has no sdc; with `pad_to`, later scenes raise when their episode starts.
      ImportError: gymnasium is not installed.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self,
        scenarios: str | Sequence = DEFAULT_SCENARIOS,
        env: Env = EGO_ENV,
        observe: ObservationFn = EGO_VIEW,
        traffic: Policies = None,
        pad_to: Mapping[str, int] | None = None,
        render_mode: str | None = None,
    ):
        require_sdc(env)
        _check_render_mode(render_mode)
        self.render_mode = render_mode
        self._loop = SimulationLoop(env, observe)
        self.traffic = Assignment.from_policies(traffic)
        self._scenes = load_scenes(scenarios, pad_to, needs_sdc=True)
        self._reset, self._step = jit_with_loop(SimulationLoop.reset, self._loop), jit_with_loop(step_ego, self._loop)
        self._scenario = jax.device_put(self._scenes[0])
        self.metadata = self.metadata | {"render_fps": round(1 / self._scenario.time_step)}
        self._key, self._count, self._scene, self._episode = None, 0, 0, None
        self.observation_space = observation_space(self._loop, self._loop.observation_shape(self._scenario))
        self.action_space = action_space(self._loop)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Starts an episode in the next scene.

        Args:
          seed: Seed of all following episodes; restarts the sequence of scenes.
          options: {"scene": i} selects scene i.
        """
        super().reset(seed=seed)
        if seed is not None or self._key is None:
            self._key, self._count = random_key(self.np_random), 0
        scene = (options or {}).get("scene", self._count % len(self._scenes))
        if scene != self._scene:
            self._scenario, self._scene = jax.device_put(self._scenes[scene]), scene
        self._episode, observation, _ = self._reset(self._scenario, episode_key(self._key, self._count), self.traffic)
        self._count += 1
        return np.array(observation), {"scene": scene}

    def step(self, action: Any):
        """One step of the sdc.

        Raises:
          gymnasium.error.ResetNeeded: `reset` has not been called.
        """
        if self._episode is None:
            raise gymnasium.error.ResetNeeded("call reset before step")
        self._episode, observation, outputs = self._step(
            self._scenario, self._episode, to_action(action, self._loop), self.traffic
        )
        reward, terminated, truncated, metrics = jax.device_get(outputs)
        info = {name: value for name, (value, valid) in metrics.items() if valid}
        return np.array(observation), float(reward), bool(terminated), bool(truncated), info

    def render(self):
        """Image of the current state, [height, width, 3]; None without a render mode.

        Raises:
          gymnasium.error.ResetNeeded: `reset` has not been called.
        """
        if self.render_mode is None:
            return None
        if self._episode is None:
            raise gymnasium.error.ResetNeeded("call reset before render")
        return _image(self._scenario, jax.device_get(self._episode.state))


class DriveVectorEnv(gymnasium.vector.VectorEnv):
    """Many scenes in parallel, stepped by one compiled call.

    By default environments reset within the step that ends an episode (`AutoresetMode.SAME_STEP`): the observation is
    that of the next episode, and `infos["final_obs"]` and `infos["final_info"]` are those of the end. With `NEXT_STEP`
    they reset in the next step, whose action is ignored and whose reward is 0; with `DISABLED` the caller resets them
    by `reset(options={"reset_mask": mask})`. Environment i of n plays the scenes i, i + n, i + 2n, ..., modulo their
    number. A seed restarts the sequence: environment i has the seed `seed + i`, or the i-th of a list.
    `options={"scene": i}` is supported by the single `DriveEnv` only.

    Args:
      scenarios: A path as in `waymax_sim.load`, or a sequence of scenarios.
      num_envs: Number of parallel environments.
      env: Dynamics, metrics, rewards and terminating metrics; the caller must control the sdc.
      observe: Observation of the caller: an encoder, or any function of an `Observation` to a float32 array.
      traffic: A policy for all other agents, or an assignment; None for the log. Set `traffic` to an `Assignment` to
        replace weights: policies of equal structure share one program.
      pad_to: Axis lengths to pad scenes to (see `waymax_sim.adapters.scenes.load_scenes`).
      autoreset_mode: When environments reset, an `AutoresetMode` or its value.
      render_mode: "rgb_array" for an image of each environment, or None.

    Raises:
      ValueError: The environment does not control the sdc, the scenes are incompatible, or a mode is not known.
      DataError: A scene has no sdc; with `pad_to`, later scenes raise when their episode starts.
      ImportError: gymnasium is not installed.
    """

    metadata = {"render_modes": ["rgb_array"], "autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(
        self,
        scenarios: str | Sequence = DEFAULT_SCENARIOS,
        num_envs: int = 1,
        env: Env = EGO_ENV,
        observe: ObservationFn = EGO_VIEW,
        traffic: Policies = None,
        pad_to: Mapping[str, int] | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        render_mode: str | None = None,
    ):
        require_sdc(env)
        _check_render_mode(render_mode)
        if num_envs < 1:
            raise ValueError(f"num_envs={num_envs} is not a number of environments; give 1 or more")
        self.num_envs, self.render_mode = num_envs, render_mode
        self._mode = AutoresetMode(autoreset_mode)
        self._loop = SimulationLoop(env, observe)
        self.traffic = Assignment.from_policies(traffic)
        self._scenes = load_scenes(scenarios, pad_to, needs_sdc=True)
        self._restart, self._step = jit_with_loop(_restart, self._loop, donate=(0, 1)), jit_with_loop(_step, self._loop)
        self._reset = jit_with_loop(_reset, self._loop)
        first = self._scenes[0]
        fps = {"render_fps": round(1 / first.time_step)}
        self.metadata = self.metadata | {"autoreset_mode": self._mode} | fps
        self._shape = self._loop.observation_shape(first)
        self.single_observation_space = observation_space(self._loop, self._shape)
        self.single_action_space = action_space(self._loop)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._keys: Any = None
        self._counts = np.zeros(num_envs, int)
        self._playing = np.full(num_envs, -1)
        # Environments whose episode has ended and that have not been reset.
        self._ended = np.zeros(num_envs, bool)
        self._observations = np.zeros((num_envs, *self._shape), np.float32)
        self._batch: Any = None
        self._episodes: Any = None

    def reset(self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None):
        """Starts an episode in the next scene of every environment.

        Args:
          seed: Seed of all following episodes of the environments; see the class.
          options: {"reset_mask": mask} resets some environments only; the observations of the others are unchanged.

        Raises:
          ValueError: The mask is not a Boolean array [num_envs] that selects an environment.
        """
        selected = self._reset_mask(options)
        self._seed(seed)
        self._start_episodes(np.flatnonzero(selected), self._observations)
        self._ended = self._ended & ~selected
        return self._observations.copy(), {"scene": np.where(selected, self._playing, 0), "_scene": selected}

    def step(self, actions: Any):
        """One step of every environment.

        Raises:
          gymnasium.error.ResetNeeded: `reset` has not been called, or episodes have ended and autoreset is disabled.
        """
        if self._episodes is None:
            raise gymnasium.error.ResetNeeded("call reset before step")
        if self._mode == AutoresetMode.DISABLED and self._ended.any():
            ended = np.flatnonzero(self._ended).tolist()
            raise gymnasium.error.ResetNeeded(f"environments {ended} have ended: reset(options={{'reset_mask': mask}})")
        self._episodes, observations, outputs = self._step(
            self._batch, self._episodes, to_action(actions, self._loop), self.traffic
        )
        self._observations, (reward, terminated, truncated, metrics) = jax.tree.map(np.array, (observations, outputs))
        # Environments that reset instead of a step: only in the mode NEXT_STEP.
        waiting, final = self._ended, {}
        reward, terminated, truncated = (
            np.where(waiting, np.zeros((), each.dtype), each) for each in (reward, terminated, truncated)
        )
        done = terminated | truncated
        reset = done if self._mode == AutoresetMode.SAME_STEP else waiting
        infos = _metric_infos(metrics, ~reset)
        if reset.any():
            if self._mode == AutoresetMode.SAME_STEP:
                final = self._final_infos(metrics, reset)
            self._start_episodes(np.flatnonzero(reset), self._observations)
            infos |= final | {"scene": np.where(reset, self._playing, 0), "_scene": reset.copy()}
        self._ended = done & ~reset
        return self._observations.copy(), reward.astype(np.float64), terminated, truncated, infos

    def render(self):
        """An image of the current state of each environment, [height, width, 3]; None without a render mode.

        Raises:
          gymnasium.error.ResetNeeded: `reset` has not been called.
        """
        if self.render_mode is None:
            return None
        if self._episodes is None:
            raise gymnasium.error.ResetNeeded("call reset before render")
        batch, states = jax.device_get((self._batch, self._episodes.state))
        return tuple(_image(tree_index(batch, index), tree_index(states, index)) for index in range(self.num_envs))

    def _reset_mask(self, options: dict[str, Any] | None) -> np.ndarray:
        mask = (options or {}).get("reset_mask")
        if mask is None or self._episodes is None:
            return np.ones(self.num_envs, bool)
        mask = np.asarray(mask)
        if mask.shape != (self.num_envs,) or mask.dtype != bool or not mask.any():
            raise ValueError(f"reset_mask is not a Boolean array [{self.num_envs}] with a true entry")
        return mask

    def _final_infos(self, metrics: dict, done: np.ndarray) -> dict[str, Any]:
        """Observations and metrics of the ends of episodes, in gymnasium's format."""
        final = np.full(self.num_envs, None, object)
        for index in np.flatnonzero(done):
            final[index] = self._observations[index].copy()
        infos = {"final_obs": final, "final_info": _metric_infos(metrics, done)}
        return infos | {f"_{name}": done.copy() for name in infos}

    def _start_episodes(self, ended: np.ndarray, observations: np.ndarray) -> None:
        """Starts the next episode of the environments `ended`, and writes their first observations."""
        scenes = (ended + self._counts[ended] * self.num_envs) % len(self._scenes)
        if len(ended) == self.num_envs:
            # Records of equal length end together, in a single call.
            if not np.array_equal(scenes, self._playing):
                self._batch = jax.device_put(stack([self._scenes[int(scene)] for scene in scenes]))
            self._episodes, first = self._reset(self._batch, self._keys, self._counts.astype(np.int32), self.traffic)
            observations[:] = first
        else:
            for start in range(0, len(ended), RESTART_BATCH):
                # Batches are filled by repetition, so that one program serves any number of environments.
                batch = np.resize(np.arange(start, min(start + RESTART_BATCH, len(ended))), RESTART_BATCH)
                rows, fresh = ended[batch], stack([self._scenes[int(scene)] for scene in scenes[batch]])
                counts = self._counts[rows].astype(np.int32)
                restarted = self._restart(self._batch, self._episodes, self._keys, rows, fresh, counts, self.traffic)
                self._batch, self._episodes, first = restarted
                observations[rows] = first
        self._playing[ended] = scenes
        self._counts[ended] += 1

    def _seed(self, seed: int | Sequence[int | None] | None) -> None:
        """Sets the keys of environments with a seed, and of all environments without a key."""
        if seed is None or isinstance(seed, Sequence):
            seeds = [None] * self.num_envs if seed is None else list(seed)
        else:
            seeds = [int(seed) + index for index in range(self.num_envs)]
        if len(seeds) != self.num_envs:
            raise ValueError(f"{len(seeds)} seeds for {self.num_envs} environments; give one for each")
        has_keys = self._keys is not None
        fresh = [index for index, item in enumerate(seeds) if item is not None or not has_keys]
        keys = {index: random_key(seeding.np_random(seeds[index])[0]) for index in fresh}
        if keys:
            self._keys = jnp.stack([keys[i] if i in keys else self._keys[i] for i in range(self.num_envs)])
            self._counts[fresh] = 0


def make_vector_env(**options: Any) -> DriveVectorEnv:
    """`DriveVectorEnv` for `gymnasium.make_vec`, with the default autoreset mode of gymnasium and its wrappers.

    Args:
      options: Arguments of `DriveVectorEnv`; `autoreset_mode` is NEXT_STEP by default.
    """
    options.setdefault("autoreset_mode", AutoresetMode.NEXT_STEP)
    return DriveVectorEnv(**options)


def _check_render_mode(render_mode: str | None) -> None:
    if render_mode not in (None, "rgb_array"):
        raise ValueError(f"render_mode={render_mode!r} is not known; use 'rgb_array' or None")


def _image(scenario: Scenario, state: State) -> np.ndarray:
    """Image of a state on the host, [height, width, 3]."""
    from waymax_sim.viz import draw, to_image

    return to_image(draw(scenario, state.agents, step=int(state.step), controlled=scenario.agents.is_sdc))


def _reset(
    loop: SimulationLoop, batch: Scenario, keys: Key[Array, " B"], counts: Int[Array, " B"], traffic: Assignment
):
    def reset(scenario: Scenario, key: Key[Array, ""], count: Int[Array, ""]):
        return loop.reset(scenario, episode_key(key, count), traffic)[:2]

    return jax.vmap(reset)(batch, keys, counts)


def _step(
    loop: SimulationLoop, batch: Scenario, episodes: EpisodeState, actions: Num[Array, "B A"], traffic: Assignment
):
    step = jax.vmap(loop.step_ego, in_axes=(0, 0, 0, None))
    episodes, observations, out = step(batch, episodes, actions, traffic)
    return episodes, observations, jax.vmap(ego_outputs)(out, batch)


def _restart(
    loop: SimulationLoop,
    batch: Scenario,
    episodes: EpisodeState,
    keys: Key[Array, " B"],
    rows: Int[Array, " C"],
    scenarios: Scenario,
    counts: Int[Array, " C"],
    traffic: Assignment,
):
    """`_reset` of some rows of the batch, which may contain duplicates."""
    fresh, observations = _reset(loop, scenarios, keys[rows], counts, traffic)

    def set_rows(whole: Array, part: Array) -> Array:
        return whole.at[rows].set(part)

    return jax.tree.map(set_rows, batch, scenarios), jax.tree.map(set_rows, episodes, fresh), observations


def _metric_infos(metrics: dict[str, tuple[np.ndarray, np.ndarray]], selected: np.ndarray) -> dict[str, Any]:
    """Metrics of selected environments in gymnasium's format: values and masks, without metrics that are invalid."""
    infos = {}
    for name, (value, valid) in metrics.items():
        mask = valid & selected
        if mask.any():
            infos |= {name: np.where(mask, value, np.float32(0)), f"_{name}": mask}
    return infos


gymnasium.register(
    ENV_ID,
    entry_point="waymax_sim.adapters.gymnasium:DriveEnv",
    vector_entry_point="waymax_sim.adapters.gymnasium:make_vector_env",
)
