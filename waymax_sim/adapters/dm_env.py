"""dm_env environment of one scene."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from waymax_sim.adapters import missing_library
from waymax_sim.adapters.loop import (
    EGO_ENV,
    EGO_VIEW,
    ObservationFn,
    SimulationLoop,
    episode_key,
    jit_with_loop,
    random_key,
    require_sdc,
    step_ego,
    to_action,
)
from waymax_sim.adapters.scenes import load_scenes
from waymax_sim.env import Assignment, Env, Policies

try:
    import dm_env
    from dm_env import specs
except ImportError as error:
    raise missing_library("dm_env") from error


class DriveEnvironment(dm_env.Environment):
    """Control of the sdc in a cyclic sequence of scenes, one per episode.

    The final discount is 0 if a terminating metric ended the episode, and 1 at the end of the record.

    Args:
      scenarios: A path as in `waymax_sim.load`, or a sequence of scenarios.
      env: Dynamics, metrics, rewards and terminating metrics; the caller must control the sdc.
      observe: Observation of the caller: an encoder, or any function of an `Observation` to a float32 array.
      traffic: A policy for all other agents, or an assignment; None for the log. Set `traffic` to an `Assignment` to
        replace weights: policies of equal structure share one program.
      pad_to: Axis lengths to pad scenes to (see `waymax_sim.adapters.scenes.load_scenes`).
      seed: Seed of all episodes.

    Raises:
      ValueError: The environment does not control the sdc, or the scenes are incompatible.
      DataError: A scene has no sdc; with `pad_to`, later scenes raise when their episode starts.
      ImportError: dm_env is not installed.
    """

    def __init__(
        self,
        scenarios: str | Sequence,
        env: Env = EGO_ENV,
        observe: ObservationFn = EGO_VIEW,
        traffic: Policies = None,
        pad_to: Mapping[str, int] | None = None,
        seed: int = 0,
    ):
        require_sdc(env)
        self._loop = SimulationLoop(env, observe)
        self.traffic = Assignment.from_policies(traffic)
        self._scenes = load_scenes(scenarios, pad_to, needs_sdc=True)
        self._reset, self._step = jit_with_loop(SimulationLoop.reset, self._loop), jit_with_loop(step_ego, self._loop)
        self._scenario = jax.device_put(self._scenes[0])
        self._key, self._count, self._episode = random_key(np.random.default_rng(seed)), 0, None
        shape = self._loop.observation_shape(self._scenario)
        limit = self._loop.limit
        self._observation_spec = specs.BoundedArray(shape, np.float32, -limit, limit, name="observation")
        low, high = env.dynamics.bounds
        self._action_spec = specs.BoundedArray(low.shape, np.float32, low, high, name="action")
        if self._loop.num_actions is not None:
            self._action_spec = specs.DiscreteArray(self._loop.num_actions, name="action")

    def reset(self) -> dm_env.TimeStep:
        """The start of an episode in the next scene."""
        if self._count and len(self._scenes) > 1:
            self._scenario = jax.device_put(self._scenes[self._count % len(self._scenes)])
        self._episode, observation, _ = self._reset(self._scenario, episode_key(self._key, self._count), self.traffic)
        self._count += 1
        return dm_env.restart(np.array(observation))

    def step(self, action: Any) -> dm_env.TimeStep:
        """One step of the sdc; a reset before the first episode and after the end of one."""
        if self._episode is None:
            return self.reset()
        self._episode, observation, outputs = self._step(
            self._scenario, self._episode, to_action(action, self._loop), self.traffic
        )
        reward, terminated, truncated, _ = jax.device_get(outputs)
        observation, reward = np.array(observation), float(reward)
        if not (terminated or truncated):
            return dm_env.transition(reward, observation)
        self._episode = None
        end = dm_env.termination if terminated else dm_env.truncation
        return end(reward, observation)

    def observation_spec(self) -> specs.BoundedArray:
        """Bounded array of the observation."""
        return self._observation_spec

    def action_spec(self) -> specs.BoundedArray:
        """Bounds of the dynamics, or the number of discrete actions."""
        return self._action_spec
