"""Interaction of policies with the environment: the loop body of rollouts, adapters and training."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Int, Key

from waymax_sim.datatypes.agents import AgentState, where
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.datatypes.state import CALLER, Action, State
from waymax_sim.env.actions import apply_actions
from waymax_sim.env.assignment import Assignment, policy_controller
from waymax_sim.env.env import Env, StepOutput
from waymax_sim.env.observation import Observation
from waymax_sim.env.policy_check import check_decision, check_members
from waymax_sim.metrics.summary import reduce_over_time
from waymax_sim.pytree import Array, pytree, tree_index


@pytree
class EpisodeState:
    """The state of an episode: the simulated state and the recurrent states of the policies.

    Attributes:
      state: The simulated state.
      carries: One per policy of the assignment, as `Policy.init` and `Policy.act` return them.
    """

    state: State
    carries: tuple[Any, ...]


@pytree
class Interaction:
    """The record of one interaction of k simulated steps (`EnvConfig.steps_per_action`).

    Attributes:
      actions: Actions of each policy, [N, A]; held for all steps.
      step: Index in the record after each step, [k].
      active: Whether time has advanced in each step; False after the end of the record.
      agents: Evaluated agents after each step, [k, N].
      ended: Agents whose episode has ended after each step, [k, N].
      outputs: Results of each step, [k, ...]; None without evaluation.
    """

    actions: tuple[Action, ...]
    step: Int[Array, " k"]
    active: Bool[Array, " k"]
    agents: AgentState
    ended: Bool[Array, "k N"]
    outputs: StepOutput | None


def begin_episode(
    env: Env,
    scenario: Scenario,
    assignment: Assignment,
    key: Key[Array, ""],
    caller: Bool[Array, " N"] | None = None,
) -> EpisodeState:
    """The state of an episode at the current step of the scenario.

    Args:
      env: Rules.
      scenario: From `Env.prepare`.
      assignment: Policies and the agents that they control.
      key: Random key of the episode; step t of policy i draws from `fold_in(fold_in(key, t), i)`.
      caller: Mask of the agents of the caller; None without a caller. The log moves all remaining agents.

    Raises:
      TypeError: A policy lacks a member of `Policy`.
    """
    for policy in assignment.policies:
        check_members(policy)
    controllers = assignment.controllers(scenario, caller, env.config.max_controlled)
    state = env.initial_state(scenario, key, controllers)
    # Initial carries draw from a step index that no interaction uses.
    unused_step = scenario.last_step + 1
    carries = []
    for index, policy in enumerate(assignment.policies):
        observation = observe_policy(env, scenario, state, assignment, index, caller is not None)
        carries.append(policy.init(observation, _policy_key(state, unused_step, index)))
    return EpisodeState(state=state, carries=tuple(carries))


def interact(
    env: Env,
    scenario: Scenario,
    episode: EpisodeState,
    assignment: Assignment,
    action: Action | None = None,
    *,
    evaluate: bool = True,
) -> tuple[EpisodeState, Interaction]:
    """One decision of all policies: observe, act, then apply the dynamics, advance and evaluate each simulated step.

    Pure, for one scenario; batch it with `jax.vmap`.

    Args:
      env: Rules.
      scenario: From `Env.prepare`.
      episode: From `begin_episode` or `interact`.
      assignment: The policies of `begin_episode`; their weights may differ.
      action: Actions for the caller's agents, in the units of `env.dynamics`; None without a caller.
      evaluate: Whether to compute metrics, rewards and ends of episodes; otherwise no episode ends.

    Returns:
      The episode after the last step, and the record of the interaction.

    Raises:
      TypeError, ValueError: A policy returned something else than actions [N, A] of its dynamics and its next recurrent
        state.
    """
    state = episode.state
    decisions, carries = [], []
    for index, policy in enumerate(assignment.policies):
        observation = observe_policy(env, scenario, state, assignment, index, action is not None)
        before = episode.carries[index]
        decision = policy.act(observation, before, _policy_key(state, state.step, index))
        check_decision(policy, decision, before, policy.dynamics or env.dynamics, scenario.num_agents)
        decisions.append(decision[0])
        carries.append(decision[1])
    controls = _controls(env, assignment, decisions, action)

    def substep(state: State, _: None) -> tuple[State, tuple]:
        next_agents, mask, invalid = _apply_controls(scenario, state, controls)
        active = state.step < scenario.last_step
        if evaluate:
            state, agents, out = env.transition(scenario, state, next_agents, mask, invalid)
        else:
            state = env.advance(scenario, state, next_agents, mask)
            agents, out = state.agents, None
        return state, (state.step, active, agents, state.ended, out)

    if env.config.steps_per_action == 1:
        state, record = substep(state, None)
        record = jax.tree.map(lambda leaf: leaf[None], record)
    else:
        state, record = jax.lax.scan(substep, state, length=env.config.steps_per_action)
    return EpisodeState(state=state, carries=tuple(carries)), Interaction(tuple(decisions), *record)


def combine_outputs(env: Env, interaction: Interaction) -> StepOutput:
    """The results of an interaction combined as those of one step.

    Rewards are summed, metrics are reduced by their own rule over time, and flags are true if any step has them.

    Args:
      env: Rules.
      interaction: An evaluated interaction.
    """
    out = interaction.outputs
    assert out is not None, "the interaction was not evaluated"
    if env.config.steps_per_action == 1:
        return tree_index(out, 0)
    metrics = env.metrics
    return StepOutput(
        metrics={
            name: reduce_over_time(metrics[name], value, interaction.active) for name, value in out.metrics.items()
        },
        reward=jnp.sum(out.reward, axis=0),
        agent_terminated=jnp.any(out.agent_terminated, axis=0),
        terminated=jnp.any(out.terminated),
        truncated=out.truncated[-1],
        invalid_action=jnp.any(out.invalid_action, axis=0),
    )


# Dynamics, actions, and the controller of the agents that they apply to.
_Control = tuple[Any, Action, int]


def _controls(env: Env, assignment: Assignment, decisions: list[Action], action: Action | None) -> list[_Control]:
    controls = [(env.dynamics, action, CALLER)] if action is not None else []
    for index, (policy, agents) in enumerate(zip(assignment.policies, assignment.agents, strict=True)):
        # A policy for "none" only observes: its dynamics are not computed.
        if not (isinstance(agents, str) and agents == "none"):
            controller = policy_controller(index, action is not None)
            controls.append((policy.dynamics or env.dynamics, decisions[index], controller))
    return controls


def _apply_controls(
    scenario: Scenario, state: State, controls: list[_Control]
) -> tuple[AgentState | None, Bool[Array, " N"], Bool[Array, " N"]]:
    """Next agents of all controllers, and the masks of agents with a valid and with an invalid action."""
    next_agents, mask = None, jnp.zeros(state.ended.shape, bool)
    invalid = mask
    for dynamics, action, controller in controls:
        own = state.controller == controller
        moved, usable, unusable = apply_actions(dynamics, state, action, own, scenario.time_step)
        next_agents = where(own, moved, state.agents if next_agents is None else next_agents)
        mask, invalid = mask | usable, invalid | unusable
    return next_agents, mask, invalid


def observe_policy(
    env: Env, scenario: Scenario, state: State, assignment: Assignment, index: int, has_caller: bool = False
) -> Observation:
    """The observation of a policy, with the rows of its agents.

    Args:
      env: Rules.
      scenario: From `Env.prepare`.
      state: The state.
      assignment: The policies.
      index: Index of the policy.
      has_caller: Whether there is a caller.
    """
    agents, num_agents = assignment.agents[index], state.ended.shape[0]
    limit = env.config.max_controlled if index == 0 and not has_caller else None
    return env.observe(
        scenario,
        state,
        privileged=assignment.policies[index].privileged,
        controller=policy_controller(index, has_caller),
        max_controlled=1 if isinstance(agents, str) and agents == "sdc" else min(limit or num_agents, num_agents),
    )


def _policy_key(state: State, step: Int[Array, ""], index: int) -> Key[Array, ""]:
    return jax.random.fold_in(jax.random.fold_in(state.key, step), index)
