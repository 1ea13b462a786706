"""Traffic by the Intelligent Driver Model on the lane graph, with lights, stop signs and right of way."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Key

from behavior_models.traffic.car_following import (
    CAR_FOLLOWING,
    FollowingLaw,
    bounded_interaction_deceleration,
    free_acceleration,
)
from behavior_models.traffic.pure_pursuit import lookahead_distance, pursuit_curvature
from behavior_models.traffic.right_of_way import PriorityInputs, find_conflicts, yield_distance
from behavior_models.traffic.route_following import DriverState, init_driver_state, update_paths
from behavior_models.traffic.stop_lines import StopDistances, record_stops, stop_distances
from behavior_models.traffic.swept_path import SweptPath, leading_gap, swept_path
from behavior_models.traffic.vehicle import VEHICLE_LIMITS
from waymax_sim.datatypes.agents import PEDESTRIAN, AgentState, forward_speed
from waymax_sim.datatypes.lanes import Frenet
from waymax_sim.datatypes.state import Action
from waymax_sim.dynamics import Bicycle
from waymax_sim.env import Observation, Policy
from waymax_sim.maps.paths import from_arc_length
from waymax_sim.ops import polyline
from waymax_sim.pytree import Array, static_record, tree_index


@static_record
class QueueParams:
    """Conditions under which stationary drivers do not start. The values are choices of this package.

    Attributes:
      gap: Gap to a stationary leading vehicle, m.
      light_distance: Distance to the stop line of a closed light, m.
    """

    gap: float = 6.0
    light_distance: float = 30.0


QUEUEING = QueueParams()


@static_record
class IDM(Policy):
    """Intelligent Driver Model on the lane graph (Treiber, Hennecke, Helbing 2000), for all agents at every step.

    Each agent follows a lane path with its own IDM parameters, both drawn from the key. It drives at the speed that
    speed limit and curves allow, keeps its gap to the leading vehicle, stops at lights and stop signs, and yields at
    crossing and merging paths. Its deceleration is at most 8 m/s^2 and its acceleration at most 3 m/s^2. Parked
    vehicles stay parked. Agents without a lane brake to a standstill; pedestrians keep their speed, and stop for agents
    on their path.
    """

    dynamics = Bicycle(max_acceleration=VEHICLE_LIMITS.max_deceleration)

    def init(self, observation: Observation, key: Key[Array, ""]) -> DriverState:
        """Parameters of the drivers; paths are assigned at the first step of each agent."""
        return init_driver_state(observation, key)

    def act(self, observation: Observation, carry: DriverState, key: Key[Array, ""]) -> tuple[Action, DriverState]:
        """Acceleration along the path and curvature towards it."""
        drivers, position = update_paths(observation, carry)
        return drive(observation, drivers, position)


def drive(
    observation: Observation, drivers: DriverState, position: Frenet, law: FollowingLaw | None = None
) -> tuple[Action, DriverState]:
    """One step of all drivers: the free acceleration minus the largest deceleration that any constraint requires.

    Args:
      observation: The present.
      drivers: Paths and parameters of the drivers.
      position: Positions of the agents on their paths.
      law: Acceleration behind a leading vehicle; that of the model by default.
    """
    now, info, idm = observation.agents, observation.info, drivers.idm
    signed_speed = forward_speed(now)
    speed = jnp.maximum(signed_speed, 0.0)
    is_pedestrian = info.type == PEDESTRIAN
    # Reversing agents sweep the path ahead: they are about to stop.
    path = swept_path(now, speed, drivers.path, position.arc_length, drivers.has_lane)
    # Stops are recorded first, so that a driver at rest at a sign continues in this step.
    drivers = record_stops(drivers, position, speed, info.size[:, 0])
    stops = stop_distances(observation, drivers, position, speed)

    # Parked vehicles lead others, but search no leader themselves.
    is_driven = now.valid & ~drivers.is_parked
    gap, lead_speed = leading_gap(path, now, info.size[:, :2], is_driven)
    free = _free_acceleration(drivers, position, speed, is_pedestrian)
    if law is None:
        deceleration = bounded_interaction_deceleration(speed, gap, speed - lead_speed, idm)
    else:
        following = law(speed, speed - lead_speed, gap, desired_speed(drivers, position, speed))
        deceleration = jnp.where(gap < CAR_FOLLOWING.max_law_gap, free - following, 0.0)
    # A stop line is a leading vehicle of speed zero.
    line_gap = jnp.minimum(stops.light, stops.sign) - info.size[:, 0] / 2 + CAR_FOLLOWING.stop_line_offset
    deceleration = jnp.maximum(deceleration, bounded_interaction_deceleration(speed, line_gap, speed, idm))
    yielding = _yield_deceleration(observation, path, stops, drivers, speed, is_driven)
    # Pedestrians have priority over vehicles, and pass each other.
    deceleration = jnp.maximum(deceleration, jnp.where(is_pedestrian, 0.0, yielding))
    acceleration = free - deceleration
    # The model creeps on while the gap exceeds s0; stationary drivers in a queue or before a light wait instead.
    standstill_speed = VEHICLE_LIMITS.standstill_speed
    waits = (gap < QUEUEING.gap) & (lead_speed < standstill_speed) | (stops.light < QUEUEING.light_distance)
    waits = waits & (speed < standstill_speed) & ~is_pedestrian
    acceleration = jnp.where(waits, jnp.minimum(acceleration, 0.0), acceleration)

    # Parked or reversing vehicles brake to a standstill.
    to_standstill = -signed_speed / observation.dt
    acceleration = jnp.where(drivers.is_parked | (signed_speed < 0), to_standstill, acceleration)
    limits = VEHICLE_LIMITS
    # The standstill term may exceed the limits: it removes the whole speed within one step.
    acceleration = jnp.clip(acceleration, -limits.max_deceleration, limits.max_acceleration)
    # Without a lane there is no direction to steer to.
    curvature = jnp.where(drivers.has_lane, _path_curvature(now, drivers, position, speed), 0.0)
    return Action(value=jnp.stack([acceleration, curvature], axis=-1), valid=now.valid), drivers


def desired_speed(drivers: DriverState, position: Frenet, speed: Float[Array, " N"]) -> Float[Array, " N"]:
    """Desired speed (m/s) of the profile shortly ahead, so that drivers adapt to it before they reach it.

    Args:
      drivers: Paths and parameters of the drivers.
      position: Positions of the agents on their paths.
      speed: Speeds, m/s.
    """
    # The profile is read ahead, since the acceleration takes effect over the next steps.
    ahead = position.arc_length + CAR_FOLLOWING.anticipation_time * speed
    return polyline.interpolate(drivers.path.speed_limit, ahead / drivers.path.spacing)


def _free_acceleration(
    drivers: DriverState, position: Frenet, speed: Float[Array, " N"], is_pedestrian: Bool[Array, " N"]
) -> Float[Array, " N"]:
    """Free-road acceleration (m/s^2), at least -b; without a lane -b, and zero for pedestrians."""
    comfortable = drivers.idm.comfortable_deceleration
    # The free-road term grows with the fourth power above the desired speed, as behind a lower speed limit.
    free = jnp.maximum(free_acceleration(speed, desired_speed(drivers, position, speed), drivers.idm), -comfortable)
    return jnp.where(drivers.has_lane, free, jnp.where(is_pedestrian, 0.0, -comfortable))


def _yield_deceleration(
    observation: Observation,
    path: SweptPath,
    stops: StopDistances,
    drivers: DriverState,
    speed: Float[Array, " N"],
    is_driven: Bool[Array, " N"],
) -> Float[Array, " N"]:
    """Deceleration (m/s^2) for agents with priority. No gradient flows through the choice of these agents."""
    now, size, idm = observation.agents, observation.info.size, drivers.idm
    is_pedestrian = observation.info.type == PEDESTRIAN
    inputs = PriorityInputs(speed, size[:, 0], size[:, 1], is_pedestrian, stops.light, stops.has_green, stops.has_sign)
    inputs = jax.lax.stop_gradient(inputs)
    # Stationary agents enter no conflict area; those inside one lead through their boxes.
    is_moving = is_driven & (speed > VEHICLE_LIMITS.standstill_speed)
    conflicts = find_conflicts(path, now, inputs, is_moving, is_driven & ~is_pedestrian)
    # Drivers stop before the conflict area, but need not keep the whole gap s0 to it.
    yield_gap = yield_distance(conflicts, inputs) + idm.min_gap / 2
    crossing = bounded_interaction_deceleration(speed, yield_gap, speed, idm)
    column, idm_column = speed[:, None], tree_index(idm, (slice(None), None))
    # After the merge the other agent leads, so its speed counts and not only its position.
    merging = bounded_interaction_deceleration(column, conflicts.merge_gap, column - conflicts.other_speed, idm_column)
    return jnp.maximum(jnp.max(merging, axis=-1), crossing)


def _path_curvature(
    now: AgentState, drivers: DriverState, position: Frenet, speed: Float[Array, " N"]
) -> Float[Array, " N"]:
    """Curvature (1/m) by pure pursuit of a point on the path."""
    target, _ = from_arc_length(drivers.path, position.arc_length + lookahead_distance(speed))
    return pursuit_curvature(target[:, :2], now, speed)
