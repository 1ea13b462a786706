"""Driving against the direction of a lane."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from waymax_sim import geometry
from waymax_sim.datatypes.roadmap import Segments
from waymax_sim.maps.nearest import nearest_segment, segment_endpoints, squared_distance_to_all
from waymax_sim.metrics.metric import MetricValue, Snapshot, flag, masked_value
from waymax_sim.ops.batched_lookup import update_masked
from waymax_sim.pytree import Array

# Angle between heading and lane direction from which an agent drives against the lane, rad; crossing traffic does not.
MIN_OPPOSING_ANGLE = 2 * jnp.pi / 3
# Largest distance of an agent from the centerline of its lane, m: half a lane.
MAX_LANE_CENTER_DISTANCE = 2.0
# Number of candidates per exact comparison with all lanes.
CANDIDATE_BATCH = 8
# Indices of x and y of both endpoints among the coordinates of a segment.
ENDPOINT_XY = (0, 1, 3, 4)


def wrong_way(snapshot: Snapshot) -> MetricValue:
    """Whether a vehicle or cyclist is in a lane that runs against its heading, and in no lane that agrees with it.

    The nearest opposing centerline must be within 2 m and nearer than every centerline whose direction differs from the
    heading by at most 120 degrees; heights count three times. Valid where the map has lanes.
    """
    lanes = snapshot.scenario.lanes
    valid = snapshot.is_wheeled & lanes.valid[0, 0]
    return flag(_drives_against(lanes, snapshot.ground_points, snapshot.evaluated_agents.yaw, valid), valid)


def wrong_way_distance(snapshot: Snapshot) -> MetricValue:
    """Distance that a vehicle or cyclist moved against its lane in the last step (m), forward or in reverse.

    As `wrong_way`, with the direction of motion instead of the heading. Valid where the map has lanes, for agents that
    are valid now and one step earlier.
    """
    lanes, previous = snapshot.scenario.lanes, snapshot.select_evaluated(snapshot.previous)
    step = snapshot.evaluated_agents.xyz[:, :2] - previous.xyz[:, :2]
    valid = snapshot.is_wheeled & previous.valid & lanes.valid[0, 0]
    course = geometry.heading_angle(step, snapshot.evaluated_agents.yaw)
    distance = geometry.norm(step)
    is_opposing = _drives_against(lanes, snapshot.ground_points, course, valid & (distance > 0))
    return masked_value(jnp.where(is_opposing, distance, 0.0), valid)


# Jitted for callers outside of jit, where its loop would be traced at every call.
@jax.jit
def _drives_against(
    lanes: Segments, points: Float[Array, "O 3"], yaw: Float[Array, " O"], query_mask: Bool[Array, " O"]
) -> Bool[Array, " O"]:
    """Whether agents are in an opposing lane: a nearest-lane filter, and an exact comparison of its candidates."""

    def opposes(yaw, start_x, start_y, end_x, end_y):
        direction = jnp.arctan2(end_y - start_y, end_x - start_x)
        return jnp.abs(geometry.wrap_angle(yaw - direction)) > MIN_OPPOSING_ANGLE

    def compare_all_lanes(rows):
        squared = squared_distance_to_all(lanes, points[rows])
        opposing = opposes(yaw[rows][:, None], *(lanes.endpoints[:, axis].reshape(1, -1) for axis in ENDPOINT_XY))
        nearest_opposing = jnp.min(jnp.where(opposing, squared, jnp.inf), axis=-1)
        nearest_agreeing = jnp.min(jnp.where(opposing, jnp.inf, squared), axis=-1)
        return (nearest_opposing < MAX_LANE_CENTER_DISTANCE**2) & (nearest_opposing < nearest_agreeing)

    # Only agents whose nearest lane is opposing can be in an opposing lane; they are few.
    nearest, _ = nearest_segment(lanes, points, query_mask)
    candidates = query_mask & opposes(yaw, *(segment_endpoints(lanes, nearest)[:, axis] for axis in ENDPOINT_XY))
    return update_masked(jnp.zeros(query_mask.shape, bool), candidates, CANDIDATE_BATCH, compare_all_lanes)
