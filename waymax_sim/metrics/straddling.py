"""Being in two lanes at once."""

import jax.numpy as jnp
from jaxtyping import Bool

from waymax_sim import geometry
from waymax_sim.datatypes.roadmap import CHUNK
from waymax_sim.maps.paths import frenet
from waymax_sim.metrics.metric import MetricValue, Snapshot, flag
from waymax_sim.pytree import Array

# A corner may be over the border by so much (m).
MARGIN = 0.2


def straddling(snapshot: Snapshot) -> MetricValue:
    """Whether a vehicle or cyclist reaches into a neighbouring lane of its direction by more than 0.2 m.

    The lane is the nearest one that agrees with the heading. Its border is half way between its centre and that of
    the neighbour beside it, wherever that is: no width is assumed. Lane changes straddle while they last; the mean over
    time says how much of it was spent so. Valid where there is a lane.

    Source: nuPlan and V-Max, driving in multiple lanes. Limits: on junctions lanes have no neighbours, so nobody
    straddles there; lanes of the other direction are no neighbours, for which see `wrong_way`.
    """
    return flag(snapshot.once(straddles), snapshot.drives & snapshot.nearest_lane[1])


def straddles(snapshot: Snapshot) -> Bool[Array, " O"]:
    """Whether agents reach into a neighbouring lane; False for those that are on no lane."""
    lanes, graph, agents = snapshot.scenario.lanes, snapshot.scenario.graph, snapshot.subjects
    segment, found = snapshot.nearest_lane
    xy, place = agents.xyz[:, :2], (segment // CHUNK, segment % CHUNK)
    own = frenet(lanes, graph, segment, xy, agents.yaw)
    # Corners, in the frame of the lane; in a bend the lane curves away under a long vehicle.
    reach = geometry.rotate(snapshot.corners[..., :2] - xy[:, None], (own.heading - agents.yaw)[:, None])
    aside = own.lateral[:, None] + reach[..., 1] - graph.curvature[place][:, None] * reach[..., 0] ** 2 / 2

    def over(beside, outward):
        """Over the border to the lane on one side."""
        spacing = jnp.abs(own.lateral - frenet(lanes, graph, jnp.maximum(beside, 0), xy, agents.yaw).lateral)
        return (beside >= 0) & (jnp.max(outward * aside, axis=-1) > spacing / 2 + MARGIN)

    left, right = over(graph.left[place], 1.0), over(graph.right[place], -1.0)
    return snapshot.drives & found & (left | right)
