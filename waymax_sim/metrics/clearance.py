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
    half = jnp.abs(info.size) / 2
    exact = outlines._replace(long=half[:, 0], wide=half[:, 1])
    corners = geometry.box_corners(agents.xyz[:, :2], agents.yaw, info.size[:, :2])
    ours = jax.tree.map(lambda leaf: leaf[:, None], snapshot.of_subjects((outlines, exact, corners)))
    others = jax.tree.map(lambda leaf: leaf[None], (outlines, exact, corners))
    squared = jnp.minimum(_squared_to_corners(ours[1], others[2]), _squared_to_corners(others[1], ours[2]))
    apart = (geometry.boxes_gap(ours[0], others[0]) >= 0) & (squared > 0)
    distance = jnp.where(apart, jnp.sqrt(jnp.where(apart, squared, 1.0)), 0.0)

    z, high = agents.xyz[:, 2], half[:, 2] + MEETS / 2
    level = jnp.abs(snapshot.of_subjects(z)[:, None] - z[None]) <= snapshot.of_subjects(high)[:, None] + high[None]
    counts = level & snapshot.subjects.valid[:, None] & agents.valid[None] & ~snapshot.is_itself
    nearest = jnp.min(jnp.where(counts, distance, jnp.inf), axis=-1, initial=jnp.inf)
    return masked_value(nearest, jnp.isfinite(nearest))


def _squared_to_corners(boxes: geometry.Boxes, corners: Float[Array, "*#n 4 2"]) -> Float[Array, "*n"]:
    """Squared distance (m^2) from boxes to the nearest of four corners each."""
    squared = []
    for index in range(4):
        x, y = corners[..., index, 0] - boxes.x, corners[..., index, 1] - boxes.y
        along = jnp.maximum(jnp.abs(boxes.cos * x + boxes.sin * y) - boxes.long, 0.0)
        aside = jnp.maximum(jnp.abs(boxes.cos * y - boxes.sin * x) - boxes.wide, 0.0)
        squared.append(along * along + aside * aside)
    return jnp.minimum(jnp.minimum(*squared[:2]), jnp.minimum(*squared[2:]))
