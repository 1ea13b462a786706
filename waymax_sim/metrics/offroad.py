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


def road_departure(snapshot: Snapshot) -> MetricValue:
    """Whether a vehicle or cyclist is off the road; over an episode, whether it left the road.

    Per step this is `offroad` of valid vehicles and cyclists. Over an episode it is 1 for an agent that is on the road
    at its first valid step and off the road at any later one, 0 for one that stays on the road, and not valid for one
    that is off the road from the start, such as a vehicle parked in a lot. Pedestrians have no value: most of them
    walk off the road.
    """
    is_offroad, valid = snapshot.offroad
    return flag(is_offroad, valid & snapshot.is_wheeled)
