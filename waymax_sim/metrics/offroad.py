"""Leaving the road."""

import jax.numpy as jnp

from waymax_sim.maps.driveways import is_in_driveway
from waymax_sim.metrics.metric import MetricValue, Snapshot, flag
from waymax_sim.ops.batched_lookup import update_masked

# Largest distance of a corner from a driveway polygon on which it stands, m: polygons end short of the road edge.
DRIVEWAY_MARGIN = 0.5
# Number of corners per comparison with all driveways.
CORNER_BATCH = 16


def road_edge_distance(snapshot: Snapshot) -> MetricValue:
    """Signed distance of the most off-road bottom corner to the nearest road edge (m); positive is off the road.

    Definition of the Waymo Open Sim Agents Challenge. Not valid where the map has no road edges.
    """
    return snapshot.road_edge_distance


def offroad(snapshot: Snapshot) -> MetricValue:
    """Whether any bottom corner lies beyond the nearest road edge."""
    return flag(*snapshot.offroad)


def offroad_outside_driveways(snapshot: Snapshot) -> MetricValue:
    """`offroad`, except that a corner in a mapped driveway, or at most 0.5 m from it, is not off the road.

    Equals `offroad` on maps without driveways, such as those of WOMD before version 1.2 and of tf.Examples. Limit:
    driveways have no height, so that one under a bridge covers the bridge.
    """
    is_beyond, valid = snapshot.offroad_corners
    driveways, corners = snapshot.scenario.roadmap.driveways, snapshot.corners[..., :2].reshape(-1, 2)
    if not driveways.shape[-2]:
        return offroad(snapshot)

    def is_outside(rows):
        return ~is_in_driveway(jnp.asarray(driveways), corners[rows], DRIVEWAY_MARGIN)

    flat = is_beyond.reshape(-1)
    flat = update_masked(flat, flat, CORNER_BATCH, is_outside)
    return flag(jnp.any(flat.reshape(is_beyond.shape), axis=-1), valid)


def road_departure(snapshot: Snapshot) -> MetricValue:
    """Whether a vehicle or cyclist is off the road; over an episode, whether it left the road.

    Per step this is `offroad` of valid vehicles and cyclists. Over an episode it is 1 for an agent that is on the road
    at its first valid step and off the road at any later one, 0 for one that stays on the road, and not valid for one
    that is off the road from the start, such as a vehicle parked in a lot. Pedestrians have no value: most of them
    walk off the road.
    """
    is_offroad, valid = snapshot.offroad
    return flag(is_offroad, valid & snapshot.is_wheeled)
