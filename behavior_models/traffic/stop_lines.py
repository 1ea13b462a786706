"""Stop lines on the paths of drivers: traffic lights and stop signs."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from behavior_models.traffic.car_following import FAR
from behavior_models.traffic.route_following import DriverState
from behavior_models.traffic.vehicle import VEHICLE_LIMITS
from waymax_sim.datatypes.lanes import Frenet
from waymax_sim.datatypes.signals import CAUTION_STATES, FLASHING_STOP, GO_STATES, STOP_STATES, UNKNOWN, observed_states
from waymax_sim.env import Observation
from waymax_sim.pytree import Array, static_record

# Drivers treat a flashing red light like a steady one; they pass a flashing yellow one.
CLOSED_STATES = (*STOP_STATES, FLASHING_STOP)


@static_record
class StoppingParams:
    """Behavior at stop lines. The values are choices of this package.

    Attributes:
      stop_sign_distance: A driver at rest with its front at most this far before a stop sign has stopped at it, m.
      priority_distance_ahead: Lights and signs up to this distance ahead decide on the right of way, m.
      priority_distance_behind: Those up to this distance behind, m: the length of a junction.
      min_stop_distance: Lower bound of the distance in which drivers stop, m.
    """

    stop_sign_distance: float = 4.0
    priority_distance_ahead: float = 50.0
    priority_distance_behind: float = 25.0
    min_stop_distance: float = 0.1


STOPPING = StoppingParams()


class StopDistances(NamedTuple):
    """Distances (m) from the centers of agents to stop lines on their paths, `FAR` without one.

    Attributes:
      light: To the nearest light that is closed, or closes, at which the agent can stop.
      sign: To the nearest stop sign that the agent has not stopped at yet.
      has_green: Whether an open light is just ahead or behind.
      has_sign: Whether a stop sign is just ahead or behind.
    """

    light: Float[Array, " N"]
    sign: Float[Array, " N"]
    has_green: Bool[Array, " N"]
    has_sign: Bool[Array, " N"]


def stop_distances(
    observation: Observation, drivers: DriverState, position: Frenet, speed: Float[Array, " N"]
) -> StopDistances:
    """The next stop lines on the paths of agents.

    Args:
      observation: The present.
      drivers: Paths and parameters of the drivers.
      position: Positions of the agents on their paths.
      speed: Speeds, m/s.
    """
    path, half_length = drivers.path, observation.info.size[:, 0] / 2
    distance = path.stop - position.arc_length[:, None]
    unknown, closed, closing, is_open = _light_groups(observation, path.light)
    # A driver brakes from v to zero within d at a deceleration of v^2 / (2 d).
    squared_speed = (speed**2)[:, None]
    twice_distance = 2.0 * jnp.maximum(distance - half_length[:, None], STOPPING.min_stop_distance)
    # Recorded lights are unknown for some steps: moving drivers continue, waiting ones do not start.
    closed = closed | (unknown & (speed < VEHICLE_LIMITS.standstill_speed)[:, None])
    # Drivers that cannot stop before a red light, or not comfortably before a yellow one, clear the junction.
    comfortable = drivers.idm.comfortable_deceleration[:, None]
    stops = closed & (squared_speed < VEHICLE_LIMITS.max_deceleration * twice_distance)
    stops = stops | (closing & (squared_speed < comfortable * twice_distance))
    # Agents without a lane have no path whose stop lines apply to them.
    is_ahead = drivers.has_lane[:, None] & (distance > 0)
    # Once the front has passed the line it is too late to stop at the sign.
    is_pending = path.stop_sign & (path.stop > drivers.last_stop[:, None]) & (distance > half_length[:, None])
    # Priority holds on the whole junction, also behind the line.
    is_near = (distance > -STOPPING.priority_distance_behind) & (distance < STOPPING.priority_distance_ahead)
    is_near = is_near & drivers.has_lane[:, None]

    def nearest(mask):
        return jnp.min(jnp.where(mask, distance, FAR), axis=-1)

    return StopDistances(
        light=nearest(is_ahead & stops),
        sign=nearest(is_ahead & is_pending),
        has_green=jnp.any(is_near & is_open, axis=-1),
        has_sign=jnp.any(is_near & path.stop_sign, axis=-1),
    )


def _light_groups(observation: Observation, light) -> tuple[Bool[Array, "N Z"], ...]:
    """Whether lights [N, Z] are unknown, closed, closing or open; stop lines without a light are none of these."""
    state = observed_states(observation.signals)
    groups = (UNKNOWN,), CLOSED_STATES, CAUTION_STATES, GO_STATES
    # One more column for stop lines without a light.
    columns = [jnp.append(jnp.isin(state, jnp.asarray(states)), False) for states in groups]
    index = jnp.where(light < 0, state.shape[0], light)
    unknown, closed, closing, is_open = jnp.moveaxis(jnp.stack(columns, axis=-1)[index], -1, 0)
    return unknown, closed, closing, is_open


def record_stops(
    drivers: DriverState, position: Frenet, speed: Float[Array, " N"], length: Float[Array, " N"]
) -> DriverState:
    """Marks stop signs at which drivers have come to rest, so that they continue.

    Args:
      drivers: State of the drivers.
      position: Positions of the agents on their paths.
      speed: Speeds, m/s.
      length: Lengths of the agents, m.
    """
    front, stop = (position.arc_length + length / 2)[:, None], drivers.path.stop
    is_at_line = (
        drivers.path.stop_sign & (stop - front < STOPPING.stop_sign_distance) & (stop > front - length[:, None])
    )
    is_at_line = is_at_line & (speed < VEHICLE_LIMITS.standstill_speed)[:, None]
    # Stop lines are ordered along the path: all up to the last one have been passed or stopped at.
    reached = jnp.max(jnp.where(is_at_line, stop, -FAR), axis=-1)
    last_stop = jnp.maximum(drivers.last_stop, jax.lax.stop_gradient(reached))
    return dataclasses.replace(drivers, last_stop=last_stop)
