"""Leaving the road."""

from waymax_sim.metrics.metric import MetricValue, Snapshot, flag


def road_edge_distance(snapshot: Snapshot) -> MetricValue:
    """Signed distance of the most off-road bottom corner to the nearest road edge (m); positive is off the road.

    Definition of the Waymo Open Sim Agents Challenge. Not valid where the map has no road edges.
    """
    return snapshot.road_edge_distance


def offroad(snapshot: Snapshot) -> MetricValue:
    """Whether any bottom corner lies beyond the nearest road edge."""
    return flag(*snapshot.offroad)
