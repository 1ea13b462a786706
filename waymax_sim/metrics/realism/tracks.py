"""Tracks of the scored agents in the log and in rollouts, and the masks of these agents."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from waymax_sim.datatypes.agents import AgentState
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.pytree import Array, pytree, to_device

# Largest number of scored agents: the challenge lists at most 8 tracks to predict, in addition to the sdc.
MAX_EVALUATED = 9


@pytree
class RealismRollouts:
    """K rollouts of the agents of one scene, at the steps after the current one.

    Attributes:
      xyz: Centers of the boxes, m, local frame.
      yaw: Headings, rad, as simulated.
    """

    xyz: Float[Array, "*lead F N 3"]
    yaw: Float[Array, "*lead F N"]


@pytree
class RealismTracks:
    """Tracks of the same agents in the log or in several rollouts: T steps, with history.

    Attributes:
      xyz: Centers, m, local frame.
      yaw: Headings, rad.
      valid: Whether the agent is valid.
      size: Length, width and height, m.
      type: 1 vehicle, 2 pedestrian, 3 cyclist.
    """

    xyz: Float[Array, "*lead T N 3"]
    yaw: Float[Array, "*lead T N"]
    valid: Bool[Array, "*lead T N"]
    size: Float[Array, "*lead N 3"]
    type: Int[Array, "*lead N"]


@pytree
class EvaluatedAgents:
    """The scored agents, in the order of their ids.

    Attributes:
      row: Row in the scenario.
      id: Track id.
      type: 1 vehicle, 2 pedestrian, 3 cyclist.
      exists: False for padding.
      logged: Whether they are valid in the log, at the steps after the current one.
    """

    row: Int[Array, " E"]
    id: Int[Array, " E"]
    type: Int[Array, " E"]
    exists: Bool[Array, " E"]
    logged: Bool[Array, "F E"]


def simulated_mask(scenario: Scenario) -> Bool[Array, " N"]:
    """Mask of the agents that are simulated: all that are valid at the current step."""
    return jnp.asarray(scenario.log.valid)[scenario.current_step] & scenario.agents.exists


def evaluated_mask(scenario: Scenario, all_agents: bool = False) -> Bool[Array, " N"]:
    """Mask of the scored agents: of the simulated ones, the sdc and those to predict, or all."""
    is_listed = scenario.agents.is_sdc | scenario.agents.to_predict | all_agents
    return is_listed & simulated_mask(scenario)


def select_evaluated(scenario: Scenario, num_future: int, count: int, all_agents: bool = False) -> EvaluatedAgents:
    """Selects the scored agents.

    Args:
      scenario: The scenario.
      num_future: Number of the last steps that are scored.
      count: Slots for scored agents; must not be less than their number.
      all_agents: Score all simulated agents.
    """
    mask, agents = evaluated_mask(scenario, all_agents), to_device(scenario.agents)
    last = np.iinfo(np.int32).max
    row = jnp.argsort(jnp.where(mask, agents.id, last), stable=True)[:count].astype(jnp.int32)
    exists = mask[row]
    return EvaluatedAgents(
        row, agents.id[row], agents.type[row], exists, scenario.log.valid[-num_future:, row] & exists[None]
    )


def round_to_world_float32(xyz: Float[Array, "*b c"], origin: Float[Array, " c"]) -> Float[Array, "*b c"]:
    """Positions (m, local frame) rounded to float32 in the frame of the world.

    The official code computes in that frame, where adjacent float32 numbers differ by up to 1 mm. Differences from the
    origin are exact, so positions rounded like this give the same numbers in the local frame.
    """
    origin = origin[(None,) * (xyz.ndim - 1)]
    return jax.lax.optimization_barrier(xyz + origin) - origin


def official_log(scenario: Scenario) -> AgentState:
    """The log with the values of official records where an agent is not valid: zeros, in the frame of the world."""
    log = to_device(scenario.log)
    xyz = jnp.where(log.valid[..., None], log.xyz, -scenario.origin[None, None])
    return AgentState(xyz, jnp.where(log.valid, log.yaw, 0.0), log.velocity, log.valid)


def logged_tracks(scenario: Scenario, log: AgentState) -> RealismTracks:
    """The log of all simulated agents with their size at the current step, [T, N]; other agents are not valid."""
    agents = scenario.agents
    return RealismTracks(log.xyz, log.yaw, log.valid & simulated_mask(scenario)[None], agents.size, agents.type)


def simulated_tracks(log: RealismTracks, rollouts: RealismRollouts, is_simulated: Bool[Array, " N"]) -> RealismTracks:
    """Rollouts after the logged history of their agents.

    Args:
      log: The log, [T, N].
      rollouts: K rollouts of the last F steps.
      is_simulated: Mask of the simulated agents.

    Returns:
      Tracks [K, T, N].
    """
    num_rollouts, num_future = rollouts.xyz.shape[:2]
    lead = (num_rollouts,)

    def append(logged, future):
        history = logged[: logged.shape[0] - num_future]
        return jnp.concatenate([jnp.broadcast_to(history[None], lead + history.shape), future], axis=1)

    return RealismTracks(
        xyz=append(log.xyz, rollouts.xyz),
        yaw=append(log.yaw, rollouts.yaw),
        valid=append(log.valid, jnp.broadcast_to(is_simulated[None, None], rollouts.yaw.shape)),
        size=jnp.broadcast_to(log.size[None], lead + log.size.shape),
        type=jnp.broadcast_to(log.type[None], lead + log.type.shape),
    )
