"""Drivers who know where they will go: along their own logged path, at a speed of their own."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Key

from behavior_models.traffic.car_following import HARDEST_BRAKING
from behavior_models.traffic.idm import drive
from behavior_models.traffic.route_following import NUM_LANES, NUM_POINTS, SPACING, Plans, comfortable_speed, no_plans
from waymax_sim import geometry
from waymax_sim.datatypes.agents import AgentState
from waymax_sim.datatypes.lanes import LaneGraph, LanePath
from waymax_sim.datatypes.state import Action
from waymax_sim.dynamics import Bicycle
from waymax_sim.env import Observation, Policy
from waymax_sim.maps.paths import project
from waymax_sim.pytree import Array, static_record, take

# Moves shorter than this from step to step are noise (m). Who goes less far than the second in all is parked (m).
NOISE, PARKED = 0.02, 1.0
# Stop lines so near to a path (m), within this angle of it (cosine), and so near in height to where it begins (m) are
# on it.
ON_PATH, ALIGNED, LEVEL = 2.0, 0.7, 6.0
# Speed where the log ends at rest (m/s).
CREEP = 0.1


@static_record
class LogPathIDM(Policy):
    """Intelligent drivers (see `IDM`) on their own logged paths: where they go is known, how fast is up to them.

    It is privileged: the path is that of the logged future, and the speed on a free road is at most the highest one
    logged. Agents mind each other, lights and signs as those of `IDM` do. Where the log of an agent ends, it goes
    straight on at its last logged speed. Who does not move in the log is parked. People on foot are driven, too.
    """

    privileged = True
    dynamics = Bicycle(max_acceleration=HARDEST_BRAKING)

    def init(self, observation: Observation, key: Key[Array, ""]) -> Plans:
        """Characters, and the logged paths from now on."""
        plans = no_plans(observation, key)
        log = observation.log
        assert log is not None, "privileged policies are shown the log"
        later = log.valid & (jnp.arange(log.valid.shape[0]) >= observation.step)[:, None]
        path, moves = logged_path(log, later, observation.graph, observation.dt)
        drivers = take(plans.drivers, (slice(None), None))
        suits = comfortable_speed(path.speed_limit, path.curvature, drivers, SPACING)
        path = dataclasses.replace(path, speed_limit=suits)
        everybody = jnp.ones_like(moves)
        return dataclasses.replace(plans, path=path, has_lane=everybody, parked=~moves, made=everybody)

    def act(self, observation: Observation, carry: Plans, key: Key[Array, ""]) -> tuple[Action, Plans]:
        """Acceleration along the logged path and curvature towards it."""
        now = observation.agents
        return drive(observation, carry, project(carry.path, now.xyz[:, :2], now.yaw))


def logged_path(
    log: AgentState, later: Bool[Array, "T N"], graph: LaneGraph, dt: Float[Array, ""]
) -> tuple[LanePath, Bool[Array, " N"]]:
    """The paths that agents take in the log, and whether they move.

    The speed limit of a path is the highest speed logged, and beyond its end that of the last logged step.

    Args:
      log: The record.
      later: Which of its entries count.
      graph: The lane graph, for its stop lines.
      dt: Time step, s.
    """
    xyz, yaw = _held(log.xyz, later), _held(log.yaw[..., None], later)[..., 0]
    step = geometry.norm(jnp.diff(xyz[..., :2], axis=0))
    step = jnp.where(step > NOISE, step, 0.0)
    arc = jnp.concatenate([jnp.zeros_like(step[:1]), jnp.cumsum(step, axis=0)])
    length, at = arc[-1], SPACING * jnp.arange(NUM_POINTS, dtype=jnp.float32)
    columns = jax.vmap(lambda arc, values: jnp.interp(at, arc, values), in_axes=(1, 1))
    x, y, z = (columns(arc, xyz[..., axis]) for axis in range(3))
    beyond = jnp.maximum(at[None] - length[:, None], 0.0)
    ahead = geometry.heading(yaw[-1])
    x, y = x + beyond * ahead[:, :1], y + beyond * ahead[:, 1:]
    along = jnp.stack([jnp.diff(x, axis=1), jnp.diff(y, axis=1)], axis=-1)
    direction = geometry.direction(along, jnp.broadcast_to(yaw[-1][:, None], along.shape[:2]))
    direction = jnp.concatenate([direction, direction[:, -1:]], axis=1)
    turn = geometry.wrap_angle(jnp.diff(direction, axis=1)) / SPACING
    speed = geometry.norm(log.velocity)
    fastest = jnp.max(jnp.where(later, speed, 0.0), axis=0)
    last = _held(speed[..., None], later)[-1, :, 0]
    limit = jnp.where(beyond > 0, jnp.maximum(last, CREEP)[:, None], jnp.maximum(fastest, CREEP)[:, None])
    num = length.shape[0]
    none = jnp.full((num, NUM_LANES), -1, jnp.int32)
    path = LanePath(
        xyz=jnp.stack([x, y, z], axis=-1),
        yaw=direction,
        curvature=jnp.concatenate([turn[:, :1], turn], axis=1),
        speed_limit=limit,
        spacing=jnp.full(num, SPACING),
        length=length,
        goes_on=jnp.zeros(num, bool),
        lanes=none,
        begins=jnp.full(none.shape, jnp.inf),
        stop=jnp.full(none.shape, jnp.inf),
        light=none,
        stop_sign=jnp.zeros(none.shape, bool),
    )
    return _with_stop_lines(path, graph), length > PARKED


def _held(values: Float[Array, "T N d"], valid: Bool[Array, "T N"]) -> Float[Array, "T N d"]:
    """Values with gaps filled by the last valid one before, and at the beginning by the first valid one."""
    number = jnp.arange(valid.shape[0], dtype=jnp.int32)[:, None]
    before = jax.lax.cummax(jnp.where(valid, number, -1), axis=0)
    row = jnp.where(before < 0, jnp.argmax(valid, axis=0).astype(jnp.int32)[None], before)
    return jnp.take_along_axis(values, row[..., None], axis=0)


def _with_stop_lines(path: LanePath, graph: LaneGraph) -> LanePath:
    """The path with the nearest stop lines on it, in order."""
    lines, num = graph.stop_lines, path.length.shape[0]

    def along(xyz, yaw, lane):
        place = jnp.broadcast_to(xyz[None, :2], (num, 2))
        seen = project(path, place, jnp.broadcast_to(yaw[None], (num,)))
        level = jnp.abs(path.xyz[:, 0, 2] - xyz[2]) < LEVEL
        on = (jnp.abs(seen.lateral) < ON_PATH) & (jnp.cos(seen.heading) > ALIGNED) & (seen.arc_length > 0) & level
        return jnp.where(on & (lane >= 0), seen.arc_length, jnp.inf)

    arc = jax.vmap(along, out_axes=1)(lines.xyz, lines.yaw, lines.lane)
    order = jnp.argsort(arc, axis=1)[:, :NUM_LANES]
    stop = jnp.take_along_axis(arc, order, axis=1)
    stop = jnp.pad(stop, ((0, 0), (0, NUM_LANES - stop.shape[1])), constant_values=jnp.inf)
    lane = jnp.pad(lines.lane[order], ((0, 0), (0, NUM_LANES - order.shape[1])), constant_values=-1)
    there = jnp.isfinite(stop) & (lane >= 0)
    lane = jnp.maximum(lane, 0)
    return dataclasses.replace(
        path,
        stop=stop,
        light=jnp.where(there, graph.light[lane], -1),
        stop_sign=there & graph.stop_sign[lane],
    )
