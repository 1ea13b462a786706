"""Driving against the direction of a lane."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from waymax_sim import geometry
from waymax_sim.datatypes.roadmap import Segments
from waymax_sim.maps.nearest import distance2_to_all, ends_of, nearest_segment
from waymax_sim.metrics.metric import MetricValue, Snapshot, flag, masked_value
from waymax_sim.ops.batched_lookup import update_masked
from waymax_sim.pytree import Array

# A heading this far from the direction of the lane drives against it (rad); crossing traffic does not.
MAX_ANGLE = 2 * jnp.pi / 3
# Half a lane: further from the centre than this the agent is not in the lane (m).
IN_LANE = 2.0
# Suspects that are looked at closely at once.
SUSPECTS = 8
# x and y of both ends among the coordinates of a segment.
PLANE = (0, 1, 3, 4)


def wrong_way(snapshot: Snapshot) -> MetricValue:
    """Whether a vehicle or cyclist is in a lane that runs against its heading, and in no lane that agrees with it.

    The nearest opposing lane centre must be within 2 m and nearer than every lane centre whose direction differs
    from the heading by at most 120 degrees; heights count three times. Valid where the map has lanes.
    """
    lanes = snapshot.scenario.lanes
    valid = snapshot.drives & lanes.valid[0, 0]
    return flag(_drives_against(lanes, snapshot.wheels, snapshot.subjects.yaw, valid), valid)


def wrong_way_distance(snapshot: Snapshot) -> MetricValue:
    """Way that a vehicle or cyclist went against its lane in the last step (m), forwards or backwards.

    As `wrong_way`, with the direction in which the agent moved in place of its heading. Valid where the map has lanes
    and the agent was there one step before.
    """
    lanes, previous = snapshot.scenario.lanes, snapshot.of_subjects(snapshot.previous)
    step = snapshot.subjects.xyz[:, :2] - previous.xyz[:, :2]
    valid = snapshot.drives & previous.valid & lanes.valid[0, 0]
    course = geometry.direction(step, snapshot.subjects.yaw)
    way = geometry.norm(step)
    against = _drives_against(lanes, snapshot.wheels, course, valid & (way > 0))
    return masked_value(jnp.where(against, way, 0.0), valid)


# Compiled even where the caller is not: loops are traced anew at every call outside of jit.
@jax.jit
def _drives_against(
    lanes: Segments, wheels: Float[Array, "O 3"], yaw: Float[Array, " O"], asked: Bool[Array, " O"]
) -> Bool[Array, " O"]:
    def opposes(yaw, start_x, start_y, end_x, end_y):
        direction = jnp.arctan2(end_y - start_y, end_x - start_x)
        return jnp.abs(geometry.wrap_angle(yaw - direction)) > MAX_ANGLE

    def confirmed(which):
        """The definition, against every lane."""
        distance2 = distance2_to_all(lanes, wheels[which])
        opposing = opposes(yaw[which][:, None], *(lanes.ends[:, axis].reshape(1, -1) for axis in PLANE))
        against = jnp.min(jnp.where(opposing, distance2, jnp.inf), axis=-1)
        agrees = jnp.min(jnp.where(opposing, jnp.inf, distance2), axis=-1)
        return (against < IN_LANE**2) & (against < agrees)

    # Few agents have an opposing lane nearest to them; only these are looked at closely.
    nearest, _ = nearest_segment(lanes, wheels, asked)
    suspect = asked & opposes(yaw, *(ends_of(lanes, nearest)[:, axis] for axis in PLANE))
    return update_masked(jnp.zeros(asked.shape, bool), suspect, SUSPECTS, confirmed)
