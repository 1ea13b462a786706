"""Exceeding the speed limit."""

import jax.numpy as jnp

from waymax_sim import geometry
from waymax_sim.maps.index import Z_STRETCH
from waymax_sim.maps.nearest import segment_endpoints
from waymax_sim.maps.paths import segment_lane
from waymax_sim.metrics.metric import MetricValue, Snapshot, masked_value

# Largest distance to the lane whose speed limit applies, m; heights are weighted by `Z_STRETCH`.
MAX_LIMIT_DISTANCE = 3.0


def speed_limit(snapshot: Snapshot) -> MetricValue:
    """Speed limit of the lane of a vehicle or cyclist, m/s.

    The lane is the nearest one that agrees with the heading, within 3 m. Its limit is that of the map, or where the map
    has none that of its type: 65 mph on freeways, 35 on streets, 15 elsewhere. Valid where there is such a lane.
    """
    lanes, graph = snapshot.scenario.lanes, snapshot.scenario.graph
    segment, has_lane = snapshot.nearest_lane
    ends = segment_endpoints(lanes, segment)
    start, along, offset = ends[:, :3], ends[:, 3:] - ends[:, :3], snapshot.ground_points - ends[:, :3]
    length2 = geometry.dot(along[:, :2], along[:, :2])
    part = jnp.clip(geometry.dot(offset[:, :2], along[:, :2]) / jnp.where(length2 > 0, length2, 1.0), 0.0, 1.0)
    gap = snapshot.ground_points - start - part[:, None] * along
    is_near = geometry.norm(gap * jnp.asarray([1.0, 1.0, Z_STRETCH])[None]) <= MAX_LIMIT_DISTANCE
    limit = graph.speed_limit[segment_lane(lanes, segment)]
    return masked_value(limit, snapshot.is_wheeled & has_lane & is_near)


def speeding(snapshot: Snapshot) -> MetricValue:
    """Speed of a vehicle or cyclist above the speed limit of its lane (m/s), 0 below the limit.

    Valid where there is a lane, see `speed_limit`.

    Source: nuPlan, speed limit compliance. The logged future is not used.
    """
    limit = snapshot.cached(speed_limit)
    excess = jnp.maximum(geometry.norm(snapshot.evaluated_agents.velocity) - limit.value, 0.0)
    return masked_value(excess, limit.valid)


def speeding_time(snapshot: Snapshot) -> MetricValue:
    """Time in the last step during which the speed limit was exceeded (s): the time step or 0."""
    excess = snapshot.cached(speeding)
    return masked_value(jnp.where(excess.value > 0, snapshot.dt, 0.0), excess.valid)
