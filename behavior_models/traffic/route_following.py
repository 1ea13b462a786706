"""Where drivers are headed: a way along the lanes for each, made when it is needed and kept."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Key

from behavior_models.traffic.car_following import Drivers, draw_drivers
from waymax_sim import geometry
from waymax_sim.datatypes.agents import CYCLIST, PEDESTRIAN, AgentState
from waymax_sim.datatypes.lanes import Frenet, LanePath
from waymax_sim.env import Observation
from waymax_sim.maps.paths import frenet, nearest_lane, path_ahead, project
from waymax_sim.ops.batched_lookup import update_masked
from waymax_sim.pytree import Array, pytree, take

# Points of a path and their distance (m); lanes of a path. A path is long enough for 8 s at 30 m/s.
NUM_POINTS, SPACING, NUM_LANES = 104, 2.5, 16
# Agents that are given a path at once: few, since mostly it is one that has just appeared.
BATCH = 4
# Who is slower is at rest (m/s).
AT_REST = 0.3
# Moving agents join lanes within this distance (m); who is at rest this far from the middle of its lane (m) is parked.
JOIN, KERB = 4.5, 1.3
# Who is further from every lane (m), at rest or on the move, looks for no lane of its direction.
REACH_AT_REST, REACH = 6.0, 50.0
# Who is at rest on its lane is parked as well, unless it may be waiting: for somebody ahead (m ahead of its front, and
# aside), at a stop line (m), or where the lane ends (m).
QUEUE_AHEAD, QUEUE_ASIDE, LINE_AHEAD, JUNCTION_AHEAD = 15.0, 2.5, 60.0, 12.0
# A path is given up by who is so far beside it (m), and made anew so long before it ends (m).
ASTRAY, NEAR_END = 4.5, 100.0
# Who has no lane looks for one every so many steps.
PATIENCE = 10
# How often drivers go straight on where lanes fork.
STRAIGHT_ON = 0.7
# Speed in the narrowest bends (m/s).
SLOWEST = 2.0


@pytree
class Plans:
    """What N agents have in mind.

    Attributes:
      path: The way ahead. Its `speed_limit` is the speed that suits the driver, who brakes in time for bends.
      has_lane: Whether there is a path; without one, an agent goes straight.
      parked: Stays where it is.
      made: Whether anybody has looked where the agent is.
      stopped_at: Arc length of the last stop line that the agent has stopped at, m.
      drivers: Who drives.
      turns: Which way to take where lanes fork.
    """

    path: LanePath
    has_lane: Bool[Array, " N"]
    parked: Bool[Array, " N"]
    made: Bool[Array, " N"]
    stopped_at: Float[Array, " N"]
    drivers: Drivers
    turns: Int[Array, "N K"]


class _Made(NamedTuple):
    path: LanePath
    has_lane: Bool[Array, "*b"]
    parked: Bool[Array, "*b"]
    stopped_at: Float[Array, "*b"]
    seen: Frenet


def no_plans(observation: Observation, key: Key[Array, ""]) -> Plans:
    """Nothing in mind yet but one's character; draws are the same for every number of agents."""
    agent_type = observation.info.type
    num_agents = agent_type.shape[0]
    keys = jax.vmap(lambda index: jax.random.fold_in(jax.random.fold_in(key, 1), index))(jnp.arange(num_agents))
    draws = jax.vmap(lambda own: jax.random.uniform(own, (2, NUM_LANES - 1)))(keys)
    return Plans(
        path=_no_path(num_agents),
        has_lane=jnp.zeros(num_agents, bool),
        parked=jnp.zeros(num_agents, bool),
        made=jnp.zeros(num_agents, bool),
        stopped_at=jnp.zeros(num_agents),
        drivers=draw_drivers(agent_type, jax.random.fold_in(key, 0)),
        turns=jnp.where(draws[:, 0] < STRAIGHT_ON, 0.0, 1.0 + 2.0 * draws[:, 1]).astype(jnp.int32),
    )


def _no_path(num: int) -> LanePath:
    point, lane = jnp.zeros((num, NUM_POINTS)), jnp.zeros((num, NUM_LANES))
    return LanePath(
        xyz=jnp.zeros((num, NUM_POINTS, 3)),
        yaw=point,
        curvature=point,
        speed_limit=point + SLOWEST,
        spacing=jnp.full(num, SPACING),
        length=jnp.zeros(num),
        goes_on=jnp.zeros(num, bool),
        lanes=jnp.full(lane.shape, -1, jnp.int32),
        begins=lane + jnp.inf,
        stop=lane + jnp.inf,
        light=jnp.full(lane.shape, -1, jnp.int32),
        stop_sign=jnp.zeros(lane.shape, bool),
    )


