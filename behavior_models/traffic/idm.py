"""Traffic that follows lanes, keeps its distance, and obeys lights, signs and who goes first."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Key

from behavior_models.traffic.car_following import (
    FAR,
    HARDEST_ACCELERATION,
    HARDEST_BRAKING,
    bounded_interaction,
    free_road,
)
from behavior_models.traffic.right_of_way import Claims, meetings, waits_at
from behavior_models.traffic.route_following import AT_REST, Plans, no_plans, renew
from behavior_models.traffic.swept_path import Ways, leads, ways_ahead
from waymax_sim import geometry
from waymax_sim.datatypes.agents import PEDESTRIAN, AgentState
from waymax_sim.datatypes.lanes import Frenet
from waymax_sim.datatypes.state import Action
from waymax_sim.dynamics import Bicycle
from waymax_sim.env import Observation, Policy
from waymax_sim.maps.paths import point_at
from waymax_sim.pytree import Array, static_record, take

# Lights that are closed, and those that close: who cannot stop comfortably goes on (see `SIGNAL_STATE_NAMES`).
UNKNOWN, CLOSED, CLOSING, OPEN = 0, (1, 4, 7), (2, 5), (3, 6)
# A driver has stopped at a line when at rest so near to it (m). Lines matter for who goes first from so far ahead to
# so far behind (m).
AT_LINE, MATTERS_AHEAD, MATTERS_BEHIND = 4.0, 50.0, 25.0
# Who stands this near to somebody who stands, or to a light that is closed, stays there (m).
QUEUE, WAITS = 6.0, 30.0
# Drivers steer for the point of their path that they reach in this time (s), within these bounds (m).
STEER_AHEAD, NEAREST_AIM, FURTHEST_AIM = 0.9, 4.0, 20.0
# The sharpest curve (1/m) and the hardest acceleration to the side (m/s^2) while steering.
SHARPEST, SIDEWAYS = 0.2, 4.0
# How soon drivers adapt to the speed that suits the road ahead (s).
ANTICIPATION = 0.5


@static_record
class IDM(Policy):
    """Intelligent drivers on the lane graph (Treiber, Hennecke, Helbing 2000), for every agent at every step.

    Each agent gets a way along the lanes and a character, both drawn from the key. It keeps to the speed that suits
    limit and bends, keeps its distance from whoever is in its way, stops at lights and signs, and lets others go first
    where ways cross or join. It never brakes by more than 8 m/s^2 nor accelerates by more than 3 m/s^2. Who is parked
    stays there. Agents without a lane come to rest; pedestrians keep their pace, and stop for what is in their way.
    """

    dynamics = Bicycle(max_acceleration=HARDEST_BRAKING)

    def init(self, observation: Observation, key: Key[Array, ""]) -> Plans:
        """Characters; ways are made at the first step, and for agents that appear later."""
        return no_plans(observation, key)

    def act(self, observation: Observation, carry: Plans, key: Key[Array, ""]) -> tuple[Action, Plans]:
        """Acceleration along the way and curvature towards it."""
        plans, seen = renew(observation, carry)
        return drive(observation, plans, seen)


class Stops(NamedTuple):
    """Stop lines on the ways of agents. Distances (m) are those from their centres, `FAR` without one.

    Attributes:
      light: To a light that is closed, or closes, at which the agent can stop.
      sign: To a stop sign that the agent has not stopped at yet.
      has_green: Whether an open light is just ahead or behind.
      has_sign: Whether a stop sign is just ahead or behind.
    """

    light: Float[Array, " N"]
    sign: Float[Array, " N"]
    has_green: Bool[Array, " N"]
    has_sign: Bool[Array, " N"]


def drive(observation: Observation, plans: Plans, seen: Frenet) -> tuple[Action, Plans]:
    """One step of all drivers with given plans, who are at given places on their paths."""
    now, info, drivers = observation.agents, observation.info, plans.drivers
    speed = jnp.maximum(forward_speed(now), 0.0)
    on_foot = info.type == PEDESTRIAN
    ways = ways_ahead(now, speed, plans.path, seen.arc_length, plans.has_lane)
    plans = _remember_stops(plans, seen, speed, info.size[:, 0])
    stops = stop_lines(observation, plans, seen, speed)

    drives = now.valid & ~plans.parked
    gap, lead_speed = leads(ways, now, info.size[:, :2], drives)
    braking = bounded_interaction(speed, gap, speed - lead_speed, drivers)
    line = jnp.minimum(stops.light, stops.sign) - info.size[:, 0] / 2
    braking = jnp.maximum(braking, bounded_interaction(speed, line + 1.0, speed, drivers))
    given_way = _give_way(ways, now, info.size, on_foot, stops, plans, speed, drives)
    braking = jnp.maximum(braking, jnp.where(on_foot, 0.0, given_way))
    acceleration = _free(plans, seen, speed, on_foot) - braking
    # Who stands in a queue or before a light does not creep on.
    queues = (gap < QUEUE) & (lead_speed < AT_REST) | (stops.light < WAITS)
    acceleration = jnp.where(queues & (speed < AT_REST) & ~on_foot, jnp.minimum(acceleration, 0.0), acceleration)

    # Who is parked, or rolls backwards, comes to rest.
    to_rest = -forward_speed(now) / observation.dt
    acceleration = jnp.where(plans.parked | (forward_speed(now) < 0), to_rest, acceleration)
    acceleration = jnp.clip(acceleration, -HARDEST_BRAKING, HARDEST_ACCELERATION)
    curvature = jnp.where(plans.has_lane, _steer(now, plans, seen, speed), 0.0)
    return Action(value=jnp.stack([acceleration, curvature], axis=-1), valid=now.valid), plans


def forward_speed(agents: AgentState) -> Float[Array, " N"]:
    """Speed along the heading, m/s; negative for who rolls backwards."""
    return geometry.dot(agents.velocity, geometry.heading(agents.yaw))


def desired_speed(plans: Plans, seen: Frenet, speed: Float[Array, " N"]) -> Float[Array, " N"]:
    """The speed (m/s) that suits the road just ahead."""
    return _along(plans.path.speed_limit, (seen.arc_length + ANTICIPATION * speed) / plans.path.spacing)


def _free(plans: Plans, seen: Frenet, speed: Float[Array, " N"], on_foot: Bool[Array, " N"]) -> Float[Array, " N"]:
    """Acceleration (m/s^2) towards the speed that suits the road; without one, to a halt, or none on foot."""
    free = jnp.maximum(free_road(speed, desired_speed(plans, seen, speed), plans.drivers), -plans.drivers.braking)
    return jnp.where(plans.has_lane, free, jnp.where(on_foot, 0.0, -plans.drivers.braking))


def _along(values: Float[Array, "N R"], place: Float[Array, " N"]) -> Float[Array, " N"]:
    """Values between points."""
    place = jnp.clip(place, 0.0, values.shape[-1] - 1.001)
    low = jnp.floor(place)
    rows = jnp.stack([low, low + 1], axis=-1).astype(jnp.int32)
    ends = jnp.take_along_axis(values, rows, axis=-1)
    return ends[:, 0] + (place - low) * (ends[:, 1] - ends[:, 0])


def stop_lines(observation: Observation, plans: Plans, seen: Frenet, speed: Float[Array, " N"]) -> Stops:
    """The next stop lines of agents on their paths."""
    path, half = plans.path, observation.info.size[:, 0] / 2
    distance = path.stop - seen.arc_length[:, None]
    state = jnp.where(observation.signals.valid, observation.signals.state, UNKNOWN)
    # The last one is for lines without a light.
    kinds = [jnp.append(jnp.isin(state, jnp.asarray(states)), False) for states in ((UNKNOWN,), CLOSED, CLOSING, OPEN)]
    lit = jnp.where(path.light < 0, state.shape[0], path.light)
    unknown, closed, closing, is_open = jnp.moveaxis(jnp.stack(kinds, axis=-1)[lit], -1, 0)
    # Twice the distance that is left to stop in, against the squared speed.
    room, square = 2.0 * jnp.maximum(distance - half[:, None], 0.1), (speed**2)[:, None]
    # Who stands where the light is not known waits.
    closed = closed | (unknown & (speed < AT_REST)[:, None])
    # Who is over the line with the front, or about to be, goes on.
    closed = (closed & (square < HARDEST_BRAKING * room)) | (closing & (square < plans.drivers.braking[:, None] * room))
    ahead = plans.has_lane[:, None] & (distance > 0)
    not_yet = path.stop_sign & (path.stop > plans.stopped_at[:, None]) & (distance > half[:, None])
    matters = (distance > -MATTERS_BEHIND) & (distance < MATTERS_AHEAD) & plans.has_lane[:, None]

    def nearest(mask):
        return jnp.min(jnp.where(mask, distance, FAR), axis=-1)

    return Stops(
        light=nearest(ahead & closed),
        sign=nearest(ahead & not_yet),
        has_green=jnp.any(matters & is_open, axis=-1),
        has_sign=jnp.any(matters & path.stop_sign, axis=-1),
    )


def _remember_stops(plans: Plans, seen: Frenet, speed: Float[Array, " N"], length: Float[Array, " N"]) -> Plans:
    front = (seen.arc_length + length / 2)[:, None]
    line = plans.path.stop_sign & (plans.path.stop - front < AT_LINE) & (plans.path.stop > front - length[:, None])
    line = line & (speed < AT_REST)[:, None]
    reached = jnp.max(jnp.where(line, plans.path.stop, -FAR), axis=-1)
    return dataclasses.replace(plans, stopped_at=jnp.maximum(plans.stopped_at, jax.lax.stop_gradient(reached)))


def _give_way(
    ways: Ways,
    now: AgentState,
    size: Float[Array, "N 3"],
    on_foot: Bool[Array, " N"],
    stops: Stops,
    plans: Plans,
    speed: Float[Array, " N"],
    drives: Bool[Array, " N"],
) -> Float[Array, " N"]:
    """Braking (m/s^2) for those who go first where ways cross or join. No gradient flows through who that is."""
    claims = Claims(speed, size[:, 0], size[:, 1], on_foot, stops.light, stops.has_green, stops.has_sign)
    claims = jax.lax.stop_gradient(claims)
    # Who is on foot lets nobody go first.
    meet = meetings(ways, now, claims, drives & (speed > AT_REST), drives & ~on_foot)
    crossing = bounded_interaction(speed, waits_at(meet, claims) + plans.drivers.standstill / 2, speed, plans.drivers)
    row = speed[:, None]
    joining = bounded_interaction(row, meet.gap, row - meet.speed, take(plans.drivers, (slice(None), None)))
    return jnp.maximum(jnp.max(joining, axis=-1), crossing)


def _steer(now: AgentState, plans: Plans, seen: Frenet, speed: Float[Array, " N"]) -> Float[Array, " N"]:
    """Curvature (1/m) of the arc through a point ahead on the path (pure pursuit, Coulter 1992)."""
    aim = jnp.clip(STEER_AHEAD * speed, NEAREST_AIM, FURTHEST_AIM)
    target, _ = point_at(plans.path, seen.arc_length + aim)
    offset = geometry.to_frame(target[:, :2], now.xyz[:, :2], now.yaw)
    distance2 = jnp.maximum(geometry.dot(offset, offset), 1.0)
    limit = jnp.minimum(SHARPEST, SIDEWAYS / jnp.maximum(speed, 1.0) ** 2)
    return jnp.clip(2.0 * offset[:, 1] / distance2, -limit, limit)
