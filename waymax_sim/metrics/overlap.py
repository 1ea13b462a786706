"""Collisions."""

import jax.numpy as jnp
from jaxtyping import Bool, Float

from waymax_sim import geometry
from waymax_sim.datatypes.agents import AgentState
from waymax_sim.metrics.metric import MetricValue, Snapshot, flag
from waymax_sim.pytree import Array


def overlap(snapshot: Snapshot) -> MetricValue:
    """Whether the box of an agent shares space with that of any other valid agent.

    Boxes are upright: their outlines must share an area (touching is not enough) and their heights must meet, so
    a car on a bridge does not collide with the car below.
    """
    hits = overlapping_pairs(snapshot.agents, snapshot.scenario.agents.size)
    return flag(jnp.any(hits, axis=-1), snapshot.agents.valid)


def overlapping_pairs(agents: AgentState, size: Float[Array, "N 3"]) -> Bool[Array, "N N"]:
    """Which pairs of valid agents overlap; False on the diagonal."""
    xy, yaw, plan = agents.xyz[:, :2], agents.yaw, size[:, :2]
    hits = geometry.boxes_overlap(xy[:, None], yaw[:, None], plan[:, None], xy[None], yaw[None], plan[None])
    z, height = agents.xyz[:, 2], size[:, 2]
    meets = jnp.abs(z[:, None] - z[None]) <= (height[:, None] + height[None]) / 2
    both = agents.valid[:, None] & agents.valid[None] & ~jnp.eye(len(yaw), dtype=bool)
    return hits & meets & both
