"""Agents: where they are, what they are, and how to pick some of them by name."""

from typing import Literal, get_args

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Num

from waymax_sim.pytree import Array, pytree

# Object types as in the WOMD `Track.object_type` field.
UNSET, VEHICLE, PEDESTRIAN, CYCLIST, OTHER = range(5)
# Values beyond this count as not finite: agents that coast from there would exceed the largest float (m, m/s).
MAX_FINITE = 1e18
AGENT_TYPE_NAMES = ("unset", "vehicle", "pedestrian", "cyclist", "other")

Selector = Literal["sdc", "others", "all", "none", "to_predict", "vehicle", "pedestrian", "cyclist", "travelling"]


@pytree
class AgentState:
    """Where agents are. The leading axes are free: [N] for now, [T, N] for a log.

    Attributes:
      xyz: Centre of the box, m, local frame.
      yaw: Heading, rad in [-pi, pi), counter-clockwise from local x.
      velocity: Velocity (x, y), m/s, local frame.
      valid: Whether the agent is there. All other fields are zero where it is not.
    """

    xyz: Float[Array, "*lead 3"]
    yaw: Float[Array, "*lead"]
    velocity: Float[Array, "*lead 2"]
    valid: Bool[Array, "*lead"]


@pytree
class AgentInfo:
    """What does not change about the agents of a scene.

    Attributes:
      id: Track id of the source.
      type: 0 unset, 1 vehicle, 2 pedestrian, 3 cyclist, 4 other (WOMD numbering).
      size: Length, width and height of the box at the current step (or at the valid step nearest to it), m.
      exists: False for padding.
      is_sdc: The self-driving car; at most one.
      to_predict: Listed by the source as a track to predict.
      of_interest: Listed by the source as an object of interest.
    """

    id: Int[Array, " N"]
    type: Int[Array, " N"]
    size: Float[Array, "N 3"]
    exists: Bool[Array, " N"]
    is_sdc: Bool[Array, " N"]
    to_predict: Bool[Array, " N"]
    of_interest: Bool[Array, " N"]


def where(mask: Bool[Array, "*lead"], yes: AgentState, no: AgentState) -> AgentState:
    """Picks whole agents: `yes` where `mask`, else `no`."""
    return AgentState(
        xyz=jnp.where(mask[..., None], yes.xyz, no.xyz),
        yaw=jnp.where(mask, yes.yaw, no.yaw),
        velocity=jnp.where(mask[..., None], yes.velocity, no.velocity),
        valid=jnp.where(mask, yes.valid, no.valid),
    )


def is_finite(agents: AgentState) -> Bool[Array, "*lead"]:
    """Agents whose pose and velocity are finite."""
    return rows_are_finite(agents.xyz) & (jnp.abs(agents.yaw) < MAX_FINITE) & rows_are_finite(agents.velocity)


def rows_are_finite(values: Num[Array, "*lead A"]) -> Bool[Array, "*lead"]:
    """Rows of finite values. Rows whose sum is beyond `MAX_FINITE` count as not finite."""
    if not jnp.issubdtype(values.dtype, jnp.floating) or not values.shape[-1]:
        return jnp.ones(values.shape[:-1], bool)
    # A sum is finite only where all its terms are; sums of columns are vectorized, reductions of short rows are not.
    total = values[..., 0]
    for column in range(1, values.shape[-1]):
        total = total + values[..., column]
    return jnp.abs(total) < MAX_FINITE


def masked(agents: AgentState, keep: Bool[Array, "*lead"]) -> AgentState:
    """Makes the agents outside `keep` invalid and zeroes what they hold."""
    return AgentState(
        xyz=jnp.where(keep[..., None], agents.xyz, 0.0),
        yaw=jnp.where(keep, agents.yaw, 0.0),
        velocity=jnp.where(keep[..., None], agents.velocity, 0.0),
        valid=agents.valid & keep,
    )


def select(info: AgentInfo, who: str) -> Bool[Array, " N"]:
    """Mask of the agents named by a `Selector`; "others" are all but the sdc.

    Raises:
      ValueError: `who` is not one of the selectors, or is "travelling", which depends on the log (`select_agents`).
    """
    by_type = {"vehicle": VEHICLE, "pedestrian": PEDESTRIAN, "cyclist": CYCLIST}
    if who in by_type:
        return (info.type == by_type[who]) & info.exists
    match who:
        case "sdc":
            return info.is_sdc & info.exists
        case "others":
            return ~info.is_sdc & info.exists
        case "all":
            return info.exists & True
        case "none":
            return info.exists & False
        case "to_predict":
            return info.to_predict & info.exists
        case "travelling":
            raise ValueError(
                "'travelling' depends on the log: use waymax_sim.env.select_agents(scenario, 'travelling')"
            )
        case _:
            raise ValueError(f"unknown selector {who!r}; use one of {', '.join(get_args(Selector))}")
