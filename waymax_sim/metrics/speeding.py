"""Driving faster than allowed."""

import jax.numpy as jnp

from waymax_sim import geometry
from waymax_sim.maps.index import Z_STRETCH
from waymax_sim.maps.nearest import ends_of
from waymax_sim.maps.paths import lane_of
from waymax_sim.metrics.metric import MetricValue, Snapshot, masked_value

# Further than this from the nearest lane no limit is known (m); heights count three times.
NEAR = 3.0


def speeding(snapshot: Snapshot) -> MetricValue:
    """By how much a vehicle or cyclist exceeds the speed limit of its lane (m/s), 0 where it keeps it.

    The lane is the nearest one that agrees with the heading, within 3 m. Its limit is that of the map, or where the map
    has none that of its type: 65 mph on freeways, 35 on streets, 15 elsewhere. Valid where there is such a lane.

    Source: nuPlan, speed limit compliance. The logged future plays no part.
    """
    lanes, graph, agents = snapshot.scenario.lanes, snapshot.scenario.graph, snapshot.subjects
    segment, found = snapshot.nearest_lane
    ends = ends_of(lanes, segment)
    start, along, offset = ends[:, :3], ends[:, 3:] - ends[:, :3], snapshot.wheels - ends[:, :3]
    length2 = geometry.dot(along[:, :2], along[:, :2])
    part = jnp.clip(geometry.dot(offset[:, :2], along[:, :2]) / jnp.where(length2 > 0, length2, 1.0), 0.0, 1.0)
    gap = snapshot.wheels - start - part[:, None] * along
    near = geometry.norm(gap * jnp.asarray([1.0, 1.0, Z_STRETCH])[None]) <= NEAR
    limit = graph.speed_limit[lane_of(lanes, segment)]
    excess = jnp.maximum(geometry.norm(agents.velocity) - limit, 0.0)
    return masked_value(excess, snapshot.drives & found & near)


def speeding_time(snapshot: Snapshot) -> MetricValue:
    """Time in the last step during which the limit was exceeded: all of it or none (s)."""
    excess = snapshot.once(speeding)
    return masked_value(jnp.where(excess.value > 0, snapshot.dt, 0.0), excess.valid)
