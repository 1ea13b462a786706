"""Clearance: distance to the nearest other agent."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from waymax_sim import geometry
from waymax_sim.metrics.metric import MetricValue, Snapshot, masked_value
from waymax_sim.metrics.overlap import HEIGHT_TOLERANCE
from waymax_sim.pytree import Array


def clearance(snapshot: Snapshot) -> MetricValue:
    """Distance from the outline of an agent to the nearest outline of another one on its level (m), 0 if they overlap.

    Exact for rectangles: the shortest distance between two disjoint ones ends at a corner. Agents are on one level
    where their heights overlap. Valid where there is another agent on the level.
    """
    return distance_to_nearest(snapshot, snapshot.agents.valid)


def distance_to_nearest(snapshot: Snapshot, others_mask: Bool[Array, " N"]) -> MetricValue:
    """`clearance` to the agents of a mask alone."""
    info, agents = snapshot.scenario.agents, snapshot.agents
    outlines = geometry.Boxes.from_poses(agents.xyz[:, :2], agents.yaw, info.size[:, :2])
    half = jnp.abs(info.size) / 2
    exact = outlines._replace(half_length=half[:, 0], half_width=half[:, 1])
    corners = geometry.box_corners(agents.xyz[:, :2], agents.yaw, info.size[:, :2])
    own = jax.tree.map(lambda leaf: leaf[:, None], snapshot.select_evaluated((outlines, exact, corners)))
    others = jax.tree.map(lambda leaf: leaf[None], (outlines, exact, corners))
    squared = jnp.minimum(_squared_corner_distance(own[1], others[2]), _squared_corner_distance(others[1], own[2]))
    is_apart = (geometry.box_separation(own[0], others[0]) >= 0) & (squared > 0)
    distance = jnp.where(is_apart, jnp.sqrt(jnp.where(is_apart, squared, 1.0)), 0.0)

    z, half_height = agents.xyz[:, 2], half[:, 2] + HEIGHT_TOLERANCE / 2
    own_z, own_half_height = snapshot.select_evaluated((z, half_height))
    on_level = jnp.abs(own_z[:, None] - z[None]) <= own_half_height[:, None] + half_height[None]
    valid = on_level & snapshot.evaluated_agents.valid[:, None] & (agents.valid & others_mask)[None] & ~snapshot.is_self
    nearest = jnp.min(jnp.where(valid, distance, jnp.inf), axis=-1, initial=jnp.inf)
    return masked_value(nearest, jnp.isfinite(nearest))


def _squared_corner_distance(boxes: geometry.Boxes, corners: Float[Array, "*#n 4 2"]) -> Float[Array, "*n"]:
    """Squared distance (m^2) from boxes to the nearest of four corners each."""
    squared = []
    for index in range(4):
        x, y = corners[..., index, 0] - boxes.x, corners[..., index, 1] - boxes.y
        outside_x = jnp.maximum(jnp.abs(boxes.cos * x + boxes.sin * y) - boxes.half_length, 0.0)
        outside_y = jnp.maximum(jnp.abs(boxes.cos * y - boxes.sin * x) - boxes.half_width, 0.0)
        squared.append(outside_x * outside_x + outside_y * outside_y)
    return jnp.minimum(jnp.minimum(*squared[:2]), jnp.minimum(*squared[2:]))
