"""Collection of transitions in the graph: environments with automatic resets over a bank of scenarios."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Bool, Float, Int, Key

from behavior_models.training.devices import ENVIRONMENT_AXIS
from waymax_sim.adapters.functional import AutoResetState, FunctionalEnv, Transition
from waymax_sim.adapters.loop import SimulationLoop
from waymax_sim.env import Observation, Policies
from waymax_sim.env.bank import ScenarioBank
from waymax_sim.pytree import Array, pytree

# From encoded observations [E, K, D] and a key to actions [E, K, A] and any further arrays to record.
Actor = Callable[[Array, Key[Array, ""]], tuple[Array, Any]]


@pytree
class Environments:
    """E environments between two decisions.

    Attributes:
      state: Their states.
      observation: Encoded observations, [E, K, D], or [E, D] for the sdc alone.
    """

    state: AutoResetState
    observation: Array


@pytree
class Decisions:
    """Records of T decisions of E environments with K rows, [T, E, K]; without the axis K for the sdc alone.

    Attributes:
      observation: Encoded observations at the decision.
      action: Actions.
      extra: Further results of the actor.
      result: Rewards, ends and metrics.
      episode: Number of earlier episodes of each environment, [T, E].
    """

    observation: Float[Array, "*lead D"]
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
    reset = jax.vmap(_without_observation(env).reset, in_axes=(None, 0, None, 0, None))
    state, _ = reset(bank, jax.random.split(key, num_envs), traffic, positions, num_envs)
    return Environments(state, observe_environments(env, bank, state))


def observe_environments(env: FunctionalEnv, bank: ScenarioBank, state: AutoResetState) -> Array:
    """Encoded observations of E environments, [E, K, D].

    Args:
      env: The environment.
      bank: The scenarios.
      state: States of the environments.
    """
    loop = SimulationLoop(env.env, env.observe)
    return jax.vmap(lambda own: loop.encode(bank.scenario(own.scene), own.episode))(state)


def collect(
    env: FunctionalEnv,
    actor: Actor,
    bank: ScenarioBank,
    environments: Environments,
    key: Key[Array, ""],
    num_decisions: int,
    traffic: Policies = None,
    mesh: Mesh | None = None,
) -> tuple[Environments, Decisions]:
    """T decisions of all environments. Pure; nothing leaves the devices.

    Args:
      env: The environment.
      actor: Chooses actions.
      bank: The scenarios.
      environments: From `reset_environments` or an earlier call.
      key: Random key of the actions.
      num_decisions: T.
      traffic: The policies of `reset_environments`; their weights may differ.
      mesh: Devices that share the environments (`device_mesh`); None for one device. Random draws do not depend on it.
    """
    observe, advance = functools.partial(observe_environments, env), functools.partial(_advance, env)
    if mesh is not None:
        shared, own = PartitionSpec(), PartitionSpec(ENVIRONMENT_AXIS)
        # No collective operations, so the check of varying values is not needed.
        share = functools.partial(jax.shard_map, mesh=mesh, out_specs=own, check_vma=False)
        observe = share(observe, in_specs=(shared, own))
        advance = share(advance, in_specs=(shared, shared, own, own))

    def decide(state: AutoResetState, key: Key[Array, ""]) -> tuple[AutoResetState, Decisions]:
        # Not carried from the previous decision, but encoded here: it is then written to the record alone.
        observation = observe(bank, state)
        action, extra = actor(observation, key)
        following, result = advance(bank, traffic, state, action)
        return following, Decisions(observation, action, extra, result, state.count)

    state, decisions = jax.lax.scan(decide, environments.state, jax.random.split(key, num_decisions))
    return Environments(state, observe(bank, state)), decisions


def _advance(
    env: FunctionalEnv, bank: ScenarioBank, traffic: Policies, state: AutoResetState, action: Array
) -> tuple[AutoResetState, Transition]:
    """One decision of all environments, without observations."""
    return jax.vmap(_without_observation(env).step, in_axes=(None, 0, 0, None))(bank, state, action, traffic)


def _without_observation(env: FunctionalEnv) -> FunctionalEnv:
    return dataclasses.replace(env, observe=_no_observation)


def _no_observation(observation: Observation) -> Float[Array, "K 0"]:
    return jnp.zeros((observation.controlled.shape[0], 0))


def episode_scalars(decisions: Decisions) -> dict[str, Float[Array, ""]]:
    """Mean return of the episodes that ended, with `end_rates` if it has the metrics, and the number of decisions."""
    result = decisions.result
    ended = result.active & (result.terminated | result.truncated)
    count = jnp.maximum(jnp.sum(ended), 1).astype(jnp.float32)
    scalars = {
        "return": jnp.sum(jnp.where(ended, result.episode_return, 0.0)) / count,
        "agent_steps": jnp.sum(result.active).astype(jnp.float32),
        "invalid_actions": jnp.sum(result.invalid_action).astype(jnp.float32),
    }
    has_rates = {"goal_reached", "overlap", "offroad"} <= result.metrics.keys()
    return scalars | (end_rates(result) if has_rates else {"episodes": jnp.sum(ended).astype(jnp.float32)})


def end_kinds(goal: Bool[Array, "*n"], overlap: Bool[Array, "*n"], offroad: Bool[Array, "*n"]) -> dict[str, Array]:
    """Masks of the episodes that ended at the goal without harm, in a collision, and off the road.

    Args:
      goal: Agents at their goal.
      overlap: Agents in a collision.
      offroad: Agents off the road.
    """
    return {"goal": goal & ~overlap & ~offroad, "collision": overlap, "offroad": offroad & ~overlap}


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
    rates = {name: jnp.sum(ended & kind) / count for name, kind in end_kinds(goal, overlap, offroad).items()}
    return rates | {"episodes": jnp.sum(ended).astype(jnp.float32)}
