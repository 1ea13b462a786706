"""Collection of transitions in the graph: environments with automatic resets over a bank of scenarios."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Key

from waymax_sim.adapters.functional import AutoResetState, FunctionalEnv, Transition
from waymax_sim.env import Policies
from waymax_sim.env.bank import ScenarioBank
from waymax_sim.pytree import Array, pytree

# From encoded observations [E, K, D] and a key to actions [E, K, A] and any further arrays to record.
Actor = Callable[[Array, Key[Array, ""]], tuple[Array, Any]]


@pytree
class Environments:
    """E environments between two decisions.

    Attributes:
      state: Their states.
      observation: Encoded observations, [E, K, D].
    """

    state: AutoResetState
    observation: Array


@pytree
class Decisions:
    """Records of T decisions of E environments with K rows, [T, E, K].

    Attributes:
      observation: Encoded observations at the decision.
      action: Actions.
      extra: Further results of the actor.
      result: Rewards, ends and metrics.
      episode: Number of earlier episodes of each environment, [T, E].
    """

    observation: Float[Array, "*T E K D"]
    action: Array
    extra: Any
    result: Transition
    episode: Int[Array, "*T E"]


def reset_environments(
    env: FunctionalEnv, bank: ScenarioBank, key: Key[Array, ""], num_envs: int, traffic: Policies = None
) -> Environments:
    """Starts E environments.

    Args:
      env: The environment.
      bank: The scenarios.
      key: Random key.
      num_envs: E.
      traffic: Policies of agents that the learner does not control.
    """
    positions = jnp.arange(num_envs, dtype=jnp.int32)
    reset = jax.vmap(env.reset, in_axes=(None, 0, None, 0, None))
    return Environments(*reset(bank, jax.random.split(key, num_envs), traffic, positions, num_envs))


def collect(
    env: FunctionalEnv,
    actor: Actor,
    bank: ScenarioBank,
    environments: Environments,
    key: Key[Array, ""],
    num_decisions: int,
    traffic: Policies = None,
) -> tuple[Environments, Decisions]:
    """T decisions of all environments. Pure; nothing leaves the device.

    Args:
      env: The environment.
      actor: Chooses actions.
      bank: The scenarios.
      environments: From `reset_environments` or an earlier call.
      key: Random key of the actions.
      num_decisions: T.
      traffic: The policies of `reset_environments`; their weights may differ.
    """

    def step(state: AutoResetState, action: Array) -> tuple[AutoResetState, Array, Transition]:
        state, result = env.step(bank, state, action, traffic)
        # The final observations are not recorded, so they are not computed.
        return state, result.observation, dataclasses.replace(result, observation=(), final_observation=())

    def decide(environments: Environments, key: Key[Array, ""]) -> tuple[Environments, Decisions]:
        action, extra = actor(environments.observation, key)
        state, observation, result = jax.vmap(step)(environments.state, action)
        following = Environments(state, observation)
        decisions = Decisions(environments.observation, action, extra, result, environments.state.count)
        return following, decisions

    return jax.lax.scan(decide, environments, jax.random.split(key, num_decisions))


def episode_scalars(decisions: Decisions) -> dict[str, Float[Array, ""]]:
    """Mean return and `end_rates` of the episodes that ended, and the number of decisions of agents."""
    result = decisions.result
    ended = result.active & (result.terminated | result.truncated)
    count = jnp.maximum(jnp.sum(ended), 1).astype(jnp.float32)
    scalars = {
        "return": jnp.sum(jnp.where(ended, result.episode_return, 0.0)) / count,
        "agent_steps": jnp.sum(result.active).astype(jnp.float32),
        "invalid_actions": jnp.sum(result.invalid_action).astype(jnp.float32),
    }
    return scalars | end_rates(result)


def end_rates(result: Transition, mask: Bool[Array, "T E K"] | None = None) -> dict[str, Float[Array, ""]]:
    """Shares of the episodes that ended at the goal without harm, in a collision, and off the road; and their number.

    Args:
      result: Results with the metrics "goal_reached", "overlap" and "offroad".
      mask: Decisions that count; all by default.
    """
    goal, overlap, offroad = (result.metrics[name].value > 0 for name in ("goal_reached", "overlap", "offroad"))
    ended = result.active & (result.terminated | result.truncated)
    ended = ended if mask is None else ended & mask
    count = jnp.maximum(jnp.sum(ended), 1).astype(jnp.float32)
    kinds = {"goal": goal & ~overlap & ~offroad, "collision": overlap, "offroad": offroad & ~overlap}
    rates = {name: jnp.sum(ended & kind) / count for name, kind in kinds.items()}
    return rates | {"episodes": jnp.sum(ended).astype(jnp.float32)}
