"""Environment of pure functions with automatic resets, as in gymnax and Brax, for fully compiled training loops."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Key, Num, Shaped

from waymax_sim.adapters.loop import EGO_ENV, EGO_VIEW, ObservationFn, SimulationLoop, episode_key
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.datatypes.state import CALLER, State
from waymax_sim.env import Assignment, Env, EpisodeState, Policies, StepOutput, begin_episode, combine_outputs, interact
from waymax_sim.env.auto_reset import AutoResetState, draw_scenario, reset_where
from waymax_sim.env.bank import ScenarioBank
from waymax_sim.env.observation import scatter_row_actions
from waymax_sim.metrics import MetricValue
from waymax_sim.pytree import Array, pytree

__all__ = ["AutoResetState", "FunctionalEnv", "Transition"]


@pytree
class Transition:
    """The results of a step. If the caller controls the sdc alone, no array has the axis K.

    Attributes:
      observation: The current observation: that of the next episode if one has ended, [K, ...].
      final_observation: The observation at the end of the step, before any reset; not computed if unused.
      active: Mask of the agents that acted in this step, whose transitions are valid.
      reward: Rewards, 0 for inactive agents.
      terminated: Agents whose episode a terminating metric has ended.
      truncated: Agents whose episode has ended with the record, with the episode of the scenario, or because they
        disappeared.
      episode_return: Sum of rewards of the episodes that ended, 0 elsewhere.
      episode_length: Number of steps of the episodes that ended, 0 elsewhere.
      agent: Agent slot of each row, -1 without an agent.
      invalid_action: Agents whose action was not finite and therefore ignored.
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
    """Control of the agents of `env.config.controlled` in a sequence of scenarios of a bank, one per episode.

    Pure, for one environment; batch it with `vmap` over keys, states and actions, and leave the bank and the traffic
    unmapped. Actions are [A] for the sdc alone, otherwise [K, A] with a row for each controlled agent. An agent keeps
    its row during an episode.

    Attributes:
      env: Rules, dynamics of the actions, metrics and rewards.
      observe: Encoder of the observation, or any function of an `Observation` to arrays; its rows are those of
        `Observation.controlled`.
      sampling: Whether the next scenario is drawn with `ScenarioBank.weights`, without immediate repetition, or follows
        `ScenarioBank.order`.
    """

    env: Env = EGO_ENV
    observe: ObservationFn = EGO_VIEW
    sampling: Literal["random", "order"] = "random"

    def reset(
        self,
        bank: ScenarioBank,
        key: Key[Array, ""],
        traffic: Policies = None,
        position: Int[Array, ""] | int = 0,
        stride: Int[Array, ""] | int = 1,
    ) -> tuple[AutoResetState, Any]:
        """Starts the first episode; returns the state and the observation.

        Args:
          bank: The scenarios (`build_bank`).
          key: Random key of all episodes of this environment.
          traffic: Policies of agents other than the caller's; None for the log.
          position: Position of the first scenario in `bank.order`, for `sampling="order"`.
          stride: Increment of the position per episode: the number of environments, if they share the order.
        """
        first = jnp.asarray(position, jnp.int32), jnp.asarray(stride, jnp.int32)
        own = (key, jnp.asarray(0, jnp.int32), *first, jnp.asarray(-1, jnp.int32))
        return self._start((bank, Assignment.from_policies(traffic)), own)

    def step(
        self,
        bank: ScenarioBank,
        env_state: AutoResetState,
        action: Num[Array, "*K A"],
        traffic: Policies = None,
        resets: bool = True,
    ) -> tuple[AutoResetState, Transition]:
        """One decision of the controlled agents, and a reset if the episode of the scenario ends.

        Args:
          bank: The scenarios.
          env_state: From `reset` or `step`.
          action: Inputs of the dynamics, [K, A], or [A] for the sdc alone; those of inactive agents are ignored.
          traffic: The policies of `reset`; their weights may differ.
          resets: Whether to reset; otherwise the caller must reset environments with `Transition.done`.
        """
        assignment, scenario = Assignment.from_policies(traffic), bank.scenario(env_state.scene)
        before = env_state.episode.state
        rows, active_mask = self.env.controlled_rows(before, CALLER), self.env.active_mask(before, CALLER)
        values = action[None] if self._is_single else action
        actions = scatter_row_actions(self.env.acting_rows(before, CALLER), values, bank.num_agents)
        episode, interaction = interact(self.env, scenario, env_state.episode, assignment, actions)
        out = combine_outputs(self.env, interaction)
        # If the scenario has been replaced since the last step, its transitions are invalid.
        is_stale = bank.version[env_state.scene] != env_state.version
        active = _gather_rows(active_mask, rows) & ~is_stale
        done, terminated, truncated = self._ends(episode.state, out, rows, active, is_stale)
        reward = jnp.where(active, _gather_rows(out.reward, rows), 0.0)
        returns, lengths = env_state.returns + reward, env_state.lengths + active.astype(jnp.int32)
        ended = jnp.logical_or(terminated, truncated)
        env_state = dataclasses.replace(
            env_state,
            episode=episode,
            returns=jnp.where(ended, 0.0, returns),
            lengths=jnp.where(ended, 0, lengths),
        )
        final = self._encode(scenario, episode)
        following = env_state.count + 1, env_state.position + env_state.stride, env_state.stride, env_state.scene
        current = _episode_fields(env_state), final
        scene, (fresh, observation) = env_state.scene, current
        if resets:
            fresh, observation = reset_where(
                self._start_fields,
                (bank, assignment),
                (env_state.key, *following),
                done,
                current,
            )
        env_state = dataclasses.replace(env_state, **fresh)
        squeeze = self._squeeze_sdc
        return env_state, Transition(
            observation=observation,
            final_observation=final,
            active=squeeze(active),
            reward=squeeze(reward),
            terminated=squeeze(terminated),
            truncated=squeeze(truncated),
            episode_return=squeeze(jnp.where(ended, returns, 0.0)),
            episode_length=squeeze(jnp.where(ended, lengths, 0)),
            agent=squeeze(rows),
            invalid_action=squeeze(_gather_rows(out.invalid_action, rows)),
            metrics={name: self._gather_metric(value, rows) for name, value in out.metrics.items()},
            scene=scene,
            done=done,
        )

    def _start(self, shared: tuple[ScenarioBank, Assignment], own: tuple) -> tuple[AutoResetState, Any]:
        """An episode in the next scenario, and its observation."""
        (bank, assignment), (key, count, position, stride, current) = shared, own
        own_key = episode_key(key, count)
        if self.sampling == "random":
            scene = draw_scenario(bank, jax.random.fold_in(own_key, 0), current)
        else:
            scene = bank.order[position % bank.order.shape[0]]
        scenario = bank.scenario(scene)
        simulation_key = jax.random.fold_in(own_key, 1)
        episode = begin_episode(self.env, scenario, assignment, simulation_key, bank.controlled[scene])
        num_rows = self.env.max_controlled(bank.num_agents)
        env_state = AutoResetState(
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
        return env_state, self._encode(scenario, episode)

    def _start_fields(self, shared: tuple[ScenarioBank, Assignment], own: tuple) -> tuple[dict[str, Any], Any]:
        env_state, observation = self._start(shared, own)
        return _episode_fields(env_state), observation

    def _ends(
        self,
        state: State,
        out: StepOutput,
        rows: Int[Array, " K"],
        active: Bool[Array, " K"],
        is_stale: Bool[Array, ""],
    ) -> tuple[Bool[Array, ""], Bool[Array, " K"], Bool[Array, " K"]]:
        """Whether the episode of the scenario ends, and masks of the terminated and the truncated agents."""
        terminated = active & _gather_rows(out.agent_terminated, rows)
        config = self.env.config
        scene_ends = out.terminated
        if config.ends == "agent":
            # With `spawn="log"` absent agents may still appear.
            may_act = (state.controller == CALLER) & ~state.ended & (state.agents.valid | (config.spawn == "log"))
            scene_ends = ~jnp.any(may_act) & (config.at_end != "respawn")
        done = out.truncated | scene_ends | is_stale
        disappeared = ~_gather_rows(state.agents.valid, rows) & ~terminated
        return done, terminated, active & ~terminated & (done | disappeared)

    def _encode(self, scenario: Scenario, episode: EpisodeState) -> Any:
        return SimulationLoop(self.env, self.observe).encode(scenario, episode)

    @property
    def _is_single(self) -> bool:
        return self.env.config.controlled == "sdc"

    def _squeeze_sdc(self, rows: Any) -> Any:
        """Rows without the axis K if the caller controls the sdc alone."""
        return jax.tree.map(lambda leaf: leaf[0], rows) if self._is_single else rows

    def _gather_metric(self, value: MetricValue, rows: Int[Array, " K"]) -> MetricValue:
        if not value.value.ndim:
            return value
        return self._squeeze_sdc(MetricValue(_gather_rows(value.value, rows), _gather_rows(value.valid, rows)))


def _gather_rows(values: Shaped[Array, " N"], rows: Int[Array, " K"]) -> Shaped[Array, " K"]:
    """Values by agent slot; zero or False where a row is -1."""
    return jnp.where(rows >= 0, values[jnp.maximum(rows, 0)], jnp.zeros((), values.dtype))


def _episode_fields(env_state: AutoResetState) -> dict[str, Any]:
    """The fields of the state that a new episode replaces."""
    names = ("episode", "scene", "version", "count", "position", "returns", "lengths")
    return {name: getattr(env_state, name) for name in names}
