"""Distance to the road edge."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from waymax_sim import geometry
from waymax_sim.datatypes.roadmap import ROAD_EDGE_TYPES, RoadMap, Segments
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.maps.nearest import signed_distance
from waymax_sim.metrics.realism.tracks import Tracks, as_float32_of_the_world
from waymax_sim.pytree import Array, on_device

# The value where an agent is not there (m).
ABSENT = -1e10


def road_edges(scenario: Scenario, parity: bool) -> Segments:
    """The road edges; for parity as the official code sees them.

    There, of all closed lines only those with as many points as the longest line of the scene are closed, and places
    are float32 in the frame of the world.
    """
    edges = on_device(scenario.edges)
    if not parity:
        return edges
    longest = _is_longest(scenario.roadmap)[edges.feature]
    own = jnp.arange(edges.feature.size, dtype=jnp.int32).reshape(edges.feature.shape)
    # Only the seam of a loop leads back.
    return dataclasses.replace(
        edges,
        ends=jnp.swapaxes(
            as_float32_of_the_world(jnp.swapaxes(edges.ends, 1, 2), jnp.tile(jnp.asarray(scenario.origin), 2)), 1, 2
        ),
        previous=jnp.where((edges.previous > own) & ~longest, -1, edges.previous),
        next=jnp.where((edges.next < own) & ~longest, -1, edges.next),
    )


def distance_to_road_edge(
    edges: Segments, origin: Float[Array, " 3"], tracks: Tracks, parity: bool
) -> Float[Array, "T E"]:
    """Signed distance (m) of the most off-road bottom corner to the nearest road edge; positive is off the road.

    Args:
      edges: From `road_edges`.
      origin: World position of the local origin, m.
      tracks: The agents that are asked about, in one scene; where one is not there it is far on the road.
      parity: Round corners to what float32 can tell apart in the frame of the world.
    """
    xyz, size = tracks.xyz, jnp.broadcast_to(tracks.size[None], tracks.xyz.shape)
    xy = geometry.box_corners(xyz[..., :2], tracks.yaw, size[..., :2])
    bottom = jnp.broadcast_to((xyz[..., 2] - size[..., 2] / 2)[..., None, None], (*xy.shape[:-1], 1))
    corners = jnp.concatenate([xy, bottom], axis=-1)
    if parity:
        corners = as_float32_of_the_world(corners, origin)
    asked = jnp.broadcast_to(tracks.valid[..., None], corners.shape[:-1])
    distance, _ = signed_distance(edges, corners, asked)
    return jnp.where(tracks.valid, jnp.max(distance, axis=-1), ABSENT)


def _is_longest(roadmap: RoadMap) -> Bool[Array, " F"]:
    """The road edges with the largest number of points."""
    count = jax.ops.segment_sum(
        jnp.asarray(roadmap.valid).astype(jnp.int32), roadmap.feature, roadmap.feature_type.shape[0]
    )
    is_edge = jnp.isin(jnp.asarray(roadmap.feature_type), jnp.asarray(ROAD_EDGE_TYPES))
    return is_edge & (count == jnp.max(jnp.where(is_edge, count, 0), initial=0))
