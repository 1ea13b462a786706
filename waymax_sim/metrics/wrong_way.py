"""Driving against the direction of a lane."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from waymax_sim import geometry
from waymax_sim.datatypes.lanes import LaneGraph
from waymax_sim.datatypes.roadmap import Segments
from waymax_sim.maps.nearest import nearest_segment, segment_endpoints, squared_distance, squared_distance_to_all
from waymax_sim.maps.paths import segment_lane
from waymax_sim.metrics.metric import MetricValue, Snapshot, flag, masked_value
from waymax_sim.ops.batched_lookup import update_masked
from waymax_sim.pytree import Array

# Angle between heading and lane direction from which an agent drives against the lane, rad; crossing traffic does not.
MIN_OPPOSING_ANGLE = 2 * jnp.pi / 3
# Largest angle between heading and lane direction at which an agent drives along the lane, rad.
MAX_ALIGNED_ANGLE = jnp.pi / 2
# Largest distance of an agent from the centerline of a lane in which it is, m: half a lane.
MAX_LANE_CENTER_DISTANCE = 2.0
# Number of candidates per exact comparison with all lanes.
CANDIDATE_BATCH = 8
# Indices of x and y of both endpoints among the coordinates of a segment.
ENDPOINT_XY = (0, 1, 3, 4)


def wrong_way(snapshot: Snapshot) -> MetricValue:
    """Whether a vehicle or cyclist is in a lane that runs against its heading, and in no lane along its heading.

    The nearest of all lanes differs from the heading by more than 120 degrees, is within 2 m and leads over no
    junction, and no lane that differs from the heading by at most 90 degrees is within 2 m; heights count three times.
    Lanes over a junction (`LaneGraph.is_junction`) share their area with crossing traffic, so their direction does not
    exclude others. Valid where the map has lanes.
    """
    lanes = snapshot.scenario.lanes
    valid = snapshot.is_wheeled & lanes.valid[0, 0]
    return flag(_drives_against(snapshot, snapshot.evaluated_agents.yaw, valid), valid)


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
    is_opposing = _drives_against(snapshot, course, valid & (distance > 0))
    return masked_value(jnp.where(is_opposing, distance, 0.0), valid)


def _drives_against(snapshot: Snapshot, yaw: Float[Array, " O"], query_mask: Bool[Array, " O"]) -> Bool[Array, " O"]:
    """Whether agents that move in the direction `yaw` (rad) drive against the lane in which they are."""
    scenario = snapshot.scenario
    return _is_in_opposing_lane(scenario.lanes, scenario.graph, snapshot.ground_points, yaw, query_mask)


# Jitted for callers outside of jit, where its loop would be traced at every call.
@jax.jit
def _is_in_opposing_lane(
    lanes: Segments,
    graph: LaneGraph,
    points: Float[Array, "O 3"],
    yaw: Float[Array, " O"],
    query_mask: Bool[Array, " O"],
) -> Bool[Array, " O"]:
    """Whether the nearest lane opposes and no lane along the heading is near: only candidates query all lanes."""

    def angle(yaw, start_x, start_y, end_x, end_y):
        return jnp.abs(geometry.wrap_angle(yaw - jnp.arctan2(end_y - start_y, end_x - start_x)))

    def compare_all_lanes(rows):
        squared = squared_distance_to_all(lanes, points[rows])
        angles = angle(yaw[rows][:, None], *(lanes.endpoints[:, axis].reshape(1, -1) for axis in ENDPOINT_XY))
        is_along = (angles <= MAX_ALIGNED_ANGLE) & (squared < MAX_LANE_CENTER_DISTANCE**2)
        return ~jnp.any(is_along, axis=-1)

    nearest, _ = nearest_segment(lanes, points, query_mask)
    endpoints = segment_endpoints(lanes, nearest)
    is_near = squared_distance(endpoints[..., None], points)[:, 0] < MAX_LANE_CENTER_DISTANCE**2
    opposes = angle(yaw, *(endpoints[:, axis] for axis in ENDPOINT_XY)) > MIN_OPPOSING_ANGLE
    candidates = query_mask & is_near & opposes & ~graph.is_junction[segment_lane(lanes, nearest)]
    return update_masked(jnp.zeros(query_mask.shape, bool), candidates, CANDIDATE_BATCH, compare_all_lanes)
