"""Traffic by the Intelligent Driver Model on logged paths: the path is that of the log, the speed that of the model."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Key

from behavior_models.traffic.idm import drive
from behavior_models.traffic.route_following import (
    ROUTE_FOLLOWING,
    DriverState,
    init_driver_state,
    speed_profile,
)
from behavior_models.traffic.vehicle import VEHICLE_LIMITS
from waymax_sim import geometry
from waymax_sim.datatypes.agents import AgentState
from waymax_sim.datatypes.lanes import LaneGraph, LanePath
from waymax_sim.datatypes.state import Action
from waymax_sim.dynamics import Bicycle
from waymax_sim.env import Observation, Policy
from waymax_sim.maps.paths import to_frenet
from waymax_sim.ops.bank import materialize_rows
from waymax_sim.pytree import Array, static_record, tree_index


@static_record
class LoggedPathParams:
    """Construction of paths from the log. The values are choices of this package.

    Attributes:
      min_displacement: Shorter displacements between two steps are noise of logged positions, m.
      min_length: Agents with shorter paths are parked, m.
      min_speed: Lower bound of the speed limit, m/s; the free-road term divides by it.
      max_line_offset: Lateral offset up to which a stop line is on the path, m.
      min_line_cosine: Cosine of the angle to its lane from which it is.
      max_line_height: Height difference to the start of the path up to which it is, m.
    """

    min_displacement: float = 0.02
    min_length: float = 1.0
    min_speed: float = 0.1
    max_line_offset: float = 2.0
    min_line_cosine: float = 0.7
    max_line_height: float = 6.0


LOGGED_PATH = LoggedPathParams()


@static_record
class LogPathIDM(Policy):
    """Drivers of `IDM` on their logged paths: the path is that of the log, the speed is that of the model.

    It is privileged: the path is that of the logged future, and the speed on a free road is at most the highest logged
    one. Leading vehicles, lights, signs and right of way are those of `IDM`. Where the log of an agent ends, it
    continues straight at its last logged speed. Agents that do not move in the log are parked. Pedestrians follow their
    paths, too.
    """

    privileged = True
    dynamics = Bicycle(max_acceleration=VEHICLE_LIMITS.max_deceleration)

    def init(self, observation: Observation, key: Key[Array, ""]) -> DriverState:
        """Parameters of the drivers, and the logged paths from the present step on."""
        drivers = init_driver_state(observation, key)
        log = observation.log
        assert log is not None, "privileged policies receive the log"
        # Logs of a bank of scenarios are lazy rows.
        log = materialize_rows(log)
        # The path begins at the present, also in the middle of a log.
        is_later = log.valid & (jnp.arange(log.valid.shape[0]) >= observation.step)[:, None]
        path, is_moving = logged_path(log, is_later, observation.graph, observation.dt)
        # Logged paths do not change, so the profile is computed once.
        idm = tree_index(drivers.idm, (slice(None), None))
        desired_speed = speed_profile(path.speed_limit, path.curvature, idm, ROUTE_FOLLOWING.spacing)
        path = dataclasses.replace(path, speed_limit=desired_speed)
        true = jnp.ones_like(is_moving)
        return dataclasses.replace(drivers, path=path, has_lane=true, is_parked=~is_moving, is_initialized=true)

    def act(self, observation: Observation, carry: DriverState, key: Key[Array, ""]) -> tuple[Action, DriverState]:
        """Acceleration along the logged path and curvature towards it."""
        now = observation.agents
        return drive(observation, carry, to_frenet(carry.path, now.xyz[:, :2], now.yaw))


def logged_path(
    log: AgentState, mask: Bool[Array, "T N"], graph: LaneGraph, dt: float
) -> tuple[LanePath, Bool[Array, " N"]]:
    """The logged paths of agents, resampled at equal steps, and whether the agents move.

    The speed limit of a path is the highest logged speed, and beyond its end that of the last logged step.

    Args:
      log: The record.
      mask: States of it that belong to the path.
      graph: The lane graph, for its stop lines.
      dt: Time step, s.
    """
    params = ROUTE_FOLLOWING
    xyz, yaw = _fill_gaps(log.xyz, mask), _fill_gaps(log.yaw[..., None], mask)[..., 0]
    # Noise at rest would add length and random directions.
    step = geometry.norm(jnp.diff(xyz[..., :2], axis=0))
    step = jnp.where(step > LOGGED_PATH.min_displacement, step, 0.0)
    arc_length = jnp.concatenate([jnp.zeros_like(step[:1]), jnp.cumsum(step, axis=0)])
    length, samples = arc_length[-1], params.spacing * jnp.arange(params.num_points, dtype=jnp.float32)
    # Steps at rest share an arc length; interpolation takes the last of them.
    resample = jax.vmap(lambda arc_length, values: jnp.interp(samples, arc_length, values), in_axes=(1, 1))
    x, y, z = (resample(arc_length, xyz[..., axis]) for axis in range(3))
    # An agent that is faster than its log needs a path beyond the end of it.
    beyond_end = jnp.maximum(samples[None] - length[:, None], 0.0)
    direction = geometry.unit_vector(yaw[-1])
    x, y = x + beyond_end * direction[:, :1], y + beyond_end * direction[:, 1:]
    chord = jnp.stack([jnp.diff(x, axis=1), jnp.diff(y, axis=1)], axis=-1)
    # Directions are those of the chords; the logged yaw is that of the box and noisy at rest.
    heading = geometry.heading_angle(chord, jnp.broadcast_to(yaw[-1][:, None], chord.shape[:2]))
    heading = jnp.concatenate([heading, heading[:, -1:]], axis=1)
    curvature = geometry.wrap_angle(jnp.diff(heading, axis=1)) / params.spacing
    num_agents = length.shape[0]
    # A logged path follows no lanes, so it has no successors and is never extended.
    no_lane = jnp.full((num_agents, params.num_lanes), -1, jnp.int32)
    path = LanePath(
        xyz=jnp.stack([x, y, z], axis=-1),
        yaw=heading,
        curvature=jnp.concatenate([curvature[:, :1], curvature], axis=1),
        speed_limit=_logged_speed_limit(log, mask, beyond_end),
        spacing=jnp.full(num_agents, params.spacing),
        length=length,
        continues=jnp.zeros(num_agents, bool),
        lanes=no_lane,
        lane_start=jnp.full(no_lane.shape, jnp.inf),
        stop=jnp.full(no_lane.shape, jnp.inf),
        light=no_lane,
        stop_sign=jnp.zeros(no_lane.shape, bool),
    )
    return _with_stop_lines(path, graph), length > LOGGED_PATH.min_length


def _logged_speed_limit(
    log: AgentState, mask: Bool[Array, "T N"], beyond_end: Float[Array, "N R"]
) -> Float[Array, "N R"]:
    """The highest logged speed, and the last one at points beyond the end of the path, m/s."""
    speed = geometry.norm(log.velocity)
    # The highest speed, and not the profile of the log: the speed is to be that of the model.
    highest = jnp.max(jnp.where(mask, speed, 0.0), axis=0)
    last = _fill_gaps(speed[..., None], mask)[-1, :, 0]
    highest, last = (jnp.maximum(value, LOGGED_PATH.min_speed)[:, None] for value in (highest, last))
    return jnp.where(beyond_end > 0, last, highest)


def _fill_gaps(values: Float[Array, "T N d"], valid: Bool[Array, "T N"]) -> Float[Array, "T N d"]:
    """Values with gaps filled by the last valid one before, and at the beginning by the first valid one."""
    step = jnp.arange(valid.shape[0], dtype=jnp.int32)[:, None]
    last_valid = jax.lax.cummax(jnp.where(valid, step, -1), axis=0)
    # Before the first valid step, the first valid value.
    step = jnp.where(last_valid < 0, jnp.argmax(valid, axis=0).astype(jnp.int32)[None], last_valid)
    return jnp.take_along_axis(values, step[..., None], axis=0)


def _with_stop_lines(path: LanePath, graph: LaneGraph) -> LanePath:
    """The path with the nearest stop lines on it, by arc length.

    A logged path has no lanes, so stop lines are matched by position, direction and height: a lane on a bridge above
    the path has no effect.
    """
    lines, num_agents, num_lines = graph.stop_lines, path.length.shape[0], ROUTE_FOLLOWING.num_lanes

    def line_arc_length(xyz, yaw, lane):
        xy = jnp.broadcast_to(xyz[None, :2], (num_agents, 2))
        position = to_frenet(path, xy, jnp.broadcast_to(yaw[None], (num_agents,)))
        is_level = jnp.abs(path.xyz[:, 0, 2] - xyz[2]) < LOGGED_PATH.max_line_height
        is_near = jnp.abs(position.lateral) < LOGGED_PATH.max_line_offset
        is_aligned = jnp.cos(position.heading) > LOGGED_PATH.min_line_cosine
        is_on_path = is_near & is_aligned & (position.arc_length > 0) & is_level
        return jnp.where(is_on_path & (lane >= 0), position.arc_length, jnp.inf)

    # `vmap` accepts no lazy rows.
    poses = (jnp.asarray(values) for values in (lines.xyz, lines.yaw, lines.lane))
    arc_length = jax.vmap(line_arc_length, out_axes=1)(*poses)
    # The nearest lines are kept: a logged path passes few.
    order = jnp.argsort(arc_length, axis=1)[:, :num_lines]
    padding = (0, 0), (0, num_lines - order.shape[1])
    stop = jnp.pad(jnp.take_along_axis(arc_length, order, axis=1), padding, constant_values=jnp.inf)
    lane = jnp.pad(lines.lane[order], padding, constant_values=-1)
    is_line = jnp.isfinite(stop) & (lane >= 0)
    lane = jnp.maximum(lane, 0)
    return dataclasses.replace(
        path,
        stop=stop,
        light=jnp.where(is_line, graph.light[lane], -1),
        stop_sign=is_line & graph.stop_sign[lane],
    )
