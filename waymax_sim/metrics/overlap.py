"""Collisions: boxes that share space."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from waymax_sim import geometry
from waymax_sim.datatypes.agents import AgentState
from waymax_sim.metrics.metric import MetricValue, Snapshot, flag
from waymax_sim.ops import backend
from waymax_sim.ops.batched_lookup import nonzero_padded
from waymax_sim.pytree import Array

# Number of other boxes per iteration of the sequential comparison.
UNROLL = 8
# Vertical gap below which heights overlap, m: boxes of scenes without heights are compared by their outlines.
HEIGHT_TOLERANCE = 1e-4


class Boxes3D(NamedTuple):
    """Upright boxes, prepared for comparison.

    Attributes:
      outline: Rectangle in the plane.
      z: Center, m.
      half_height: Half of the height, m.
      absence: 0 for a valid box, infinity for a missing one and for one without an area.
    """

    outline: geometry.Boxes
    z: Float[Array, "*n"]
    half_height: Float[Array, "*n"]
    absence: Float[Array, "*n"]

    @classmethod
    def from_agents(cls, agents: AgentState, size: Float[Array, "N 3"]) -> "Boxes3D":
        """Boxes of agents with the given length, width and height (m)."""
        outline = geometry.Boxes.from_poses(agents.xyz[:, :2], agents.yaw, size[:, :2])
        absence = jnp.where(agents.valid & (outline.half_length > 0), 0.0, jnp.inf)
        boxes = cls(outline, agents.xyz[:, 2], jnp.abs(size[:, 2]) / 2, absence)
        # One evaluation per agent: without the barrier XLA may fuse it into the comparison of all pairs.
        return backend.materialize(boxes)


def overlap(snapshot: Snapshot) -> MetricValue:
    """Whether the box of an agent shares space with that of any other valid agent.

    Boxes are upright: their outlines must share an area (touching is not enough) and their heights must overlap, so
    a car on a bridge does not collide with the car below.
    """
    all_rows = jnp.arange(snapshot.agents.valid.shape[0], dtype=jnp.int32)
    rows = all_rows if snapshot.rows is None else snapshot.rows
    others = Boxes3D.from_agents(snapshot.agents, snapshot.scenario.agents.size)
    own = others if snapshot.rows is None else Boxes3D.from_agents(snapshot.evaluated_agents, snapshot.info.size)
    rows, own, all_rows, others = jax.lax.stop_gradient((rows, own, all_rows, others))
    sequential = jax.custom_batching.sequential_vmap(_min_separation_sequential)
    compute = sequential if backend.on_cpu() else _min_separation
    separation = compute(rows, own, all_rows, others)
    return flag(separation < 0, snapshot.evaluated_agents.valid)


def pairwise_separation(
    own: AgentState, own_size: Float[Array, "O 3"], others: AgentState, other_size: Float[Array, "N 3"]
) -> Float[Array, "O N"]:
    """Largest gap (m) between the boxes of each pair of agents along their axes: negative where they share space.

    Args:
      own: First agents, [O].
      own_size: Their length, width and height, m.
      others: Second agents, [N].
      other_size: Their length, width and height, m.

    Returns:
      The gap; infinite where an agent of the pair is not valid.
    """
    return _separation(_column(Boxes3D.from_agents(own, own_size)), _row(Boxes3D.from_agents(others, other_size)))


def _separation(a: Boxes3D, b: Boxes3D) -> Float[Array, "*n"]:
    vertical = jnp.abs(a.z - b.z) - (a.half_height + b.half_height + HEIGHT_TOLERANCE)
    return jnp.maximum(geometry.box_separation(a.outline, b.outline), vertical) + a.absence + b.absence


def _column(boxes: Boxes3D) -> Boxes3D:
    return jax.tree.map(lambda leaf: leaf[:, None], boxes)


def _row(boxes: Boxes3D) -> Boxes3D:
    return jax.tree.map(lambda leaf: leaf[None], boxes)


def _min_separation(
    rows: Int[Array, " O"], own: Boxes3D, all_rows: Int[Array, " N"], others: Boxes3D
) -> Float[Array, " O"]:
    """Smallest separation (m) from any other agent, over all pairs together."""
    separation = _separation(_column(own), _row(others))
    is_self = rows[:, None] == all_rows[None]
    return jnp.min(separation + jnp.where(is_self, jnp.inf, 0.0), axis=-1, initial=jnp.inf)


def _min_separation_sequential(
    rows: Int[Array, " O"], own: Boxes3D, all_rows: Int[Array, " N"], others: Boxes3D
) -> Float[Array, " O"]:
    """The same, `UNROLL` valid agents at a time: pairs with missing agents are never computed."""
    num_agents = all_rows.shape[0]
    valid_rows, num_valid = nonzero_padded(jnp.isfinite(others.absence), num_agents + UNROLL)
    # One table of all parts of the boxes, with a missing agent as padding.
    table = jnp.stack([all_rows.astype(jnp.float32), *jax.tree.leaves(others)], axis=-1)
    table = jnp.pad(table, ((0, 1), (0, 0))).at[num_agents, -1].set(jnp.inf)[valid_rows]
    own_rows = rows.astype(jnp.float32)

    def compare(loop):
        begin, nearest = loop
        block = jax.lax.dynamic_slice_in_dim(table, begin, UNROLL)
        for index in range(UNROLL):
            row, *parts = (block[index, column, None] for column in range(table.shape[1]))
            separation = _separation(own, jax.tree.unflatten(jax.tree.structure(others), parts))
            nearest = jnp.minimum(nearest, separation + jnp.where(own_rows == row, jnp.inf, 0.0))
        return begin + UNROLL, nearest

    unbounded = jnp.full(rows.shape, jnp.inf)
    return jax.lax.while_loop(lambda loop: loop[0] < num_valid, compare, (jnp.int32(0), unbounded))[1]
