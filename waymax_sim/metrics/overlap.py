"""Collisions."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from waymax_sim import geometry
from waymax_sim.datatypes.agents import AgentState
from waymax_sim.metrics.metric import MetricValue, Snapshot, flag
from waymax_sim.ops.batched_lookup import nonzero_padded
from waymax_sim.pytree import Array

# How many others a CPU takes in one turn of the loop.
UNROLL = 8
# Heights this close meet (m), so that flat boxes of scenes without heights are judged by their outlines.
MEETS = 1e-4


class Solids(NamedTuple):
    """Upright boxes, prepared for comparison: outline, middle and half height (m), infinity where there is none."""

    outline: geometry.Boxes
    z: Float[Array, "*n"]
    half: Float[Array, "*n"]
    absence: Float[Array, "*n"]

    @classmethod
    def of(cls, agents: AgentState, size: Float[Array, "N 3"]) -> "Solids":
        """Boxes of agents of given length, width and height (m)."""
        # Absence is added, in floats, rather than selected: one kind of number is what compilers vectorise.
        absence = jnp.where(agents.valid, 0.0, jnp.inf)
        outline = geometry.Boxes.of(agents.xyz[:, :2], agents.yaw, size[:, :2])
        # Without the barrier XLA may repeat all this for every pair.
        return jax.lax.optimization_barrier(cls(outline, agents.xyz[:, 2], (size[:, 2] + MEETS) / 2, absence))


def overlap(snapshot: Snapshot) -> MetricValue:
    """Whether the box of an agent shares space with that of any other valid agent.

    Boxes are upright: their outlines must share an area (touching is not enough) and their heights must meet, so
    a car on a bridge does not collide with the car below.
    """
    everyone = jnp.arange(snapshot.agents.valid.shape[0], dtype=jnp.int32)
    rows = everyone if snapshot.rows is None else snapshot.rows
    others = Solids.of(snapshot.agents, snapshot.scenario.agents.size)
    ours = others if snapshot.rows is None else Solids.of(snapshot.subjects, snapshot.info.size)
    # A CPU compares all of ours with one of the others at a time, in registers, and scene after scene: half of the time
    # of all pairs at once. There is no gradient.
    rows, ours, everyone, others = jax.lax.stop_gradient((rows, ours, everyone, others))
    in_turn = jax.custom_batching.sequential_vmap(_nearest_in_turn)
    nearest = jax.lax.platform_dependent(rows, ours, everyone, others, cpu=in_turn, default=_nearest_at_once)
    return flag(nearest < 0, snapshot.subjects.valid)


def gaps(
    ours: AgentState, our_size: Float[Array, "O 3"], others: AgentState, size: Float[Array, "N 3"]
) -> Float[Array, "O N"]:
    """Widest gap (m) between the box of each of our agents and of each other: negative where they share space.

    Infinite where one of the two is not valid.
    """
    return _gap(jax.tree.map(lambda leaf: leaf[:, None], Solids.of(ours, our_size)), _row(Solids.of(others, size)))


def _gap(a: Solids, b: Solids) -> Float[Array, "*n"]:
    above = jnp.abs(a.z - b.z) - (a.half + b.half)
    return jnp.maximum(geometry.boxes_gap(a.outline, b.outline), above) + a.absence + b.absence


def _row(solids: Solids) -> Solids:
    return jax.tree.map(lambda leaf: leaf[None], solids)


def _nearest_at_once(
    rows: Int[Array, " O"], ours: Solids, everyone: Int[Array, " N"], others: Solids
) -> Float[Array, " O"]:
    gap = _gap(jax.tree.map(lambda leaf: leaf[:, None], ours), _row(others))
    itself = rows[:, None] == everyone[None]
    return jnp.min(gap + jnp.where(itself, jnp.inf, 0.0), axis=-1, initial=jnp.inf)


def _nearest_in_turn(
    rows: Int[Array, " O"], ours: Solids, everyone: Int[Array, " N"], others: Solids
) -> Float[Array, " O"]:
    size = everyone.shape[0]
    present, count = nonzero_padded(jnp.isfinite(others.absence), size + UNROLL)
    # One table of those that are there, which is read a few rows at a time. It is filled up with one who is not.
    table = jnp.pad(jnp.stack([everyone.astype(jnp.float32), *jax.tree.leaves(others)], axis=-1), ((0, 1), (0, 0)))
    table = table.at[size, -1].set(jnp.inf)[present]
    number = rows.astype(jnp.float32)

    def compare(loop):
        begin, nearest = loop
        block = jax.lax.dynamic_slice_in_dim(table, begin, UNROLL)
        for turn in range(UNROLL):
            who, *parts = (block[turn, column, None] for column in range(table.shape[1]))
            gap = _gap(ours, jax.tree.unflatten(jax.tree.structure(others), parts))
            nearest = jnp.minimum(nearest, gap + jnp.where(number == who, jnp.inf, 0.0))
        return begin + UNROLL, nearest

    nothing = jnp.full(rows.shape, jnp.inf)
    return jax.lax.while_loop(lambda loop: loop[0] < count, compare, (jnp.int32(0), nothing))[1]
