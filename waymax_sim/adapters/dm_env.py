"""dm_env: one scene at a time."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from waymax_sim.adapters import missing
from waymax_sim.adapters.loop import (
    DRIVE,
    EGO_VIEW,
    Observe,
    SimulationLoop,
    compiled,
    episode_key,
    random_key,
    require_sdc,
    step_ego,
    to_action,
)
from waymax_sim.adapters.scenes import scenes_of
from waymax_sim.env import Assignment, Env, Policies

try:
    import dm_env
    from dm_env import specs
except ImportError as error:
    raise missing("dm_env") from error


class DriveEnvironment(dm_env.Environment):
    """Drive the sdc in one scene after another; after the last one comes the first.

    The discount is 0 where a terminating metric ended the episode, and 1 where the record ended.

    Args:
      scenarios: A path as for `waymax_sim.load`, or scenarios.
      env: Dynamics, metrics, rewards and what terminates; the caller must control the sdc.
      observe: What is observed: any function of an `Observation` to a float32 array.
      traffic: A policy for all other agents, or an assignment; None for the log. Set `traffic` to an `Assignment` to
        replace weights: policies of equal structure share one program.
      pad_to: Lengths to pad scenes to (see `waymax_sim.adapters.scenes.scenes_of`).
      seed: Seed of all episodes.

    Raises:
      ValueError: The environment does not control the sdc, or the scenes do not fit together.
      ImportError: dm_env is not installed.
    """

    def __init__(
        self,
        scenarios: str | Sequence,
        env: Env = DRIVE,
        observe: Observe = EGO_VIEW,
        traffic: Policies = None,
        pad_to: Mapping[str, int] | None = None,
        seed: int = 0,
    ):
        require_sdc(env)
        self._loop = SimulationLoop(env, observe)
        self.traffic = Assignment.of(traffic)
        self._scenes = scenes_of(scenarios, pad_to)
        self._reset, self._step = compiled(SimulationLoop.reset, self._loop), compiled(step_ego, self._loop)
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
        self._episode, seen, _ = self._reset(self._scenario, episode_key(self._key, self._count), self.traffic)
        self._count += 1
        return dm_env.restart(np.array(seen))

    def step(self, action: Any) -> dm_env.TimeStep:
        """One step of the sdc, or a reset after the end of an episode and before the first."""
        if self._episode is None:
            return self.reset()
        self._episode, seen, told = self._step(
            self._scenario, self._episode, to_action(action, self._loop), self.traffic
        )
        reward, terminated, truncated, _ = jax.device_get(told)
        seen, reward = np.array(seen), float(reward)
        if not (terminated or truncated):
            return dm_env.transition(reward, seen)
        self._episode = None
        return dm_env.termination(reward, seen) if terminated else dm_env.truncation(reward, seen)

    def observation_spec(self) -> specs.BoundedArray:
        """Numbers of one shape within the limit of what is observed."""
        return self._observation_spec

    def action_spec(self) -> specs.BoundedArray:
        """The bounds of the dynamics, or as many actions as it has."""
        return self._action_spec
