"""Straddling of two lanes."""

import jax.numpy as jnp
from jaxtyping import Bool

from waymax_sim import geometry
from waymax_sim.datatypes.roadmap import CHUNK_SIZE
from waymax_sim.maps.paths import segment_frenet
from waymax_sim.metrics.metric import MetricValue, Snapshot, flag
from waymax_sim.pytree import Array

# Tolerated distance of a corner beyond the border of the lane, m.
MAX_BORDER_OVERLAP = 0.2


def straddling(snapshot: Snapshot) -> MetricValue:
    """Whether a vehicle or cyclist reaches into a neighboring lane of its direction by more than 0.2 m.

    The lane is the nearest one that agrees with the heading. Its border is the middle between its centerline and that
    of the neighboring lane, so no lane width is assumed. Lane changes straddle while they last; the mean over time is
    the share of time spent straddling. Valid where there is a lane.

    Source: nuPlan and V-Max, driving in multiple lanes. Limits: on junctions lanes have no neighbors, so no agent
    straddles there; lanes of the other direction are not neighbors, for them see `wrong_way`.
    """
    return flag(snapshot.cached(is_straddling), snapshot.is_wheeled & snapshot.nearest_lane[1])


def is_straddling(snapshot: Snapshot) -> Bool[Array, " O"]:
    """Whether agents reach into a neighboring lane; False for those that are on no lane."""
    lanes, graph, agents = snapshot.scenario.lanes, snapshot.scenario.graph, snapshot.evaluated_agents
    segment, has_lane = snapshot.nearest_lane
    xy, index = agents.xyz[:, :2], (segment // CHUNK_SIZE, segment % CHUNK_SIZE)
    own = segment_frenet(lanes, graph, segment, xy, agents.yaw)
    # Corners in the frame of the lane, which deviates from its tangent by its curvature.
    corners = geometry.rotate(snapshot.corners[..., :2] - xy[:, None], (own.heading - agents.yaw)[:, None])
    lateral = own.lateral[:, None] + corners[..., 1] - graph.curvature[index][:, None] * corners[..., 0] ** 2 / 2

    def crosses_border(neighbor, side):
        """Whether a corner is beyond the border to the neighboring lane on the left (1) or right (-1)."""
        spacing = jnp.abs(own.lateral - segment_frenet(lanes, graph, jnp.maximum(neighbor, 0), xy, agents.yaw).lateral)
        return (neighbor >= 0) & (jnp.max(side * lateral, axis=-1) > spacing / 2 + MAX_BORDER_OVERLAP)

    crosses_left, crosses_right = crosses_border(graph.left[index], 1.0), crosses_border(graph.right[index], -1.0)
    return snapshot.is_wheeled & has_lane & (crosses_left | crosses_right)
