"""Route following: a path along the lane graph for each driver, and the desired speed along it."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Key

from behavior_models.traffic.car_following import IDMParams, sample_idm_params
from behavior_models.traffic.vehicle import VEHICLE_LIMITS
from waymax_sim import geometry
from waymax_sim.datatypes.agents import CYCLIST, PEDESTRIAN, AgentState
from waymax_sim.datatypes.lanes import Frenet, LanePath
from waymax_sim.datatypes.scenario import interval_steps
from waymax_sim.env import Observation
from waymax_sim.maps.paths import lane_path, nearest_lane, segment_frenet, to_frenet
from waymax_sim.ops.batched_lookup import update_masked
from waymax_sim.pytree import Array, pytree, static_record, tree_index


@static_record
class RouteFollowingParams:
    """Assignment of paths to drivers. The values are choices of this package.

    Attributes:
      num_points: Points of a path; with `spacing`, 8 s at 30 m/s.
      spacing: Arc length between them, m.
      num_lanes: Lanes of a path.
      batch_size: Agents per batch of path assignment; few, since agents appear one by one.
      max_lane_distance: Lateral distance up to which moving agents join a lane, m.
      max_lane_distance_at_rest: Lateral distance beyond which stationary agents are parked at the curb, m.
      search_radius: Distance from every lane beyond which moving agents look for no other lane of their direction, m.
      search_radius_at_rest: The same for stationary agents, m.
      queue_length: Distance ahead of the front within which a stationary agent may queue behind another agent, m.
      queue_half_width: Lateral distance within which it may, m.
      line_distance: Distance within which it may wait for a stop line, m.
      junction_distance: Distance within which it may wait at the end of its lane, m.
      off_path_distance: Lateral offset that triggers replanning, m.
      replan_margin: Remaining length of the path that triggers extension, m.
      replan_interval: Time between two such checks, s.
      straight_probability: Probability of the straightest successor where lanes fork.
      max_speed_excess: Upper bound of the speed factor of agents that exceed the speed limit when they appear.
      min_curve_speed: Lower bound of the desired speed in curves, m/s; map noise makes curvatures too large.
      min_curvature: Lower bound of curvatures in a denominator, 1/m.
    """

    num_points: int = 104
    spacing: float = 2.5
    num_lanes: int = 16
    batch_size: int = 4
    max_lane_distance: float = 4.5
    max_lane_distance_at_rest: float = 1.3
    search_radius: float = 50.0
    search_radius_at_rest: float = 6.0
    queue_length: float = 15.0
    queue_half_width: float = 2.5
    line_distance: float = 60.0
    junction_distance: float = 12.0
    off_path_distance: float = 4.5
    replan_margin: float = 100.0
    replan_interval: float = 1.0
    straight_probability: float = 0.7
    max_speed_excess: float = 1.3
    min_curve_speed: float = 2.0
    min_curvature: float = 1e-4


ROUTE_FOLLOWING = RouteFollowingParams()


@pytree
class DriverState:
    """State of N drivers.

    Attributes:
      path: Path ahead. Its `speed_limit` is the desired speed of the driver, which falls in time for curves.
      has_lane: Whether there is a path; without one, an agent drives straight.
      is_parked: Stays at its position.
      is_initialized: Whether a path has been searched for the agent since it appeared.
      last_stop: Arc length of the last stop line that the agent has stopped at, m.
      idm: Parameters of the driver.
      turns: Successor to take where lanes fork, 0 is the straightest.
    """

    path: LanePath
    has_lane: Bool[Array, " N"]
    is_parked: Bool[Array, " N"]
    is_initialized: Bool[Array, " N"]
    last_stop: Float[Array, " N"]
    idm: IDMParams
    turns: Int[Array, "N K"]


class _PathAssignment(NamedTuple):
    """New values of the fields of `DriverState` of the same names, and the positions on the new paths."""

    path: LanePath
    has_lane: Bool[Array, "*b"]
    is_parked: Bool[Array, "*b"]
    last_stop: Float[Array, "*b"]
    position: Frenet


def init_driver_state(observation: Observation, key: Key[Array, ""]) -> DriverState:
    """Drivers without paths. Each slot has its own random stream, so padding changes no draw."""
    agent_type, num_lanes = observation.info.type, ROUTE_FOLLOWING.num_lanes
    num_agents = agent_type.shape[0]
    # Streams 0 and 1 of the key: parameters and turns.
    keys = jax.vmap(lambda index: jax.random.fold_in(jax.random.fold_in(key, 1), index))(jnp.arange(num_agents))
    draws = jax.vmap(lambda own: jax.random.uniform(own, (2, num_lanes - 1)))(keys)
    goes_straight = draws[:, 0] < ROUTE_FOLLOWING.straight_probability
    return DriverState(
        path=_empty_path(num_agents),
        has_lane=jnp.zeros(num_agents, bool),
        is_parked=jnp.zeros(num_agents, bool),
        is_initialized=jnp.zeros(num_agents, bool),
        last_stop=jnp.zeros(num_agents),
        idm=sample_idm_params(agent_type, jax.random.fold_in(key, 0)),
        # One of the next two successors, where there are any.
        turns=jnp.where(goes_straight, 0.0, 1.0 + 2.0 * draws[:, 1]).astype(jnp.int32),
    )


def _empty_path(num_agents: int) -> LanePath:
    point = jnp.zeros((num_agents, ROUTE_FOLLOWING.num_points))
    lane = jnp.zeros((num_agents, ROUTE_FOLLOWING.num_lanes))
    return LanePath(
        xyz=jnp.zeros((*point.shape, 3)),
        yaw=point,
        curvature=point,
        speed_limit=point + ROUTE_FOLLOWING.min_curve_speed,
        spacing=jnp.full(num_agents, ROUTE_FOLLOWING.spacing),
        length=jnp.zeros(num_agents),
        continues=jnp.zeros(num_agents, bool),
        lanes=jnp.full(lane.shape, -1, jnp.int32),
        lane_start=lane + jnp.inf,
        stop=lane + jnp.inf,
        light=jnp.full(lane.shape, -1, jnp.int32),
        stop_sign=jnp.zeros(lane.shape, bool),
    )


def update_paths(observation: Observation, drivers: DriverState) -> tuple[DriverState, Frenet]:
    """Assigns paths to agents that need one, and returns the positions of all agents on their paths.

    Agents need a path when they appear, and a new one while they move without a lane, are off their path or near its
    end. Pedestrians follow no lane. No gradient flows through the choice of a path.
    """
    now = observation.agents
    position = to_frenet(drivers.path, now.xyz[:, :2], now.yaw)
    is_off_path = jnp.abs(position.lateral) > ROUTE_FOLLOWING.off_path_distance
    # A vehicle that faces backwards has turned off where the path does not lead.
    is_off_path = is_off_path | (jnp.abs(position.heading) > jnp.pi / 2)
    # A path that ends at a dead end cannot be extended, but one whose lanes are longer than its points can.
    end, extent = drivers.path.length, drivers.path.spacing * (drivers.path.yaw.shape[-1] - 1)
    has_more = drivers.path.continues | ((drivers.path.lanes[:, 0] >= 0) & (end > extent))
    is_near_end = has_more & (position.arc_length > jnp.minimum(end, extent) - ROUTE_FOLLOWING.replan_margin)
    is_moving = geometry.norm(now.velocity) > VEHICLE_LIMITS.standstill_speed
    replans = is_moving & (~drivers.has_lane | is_off_path | is_near_end)
    # Searches at an interval bound the cost of agents that find no lane, for example on parking lots.
    interval = interval_steps(ROUTE_FOLLOWING.replan_interval, observation.dt)
    replans = (observation.step % interval == 0) & replans
    mask = now.valid & (~drivers.is_initialized | replans) & (observation.info.type != PEDESTRIAN)
    # The loop over batches has an unknown number of iterations, so it has no reverse-mode gradient.
    old = _PathAssignment(drivers.path, drivers.has_lane, drivers.is_parked, drivers.last_stop, position)
    constant, idm, old = jax.lax.stop_gradient((observation, drivers.idm, old))
    batch_size = ROUTE_FOLLOWING.batch_size
    new = update_masked(old, mask, batch_size, lambda index: _assign_paths(constant, idm, drivers.turns, index))
    # Positions keep their gradient where the path is unchanged.
    position = jax.tree.map(lambda old, new: jnp.where(mask, new, old), position, new.position)
    fields = {name: value for name, value in new._asdict().items() if name != "position"}
    return dataclasses.replace(drivers, **fields, is_initialized=drivers.is_initialized | mask), position


def _assign_paths(
    observation: Observation, idm: IDMParams, turns: Int[Array, "N K"], index: Int[Array, " b"]
) -> _PathAssignment:
    """Paths of some agents from the nearest lane of their direction on."""
    params, lanes, graph = ROUTE_FOLLOWING, observation.lanes, observation.graph
    now, info = tree_index(observation.agents, index), tree_index(observation.info, index)
    # Lanes are matched at the bottom of the box, since heights tell bridges from roads below.
    ground = now.xyz - jnp.asarray([0.0, 0.0, 0.5])[None] * info.size
    # The last batch is padded by repetitions of the last agent.
    mask = now.valid & jnp.append(True, index[1:] != index[:-1])
    is_cyclist, speed = info.type == CYCLIST, geometry.norm(now.velocity)
    # Stationary agents far from every lane are on parking lots and driveways; they need no exact answer.
    at_rest = speed < VEHICLE_LIMITS.standstill_speed
    radius = jnp.where(at_rest, params.search_radius_at_rest, params.search_radius)
    segment, has_segment = nearest_lane(lanes, graph, ground, now.yaw, is_cyclist, mask, radius)
    position = segment_frenet(lanes, graph, segment, now.xyz[:, :2], now.yaw)
    # A stationary vehicle off the center of its lane is parked at the curb; a moving one is changing lanes.
    max_distance = jnp.where(at_rest, params.max_lane_distance_at_rest, params.max_lane_distance)
    has_lane = has_segment & (jnp.abs(position.lateral) < max_distance)
    # Paths begin at the agent, so its arc length is zero.
    path = lane_path(lanes, graph, segment, position.arc_length, turns[index], params.num_points, params.spacing)
    may_wait = _may_wait(observation, path, now, info.size[:, :2], index)
    return _PathAssignment(
        path=dataclasses.replace(path, speed_limit=desired_speed_profile(path, tree_index(idm, index), speed)),
        has_lane=has_lane,
        is_parked=at_rest & ~(has_lane & may_wait),
        last_stop=jnp.full(index.shape, -1.0),
        position=position._replace(arc_length=jnp.zeros_like(position.lateral)),
    )


def _may_wait(
    observation: Observation, path: LanePath, now: AgentState, size: Float[Array, "b 2"], index: Int[Array, " b"]
) -> Bool[Array, " b"]:
    """Whether a stationary driver may be waiting: for an agent ahead, at a stop line, or at a junction.

    All others on a lane are parked: recorded vehicles that rest there without such a reason rarely start within 8 s.
    """
    params, others = ROUTE_FOLLOWING, observation.agents
    offset = others.xyz[None, :, :2] - now.xyz[:, None, :2]
    local = geometry.rotate(offset, -now.yaw[:, None])
    longitudinal, lateral = local[..., 0] - size[:, :1] / 2, jnp.abs(local[..., 1])
    in_queue = (longitudinal > 0) & (longitudinal < params.queue_length) & (lateral < params.queue_half_width)
    is_other = index[:, None] != jnp.arange(others.yaw.shape[0])[None]
    in_queue = in_queue & others.valid[None] & is_other
    # Recorded queues reach far back from a light.
    has_line = jnp.any(path.stop < params.line_distance, axis=1)
    at_junction = jnp.minimum(path.lane_start[:, 1], path.length) < params.junction_distance
    return jnp.any(in_queue, axis=1) | has_line | at_junction


def desired_speed_profile(path: LanePath, idm: IDMParams, speed: Float[Array, " b"]) -> Float[Array, "b R"]:
    """Desired speed (m/s) at each point of the paths: speed limit times a factor of the driver, less in curves.

    Args:
      path: Lane paths, whose speed limits are those of the lanes.
      idm: Parameters of the drivers.
      speed: Present speeds, m/s. A driver above its own factor keeps its excess, as recorded drivers do.
    """
    limit = path.speed_limit
    # The excess is bounded, since limits of recorded maps are sometimes too low.
    factor = jnp.clip(speed / limit[:, 0], idm.speed_limit_factor, ROUTE_FOLLOWING.max_speed_excess)
    limit = jnp.minimum(factor[:, None] * limit, idm.max_speed[:, None])
    return speed_profile(limit, path.curvature, tree_index(idm, (slice(None), None)), ROUTE_FOLLOWING.spacing)


def speed_profile(
    limit: Float[Array, "b R"], curvature: Float[Array, "#b R"], idm: IDMParams, spacing: float
) -> Float[Array, "b R"]:
    """Highest speed (m/s) at each point within the limits that is reachable by comfortable braking.

    The backward pass of velocity planning in closed form: v_i^2 is the minimum over all points j ahead of
    v_j^2 + 2 b (s_j - s_i), a reverse cumulative minimum.

    Args:
      limit: Speed limits, m/s.
      curvature: Curvature of the path, 1/m.
      idm: Parameters of the drivers, which broadcast against the points.
      spacing: Arc length between points, m.
    """
    params = ROUTE_FOLLOWING
    squared_curve_speed = idm.max_lateral_acceleration / jnp.maximum(jnp.abs(curvature), params.min_curvature)
    squared_speed = jnp.minimum(limit**2, jnp.maximum(squared_curve_speed, params.min_curve_speed**2))
    index = jnp.arange(limit.shape[-1], dtype=jnp.float32)[None]
    braking = 2.0 * idm.comfortable_deceleration * spacing * index
    return jnp.sqrt(jax.lax.cummin(squared_speed + braking, axis=1, reverse=True) - braking)
