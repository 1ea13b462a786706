"""Planar poses (x, y, heading) on the last axis: m, m, rad."""

import jax.numpy as jnp
from jaxtyping import Float, Int

from waymax_sim import geometry
from waymax_sim.datatypes.agents import CYCLIST, PEDESTRIAN, AgentState
from waymax_sim.pytree import Array

# Indices of the classes of agents with a vocabulary of their own.
VEHICLE_CLASS = 0
PEDESTRIAN_CLASS = 1
CYCLIST_CLASS = 2
NUM_CLASSES = 3


def class_index(agent_type: Int[Array, " *n"]) -> Int[Array, " *n"]:
    """The class of agents by their type; agents of other types are vehicles."""
    cyclist_or_vehicle = jnp.where(agent_type == CYCLIST, CYCLIST_CLASS, VEHICLE_CLASS)
    return jnp.where(agent_type == PEDESTRIAN, PEDESTRIAN_CLASS, cyclist_or_vehicle).astype(jnp.int32)


def poses(agents: AgentState) -> Float[Array, "*lead 3"]:
    """Poses of agents."""
    return jnp.concatenate([agents.xyz[..., :2], agents.yaw[..., None]], axis=-1)


def relative_pose(pose: Float[Array, "*#b 3"], base: Float[Array, "*#b 3"]) -> Float[Array, "*#b 3"]:
    """Poses in the frames of base poses, headings in [-pi, pi)."""
    xy = geometry.to_frame(pose[..., :2], base[..., :2], base[..., 2])
    heading = geometry.wrap_angle(pose[..., 2] - base[..., 2])
    return jnp.concatenate([xy, heading[..., None]], axis=-1)


def compose_pose(base: Float[Array, "*#b 3"], relative: Float[Array, "*#b 3"]) -> Float[Array, "*#b 3"]:
    """The inverse of `relative_pose`: poses from those in the frames of base poses."""
    xy = geometry.from_frame(relative[..., :2], base[..., :2], base[..., 2])
    heading = geometry.wrap_angle(base[..., 2] + relative[..., 2])
    return jnp.concatenate([xy, heading[..., None]], axis=-1)


def motion_by_velocity(agents: AgentState, duration: float) -> Float[Array, "*lead 3"]:
    """Displacement at constant velocity in the frame of the agent, m, without a change of heading.

    Args:
      agents: The agents.
      duration: Time, s.
    """
    xy = geometry.rotate(agents.velocity * duration, -agents.yaw)
    return jnp.concatenate([xy, jnp.zeros_like(xy[..., :1])], axis=-1)


def corner_distance(
    a: Float[Array, "*#b 3"], b: Float[Array, "*#b 3"], box: Float[Array, "*#b 2"]
) -> Float[Array, "*#b"]:
    """Mean distance of the corresponding corners of equal boxes at two poses, m.

    Args:
      a: First poses.
      b: Second poses.
      box: Length and width, m.
    """
    first, second = (geometry.box_corners(pose[..., :2], pose[..., 2], box) for pose in (a, b))
    return jnp.mean(geometry.norm(first - second), axis=-1)
