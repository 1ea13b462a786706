"""Collisions."""

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from waymax_sim import geometry
from waymax_sim.datatypes.agents import AgentState
from waymax_sim.metrics.metric import MetricValue, Snapshot, flag
from waymax_sim.pytree import Array, take


def overlap(snapshot: Snapshot) -> MetricValue:
    """Whether the box of an agent shares space with that of any other valid agent.

    Boxes are upright: their outlines must share an area (touching is not enough) and their heights must meet, so
    a car on a bridge does not collide with the car below.
    """
    rows = jnp.arange(snapshot.agents.valid.shape[0]) if snapshot.rows is None else snapshot.rows
    hits = overlapping_pairs(snapshot.agents, snapshot.scenario.agents.size, rows)
    return flag(jnp.any(hits, axis=-1), snapshot.subjects.valid)


def overlapping_pairs(agents: AgentState, size: Float[Array, "N 3"], rows: Int[Array, " O"]) -> Bool[Array, "O N"]:
    """Which valid agents overlap each of the agents in `rows`; no agent overlaps itself."""
    ours, our_size = take(agents, rows), size[rows]
    hits = geometry.boxes_overlap(
        *(ours.xyz[:, None, :2], ours.yaw[:, None], our_size[:, None, :2]),
        *(agents.xyz[None, :, :2], agents.yaw[None], size[None, :, :2]),
    )
    apart = jnp.abs(ours.xyz[:, None, 2] - agents.xyz[None, :, 2])
    meets = apart <= (our_size[:, None, 2] + size[None, :, 2]) / 2
    others = rows[:, None] != jnp.arange(agents.valid.shape[0])[None]
    return hits & meets & others & ours.valid[:, None] & agents.valid[None]
