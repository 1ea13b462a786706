"""PettingZoo: many agents of one scene that appear, act at the same time, and leave."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from waymax_sim.adapters import missing
from waymax_sim.adapters.loop import Observe, SimulationLoop, action_shape, compiled, episode_key, random_key, to_action
from waymax_sim.adapters.scenes import scenes_of
from waymax_sim.adapters.spaces import action_space, observation_space
from waymax_sim.datatypes.state import Action
from waymax_sim.dynamics import Bicycle
from waymax_sim.env import Assignment, Env, EnvConfig, Policies, select_agents
from waymax_sim.env.flat_view import FlatView

try:
    from pettingzoo import ParallelEnv
except ImportError as error:
    raise missing("pettingzoo") from error

DRIVE_ALL = Env(
    dynamics=Bicycle(normalized=True),
    config=EnvConfig(
        controlled="vehicle",
        metrics=("overlap", "offroad", "log_progress"),
        rewards=(("log_progress", 1.0), ("overlap", -1.0), ("offroad", -1.0)),
        terminate_on=("overlap", "offroad"),
    ),
)
EVERYONE = FlatView("all")


class DriveParallelEnv(ParallelEnv):
    """Drive all agents of `env.config.controlled` in one scene after another.

    Agents are called by their row, "agent_0" and so on. `possible_agents` are those of the present scene that the log
    has at any time from now on. An agent is in `agents` from when it appears until it is terminated or truncated; then
    it stays in the scene and coasts, as does one that is given no action. Agents are truncated where the record ends,
    or where they vanish with the log. `info` has the metrics of the agent that are valid.

    Args:
      scenarios: A path as for `waymax_sim.load`, or scenarios.
      env: Who is controlled, dynamics, metrics, rewards and what terminates.
      observe: What is observed: any function of an `Observation` to a float32 array with a row per agent.
      traffic: A policy for all other agents, or an assignment; None for the log. Set `traffic` to an `Assignment` to
        replace weights: policies of equal structure share one program.
      pad_to: Lengths to pad scenes to (see `waymax_sim.adapters.scenes.scenes_of`).

    Raises:
      ValueError: Metrics are for the sdc alone, or the scenes do not fit together.
      ImportError: pettingzoo or gymnasium is not installed.
    """

    metadata = {"name": "waymax_sim_drive_v0", "render_modes": []}  # noqa: RUF012

    def __init__(
        self,
        scenarios: str | Sequence,
        env: Env = DRIVE_ALL,
        observe: Observe = EVERYONE,
        traffic: Policies = None,
        pad_to: Mapping[str, int] | None = None,
    ):
        if env.config.evaluated == "sdc":
            raise ValueError("evaluated='sdc' leaves the other agents without a reward; use evaluated='all'")
        self._loop = SimulationLoop(_per_agent(env), observe)
        self.traffic = Assignment.of(traffic)
        self._scenes = scenes_of(scenarios, pad_to)
        self._reset, self._step = compiled(SimulationLoop.reset, self._loop), compiled(SimulationLoop.step, self._loop)
        self._key, self._count, self._episode = random_key(np.random.default_rng()), 0, None
        self.render_mode = None
        self._enter(0)
        rows = range(self._scenario.num_agents)
        shape = self._loop.observation_shape(self._scenario)[1:]
        self._observation_spaces = {_name(row): observation_space(self._loop, shape) for row in rows}
        self._action_spaces = {_name(row): action_space(self._loop) for row in rows}
        self.agents = []

    def observation_space(self, agent: str):
        """What an agent sees: numbers of one shape, within the limit of what is observed."""
        return self._observation_spaces[agent]

    def action_space(self, agent: str):
        """The bounds of the dynamics, or as many actions as it has."""
        return self._action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None):
        """The start of an episode in the next scene; with a seed, in the first one.

        Args:
          seed: Begins anew with this seed.
          options: {"scene": i} takes scene i.
        """
        if seed is not None:
            self._key, self._count = random_key(np.random.default_rng(seed)), 0
        self._enter((options or {}).get("scene", self._count % len(self._scenes)))
        self._episode, seen, _ = self._reset(self._scenario, episode_key(self._key, self._count), self.traffic)
        self._count += 1
        self._alive, seen = jax.tree.map(np.array, (self._episode.state.agents.valid & self._mine, seen))
        self._finished = np.zeros_like(self._alive)
        self.agents = _names(self._alive)
        return _by_name(self._alive, seen), {name: {} for name in self.agents}

    def step(self, actions: Mapping[str, Any]):
        """One step of all agents at once.

        Raises:
          RuntimeError: There was no reset yet.
        """
        if self._episode is None:
            raise RuntimeError("call reset before step")
        value = np.zeros((self._scenario.num_agents, *action_shape(self._loop)), to_action(0, self._loop).dtype)
        acts = np.zeros(len(value), bool)
        for name, action in actions.items():
            row = _row(name)
            value[row], acts[row] = to_action(action, self._loop), self._alive[row]
        self._episode, seen, out = self._step(
            self._scenario, self._episode, Action(value=value, valid=acts), self.traffic
        )
        there, seen, out = jax.tree.map(np.array, (self._episode.state.agents.valid & self._mine, seen, out))
        born = there & ~self._alive & ~self._finished & ~out.truncated
        told = self._alive | born
        # Who has just appeared is judged from the next step on.
        terminated = self._alive & out.agent_terminated
        truncated = self._alive & (out.truncated | (~there & ~terminated))
        self._finished |= terminated | truncated
        self._alive = told & ~self._finished
        self.agents = _names(self._alive)
        infos = {
            _name(row): {
                name: float(item.value[row])
                for name, item in out.metrics.items()
                if item.value.ndim and item.valid[row]
            }
            for row in np.flatnonzero(told)
        }
        rewards = {name: float(reward) for name, reward in _by_name(told, out.reward).items()}
        ends = ({name: bool(flag) for name, flag in _by_name(told, flags).items()} for flags in (terminated, truncated))
        return _by_name(told, seen), rewards, *ends, infos

    def render(self) -> None:
        """Draws nothing; see `waymax_sim.viz`."""

    def _enter(self, scene: int) -> None:
        scenario = self._scenes[scene]
        self._mine = np.asarray(select_agents(scenario, self._loop.env.config.controlled))
        later = np.asarray(scenario.log.valid)[int(scenario.current_step) :]
        comes = later.any(axis=0) if self._loop.env.config.spawn == "log" else later[0]
        self.possible_agents = _names(self._mine & comes)
        self._scenario = jax.device_put(scenario)


def _per_agent(env: Env) -> Env:
    """The environment in which the episode of each agent ends on its own."""
    return dataclasses.replace(env, config=dataclasses.replace(env.config, ends="agent"))


def _name(row: int | np.intp) -> str:
    return f"agent_{row}"


def _row(name: str) -> int:
    return int(name.removeprefix("agent_"))


def _names(mask: np.ndarray) -> list[str]:
    return [_name(row) for row in np.flatnonzero(mask)]


def _by_name(mask: np.ndarray, values: np.ndarray) -> dict[str, Any]:
    return {_name(row): np.array(values[row]) for row in np.flatnonzero(mask)}
