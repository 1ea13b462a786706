"""Height of the ground under moving agents, from the grade of the nearest lane."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from waymax_sim import geometry
from waymax_sim.datatypes.roadmap import Segments
from waymax_sim.maps.nearest import nearest_segment, segment_endpoints
from waymax_sim.ops.polyline import components, segment_projection
from waymax_sim.pytree import Array

# Maximal distance in the plane of a lane that determines the ground height, m.
MAX_LANE_DISTANCE = 15.0


def terrain_height_change(
    lanes: Segments, before: Float[Array, "*q 3"], after: Float[Array, "*q 2"], query_mask: Bool[Array, "*q"]
) -> Float[Array, "*q"]:
    """Change of the ground height (m) along a displacement.

    The grade is that of the lane nearest to the new position at the old height, so an agent on a bridge follows the
    bridge. Without a lane nearby the ground is level. Gradients do not flow through the choice of the lane.

    Args:
      lanes: Lane segments.
      before: Positions before the displacement, m, local frame.
      after: Positions after it in the plane, m.
      query_mask: Displacements to evaluate. The results of the others are undefined.
    """
    target = jax.lax.stop_gradient(jnp.concatenate([after, before[..., 2:]], axis=-1))
    index, has_lane = nearest_segment(lanes, target, query_mask)
    endpoints = segment_endpoints(lanes, index)
    start, along = endpoints[..., :3], endpoints[..., 3:] - endpoints[..., :3]
    plane = along[..., :2]
    squared_length = geometry.dot(plane, plane)
    _, squared_distance = segment_projection(components(start), components(plane), components(target), squared_length)
    grade = along[..., 2] / jnp.where(squared_length > 0, squared_length, 1.0)
    rise = grade * geometry.dot(after - before[..., :2], plane)
    return jnp.where(has_lane & (squared_distance < MAX_LANE_DISTANCE**2), rise, 0.0)
