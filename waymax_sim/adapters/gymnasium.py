"""Gymnasium: one scene at a time, or many side by side in one compiled call.

Importing this module registers `waymax_sim/Drive-v0` for `gymnasium.make` and `gymnasium.make_vec`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, Key, Num

from waymax_sim.adapters import missing
from waymax_sim.adapters.loop import (
    DRIVE,
    EGO_VIEW,
    Observe,
    SimulationLoop,
    compiled,
    ego_outputs,
    episode_key,
    random_key,
    require_sdc,
    step_ego,
    to_action,
)
from waymax_sim.adapters.scenes import scenes_of
from waymax_sim.adapters.spaces import action_space, observation_space
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.env import Assignment, Env, EpisodeState, Policies
from waymax_sim.pytree import Array, stack

try:
    import gymnasium
    from gymnasium.utils import seeding
    from gymnasium.vector import AutoresetMode
    from gymnasium.vector.utils import batch_space
except ImportError as error:
    raise missing("gymnasium") from error

ID = "waymax_sim/Drive-v0"
SCENES = "synthetic:0:8"
# So many scenes are restarted in one call where not all end together.
RESTARTED = 8


class DriveEnv(gymnasium.Env):
    """Drive the sdc in one scene after another.

    `reset` takes the next scene of `scenarios`, and after the last one the first; with a seed it begins with the first
    again. `reset(options={"scene": i})` takes scene i. `info` has the number of the scene at a reset, and the metrics
    of the sdc that are valid at a step. An episode is truncated where the record ends.

    Args:
      scenarios: A path as for `waymax_sim.load`, or scenarios.
      env: Dynamics, metrics, rewards and what terminates; the caller must control the sdc.
      observe: What is observed: any function of an `Observation` to a float32 array.
      traffic: A policy for all other agents, or an assignment; None for the log. Set `traffic` to an `Assignment` to
        replace weights: policies of equal structure share one program.
      pad_to: Lengths to pad scenes to (see `waymax_sim.adapters.scenes.scenes_of`).
      render_mode: "rgb_array" for pictures, or None.

    Raises:
      ValueError: The environment does not control the sdc, or the scenes do not fit together.
      ImportError: gymnasium is not installed.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self,
        scenarios: str | Sequence = SCENES,
        env: Env = DRIVE,
        observe: Observe = EGO_VIEW,
        traffic: Policies = None,
        pad_to: Mapping[str, int] | None = None,
        render_mode: str | None = None,
    ):
        require_sdc(env)
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode={render_mode!r} is not known; use 'rgb_array' or None")
        self.render_mode = render_mode
        self._loop = SimulationLoop(env, observe)
        self.traffic = Assignment.of(traffic)
        self._scenes = scenes_of(scenarios, pad_to)
        self._reset, self._step = compiled(SimulationLoop.reset, self._loop), compiled(step_ego, self._loop)
        self._scenario = jax.device_put(self._scenes[0])
        self._key, self._count, self._scene, self._episode = None, 0, 0, None
        self.observation_space = observation_space(self._loop, self._loop.observation_shape(self._scenario))
        self.action_space = action_space(self._loop)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """The start of an episode in the next scene."""
        super().reset(seed=seed)
        if seed is not None or self._key is None:
            self._key, self._count = random_key(self.np_random), 0
        scene = (options or {}).get("scene", self._count % len(self._scenes))
        if scene != self._scene:
            self._scenario, self._scene = jax.device_put(self._scenes[scene]), scene
        self._episode, seen, _ = self._reset(self._scenario, episode_key(self._key, self._count), self.traffic)
        self._count += 1
        return np.array(seen), {"scene": scene}

    def step(self, action: Any):
        """One step of the sdc.

        Raises:
          gymnasium.error.ResetNeeded: There was no reset yet.
        """
        if self._episode is None:
            raise gymnasium.error.ResetNeeded("call reset before step")
        self._episode, seen, told = self._step(
            self._scenario, self._episode, to_action(action, self._loop), self.traffic
        )
        reward, terminated, truncated, metrics = jax.device_get(told)
        info = {name: value for name, (value, valid) in metrics.items() if valid}
        return np.array(seen), float(reward), bool(terminated), bool(truncated), info

    def render(self):
        """A picture of now, [height, width, 3], or None without a render mode.

        Raises:
          gymnasium.error.ResetNeeded: There was no reset yet.
        """
        if self.render_mode is None:
            return None
        if self._episode is None:
            raise gymnasium.error.ResetNeeded("call reset before render")
        from waymax_sim.viz import draw, to_image

        state = jax.device_get(self._episode.state)
        return to_image(
            draw(self._scenario, state.agents, step=int(state.step), controlled=self._scenario.agents.is_sdc)
        )


