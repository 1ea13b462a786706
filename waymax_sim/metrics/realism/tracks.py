"""Whose motion is compared: the log and the rollouts of the same agents, as the metric wants to see them."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from waymax_sim.datatypes.agents import AgentState
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.pytree import Array, on_device, pytree

# The challenge lists at most 8 tracks to predict; the sdc is one more.
MAX_EVALUATED = 9


@pytree
class Rollouts:
    """What K simulations of one scene gave for its agents, at the steps after the current one.

    Attributes:
      xyz: Centres of the boxes, m, local frame.
      yaw: Headings, rad, as simulated.
    """

    xyz: Float[Array, "*lead F N 3"]
    yaw: Float[Array, "*lead F N"]


@pytree
class Tracks:
    """Whole tracks of the same agents in several scenes: T steps, with history.

    Attributes:
      xyz: Centres, m, local frame.
      yaw: Headings, rad.
      valid: Whether the agent is there.
      size: Length, width and height, m.
      type: 1 vehicle, 2 pedestrian, 3 cyclist.
    """

    xyz: Float[Array, "*lead T N 3"]
    yaw: Float[Array, "*lead T N"]
    valid: Bool[Array, "*lead T N"]
    size: Float[Array, "*lead N 3"]
    type: Int[Array, "*lead N"]


@pytree
class Evaluated:
    """The agents that are scored, in the order of their ids.

    Attributes:
      row: Row in the scenario.
      id: Track id.
      type: 1 vehicle, 2 pedestrian, 3 cyclist.
      exists: False for padding.
      logged: Whether the log has them, at the steps after the current one.
    """

    row: Int[Array, " E"]
    id: Int[Array, " E"]
    type: Int[Array, " E"]
    exists: Bool[Array, " E"]
    logged: Bool[Array, "F E"]


def simulated(scenario: Scenario) -> Bool[Array, " N"]:
    """The agents that a rollout must have: all that are there at the current step."""
    return jnp.asarray(scenario.log.valid)[scenario.current_step] & scenario.agents.exists


def to_evaluate(scenario: Scenario, everyone: bool = False) -> Bool[Array, " N"]:
    """The agents that are scored: the sdc and those to predict, or everyone, as far as they are simulated."""
    listed = scenario.agents.is_sdc | scenario.agents.to_predict | everyone
    return listed & simulated(scenario)


def choose(scenario: Scenario, num_future: int, count: int, everyone: bool = False) -> Evaluated:
    """Rows of the agents that are scored; `count` must be enough for all of them."""
    scored, agents = to_evaluate(scenario, everyone), on_device(scenario.agents)
    last = np.iinfo(np.int32).max
    row = jnp.argsort(jnp.where(scored, agents.id, last), stable=True)[:count].astype(jnp.int32)
    exists = scored[row]
    return Evaluated(
        row, agents.id[row], agents.type[row], exists, scenario.log.valid[-num_future:, row] & exists[None]
    )


def as_float32_of_the_world(xyz: Float[Array, "*b c"], origin: Float[Array, " c"]) -> Float[Array, "*b c"]:
    """Positions (m, local frame) rounded to what float32 can tell apart in the frame of the world.

    The official code computes there, where neighbouring numbers are up to 1 mm apart. Differences to the origin are
    exact, so after this the local frame gives the same numbers.
    """
    origin = origin[(None,) * (xyz.ndim - 1)]
    return jax.lax.optimization_barrier(xyz + origin) - origin


def recorded(scenario: Scenario) -> AgentState:
    """The log with what official records hold where nothing was seen: zeros, in the frame of the world."""
    log = on_device(scenario.log)
    xyz = jnp.where(log.valid[..., None], log.xyz, -scenario.origin[None, None])
    return AgentState(xyz, jnp.where(log.valid, log.yaw, 0.0), log.velocity, log.valid)


def logged_tracks(scenario: Scenario, log: AgentState) -> Tracks:
    """The log of all simulated agents, of their size at the current step, [T, N]. Others are nowhere."""
    agents = scenario.agents
    return Tracks(log.xyz, log.yaw, log.valid & simulated(scenario)[None], agents.size, agents.type)


def simulated_tracks(log: Tracks, rollouts: Rollouts, there: Bool[Array, " N"]) -> Tracks:
    """The rollouts of the agents that are `there`, after their logged history, [K, T, N]."""
    num_rollouts, num_future = rollouts.xyz.shape[:2]
    lead = (num_rollouts,)

    def after(logged, future):
        history = logged[: logged.shape[0] - num_future]
        return jnp.concatenate([jnp.broadcast_to(history[None], lead + history.shape), future], axis=1)

    return Tracks(
        xyz=after(log.xyz, rollouts.xyz),
        yaw=after(log.yaw, rollouts.yaw),
        valid=after(log.valid, jnp.broadcast_to(there[None, None], rollouts.yaw.shape)),
        size=jnp.broadcast_to(log.size[None], lead + log.size.shape),
        type=jnp.broadcast_to(log.type[None], lead + log.type.shape),
    )
