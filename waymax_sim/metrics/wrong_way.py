"""Driving against the direction of a lane."""

import jax.numpy as jnp

from waymax_sim import geometry
from waymax_sim.datatypes.agents import CYCLIST, VEHICLE
from waymax_sim.maps.nearest import stretched_distance2
from waymax_sim.metrics.metric import MetricValue, Snapshot, flag

# A heading this far from the direction of the lane drives against it (rad); crossing traffic does not.
MAX_ANGLE = 2 * jnp.pi / 3
# Half a lane: further from the centre than this the agent is not in the lane (m).
IN_LANE = 2.0


def wrong_way(snapshot: Snapshot) -> MetricValue:
    """Whether a vehicle or cyclist is in a lane that runs against its heading, and in no lane that agrees with it.

    The nearest opposing lane centre must be within 2 m and nearer than every lane centre whose direction differs
    from the heading by at most 120 degrees; heights count three times. Valid where the map has lanes.
    """
    agents, lanes = snapshot.agents, snapshot.scenario.lanes
    kind = snapshot.scenario.agents.type
    valid = agents.valid & ((kind == VEHICLE) | (kind == CYCLIST)) & jnp.any(lanes.valid)
    if lanes.valid.shape[0] == 0:
        return flag(valid, valid)
    bottom = agents.xyz[:, 2:] - snapshot.scenario.agents.size[:, 2:] / 2
    distance2 = stretched_distance2(lanes, jnp.concatenate([agents.xyz[:, :2], bottom], axis=-1))
    along = lanes.end[:, :2] - lanes.start[:, :2]
    direction = geometry.direction(along, jnp.zeros(along.shape[0], jnp.float32))
    opposes = jnp.abs(geometry.wrap_angle(agents.yaw[:, None] - direction[None])) > MAX_ANGLE
    against = jnp.min(jnp.where(opposes, distance2, jnp.inf), axis=-1)
    agrees = jnp.min(jnp.where(opposes, jnp.inf, distance2), axis=-1)
    return flag((against < IN_LANE**2) & (against < agrees), valid)
