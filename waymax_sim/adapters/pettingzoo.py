"""PettingZoo environment: agents of one scene that appear, act simultaneously, and leave."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool

from waymax_sim.adapters import missing_library
from waymax_sim.adapters.loop import (
    ObservationFn,
    SimulationLoop,
    action_shape,
    episode_key,
    jit_with_loop,
    random_key,
    to_action,
)
from waymax_sim.adapters.scenes import load_scenes
from waymax_sim.adapters.spaces import action_space, observation_space
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.datatypes.state import Action
from waymax_sim.dynamics import Bicycle
from waymax_sim.env import Assignment, Env, EnvConfig, Policies, select_agents
from waymax_sim.env.episodes import terminates
from waymax_sim.env.flat_view import FlatView
from waymax_sim.metrics import MetricValue
from waymax_sim.pytree import Array

try:
    from pettingzoo import ParallelEnv
except ImportError as error:
    raise missing_library("pettingzoo") from error

MULTI_AGENT_ENV = Env(
    dynamics=Bicycle(normalized=True),
    config=EnvConfig(
        controlled="vehicle",
        metrics=("overlap", "offroad", "log_progress"),
        rewards=(("log_progress", 1.0), ("overlap", -1.0), ("offroad", -1.0)),
        terminate_on=("overlap", "offroad"),
    ),
)
ALL_AGENTS_VIEW = FlatView("all")


class DriveParallelEnv(ParallelEnv):
    """Control of all agents of `env.config.controlled` in a cyclic sequence of scenes, one per episode.

    Agents are named by their slot, "agent_0" and so on. `possible_agents` are those that the log contains at any time
    from the current step on. An agent is in `agents` from its appearance until it is terminated or truncated; then it
    remains in the scene and keeps its velocity and heading, as does an agent without an action. An agent for which a
    terminating metric holds when it appears, such as a vehicle parked off the road, is never in `agents`. Agents are
    truncated at the end of the record, or when they disappear with the log. `info` holds valid metrics of the agent.

    Args:
      scenarios: A path as in `waymax_sim.load`, or a sequence of scenarios.
      env: Controlled agents, dynamics, metrics, rewards and terminating metrics.
      observe: An encoder, or any function of an `Observation` to a float32 array with a row per agent.
      traffic: A policy for all other agents, or an assignment; None for the log. Set `traffic` to an `Assignment` to
        replace weights: policies of equal structure share one program.
      pad_to: Axis lengths to pad scenes to (see `waymax_sim.adapters.scenes.load_scenes`).

    Raises:
      ValueError: Metrics are evaluated for the sdc only, or the scenes are incompatible.
      ImportError: pettingzoo or gymnasium is not installed.
    """

    metadata = {"name": "waymax_sim_drive_v0", "render_modes": []}  # noqa: RUF012

    def __init__(
        self,
        scenarios: str | Sequence,
        env: Env = MULTI_AGENT_ENV,
        observe: ObservationFn = ALL_AGENTS_VIEW,
        traffic: Policies = None,
        pad_to: Mapping[str, int] | None = None,
    ):
        if env.config.evaluated == "sdc":
            raise ValueError("evaluated='sdc' leaves the other agents without a reward; use evaluated='all'")
        self._loop = SimulationLoop(_per_agent(env), observe)
        self.traffic = Assignment.from_policies(traffic)
        self._scenes = load_scenes(scenarios, pad_to)
        self._reset, self._step, self._is_terminal = (
            jit_with_loop(function, self._loop)
            for function in (SimulationLoop.reset, SimulationLoop.step, _is_terminal)
        )
        self._key, self._count, self._episode = random_key(np.random.default_rng()), 0, None
        self.render_mode = None
        self._select_scene(0)
        rows = range(self._scenario.num_agents)
        shape = self._loop.observation_shape(self._scenario)[1:]
        self._observation_spaces = {_name(row): observation_space(self._loop, shape) for row in rows}
        self._action_spaces = {_name(row): action_space(self._loop) for row in rows}
        self.agents = []

    def observation_space(self, agent: str):
        """Box of the observation of an agent."""
        return self._observation_spaces[agent]

    def action_space(self, agent: str):
        """Box of the bounds of the dynamics, or its discrete actions."""
        return self._action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None):
        """Starts an episode in the next scene.

        Args:
          seed: Seed of all following episodes; restarts the sequence of scenes.
          options: {"scene": i} selects scene i.
        """
        if seed is not None:
            self._key, self._count = random_key(np.random.default_rng(seed)), 0
        self._select_scene((options or {}).get("scene", self._count % len(self._scenes)))
        self._episode, observation, out = self._reset(self._scenario, episode_key(self._key, self._count), self.traffic)
        self._count += 1
        valid = self._episode.state.agents.valid & self._controlled
        valid, observation, out = jax.tree.map(np.array, (valid, observation, out))
        self._finished = valid & np.asarray(self._is_terminal(self._scenario, out.metrics))
        self._alive = valid & ~self._finished
        self.agents = _names(self._alive)
        return _by_name(self._alive, observation), {name: {} for name in self.agents}

    def step(self, actions: Mapping[str, Any]):
        """One simultaneous step of all agents.

        Raises:
          RuntimeError: `reset` has not been called.
        """
        if self._episode is None:
            raise RuntimeError("call reset before step")
        value = np.zeros((self._scenario.num_agents, *action_shape(self._loop)), to_action(0, self._loop).dtype)
        action_mask = np.zeros(len(value), bool)
        for name, action in actions.items():
            row = _row(name)
            value[row], action_mask[row] = to_action(action, self._loop, f"action of {name}"), self._alive[row]
        self._episode, observation, out = self._step(
            self._scenario, self._episode, Action(value=value, valid=action_mask), self.traffic
        )
        valid = self._episode.state.agents.valid & self._controlled
        valid, observation, out = jax.tree.map(np.array, (valid, observation, out))
        appeared = valid & ~self._alive & ~self._finished & ~out.truncated
        if appeared.any():
            self._finished |= appeared & np.asarray(self._is_terminal(self._scenario, out.metrics))
            appeared &= ~self._finished
        reported = self._alive | appeared
        # Agents that have just appeared are terminated from the next step on.
        terminated = self._alive & out.agent_terminated
        truncated = self._alive & (out.truncated | (~valid & ~terminated))
        self._finished |= terminated | truncated
        self._alive = reported & ~self._finished
        self.agents = _names(self._alive)
        infos = {
            _name(row): {
                name: float(item.value[row])
                for name, item in out.metrics.items()
                if item.value.ndim and item.valid[row]
            }
            for row in np.flatnonzero(reported)
        }
        rewards = {name: float(reward) for name, reward in _by_name(reported, out.reward).items()}
        ends = (
            {name: bool(flag) for name, flag in _by_name(reported, flags).items()} for flags in (terminated, truncated)
        )
        return _by_name(reported, observation), rewards, *ends, infos

    def render(self) -> None:
        """Not supported; see `waymax_sim.viz`."""

    def _select_scene(self, scene: int) -> None:
        scenario = self._scenes[scene]
        self._controlled = np.asarray(select_agents(scenario, self._loop.env.config.controlled))
        valid = np.asarray(scenario.log.valid)[int(scenario.current_step) :]
        is_possible = valid.any(axis=0) if self._loop.env.config.spawn == "log" else valid[0]
        self.possible_agents = _names(self._controlled & is_possible)
        self._scenario = jax.device_put(scenario)


def _is_terminal(loop: SimulationLoop, scenario: Scenario, metrics: dict[str, MetricValue]) -> Bool[Array, " N"]:
    """Agents for which a terminating metric holds, whether or not it ends an episode."""
    return terminates(loop.env.config, loop.env.metrics, loop.env.prepare(scenario), metrics)


def _per_agent(env: Env) -> Env:
    """The environment with a separate episode for each agent."""
    return dataclasses.replace(env, config=dataclasses.replace(env.config, ends="agent"))


def _name(row: int | np.intp) -> str:
    return f"agent_{row}"


def _row(name: str) -> int:
    return int(name.removeprefix("agent_"))


def _names(mask: np.ndarray) -> list[str]:
    return [_name(row) for row in np.flatnonzero(mask)]


def _by_name(mask: np.ndarray, values: np.ndarray) -> dict[str, Any]:
    return {_name(row): np.array(values[row]) for row in np.flatnonzero(mask)}
