"""Agents: states, constant attributes, and selection by name."""

from typing import Literal, get_args

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Num

from waymax_sim import geometry
from waymax_sim.pytree import Array, pytree

# Object types as in the WOMD `Track.object_type` field.
UNSET = 0
VEHICLE = 1
PEDESTRIAN = 2
CYCLIST = 3
OTHER = 4
# Larger values count as not finite, since agents that coast would overflow float32, m and m/s.
MAX_FINITE = 1e18
AGENT_TYPE_NAMES = ("unset", "vehicle", "pedestrian", "cyclist", "other")

Selector = Literal["sdc", "others", "all", "none", "to_predict", "vehicle", "pedestrian", "cyclist", "traveling"]


@pytree
class AgentState:
    """States of agents. The leading axes are free: [N] for one step, [T, N] for a log.

    Attributes:
      xyz: Center of the box, m, local frame.
      yaw: Heading, rad in [-pi, pi), counter-clockwise from local x.
      velocity: Velocity (x, y), m/s, local frame.
      valid: Whether the agent is present. All other fields are zero where it is not.
    """

    xyz: Float[Array, "*lead 3"]
    yaw: Float[Array, "*lead"]
    velocity: Float[Array, "*lead 2"]
    valid: Bool[Array, "*lead"]


@pytree
class AgentInfo:
    """Constant attributes of the agents of a scene.

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
    """Selects agents element by element.

    Args:
      mask: Agents to take from `yes`.
      yes: Agents where the mask is true.
      no: Agents where it is false.
    """
    return AgentState(
        xyz=jnp.where(mask[..., None], yes.xyz, no.xyz),
        yaw=jnp.where(mask, yes.yaw, no.yaw),
        velocity=jnp.where(mask[..., None], yes.velocity, no.velocity),
        valid=jnp.where(mask, yes.valid, no.valid),
    )


def forward_speed(agents: AgentState) -> Float[Array, "*lead"]:
    """Speed along the heading, m/s; negative for agents that roll backwards."""
    return geometry.dot(agents.velocity, geometry.unit_vector(agents.yaw))


def is_finite(agents: AgentState) -> Bool[Array, "*lead"]:
    """Agents whose pose and velocity are finite."""
    return rows_are_finite(agents.xyz) & (jnp.abs(agents.yaw) < MAX_FINITE) & rows_are_finite(agents.velocity)


def rows_are_finite(values: Num[Array, "*lead A"]) -> Bool[Array, "*lead"]:
    """Rows of finite values. Rows whose sum is beyond `MAX_FINITE` count as not finite."""
    if not jnp.issubdtype(values.dtype, jnp.floating) or not values.shape[-1]:
        return jnp.ones(values.shape[:-1], bool)
    # A sum is finite only if all its terms are.
    total = values[..., 0]
    for column in range(1, values.shape[-1]):
        total = total + values[..., column]
    return jnp.abs(total) < MAX_FINITE


def mask_agents(agents: AgentState, keep: Bool[Array, "*lead"]) -> AgentState:
    """Makes the agents outside of `keep` invalid and sets their fields to zero."""
    return AgentState(
        xyz=jnp.where(keep[..., None], agents.xyz, 0.0),
        yaw=jnp.where(keep, agents.yaw, 0.0),
        velocity=jnp.where(keep[..., None], agents.velocity, 0.0),
        valid=agents.valid & keep,
    )


def select(info: AgentInfo, selector: str) -> Bool[Array, " N"]:
    """Mask of the agents named by a `Selector`; "others" are all but the sdc.

    Raises:
      ValueError: `selector` is not one of the selectors, or is "traveling", which depends on the log (`select_agents`).
    """
    by_type = {"vehicle": VEHICLE, "pedestrian": PEDESTRIAN, "cyclist": CYCLIST}
    if selector in by_type:
        return (info.type == by_type[selector]) & info.exists
    match selector:
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
        case "traveling":
            raise ValueError("'traveling' depends on the log: use waymax_sim.env.select_agents(scenario, 'traveling')")
        case _:
            raise ValueError(f"unknown selector {selector!r}; use one of {', '.join(get_args(Selector))}")
