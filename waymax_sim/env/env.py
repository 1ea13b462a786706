"""The environment: who moves how, who is there, and what it is worth."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Key

from waymax_sim.datatypes.agents import AgentState, Selector, masked, select, where
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.datatypes.state import CALLER, LOG, Action, State
from waymax_sim.dynamics import Bicycle, Dynamics
from waymax_sim.env.observation import Observation, observe
from waymax_sim.maps.ground import height_change
from waymax_sim.metrics import Metric, MetricValue, Snapshot, compute_metrics, resolve
from waymax_sim.pytree import Array, on_device, pytree, take


@dataclasses.dataclass(frozen=True)
class EnvConfig:
    """Rules of an environment.

    Attributes:
      controlled: Agents moved by the caller's actions (or by the one policy of a rollout); the log moves the rest.
      spawn: Whether agents that are absent appear when the log says so, at their logged pose, or never.
      despawn: Whether controlled agents stay once there ("never") or vanish when the log does. Agents of the log
        always come and go with it.
      height_source: Whether the height of controlled agents follows the map or the log.
      metrics: Names from `METRICS`, or metrics of one's own.
      rewards: Pairs of metric and weight: an agent's reward is the weighted sum of its valid values. With a bound as
        third entry, the weight itself counts wherever the value is worse than the bound. See also `PRESETS`.
      evaluated: Whether metrics per agent are computed for all agents or for the sdc alone, which costs far less.
      terminate_on: Metrics that end the episode when positive for a controlled agent, or pairs of a metric and a bound
        that end it when the value is worse.
      num_history_steps: Steps that policies see, at least 2. The state keeps more where a metric looks further back.
      dt: Time step, s.
    """

    controlled: Selector = "sdc"
    spawn: Literal["log", "never"] = "log"
    despawn: Literal["never", "log"] = "never"
    height_source: Literal["map", "log"] = "map"
    metrics: tuple[str | Metric, ...] = ("overlap", "offroad", "log_divergence")
    evaluated: Literal["all", "sdc"] = "all"
    rewards: tuple[tuple[str, float] | tuple[str, float, float], ...] = (("overlap", -1.0), ("offroad", -1.0))
    terminate_on: tuple[str | tuple[str, float], ...] = ()
    num_history_steps: int = 2
    dt: float = 0.1

    def __post_init__(self):
        names = resolve(self.metrics)
        ends = (item if isinstance(item, str) else item[0] for item in self.terminate_on)
        for used in (*(term[0] for term in self.rewards), *ends):
            if used not in names:
                raise ValueError(f"{used!r} is rewarded or terminates but is not among metrics={tuple(names)}")
        if self.num_history_steps < 2:
            raise ValueError("num_history_steps must be at least 2: metrics compare a step with the one before")


@pytree
class StepOutput:
    """What a step led to, judged on the state after it.

    Attributes:
      metrics: Values by name, [N] or [] each.
      reward: Weighted sum of metrics for controlled agents, 0 for others; 0 at reset.
      agent_terminated: Controlled agents for which a terminating metric is positive.
      terminated: Whether there is any such agent.
      truncated: Whether the record has no next step.
    """

    metrics: dict[str, MetricValue]
    reward: Float[Array, " N"]
    agent_terminated: Bool[Array, " N"]
    terminated: Bool[Array, ""]
    truncated: Bool[Array, ""]


@dataclasses.dataclass(frozen=True)
class Env:
    """Pure functions over (scenario, state). Frozen and hashable, holds no arrays; written for one scene.

    Batch it with `jax.vmap`. `reset` starts at the scenario's current step. Past the last recorded step nothing
    moves any more and `truncated` stays True.

    Attributes:
      dynamics: Model of the caller's actions.
      config: Rules.
    """

    dynamics: Dynamics = Bicycle()
    config: EnvConfig = EnvConfig()

    @property
    def metrics(self) -> dict[str, Metric]:
        """The metrics in use, by name."""
        return resolve(self.config.metrics)

    @property
    def num_history_steps(self) -> int:
        """Steps kept in the state: those that policies see, or more where a metric looks further back."""
        return max(self.config.num_history_steps, *(metric.num_steps for metric in self.metrics.values()), 2)

    def reset(
        self, scenario: Scenario, key: Key[Array, ""], controller: Int[Array, " N"] | None = None
    ) -> tuple[State, StepOutput]:
        """The logged state at the current step, with the steps before it as history, and how it is judged.

        Args:
          scenario: One scene.
          key: Random key of the episode.
          controller: Who moves each agent (`LOG`, `CALLER`, ...); by default the caller moves `config.controlled`.
        """
        scenario = on_device(scenario)
        state = self.initial_state(scenario, key, controller)
        return state, self.evaluate_state(scenario, state, has_advanced=jnp.asarray(False))

    def initial_state(
        self, scenario: Scenario, key: Key[Array, ""], controller: Int[Array, " N"] | None = None
    ) -> State:
        """The state of `reset` alone, which is not judged."""
        scenario = on_device(scenario)
        if controller is None:
            controller = jnp.where(select(scenario.agents, self.config.controlled), CALLER, LOG).astype(jnp.int32)
        steps = scenario.current_step - jnp.arange(self.num_history_steps - 1, -1, -1, dtype=jnp.int32)
        history = take(scenario.log, jnp.maximum(steps, 0))
        # What lies before the record is not known: it must not wrap around to its end.
        history = masked(history, jnp.broadcast_to((steps >= 0)[:, None], history.valid.shape))
        return State(step=scenario.current_step, history=history, controller=controller, key=key)

    def step(self, scenario: Scenario, state: State, action: Action) -> tuple[State, StepOutput]:
        """One time step, then judgement of where it led.

        Args:
          scenario: The scene that `state` belongs to.
          state: From `reset` or `step`.
          action: For the agents whose controller is not the log; ignored for others.
        """
        scenario = on_device(scenario)
        proposed = self.dynamics.apply(state.agents, action.value, self.config.dt)
        moved = state.step < scenario.num_steps - 1
        state = self.advance(scenario, state, proposed, action.valid)
        return state, self.evaluate_state(scenario, state, has_advanced=moved)

    def observe(self, scenario: Scenario, state: State, *, privileged: bool = False) -> Observation:
        """What a policy sees; only a privileged one sees the log."""
        seen = take(state.history, slice(-self.config.num_history_steps, None))
        state = dataclasses.replace(state, history=seen)
        return observe(on_device(scenario), state, self.config.dt, privileged=privileged)

    def advance(self, scenario: Scenario, state: State, proposed: AgentState | None, acts: Bool[Array, " N"]) -> State:
        """The next state, given where the dynamics would put the agents that act; None where the log moves all.

        Controlled agents that do not act coast. Agents of the log are where the log has them. At the end of the
        record the state is returned as it is.
        """
        now = state.agents
        last = scenario.num_steps - 1
        step = jnp.minimum(state.step + 1, last)
        agents = take(scenario.log, step)
        may_appear = agents.valid & (self.config.spawn == "log")
        valid = agents.valid & (now.valid | may_appear)
        if proposed is not None:
            logged, controlled = agents, state.controller != LOG
            moved = where(acts, proposed, _coast(now, self.config.dt))
            moved = dataclasses.replace(moved, xyz=self._with_height(scenario, now, moved, logged, controlled))
            stays = now.valid if self.config.despawn == "never" else now.valid & logged.valid
            appears = ~now.valid & may_appear
            agents = where(~controlled | appears, logged, moved)
            valid = jnp.where(controlled, stays | appears, valid)
        agents = masked(dataclasses.replace(agents, valid=valid), valid)
        history = jax.tree.map(lambda old, new: jnp.concatenate([old[1:], new[None]]), state.history, agents)
        history = jax.tree.map(lambda new, old: jnp.where(state.step < last, new, old), history, state.history)
        return dataclasses.replace(state, step=step, history=history)

    def evaluate_state(self, scenario: Scenario, state: State, *, has_advanced: Bool[Array, ""]) -> StepOutput:
        """Metrics, reward and termination of a state. Where it has not `moved`, nothing is rewarded."""
        rows = None if self.config.evaluated == "all" else jnp.argmax(scenario.agents.is_sdc)[None]
        snapshot = Snapshot(scenario, state.step, state.history, self.config.dt, rows)
        metrics = self.metrics
        values = compute_metrics(snapshot, metrics)
        controlled = (state.controller != LOG) & scenario.agents.exists

        def per_agent(name: str, bound: float | None = None) -> Float[Array, " N"]:
            """Values of a metric, or 1 where they are worse than a bound."""
            value, valid = values[name].value, values[name].valid
            if bound is not None:
                worse = value < bound if metrics[name].better == "higher" else value > bound
                value = (valid & worse).astype(jnp.float32)
            # What is about the scene is credited to the sdc.
            return value if metrics[name].per == "agent" else jnp.where(scenario.agents.is_sdc, value, 0.0)

        reward = jnp.zeros(controlled.shape, jnp.float32)
        for name, weight, *bound in self.config.rewards:
            reward = reward + weight * per_agent(name, *bound)
        ended = jnp.zeros(controlled.shape, bool)
        for item in self.config.terminate_on:
            name, bound = (item, None) if isinstance(item, str) else item
            ended = ended | (per_agent(name, bound) > 0)
        return StepOutput(
            metrics=values,
            reward=jnp.where(controlled & has_advanced, reward, 0.0),
            agent_terminated=controlled & ended,
            terminated=jnp.any(controlled & ended),
            truncated=state.step >= scenario.num_steps - 1,
        )

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
            # The lane under the wheels, not the one nearest to the middle of a tall truck.
            bottom = now.xyz - jnp.asarray([0.0, 0.0, 0.5])[None] * scenario.agents.size
            z = now.xyz[:, 2] + height_change(scenario.lanes, bottom, moved.xyz[:, :2], now.valid & controlled)
        return jnp.concatenate([moved.xyz[:, :2], z[:, None]], axis=-1)


def _coast(agents: AgentState, dt: float) -> AgentState:
    """Constant velocity and heading."""
    xy = agents.xyz[:, :2] + agents.velocity * dt
    return dataclasses.replace(agents, xyz=jnp.concatenate([xy, agents.xyz[:, 2:]], axis=-1))
