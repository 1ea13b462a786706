"""Collisions."""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from waymax_sim import geometry
from waymax_sim.datatypes.agents import AgentState
from waymax_sim.metrics.metric import MetricValue, Snapshot, flag
from waymax_sim.pytree import Array

# Heights this close meet (m), so that flat boxes of scenes without heights are judged by their outlines.
MEETS = 1e-4


def overlap(snapshot: Snapshot) -> MetricValue:
    """Whether the box of an agent shares space with that of any other valid agent.

    Boxes are upright: their outlines must share an area (touching is not enough) and their heights must meet, so
    a car on a bridge does not collide with the car below.
    """
    everyone = jnp.arange(snapshot.agents.valid.shape[0])
    rows = everyone if snapshot.rows is None else snapshot.rows
    gap = gaps(snapshot.subjects, snapshot.info.size, snapshot.agents, snapshot.scenario.agents.size)
    itself = rows[:, None] == everyone[None]
    nearest = jnp.min(gap + jnp.where(itself, jnp.inf, 0.0), axis=-1, initial=jnp.inf)
    return flag(nearest < 0, snapshot.subjects.valid)


def gaps(
    ours: AgentState, our_size: Float[Array, "O 3"], others: AgentState, size: Float[Array, "N 3"]
) -> Float[Array, "O N"]:
    """Widest gap (m) between the box of each of our agents and of each other: negative where they share space.

    Infinite where one of the two is not valid.
    """

    def columns(agents, size):
        # Absence is added, in floats, rather than selected: one kind of number is what compilers vectorise.
        absence = jnp.where(agents.valid, 0.0, jnp.inf)
        boxes = geometry.Boxes.of(agents.xyz[:, :2], agents.yaw, size[:, :2])
        # Without the barrier XLA may repeat all this for every pair.
        return jax.lax.optimization_barrier((boxes, agents.xyz[:, 2], (size[:, 2] + MEETS) / 2, absence))

    our_boxes, our_z, our_half, our_absence = jax.tree.map(lambda leaf: leaf[:, None], columns(ours, our_size))
    boxes, z, half, absence = jax.tree.map(lambda leaf: leaf[None], columns(others, size))
    above = jnp.abs(our_z - z) - (our_half + half)
    return jnp.maximum(geometry.boxes_gap(our_boxes, boxes), above) + our_absence + absence
