"""Rewards of agents and ends of their episodes."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from waymax_sim import geometry
from waymax_sim.datatypes.agents import AgentState, mask_agents
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.datatypes.state import State
from waymax_sim.env.config import EnvConfig
from waymax_sim.metrics import Metric, MetricValue
from waymax_sim.pytree import Array, tree_index

Values = Mapping[str, MetricValue]

# Minimum distance to other agents at a respawn, m.
RESPAWN_GAP = 0.5


def rewards(
    config: EnvConfig, metrics: Mapping[str, Metric], scenario: Scenario, state: State, values: Values
) -> Float[Array, " N"]:
    """Weighted sum of metrics per agent.

    Args:
      config: Weights.
      metrics: Metrics by name.
      scenario: The scenario.
      state: The evaluated state.
      values: Values of the metrics.
    """
    total = jnp.zeros(state.ended.shape, jnp.float32)
    for name, weight, *bound in config.rewards:
        value = _per_agent(metrics[name], scenario, values[name], *bound)
        if name == "goal_reached":
            value = jnp.where(state.goal_reached, 0.0, value)
        total = total + weight * value
    return total


def terminates(
    config: EnvConfig, metrics: Mapping[str, Metric], scenario: Scenario, values: Values
) -> Bool[Array, " N"]:
    """Agents for which a terminating metric is positive or worse than its bound.

    Args:
      config: Terminating metrics and bounds.
      metrics: Metrics by name.
      scenario: The scenario.
      values: Values of the metrics.
    """
    ended = jnp.zeros(scenario.agents.id.shape, bool)
    for item in config.terminate_on:
        name, bound = (item, None) if isinstance(item, str) else item
        ended = ended | (_per_agent(metrics[name], scenario, values[name], bound) > 0)
    return ended


def scene_terminates(
    config: EnvConfig, has_episode: Bool[Array, " N"], ended: Bool[Array, " N"], terminated: Bool[Array, " N"]
) -> Bool[Array, ""]:
    """Whether the episode of the scenario ends in this step.

    Args:
      config: Rules.
      has_episode: Controlled agents that are evaluated.
      ended: Agents that ended before this step.
      terminated: Agents that end in this step.
    """
    if config.ends == "scene":
        return jnp.any(terminated)
    if config.at_end == "respawn":
        return jnp.asarray(False)
    remaining = has_episode & ~ended & ~terminated
    return jnp.any(terminated) & ~jnp.any(remaining)


def end_agents(
    config: EnvConfig,
    scenario: Scenario,
    state: State,
    agent_terminated: Bool[Array, " N"],
    terminated: Bool[Array, ""],
    values: Values,
) -> State:
    """Marks agents whose episode has ended, and removes or respawns them.

    Args:
      config: Rules.
      scenario: The scenario.
      state: The evaluated state.
      agent_terminated: Agents that end in this step.
      terminated: Whether the scenario ends in this step.
      values: Values of the metrics.
    """
    ended = state.ended | (agent_terminated if config.ends == "agent" else terminated & (state.controller > 0))
    reached = state.goal_reached
    if "goal_reached" in values:
        reached = reached | (values["goal_reached"].value > 0)
    state = dataclasses.replace(state, ended=ended, goal_reached=reached)
    if config.at_end == "remove":
        return _remove(state, agent_terminated)
    if config.at_end == "respawn":
        return _respawn(scenario, _remove(state, agent_terminated))
    return state


def _remove(state: State, mask: Bool[Array, " N"]) -> State:
    keep = jnp.broadcast_to(~mask[None], state.history.valid.shape)
    return dataclasses.replace(state, history=mask_agents(state.history, keep))


def _respawn(scenario: Scenario, state: State) -> State:
    """Restores removed agents at their logged start, unless another agent is within `RESPAWN_GAP` of it."""
    start = tree_index(scenario.log, scenario.current_step)
    waiting = state.ended & ~state.agents.valid & start.valid
    respawns = waiting & ~_is_occupied(scenario, state.agents, start)
    is_last = jnp.arange(state.history.valid.shape[0]) == state.history.valid.shape[0] - 1
    is_replaced = is_last[:, None] & respawns[None]

    def replace(old: Array, new: Array) -> Array:
        mask = is_replaced.reshape(*is_replaced.shape, *[1] * (old.ndim - 2))
        return jnp.where(mask, new[None], old)

    return dataclasses.replace(
        state,
        history=jax.tree.map(replace, state.history, start),
        ended=state.ended & ~respawns,
        goal_reached=state.goal_reached & ~respawns,
    )


def _is_occupied(scenario: Scenario, agents: AgentState, start: AgentState) -> Bool[Array, " N"]:
    """Start poses with a valid agent within `RESPAWN_GAP`."""
    size = scenario.agents.size[:, :2]
    at_start, others = (geometry.Boxes.from_poses(a.xyz[:, :2], a.yaw, size) for a in (start, agents))
    rows, columns = (
        jax.tree.map(lambda leaf: leaf[:, None], at_start),
        jax.tree.map(lambda leaf: leaf[None], others),
    )
    near = geometry.box_separation(rows, columns) < RESPAWN_GAP
    return jnp.any(near & agents.valid[None], axis=-1)


def _per_agent(metric: Metric, scenario: Scenario, item: MetricValue, bound: float | None = None) -> Float[Array, " N"]:
    """Values of a metric; with a bound, 1 where they are worse than it and 0 elsewhere."""
    value, valid = item.value, item.valid
    if bound is not None:
        worse = value < bound if metric.better == "higher" else value > bound
        value = (valid & worse).astype(jnp.float32)
    # Metrics of the whole scenario are attributed to the sdc.
    return value if metric.per == "agent" else jnp.where(scenario.agents.is_sdc, value, 0.0)
