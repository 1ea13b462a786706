"""How the ground rises under a moving agent."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from waymax_sim import geometry
from waymax_sim.datatypes.roadmap import Segments
from waymax_sim.maps.nearest import ends_of, nearest_segment
from waymax_sim.pytree import Array

# Lanes further away than this say nothing about the ground here (m).
REACH = 15.0


def height_change(
    lanes: Segments, before: Float[Array, "*q 3"], after: Float[Array, "*q 2"], asked: Bool[Array, "*q"]
) -> Float[Array, "*q"]:
    """Change of height (m) when moving in the plane from `before` to `after` (m), where `asked`.

    The grade is that of the lane nearest to the new place at the old height, so on a bridge it is the
    bridge's. Far from every lane the ground is taken as level. Gradients do not flow through the choice.
    """
    target = jax.lax.stop_gradient(jnp.concatenate([after, before[..., 2:]], axis=-1))
    index, found = nearest_segment(lanes, target, asked)
    ends = ends_of(lanes, index)
    start, along = ends[..., :3], ends[..., 3:] - ends[..., :3]
    plane, offset = along[..., :2], target[..., :2] - start[..., :2]
    length2 = geometry.dot(plane, plane)
    length2 = jnp.where(length2 > 0, length2, 1.0)
    t = jnp.clip(geometry.dot(offset, plane) / length2, 0.0, 1.0)
    near = geometry.norm(offset - t[..., None] * plane) < REACH
    rise = along[..., 2] / length2 * geometry.dot(after - before[..., :2], plane)
    return jnp.where(found & near, rise, 0.0)
