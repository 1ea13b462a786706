"""Room around an agent."""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from waymax_sim import geometry
from waymax_sim.metrics.metric import MetricValue, Snapshot, masked_value
from waymax_sim.metrics.overlap import MEETS
from waymax_sim.pytree import Array


def clearance(snapshot: Snapshot) -> MetricValue:
    """Distance between the outline of an agent and the nearest outline of another on its level (m), 0 where they meet.

    Exact for rectangles: where they do not overlap, a corner of one is nearest to the other. Others are on its level
    where their heights meet. Valid where there is another one.
    """
    info, agents = snapshot.scenario.agents, snapshot.agents
    outlines = geometry.Boxes.of(agents.xyz[:, :2], agents.yaw, info.size[:, :2])
    corners = geometry.box_corners(agents.xyz[:, :2], agents.yaw, info.size[:, :2])
    ours = jax.tree.map(lambda leaf: leaf[:, None], snapshot.of_subjects((outlines, corners)))
    others = jax.tree.map(lambda leaf: leaf[None], (outlines, corners))
    distance = jnp.minimum(_to_corners(ours[0], others[1]), _to_corners(others[0], ours[1]))
    distance = jnp.where(geometry.boxes_gap(ours[0], others[0]) < 0, 0.0, distance)

    z, half = agents.xyz[:, 2], (info.size[:, 2] + MEETS) / 2
    apart = jnp.abs(snapshot.of_subjects(z)[:, None] - z[None])
    level = apart <= snapshot.of_subjects(half)[:, None] + half[None]
    counts = level & snapshot.subjects.valid[:, None] & agents.valid[None] & ~snapshot.is_itself
    nearest = jnp.min(jnp.where(counts, distance, jnp.inf), axis=-1, initial=jnp.inf)
    return masked_value(nearest, jnp.isfinite(nearest))


def _to_corners(boxes: geometry.Boxes, corners: Float[Array, "*#n 4 2"]) -> Float[Array, "*n"]:
    """Distance (m) from boxes to the nearest of four corners each."""
    squared = []
    for index in range(4):
        x, y = corners[..., index, 0] - boxes.x, corners[..., index, 1] - boxes.y
        along = jnp.maximum(jnp.abs(boxes.cos * x + boxes.sin * y) - boxes.long, 0.0)
        aside = jnp.maximum(jnp.abs(boxes.cos * y - boxes.sin * x) - boxes.wide, 0.0)
        squared.append(along * along + aside * aside)
    least = jnp.minimum(jnp.minimum(*squared[:2]), jnp.minimum(*squared[2:]))
    return jnp.sqrt(least)
