"""Distance to the road edge."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from waymax_sim import geometry
from waymax_sim.datatypes.roadmap import ROAD_EDGE_TYPES, RoadMap, Segments
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.maps.nearest import signed_distance
from waymax_sim.metrics.realism.tracks import RealismTracks, round_to_world_float32
from waymax_sim.pytree import Array, to_device

# Distance of agents that are not valid, m: far on the road.
ABSENT_DISTANCE = -1e10


def road_edges(scenario: Scenario, parity: bool) -> Segments:
    """The road edges; with parity as in the official code.

    There, closed lines are closed only if they have as many points as the longest line of the scene, and points are
    float32 in the frame of the world.
    """
    edges = to_device(scenario.edges)
    if not parity:
        return edges
    longest = _is_longest(scenario.roadmap)[edges.feature]
    own = jnp.arange(edges.feature.size, dtype=jnp.int32).reshape(edges.feature.shape)
    # Links to an earlier or later segment in reverse order occur at the seam of a loop only.
    return dataclasses.replace(
        edges,
        endpoints=jnp.swapaxes(
            round_to_world_float32(jnp.swapaxes(edges.endpoints, 1, 2), jnp.tile(jnp.asarray(scenario.origin), 2)), 1, 2
        ),
        previous=jnp.where((edges.previous > own) & ~longest, -1, edges.previous),
        next=jnp.where((edges.next < own) & ~longest, -1, edges.next),
    )


def distance_to_road_edge(
    edges: Segments, origin: Float[Array, " 3"], tracks: RealismTracks, parity: bool
) -> Float[Array, "T E"]:
    """Signed distance (m) of the most off-road bottom corner to the nearest road edge; positive is off the road.

    Args:
      edges: From `road_edges`.
      origin: World position of the local origin, m.
      tracks: The scored agents of one scene; `ABSENT_DISTANCE` where they are not valid.
      parity: Round corners to float32 in the world frame, as the official code does.
    """
    xyz, size = tracks.xyz, jnp.broadcast_to(tracks.size[None], tracks.xyz.shape)
    xy = geometry.box_corners(xyz[..., :2], tracks.yaw, size[..., :2])
    bottom = jnp.broadcast_to((xyz[..., 2] - size[..., 2] / 2)[..., None, None], (*xy.shape[:-1], 1))
    corners = jnp.concatenate([xy, bottom], axis=-1)
    if parity:
        corners = round_to_world_float32(corners, origin)
    query_mask = jnp.broadcast_to(tracks.valid[..., None], corners.shape[:-1])
    distance, _ = signed_distance(edges, corners, query_mask)
    return jnp.where(tracks.valid, jnp.max(distance, axis=-1), ABSENT_DISTANCE)


def _is_longest(roadmap: RoadMap) -> Bool[Array, " F"]:
    """The road edges with the largest number of points."""
    count = jax.ops.segment_sum(
        jnp.asarray(roadmap.valid).astype(jnp.int32), roadmap.feature, roadmap.feature_type.shape[0]
    )
    is_edge = jnp.isin(jnp.asarray(roadmap.feature_type), jnp.asarray(ROAD_EDGE_TYPES))
    return is_edge & (count == jnp.max(jnp.where(is_edge, count, 0), initial=0))
