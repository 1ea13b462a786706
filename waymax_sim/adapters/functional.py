"""Pure functions that reset themselves, for training loops that are compiled whole, as with gymnax and Brax."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Key, Num, Shaped

from waymax_sim.adapters.loop import DRIVE, EGO_VIEW, Observe, SimulationLoop, episode_key
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.datatypes.state import CALLER, State
from waymax_sim.env import Assignment, Env, EpisodeState, Policies, StepOutput, begin_episode, combine_outputs, interact
from waymax_sim.env.auto_reset import AutoResetState, draw_scenario, reset_where
from waymax_sim.env.bank import ScenarioBank
from waymax_sim.env.observation import actions_of_rows
from waymax_sim.metrics import MetricValue
from waymax_sim.pytree import Array, pytree

__all__ = ["AutoResetState", "FunctionalEnv", "Transition"]


@pytree
class Transition:
    """The results of a step. Where the caller controls the sdc alone, no array has the axis K.

    Attributes:
      observation: The present observation: of the next episode where one ended, [K, ...].
      final_observation: The observation at the end of the step, before any reset. It costs nothing where unused.
      active: Agents that acted in this step: their transition counts.
      reward: 0 for agents that were not active.
      terminated: Agents whose episode a terminating metric has ended.
      truncated: Agents whose episode has ended otherwise: with the record, with the episode of the scenario, or because
        they vanished.
      episode_return: Sum of rewards of the episodes that ended, 0 elsewhere.
      episode_length: Number of steps of the episodes that ended, 0 elsewhere.
      agent: Agent slot of each row, -1 without an agent.
      invalid_action: Agents whose action was not finite: it counted as not given.
      metrics: Metrics of the state at the end of the step, [K] each, or [] of the scenario.
      scene: Index of the scenario of the step.
      done: Whether another scenario follows.
    """

    observation: Any
    final_observation: Any
    active: Bool[Array, "*K"]
    reward: Float[Array, "*K"]
    terminated: Bool[Array, "*K"]
    truncated: Bool[Array, "*K"]
    episode_return: Float[Array, "*K"]
    episode_length: Int[Array, "*K"]
    agent: Int[Array, "*K"]
    invalid_action: Bool[Array, "*K"]
    metrics: dict[str, MetricValue]
    scene: Int[Array, ""]
    done: Bool[Array, ""]


@dataclasses.dataclass(frozen=True)
class FunctionalEnv:
    """Controls the agents of `env.config.controlled` in one scenario of a bank after another.

    Pure, for one environment; batch it with `vmap` over keys, states and actions, and leave the bank and the traffic
    unmapped. With the sdc alone, actions are [A]; otherwise [K, A], one row for each of K controlled agents, the same
    agent in the same row during an episode.

    Attributes:
      env: Rules, dynamics of the actions, metrics and rewards.
      observe: Encoder of the observation, or any function of an `Observation` to arrays; its rows are those of
        `Observation.controlled`.
      sampling: Whether the next scenario is drawn by `ScenarioBank.weights`, never the same twice in a row, or follows
        `ScenarioBank.order`.
    """

    env: Env = DRIVE
    observe: Observe = EGO_VIEW
    sampling: Literal["random", "order"] = "random"

    def reset(
        self,
        bank: ScenarioBank,
        key: Key[Array, ""],
        traffic: Policies = None,
        position: Int[Array, ""] | int = 0,
        stride: Int[Array, ""] | int = 1,
    ) -> tuple[AutoResetState, Any]:
        """The first episode, and its observation.

        Args:
          bank: The scenarios (`build_bank`).
          key: Random key of all episodes of this environment.
          traffic: Policies of the agents that are not the caller's; None for the log.
          position: With `sampling="order"`, the entry of `bank.order` to begin with.
          stride: Entries from one episode to the next; the number of environments, so that they share the order.
        """
        first = jnp.asarray(position, jnp.int32), jnp.asarray(stride, jnp.int32)
        own = (key, jnp.asarray(0, jnp.int32), *first, jnp.asarray(-1, jnp.int32))
        return self._start((bank, Assignment.of(traffic)), own)

    def step(
        self,
        bank: ScenarioBank,
        running: AutoResetState,
        action: Num[Array, "*K A"],
        traffic: Policies = None,
        resets: bool = True,
    ) -> tuple[AutoResetState, Transition]:
        """One decision of the controlled agents; where the episode of the scenario ends, the next one starts.

        Args:
          bank: The scenarios.
          running: From `reset` or `step`.
          action: Actions for the dynamics, [K, A], or [A] for the sdc alone; those of inactive agents are ignored.
          traffic: The policies of `reset`; their weights may differ.
          resets: Whether the next episode starts where one ends; without it, the caller sees to `Transition.done`.
        """
        assignment, scenario = Assignment.of(traffic), bank.scenario(running.scene)
        before = running.episode.state
        # The caller's agents are in the same rows during an episode.
        rows, mine = self.env.controlled_rows(before, CALLER), self.env.active_mask(before, CALLER)
        values = action[None] if self._is_single else action
        actions = actions_of_rows(self.env.acting_rows(before, CALLER), values, bank.num_agents)
        episode, seen = interact(self.env, scenario, running.episode, assignment, actions)
        out = combine_outputs(self.env, seen)
        # A scenario that was replaced in the meantime is another one: the step means nothing.
        is_stale = bank.version[running.scene] != running.version
        active = _at(mine, rows) & ~is_stale
        done, terminated, truncated = self._ends(episode.state, out, rows, active, is_stale)
        reward = jnp.where(active, _at(out.reward, rows), 0.0)
        returns, lengths = running.returns + reward, running.lengths + active.astype(jnp.int32)
        ended = jnp.logical_or(terminated, truncated)
        running = dataclasses.replace(
            running,
            episode=episode,
            returns=jnp.where(ended, 0.0, returns),
            lengths=jnp.where(ended, 0, lengths),
        )
        final = self._encode(scenario, episode)
        following = running.count + 1, running.position + running.stride, running.stride, running.scene
        current = _variable(running), final
        scene, (fresh, observation) = running.scene, current
        if resets:
            fresh, observation = reset_where(
                lambda shared, own: _first_variable(self._start(shared, own)),
                (bank, assignment),
                (running.key, *following),
                done,
                current,
            )
        running = dataclasses.replace(running, **fresh)
        single = self._single
        return running, Transition(
            observation=observation,
            final_observation=final,
            active=single(active),
            reward=single(reward),
            terminated=single(terminated),
            truncated=single(truncated),
            episode_return=single(jnp.where(ended, returns, 0.0)),
            episode_length=single(jnp.where(ended, lengths, 0)),
            agent=single(rows),
            invalid_action=single(_at(out.invalid_action, rows)),
            metrics={name: self._of_rows(value, rows) for name, value in out.metrics.items()},
            scene=scene,
            done=done,
        )

    def _start(self, shared: tuple[ScenarioBank, Assignment], own: tuple) -> tuple[AutoResetState, Any]:
        """An episode in the next scenario, and its observation."""
        (bank, assignment), (key, count, position, stride, current) = shared, own
        episode_own = episode_key(key, count)
        if self.sampling == "random":
            scene = draw_scenario(bank, jax.random.fold_in(episode_own, 0), current)
        else:
            scene = bank.order[position % bank.order.shape[0]]
        scenario = bank.scenario(scene)
        first = jax.random.fold_in(episode_own, 1)
        episode = begin_episode(self.env, scenario, assignment, first, bank.controlled[scene])
        num_rows = self.env.max_controlled(bank.num_agents)
        running = AutoResetState(
            episode=episode,
            scene=scene,
            version=bank.version[scene],
            count=count,
            position=position,
            stride=stride,
            returns=jnp.zeros(num_rows),
            lengths=jnp.zeros(num_rows, jnp.int32),
            key=key,
        )
        return running, self._encode(scenario, episode)

    def _ends(
        self,
        state: State,
        out: StepOutput,
        rows: Int[Array, " K"],
        active: Bool[Array, " K"],
        is_stale: Bool[Array, ""],
    ) -> tuple[Bool[Array, ""], Bool[Array, " K"], Bool[Array, " K"]]:
        """Whether the episode of the scenario ends, and the agents that end terminated and truncated."""
        terminated = active & _at(out.agent_terminated, rows)
        config = self.env.config
        over = out.terminated
        if config.ends == "agent":
            # Agents that are absent may appear where the log says so.
            there = state.agents.valid | (config.spawn == "log")
            over = ~jnp.any((state.controller == CALLER) & ~state.ended & there) & (config.at_end != "respawn")
        done = out.truncated | over | is_stale
        vanished = ~_at(state.agents.valid, rows) & ~terminated
        return done, terminated, active & ~terminated & (done | vanished)

    def _encode(self, scenario: Scenario, episode: EpisodeState) -> Any:
        return SimulationLoop(self.env, self.observe).encode(scenario, episode)

    @property
    def _is_single(self) -> bool:
        return self.env.config.controlled == "sdc"

    def _single(self, rows: Any) -> Any:
        """Rows without the axis K where the sdc is the only one."""
        return jax.tree.map(lambda leaf: leaf[0], rows) if self._is_single else rows

    def _of_rows(self, value: MetricValue, rows: Int[Array, " K"]) -> MetricValue:
        if not value.value.ndim:
            return value
        return self._single(MetricValue(_at(value.value, rows), _at(value.valid, rows)))


def _at(values: Shaped[Array, " N"], rows: Int[Array, " K"]) -> Shaped[Array, " K"]:
    """Values of agents by slot; zero or False where a row is -1."""
    picked = values[jnp.maximum(rows, 0)]
    return jnp.where(rows >= 0, picked, jnp.zeros((), values.dtype))


def _variable(running: AutoResetState) -> dict[str, Any]:
    """The parts of the state that a new episode replaces."""
    names = ("episode", "scene", "version", "count", "position", "returns", "lengths")
    return {name: getattr(running, name) for name in names}


def _first_variable(started: tuple[AutoResetState, Any]) -> tuple[dict[str, Any], Any]:
    return _variable(started[0]), started[1]
