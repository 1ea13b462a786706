"""Rollouts: a scan over interactions."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import Bool, Float, Int, Key

from waymax_sim.datatypes.agents import AgentState
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.datatypes.state import Action, State
from waymax_sim.env.assignment import Assignment, Policies
from waymax_sim.env.env import Env
from waymax_sim.env.interaction import EpisodeState, begin_episode, interact, observe_policy
from waymax_sim.env.observation import Observation
from waymax_sim.metrics import MetricValue
from waymax_sim.pytree import Array, describe, pytree

# Fields of a trace that require the evaluation of states.
EVALUATED_FIELDS = frozenset(("metrics", "reward", "terminated", "ended", "invalid_action"))
# All optional fields of a trace.
TRACE_FIELDS = ("agents", "metrics", "reward", "terminated", "ended", "invalid_action", "actions")


@pytree
class Trace:
    """The record of T simulated steps; entry k is the state after step k + 1.

    Actions and observations belong to the D = T / `EnvConfig.steps_per_action` decisions.

    Attributes:
      step: Index in the record of each entry.
      active: Whether time has advanced; False after the end of the record.
      agents: Agents, [T, N].
      metrics: Metric values, [T, N] or [T].
      reward: [T, N].
      terminated: [T].
      ended: Agents whose episode has ended, [T, N].
      invalid_action: Agents whose action was not finite and therefore ignored, [T, N].
      actions: One record per policy, [D, N, A].
      observations: Encoded observations by name, [D, ...].
      final: The state after the last step.
    """

    step: Int[Array, " T"]
    active: Bool[Array, " T"]
    agents: AgentState | None
    metrics: dict[str, MetricValue] | None
    reward: Float[Array, "T N"] | None
    terminated: Bool[Array, " T"] | None
    ended: Bool[Array, "T N"] | None
    invalid_action: Bool[Array, "T N"] | None
    actions: tuple[Action, ...] | None
    observations: dict[str, Any] | None
    final: State

    def __repr__(self) -> str:
        if not isinstance(self.active, np.ndarray | jax.Array) or isinstance(self.active, Tracer):
            return describe(self)
        recorded = [name for name in (*TRACE_FIELDS, "observations") if getattr(self, name) is not None]
        metrics = f" ({', '.join(self.metrics)})" if self.metrics else ""
        text = ", ".join(recorded).replace("metrics", f"metrics{metrics}", 1)
        rollouts = f"{list(self.active.shape[:-1])} rollouts of " if self.active.ndim > 1 else ""
        return f"Trace({rollouts}{self.active.shape[-1]} steps; {text or 'nothing recorded'})"


def rollout(
    env: Env,
    policies: Policies,
    scenario: Scenario,
    key: Key[Array, ""],
    num_steps: int,
    record: Collection[str] | Mapping[str, Callable[[Observation], Any] | bool] = ("agents", "metrics"),
) -> Trace:
    """Simulates `num_steps` steps from the scenario's current step.

    Pure; run it under `jax.jit`, with the policies as an argument so that all weights share one program. For K rollouts
    of one scenario, apply `jax.vmap` to K keys and leave the scenario unmapped, so that it is not copied.

    Args:
      env: Rules, metrics and default dynamics.
      policies: An `Assignment`; one policy for the agents of `env.config.controlled`; pairs of a policy and its agents,
        a selector or a mask [N]; or None. Agents without a policy follow the log. Actions of a policy for "none" are
        recorded, but not applied.
      scenario: One scenario.
      key: Random key; step t draws from `fold_in(key, t)`.
      num_steps: Number of steps, less than the number of steps of the record; a multiple of `steps_per_action`.
      record: Fields of the trace, from `TRACE_FIELDS`. As a mapping, names of `TRACE_FIELDS` to True, and further names
        to functions of the first policy's observation, such as encoders, whose results are `Trace.observations`.

    Raises:
      ValueError: Two policies share an agent, or disjointness cannot be checked while tracing; a name in `record` is
        unknown; `num_steps` is out of range; a policy returned an action of other shapes than [N, A].
      TypeError: A policy lacks a member of `Policy`, or returned another type.
    """
    names, encoders = _split(record)
    num_decisions = _decisions(env, scenario, num_steps)
    assignment = Assignment.from_policies(policies, env.config.controlled)
    _check_evaluated(env, assignment)
    scenario = env.prepare(scenario)
    # Ends of episodes affect later steps, even if they are not recorded.
    evaluate = bool(env.config.terminate_on) or not EVALUATED_FIELDS.isdisjoint(names)

    def body(episode: EpisodeState, _: None) -> tuple[EpisodeState, tuple]:
        observation = _observe(env, scenario, episode.state, assignment) if encoders else None
        observations = {name: encode(observation) for name, encode in encoders.items()}
        episode, interaction = interact(env, scenario, episode, assignment, evaluate=evaluate)
        out = interaction.outputs
        per_step = {
            "step": interaction.step,
            "active": interaction.active,
            "agents": interaction.agents if "agents" in names else None,
            "metrics": out.metrics if out and "metrics" in names else None,
            "reward": out.reward if out and "reward" in names else None,
            "terminated": out.terminated if out and "terminated" in names else None,
            "ended": interaction.ended if "ended" in names else None,
            "invalid_action": out.invalid_action if out and "invalid_action" in names else None,
        }
        per_decision = {
            "actions": interaction.actions if "actions" in names else None,
            "observations": observations or None,
        }
        return episode, (per_step, per_decision)

    first = begin_episode(env, scenario, assignment, key)
    last, (per_step, per_decision) = jax.lax.scan(body, first, length=num_decisions)
    per_step = jax.tree.map(lambda leaf: leaf.reshape(num_steps, *leaf.shape[2:]), per_step)
    return Trace(final=last.state, **per_step, **per_decision)


def _observe(env: Env, scenario: Scenario, state: State, assignment: Assignment) -> Observation:
    """The observation of the first policy; without policies, that of the controlled agents of the environment."""
    return observe_policy(env, scenario, state, assignment, 0) if len(assignment) else env.observe(scenario, state)


def _split(record: Collection[str] | Mapping[str, Any]) -> tuple[set[str], dict[str, Callable]]:
    given = record if isinstance(record, Mapping) else dict.fromkeys(record, True)
    names = {name for name, value in given.items() if value is True}
    encoders = {name: value for name, value in given.items() if callable(value)}
    unknown = names - set(TRACE_FIELDS)
    if unknown:
        raise ValueError(f"cannot record {sorted(unknown)}; choose from {', '.join(TRACE_FIELDS)}")
    return names, encoders


def _decisions(env: Env, scenario: Scenario, num_steps: int) -> int:
    if not 0 < num_steps < scenario.num_steps:
        raise ValueError(f"num_steps={num_steps} does not fit a record of {scenario.num_steps} steps")
    decisions, rest = divmod(num_steps, env.config.steps_per_action)
    if rest:
        raise ValueError(f"num_steps={num_steps} is no multiple of steps_per_action={env.config.steps_per_action}")
    return decisions


def _check_evaluated(env: Env, assignment: Assignment) -> None:
    config, first = env.config, assignment.agents[0] if assignment.agents else "sdc"
    is_sdc = isinstance(first, str) and first == "sdc"
    if config.evaluated == "controlled" and config.controlled == "sdc" and not is_sdc:
        raise ValueError("evaluated='controlled' evaluates the agents of the first policy: set `controlled` to them")