def renew(observation: Observation, plans: Plans) -> tuple[Plans, Frenet]:
    """Makes the plans that are missing or no longer good, and says where agents are on their paths.

    No gradient flows through the choice of a path.
    """
    now = observation.agents
    seen = project(plans.path, now.xyz[:, :2], now.yaw)
    astray = (jnp.abs(seen.lateral) > ASTRAY) | (jnp.abs(seen.heading) > jnp.pi / 2)
    ends = plans.path.goes_on & (seen.arc_length > plans.path.length - NEAR_END)
    moves = geometry.norm(now.velocity) > AT_REST
    looks = ~plans.made | ((observation.step % PATIENCE == 0) & moves & (~plans.has_lane | astray | ends))
    asked = now.valid & looks & (observation.info.type != PEDESTRIAN)
    # Loops of unknown length have no gradient in reverse.
    kept = _Made(plans.path, plans.has_lane, plans.parked, plans.stopped_at, seen)
    still, drivers, kept = jax.lax.stop_gradient((observation, plans.drivers, kept))
    made = update_masked(kept, asked, BATCH, lambda which: _make(still, drivers, plans.turns, which))
    *parts, new = made
    seen = jax.tree.map(lambda old, new: jnp.where(asked, new, old), seen, new)
    return dataclasses.replace(plans, **dict(zip(_Made._fields, parts, strict=False)), made=plans.made | asked), seen


def _make(observation: Observation, drivers: Drivers, turns: Int[Array, "N K"], which: Int[Array, " b"]) -> _Made:
    """The plans of some agents."""
    now, info = take(observation.agents, which), take(observation.info, which)
    ground = now.xyz - jnp.asarray([0.0, 0.0, 0.5])[None] * info.size
    # The last agent may be listed again and again.
    asked = now.valid & jnp.append(True, which[1:] != which[:-1])
    rides, rests = info.type == CYCLIST, geometry.norm(now.velocity) < AT_REST
    reach = jnp.where(rests, REACH_AT_REST, REACH)
    segment, found = nearest_lane(observation.lanes, observation.graph, ground, now.yaw, rides, asked, reach)
    seen = frenet(observation.lanes, observation.graph, segment, now.xyz[:, :2], now.yaw)
    near = found & (jnp.abs(seen.lateral) < jnp.where(rests, KERB, JOIN))
    path = path_ahead(observation.lanes, observation.graph, segment, seen.arc_length, turns[which], NUM_POINTS, SPACING)
    speed = suitable_speed(path, take(drivers, which), geometry.norm(now.velocity))
    waits = _waits(observation, path, now, info.size[:, :2], which)
    return _Made(
        path=dataclasses.replace(path, speed_limit=speed),
        has_lane=near,
        parked=rests & ~(near & waits),
        stopped_at=jnp.full(which.shape, -1.0),
        seen=seen._replace(arc_length=jnp.zeros_like(seen.lateral)),
    )


def _waits(
    observation: Observation, path: LanePath, now: AgentState, size: Float[Array, "b 2"], which: Int[Array, " b"]
) -> Bool[Array, " b"]:
    """Whether there is something ahead that a driver at rest could be waiting for: somebody, a line, or a junction."""
    others, offset = observation.agents, observation.agents.xyz[None, :, :2] - now.xyz[:, None, :2]
    seen = geometry.rotate(offset, -now.yaw[:, None])
    ahead, aside = seen[..., 0] - size[:, :1] / 2, jnp.abs(seen[..., 1])
    near = (ahead > 0) & (ahead < QUEUE_AHEAD) & (aside < QUEUE_ASIDE) & others.valid[None]
    near = near & (which[:, None] != jnp.arange(others.yaw.shape[0])[None])
    line = jnp.any(path.stop < LINE_AHEAD, axis=1)
    ends = jnp.minimum(path.begins[:, 1], path.length) < JUNCTION_AHEAD
    return jnp.any(near, axis=1) | line | ends


def suitable_speed(path: LanePath, drivers: Drivers, speed: Float[Array, " b"]) -> Float[Array, "b R"]:
    """The speed (m/s) that suits drivers at each point of their paths.

    It keeps to the speed limit, more or less, or to the `speed` that the driver has now; and to a comfortable
    acceleration in bends, for which it brakes in time.
    """
    limit = path.speed_limit
    eager = jnp.clip(speed / limit[:, 0], drivers.eagerness, 1.3)
    limit = jnp.minimum(eager[:, None] * limit, drivers.top_speed[:, None])
    return comfortable_speed(limit, path.curvature, take(drivers, (slice(None), None)), SPACING)


def comfortable_speed(
    limit: Float[Array, "b R"], curvature: Float[Array, "#b R"], drivers: Drivers, spacing: float
) -> Float[Array, "b R"]:
    """The speed (m/s) at each point of ways: within a limit (m/s), comfortable in bends (1/m), braking in time.

    Traits of drivers broadcast against the points, which are `spacing` apart (m).
    """
    bend2 = drivers.sideways / jnp.maximum(jnp.abs(curvature), 1e-4)
    square = jnp.minimum(limit**2, jnp.maximum(bend2, SLOWEST**2))
    run = 2.0 * drivers.braking * spacing * jnp.arange(limit.shape[-1], dtype=jnp.float32)[None]
    return jnp.sqrt(jax.lax.cummin(square + run, axis=1, reverse=True) - run)
