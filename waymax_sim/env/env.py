"""The environment: initial states, transitions, and the evaluation of states."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Key

from waymax_sim.datatypes.agents import AgentState, mask_agents, where
from waymax_sim.datatypes.scenario import TIME_STEP, Scenario
from waymax_sim.datatypes.state import CALLER, LOG, POLICY, Action, State
from waymax_sim.dynamics import Bicycle, Dynamics
from waymax_sim.env.actions import apply_actions, coast
from waymax_sim.env.config import EnvConfig
from waymax_sim.env.episodes import end_agents, rewards, scene_terminates, terminates
from waymax_sim.env.observation import Observation, observe
from waymax_sim.env.selection import first_agents, mask_to_rows, select_agents
from waymax_sim.maps.goals import log_end_goals
from waymax_sim.maps.ground import terrain_height_change
from waymax_sim.metrics import Metric, MetricValue, Snapshot, compute_metrics, resolve
from waymax_sim.metrics.metric import masked_value
from waymax_sim.pytree import Array, pytree, to_device, tree_index


@pytree
class StepOutput:
    """Results of a step, evaluated on the state after it.

    Attributes:
      metrics: Values by name, [N] or [] each. Those of an agent with an invalid action are not valid, nor are those of
        the scene if it is the sdc.
      reward: Weighted sum of metrics of controlled agents whose episode has not ended, 0 for others and at reset; at
        most 0 for agents with an invalid action.
      agent_terminated: Agents whose episode a terminating metric has ended in this step.
      terminated: Whether the episode of the scenario has ended in this step: with `ends="scene"` for any agent, with
        `ends="agent"` when the last controlled agent has ended.
      truncated: Whether the record has no next step.
      invalid_action: Agents whose action or next pose was not finite; the action was ignored.
    """

    metrics: dict[str, MetricValue]
    reward: Float[Array, " N"]
    agent_terminated: Bool[Array, " N"]
    terminated: Bool[Array, ""]
    truncated: Bool[Array, ""]
    invalid_action: Bool[Array, " N"]


@dataclasses.dataclass(frozen=True)
class Env:
    """Pure functions of one scenario and one state; batch them with `jax.vmap`. Frozen and hashable, without arrays.

    `reset` starts at the current step of the scenario. After the last recorded step the state is constant and
    `truncated` remains True.

    Attributes:
      dynamics: Model of the caller's actions.
      config: Rules.
    """

    dynamics: Dynamics = Bicycle()
    config: EnvConfig = EnvConfig()

    @property
    def metrics(self) -> dict[str, Metric]:
        """The metrics of the configuration, by name."""
        return resolve(self.config.metrics)

    def num_history_steps(self, time_step: float = TIME_STEP) -> int:
        """Length of the history in the state: the maximum over policies and metrics, for a time step (s)."""
        needed = (metric.history_steps(time_step) for metric in self.metrics.values())
        return max(self.config.num_history_steps, *needed, 2)

    def max_controlled(self, num_agents: int) -> int:
        """Static number of rows K for the controlled agents of a scenario with N agent slots."""
        if self.config.controlled == "sdc":
            return min(1, num_agents)
        return min(self.config.max_controlled or num_agents, num_agents)

    def prepare(self, scenario: Scenario) -> Scenario:
        """The scenario on the device, with goals where the configuration adds them.

        Raises:
          ValueError: Goals are rewarded or terminate, but the scenario has none that policies could observe.
        """
        scenario = to_device(scenario)
        if scenario.goals is not None:
            return scenario
        if self.config.goals == "end_of_log":
            return dataclasses.replace(scenario, goals=log_end_goals(scenario))
        if self.config.uses_goals:
            raise ValueError(
                "goals are rewarded or end episodes, but the scenario has none that agents observe: set "
                "EnvConfig(goals='end_of_log') or dataclasses.replace(scenario, goals=...)"
            )
        return scenario

    def reset(
        self, scenario: Scenario, key: Key[Array, ""], controller: Int[Array, " N"] | None = None
    ) -> tuple[State, StepOutput]:
        """The logged state at the current step, with the steps before it as history, and its evaluation.

        Args:
          scenario: One scenario.
          key: Random key of the episode.
          controller: Controller of each agent (`LOG`, `CALLER`, ...); by default the caller controls
            `config.controlled`.
        """
        scenario = self.prepare(scenario)
        state = self.initial_state(scenario, key, controller)
        return state, self.evaluate_state(scenario, state, has_advanced=jnp.asarray(False))

    def initial_state(
        self, scenario: Scenario, key: Key[Array, ""], controller: Int[Array, " N"] | None = None
    ) -> State:
        """The state of `reset` without its evaluation.

        Args:
          scenario: One scenario.
          key: Random key of the episode.
          controller: Controller of each agent; by default the caller controls `config.controlled`.
        """
        scenario = self.prepare(scenario)
        if controller is None:
            controller = jnp.where(self.controlled_mask(scenario), CALLER, LOG).astype(jnp.int32)
        num_steps = self.num_history_steps(scenario.time_step)
        steps = scenario.current_step - jnp.arange(num_steps - 1, -1, -1, dtype=jnp.int32)
        history = tree_index(scenario.log, jnp.maximum(steps, 0))
        # Steps before the record are invalid; negative indices must not wrap around to its end. Content of invalid
        # states, such as NaN of another source, must not reach gradients.
        history = mask_agents(history, history.valid & (steps >= 0)[:, None])
        controlled, absent = controller != LOG, ~tree_index(history, -1).valid
        never = jnp.full(controller.shape, self.config.spawn == "never" and self.config.ends == "agent")
        return State(
            step=jnp.asarray(scenario.current_step),
            history=history,
            controller=jnp.asarray(controller),
            ended=controlled & absent & never,
            goal_reached=jnp.zeros(controller.shape, bool),
            key=key,
        )

    def controlled_mask(self, scenario: Scenario) -> Bool[Array, " N"]:
        """Agents of `config.controlled`, limited to the first `max_controlled`."""
        mask = select_agents(scenario, self.config.controlled)
        limit = self.config.max_controlled
        return mask if limit is None else first_agents(mask, limit)

    def step(self, scenario: Scenario, state: State, action: Action) -> tuple[State, StepOutput]:
        """One time step with the caller's actions, and the evaluation of the next state.

        Args:
          scenario: The scenario of `state`.
          state: From `reset` or `step`.
          action: Actions of all agents; those of agents of the log are ignored.
        """
        scenario = self.prepare(scenario)
        controlled = state.controller != LOG
        next_agents, mask, invalid = apply_actions(self.dynamics, state, action, controlled, scenario.time_step)
        state, _, out = self.transition(scenario, state, next_agents, mask, invalid)
        return state, out

    def transition(
        self,
        scenario: Scenario,
        state: State,
        next_agents: AgentState | None,
        action_mask: Bool[Array, " N"],
        invalid_action: Bool[Array, " N"],
    ) -> tuple[State, AgentState, StepOutput]:
        """Advances by one step, evaluates, and ends the episodes of agents.

        Args:
          scenario: From `prepare`.
          state: The current state.
          next_agents: See `advance`.
          action_mask: See `advance`.
          invalid_action: Agents whose action was invalid.

        Returns:
          The next state, the evaluated agents (before those whose episode has ended are removed), and the evaluation.
        """
        has_advanced = state.step < scenario.last_step
        state = self.advance(scenario, state, next_agents, action_mask)
        out = self.evaluate_state(scenario, state, has_advanced=has_advanced, invalid_action=invalid_action)
        return self.end_agents(scenario, state, out), state.agents, out

    def observe(
        self,
        scenario: Scenario,
        state: State,
        *,
        privileged: bool = False,
        controller: int | None = None,
        max_controlled: int | None = None,
    ) -> Observation:
        """The observation of a policy; the log is included only for a privileged one.

        Args:
          scenario: From `prepare`.
          state: The current state.
          privileged: Whether to include the log.
          controller: Controller of the agents in `Observation.controlled`, by default the caller or the first policy.
          max_controlled: Number of rows K; by default `max_controlled(N)`.
        """
        history = tree_index(state.history, slice(-self.config.num_history_steps, None))
        rows = self.acting_rows(state, controller, max_controlled)
        scenario = self.prepare(scenario)
        return observe(scenario, dataclasses.replace(state, history=history), rows, privileged)

    def controlled_rows(
        self, state: State, controller: int | None = None, max_controlled: int | None = None
    ) -> Int[Array, " K"]:
        """Slots of the agents of a controller, ascending, then -1; constant during an episode.

        Args:
          state: The state.
          controller: Their controller, by default the caller or the first policy.
          max_controlled: Number of rows K; by default `max_controlled(N)`.
        """
        num_rows = max_controlled or self.max_controlled(state.controller.shape[0])
        return mask_to_rows(_controlled(state, controller), num_rows)

    def acting_rows(
        self, state: State, controller: int | None = None, max_controlled: int | None = None
    ) -> Int[Array, " K"]:
        """`controlled_rows`, with -1 for agents outside of `acting_mask`.

        Args:
          state: The state.
          controller: Their controller, by default the caller or the first policy.
          max_controlled: Number of rows K; by default `max_controlled(N)`.
        """
        rows = self.controlled_rows(state, controller, max_controlled)
        return _rows_in(rows, self.acting_mask(state, controller))

    def acting_mask(self, state: State, controller: int | None = None) -> Bool[Array, " N"]:
        """Agents of a controller whose actions apply: valid, and in an episode unless `at_end="stay"`.

        Args:
          state: The state.
          controller: Their controller, by default the caller or the first policy.
        """
        mask = _controlled(state, controller) & state.agents.valid
        return mask if self.config.at_end == "stay" else mask & ~state.ended

    def active_mask(self, state: State, controller: int | None = None) -> Bool[Array, " N"]:
        """Valid agents of a controller whose episode has not ended.

        Args:
          state: The state.
          controller: Their controller, by default the caller or the first policy.
        """
        return _controlled(state, controller) & state.agents.valid & ~state.ended

    def advance(
        self, scenario: Scenario, state: State, next_agents: AgentState | None, action_mask: Bool[Array, " N"]
    ) -> State:
        """The next state; the same state at the end of the record.

        Controlled agents without an action keep velocity and heading. Agents of the log take their logged poses.

        Args:
          scenario: From `prepare`.
          state: The current state.
          next_agents: Agents after the dynamics, finite where `action_mask`; None where the log moves all.
          action_mask: Agents whose entry of `next_agents` applies.
        """
        now = state.agents
        last = scenario.last_step
        step = jnp.minimum(state.step + 1, last)
        agents = tree_index(scenario.log, step)
        may_appear = agents.valid & (self.config.spawn == "log")
        if self.config.ends == "agent" and self.config.at_end != "stay":
            may_appear = may_appear & ~state.ended
        valid = agents.valid & (now.valid | may_appear)
        if next_agents is not None:
            logged, controlled = agents, state.controller != LOG
            moved = where(action_mask, next_agents, coast(now, scenario.time_step))
            moved = dataclasses.replace(moved, xyz=self._with_height(scenario, now, moved, logged, controlled))
            if self.config.ends == "agent" and self.config.at_end == "stop":
                moved = where(state.ended, dataclasses.replace(now, velocity=jnp.zeros_like(now.velocity)), moved)
            stays = now.valid if self.config.despawn == "never" else now.valid & logged.valid
            appears = ~now.valid & may_appear
            agents = where(~controlled | appears, logged, moved)
            valid = jnp.where(controlled, stays | appears, valid)
        agents = mask_agents(dataclasses.replace(agents, valid=valid), valid)
        history = jax.tree.map(lambda old, new: jnp.concatenate([old[1:], new[None]]), state.history, agents)
        history = jax.tree.map(lambda new, old: jnp.where(state.step < last, new, old), history, state.history)
        return dataclasses.replace(state, step=step, history=history)

    def evaluate_state(
        self,
        scenario: Scenario,
        state: State,
        *,
        has_advanced: Bool[Array, ""],
        invalid_action: Bool[Array, " N"] | None = None,
    ) -> StepOutput:
        """Metrics, reward and termination of a state.

        Args:
          scenario: From `prepare`.
          state: The state.
          has_advanced: Whether time has advanced; otherwise rewards are 0 and no episode ends.
          invalid_action: Agents whose action was invalid; none by default.
        """
        metrics = self.metrics
        snapshot = Snapshot(scenario, state.step, state.history, self._evaluated_rows(scenario, state))
        values = compute_metrics(snapshot, metrics)
        if invalid_action is None:
            invalid_action = jnp.zeros(state.ended.shape, bool)
        has_episode = self._has_episode(scenario, state)
        counted = has_episode & ~state.ended & has_advanced
        reward = jnp.where(counted, rewards(self.config, metrics, scenario, state, values), 0.0)
        terminated = counted & terminates(self.config, metrics, scenario, values)
        return StepOutput(
            metrics=_without_invalid(values, metrics, scenario, invalid_action & has_advanced),
            reward=jnp.where(invalid_action, jnp.minimum(reward, 0.0), reward),
            agent_terminated=terminated,
            terminated=scene_terminates(self.config, has_episode, state.ended, terminated),
            truncated=state.step >= scenario.last_step,
            invalid_action=invalid_action & has_advanced,
        )

    def end_agents(self, scenario: Scenario, state: State, out: StepOutput) -> State:
        """Applies the ends of episodes in `out` to the state (see `EnvConfig.at_end`).

        Args:
          scenario: From `prepare`.
          state: The evaluated state.
          out: Its evaluation.
        """
        return end_agents(self.config, scenario, state, out.agent_terminated, out.terminated, out.metrics)

    def _evaluated_rows(self, scenario: Scenario, state: State) -> Int[Array, " O"] | None:
        match self.config.evaluated:
            case "all":
                return None
            case "sdc":
                # Without an sdc no agent is evaluated.
                is_sdc = jnp.asarray(scenario.agents.is_sdc)
                return _rows_in(jnp.argmax(is_sdc)[None].astype(jnp.int32), is_sdc)
        return _rows_in(self.controlled_rows(state), self.active_mask(state))

    def _has_episode(self, scenario: Scenario, state: State) -> Bool[Array, " N"]:
        """Controlled agents that are evaluated."""
        mask = (state.controller != LOG) & scenario.agents.exists
        match self.config.evaluated:
            case "sdc":
                return mask & scenario.agents.is_sdc
            case "controlled":
                return mask & _controlled(state, None)
        return mask

    def _with_height(
        self,
        scenario: Scenario,
        now: AgentState,
        moved: AgentState,
        logged: AgentState,
        controlled: Bool[Array, " N"],
    ) -> Float[Array, "N 3"]:
        if self.config.height_source == "log":
            z = jnp.where(logged.valid, logged.xyz[:, 2], now.xyz[:, 2])
        else:
            # The lane is that at the bottom of the box: on stacked roads the center of a tall truck is ambiguous.
            bottom = now.xyz - jnp.asarray([0.0, 0.0, 0.5])[None] * scenario.agents.size
            z = now.xyz[:, 2] + terrain_height_change(scenario.lanes, bottom, moved.xyz[:, :2], now.valid & controlled)
        return jnp.concatenate([moved.xyz[:, :2], z[:, None]], axis=-1)


def _controlled(state: State, controller: int | None) -> Bool[Array, " N"]:
    """Agents of a controller, by default of the caller and of the first policy."""
    if controller is None:
        return (state.controller == CALLER) | (state.controller == POLICY)
    return state.controller == controller


def _without_invalid(
    values: dict[str, MetricValue], metrics: dict[str, Metric], scenario: Scenario, invalid_action: Bool[Array, " N"]
) -> dict[str, MetricValue]:
    """The values of agents whose action was valid: the motion of the others is not that of their policy."""
    invalid = {"agent": invalid_action, "scene": jnp.any(invalid_action & scenario.agents.is_sdc)}
    return {
        name: masked_value(value.value, value.valid & ~invalid[metrics[name].per]) for name, value in values.items()
    }


def _rows_in(rows: Int[Array, " K"], mask: Bool[Array, " N"]) -> Int[Array, " K"]:
    """The rows of agents in a mask, -1 for all others."""
    return jnp.where(mask[jnp.maximum(rows, 0)], rows, -1)