class DriveVectorEnv(gymnasium.vector.VectorEnv):
    """Many scenes side by side, stepped by one compiled call.

    A scene that ends is followed within the same step (`AutoresetMode.SAME_STEP`): the observation is that of the next
    episode, and `infos["final_obs"]` and `infos["final_info"]` are those of the end. Environment i of n plays the
    scenes i, i + n, i + 2n, ..., counted around. A seed begins anew: environment i has the seed `seed + i`, or the
    i-th of a list. `options={"scene": i}` is for the single `DriveEnv` only.

    Args:
      scenarios: A path as for `waymax_sim.load`, or scenarios.
      num_envs: How many scenes are played side by side.
      env: Dynamics, metrics, rewards and what terminates; the caller must control the sdc.
      observe: What is observed: any function of an `Observation` to a float32 array.
      traffic: A policy for all other agents, or an assignment; None for the log. Set `traffic` to an `Assignment` to
        replace weights: policies of equal structure share one program.
      pad_to: Lengths to pad scenes to (see `waymax_sim.adapters.scenes.scenes_of`).

    Raises:
      ValueError: The environment does not control the sdc, or the scenes do not fit together.
      ImportError: gymnasium is not installed.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(
        self,
        scenarios: str | Sequence = SCENES,
        num_envs: int = 1,
        env: Env = DRIVE,
        observe: Observe = EGO_VIEW,
        traffic: Policies = None,
        pad_to: Mapping[str, int] | None = None,
    ):
        require_sdc(env)
        if num_envs < 1:
            raise ValueError(f"num_envs={num_envs} is not a number of environments; give 1 or more")
        self.num_envs = num_envs
        self._loop = SimulationLoop(env, observe)
        self.traffic = Assignment.of(traffic)
        self._scenes = scenes_of(scenarios, pad_to)
        self._restart, self._step = compiled(_restart, self._loop, donate=(0, 1)), compiled(_step, self._loop)
        self._reset = compiled(_reset, self._loop)
        first = self._scenes[0]
        self._shape = self._loop.observation_shape(first)
        self.single_observation_space = observation_space(self._loop, self._shape)
        self.single_action_space = action_space(self._loop)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._keys: Any = None
        self._counts = np.zeros(num_envs, int)
        self._playing = np.full(num_envs, -1)
        self._batch: Any = None
        self._episodes: Any = None

    def reset(self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None):
        """The start of an episode in the next scene of every environment."""
        self._seed(seed)
        seen = np.zeros((self.num_envs, *self._shape), np.float32)
        self._begin(np.arange(self.num_envs), seen)
        return seen, {"scene": self._playing.copy(), "_scene": np.ones(self.num_envs, bool)}

    def step(self, actions: Any):
        """One step of every environment.

        Raises:
          gymnasium.error.ResetNeeded: There was no reset yet.
        """
        if self._episodes is None:
            raise gymnasium.error.ResetNeeded("call reset before step")
        self._episodes, seen, told = self._step(
            self._batch, self._episodes, to_action(actions, self._loop), self.traffic
        )
        seen, (reward, terminated, truncated, metrics) = jax.tree.map(np.array, (seen, told))
        done = terminated | truncated
        infos = _metric_infos(metrics, ~done)
        if done.any():
            ended = np.flatnonzero(done)
            final = np.full(self.num_envs, None, object)
            for index in ended:
                final[index] = seen[index].copy()
            self._begin(ended, seen)
            infos |= {"final_obs": final, "_final_obs": done.copy()}
            infos |= {"final_info": _metric_infos(metrics, done), "_final_info": done.copy()}
            infos |= {"scene": np.where(done, self._playing, 0), "_scene": done.copy()}
        return seen, reward.astype(np.float64), terminated, truncated, infos

    def _begin(self, ended: np.ndarray, seen: np.ndarray) -> None:
        """Puts the next scene in the place of each that ended, and what is seen of it in `seen`."""
        scenes = (ended + self._counts[ended] * self.num_envs) % len(self._scenes)
        if len(ended) == self.num_envs:
            # Records of equal length end together: one call for all.
            if not np.array_equal(scenes, self._playing):
                self._batch = jax.device_put(stack([self._scenes[int(scene)] for scene in scenes]))
            self._episodes, first = self._reset(self._batch, self._keys, self._counts.astype(np.int32), self.traffic)
            seen[:] = first
        else:
            for start in range(0, len(ended), RESTARTED):
                # The last ones are repeated until there are as many as always: one program for any number.
                some = np.resize(np.arange(start, min(start + RESTARTED, len(ended))), RESTARTED)
                rows, fresh = ended[some], stack([self._scenes[int(scene)] for scene in scenes[some]])
                counts = self._counts[rows].astype(np.int32)
                put = self._restart(self._batch, self._episodes, self._keys, rows, fresh, counts, self.traffic)
                self._batch, self._episodes, first = put
                seen[rows] = first
        self._playing[ended] = scenes
        self._counts[ended] += 1

    def _seed(self, seed: int | Sequence[int | None] | None) -> None:
        """Gives new keys to the environments that have a seed, and to all that have no key yet."""
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


def _reset(
    loop: SimulationLoop, batch: Scenario, keys: Key[Array, " B"], counts: Int[Array, " B"], traffic: Assignment
):
    def one(scenario: Scenario, key: Key[Array, ""], count: Int[Array, ""]):
        return loop.reset(scenario, episode_key(key, count), traffic)[:2]

    return jax.vmap(one)(batch, keys, counts)


def _step(
    loop: SimulationLoop, batch: Scenario, episodes: EpisodeState, actions: Num[Array, "B A"], traffic: Assignment
):
    step = jax.vmap(loop.step_ego, in_axes=(0, 0, 0, None))
    episodes, seen, out = step(batch, episodes, actions, traffic)
    return episodes, seen, jax.vmap(ego_outputs)(out, batch)


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
    """As `_reset`, for some rows of the batch; rows may be named twice."""
    fresh, seen = _reset(loop, scenarios, keys[rows], counts, traffic)

    def put(whole: Array, part: Array) -> Array:
        return whole.at[rows].set(part)

    return jax.tree.map(put, batch, scenarios), jax.tree.map(put, episodes, fresh), seen


def _metric_infos(metrics: dict[str, tuple[np.ndarray, np.ndarray]], wanted: np.ndarray) -> dict[str, Any]:
    """Metrics as gymnasium puts them together: values with a mask, and no entry where there is none."""
    infos = {}
    for name, (value, valid) in metrics.items():
        known = valid & wanted
        if known.any():
            infos |= {name: np.where(known, value, np.float32(0)), f"_{name}": known}
    return infos


gymnasium.register(
    ID,
    entry_point="waymax_sim.adapters.gymnasium:DriveEnv",
    vector_entry_point="waymax_sim.adapters.gymnasium:DriveVectorEnv",
)
