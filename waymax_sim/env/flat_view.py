"""The built-in observation encoder: a flat vector per agent."""

import dataclasses
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from waymax_sim import geometry
from waymax_sim.datatypes.agents import CYCLIST, PEDESTRIAN, VEHICLE
from waymax_sim.datatypes.goals import Goals
from waymax_sim.datatypes.roadmap import CROSSWALK, LANE_TYPES, ROAD_EDGE_TYPES, ROAD_LINE_TYPES, STOP_SIGN
from waymax_sim.datatypes.signals import CAUTION_STATES, FLASHING_CAUTION, FLASHING_STOP, GO_STATES, STOP_STATES
from waymax_sim.env.encoder import ObservationFeature, ObservationSpec
from waymax_sim.env.observation import Observation
from waymax_sim.env.view import AgentsView, PolylinesView, View, agent_centric_view
from waymax_sim.ops.bottom_k import first_argmin
from waymax_sim.pytree import Array, tree_index

# Scales that map typical values to the range from -1 to 1.
DISTANCE_SCALE = 20.0  # m
SPEED_SCALE = 10.0  # m/s
SIZE_SCALE = 5.0  # m
TIME_SCALE = 10.0  # s
LOG_DISTANCE_SCALE = 4.0  # of log(1 + distance in m)
# Categories of the one-hot encodings; signal states are grouped as stop, caution and go.
AGENT_TYPES = (VEHICLE, PEDESTRIAN, CYCLIST)
POLYLINE_TYPES = (LANE_TYPES, ROAD_LINE_TYPES, ROAD_EDGE_TYPES, (CROSSWALK,), (STOP_SIGN,))
SIGNAL_STATE_GROUPS = ((*STOP_STATES, FLASHING_STOP), (*CAUTION_STATES, FLASHING_CAUTION), GO_STATES)
# Points of the route ahead of the sdc.
NUM_ROUTE_POINTS = 10
ROUTE_SPACING = 5.0  # m
# Values per agent, per polyline, and of the goal.
NUM_AGENT_VALUES = 13
NUM_POLYLINE_VALUES = 32
NUM_GOAL_VALUES = 6


@dataclasses.dataclass(frozen=True)
class FlatView:
    """The nearest agents and polylines, the goal, the remaining time and the route as float32 values.

    One row per observer, in its own frame: for each agent, the observer first, [valid, x, y, z, cos yaw, sin yaw, vx,
    vy, length, width, vehicle, pedestrian, cyclist]; for each polyline [8 valid, 8 (x, y), lane, road line, road edge,
    crosswalk, stop sign, light stop, light caution, light go]; the goal as [valid, x, y, unit vector (2),
    log(1 + distance)]; the time until the end of the record; for the sdc points at 5, 10, ..., 50 m on its route,
    [valid, x, y] each. Distances are in units of 20 m, speeds of 10 m/s, sizes of 5 m, times of 10 s. Invalid entries
    are zero.

    Attributes:
      observers: A row for each of the K entries of `Observation.controlled` (zero for -1), or for all N agents.
      num_agents: Agents in a view, the observer included.
      num_polylines: Polylines in a view.
      limit: Values are clipped to [-limit, limit].
    """

    observers: Literal["controlled", "all"] = "controlled"
    num_agents: int = 16
    num_polylines: int = 32
    limit: float = 10.0

    def spec(self) -> ObservationSpec:
        """Names, shapes and ranges of the features, in order."""
        distance = f"{DISTANCE_SCALE:g} m"
        # Names and units are stored in checkpoints.
        shapes = {
            "agents": ((self.num_agents, NUM_AGENT_VALUES), f"{distance}, {SPEED_SCALE:g} m/s, {SIZE_SCALE:g} m"),
            "elements": ((self.num_polylines, NUM_POLYLINE_VALUES), distance),
            "goal": ((NUM_GOAL_VALUES,), f"{distance}, {LOG_DISTANCE_SCALE:g} log m"),
            "remaining_time": ((1,), f"{TIME_SCALE:g} s"),
            "route": ((NUM_ROUTE_POINTS, 3), distance),
        }
        features = (
            ObservationFeature(name, shape, -self.limit, self.limit, unit) for name, (shape, unit) in shapes.items()
        )
        return ObservationSpec("flat_view", 2, tuple(features))

    def __call__(self, observation: Observation) -> Float[Array, "O D"]:
        """The encoding of each observer, zeros where it is invalid."""
        observers = "all" if self.observers == "all" else observation.controlled
        view = agent_centric_view(observation, observers, num_agents=self.num_agents, num_polylines=self.num_polylines)
        time = jnp.broadcast_to(observation.remaining_time / TIME_SCALE, view.valid.shape)
        route = _routes(observation, view)
        parts = [_agents(view.agents), _polylines(view.polylines), _goals(view.goals, view.valid), time, route]
        flat = jnp.concatenate([part.reshape(part.shape[0], -1) for part in parts], axis=-1)
        flat = jnp.clip(flat, -self.limit, self.limit)
        # Non-finite values of a diverged simulation are encoded as zeros.
        return jnp.where(jnp.isfinite(flat) & view.valid[:, None], flat, 0.0)


def _agents(agents: AgentsView) -> Float[Array, "O K 13"]:
    now, valid = tree_index(agents.state, (slice(None), slice(None), -1)), agents.state.valid[..., -1:]
    heading = jnp.where(valid, jnp.stack([jnp.cos(now.yaw), jnp.sin(now.yaw)], axis=-1), 0.0)
    parts = [
        valid.astype(jnp.float32),
        now.xyz / DISTANCE_SCALE,
        heading,
        now.velocity / SPEED_SCALE,
        agents.size[..., :2] / SIZE_SCALE,
        _one_hot(agents.type, AGENT_TYPES),
    ]
    return jnp.concatenate(parts, axis=-1)


def _polylines(polylines: PolylinesView) -> Float[Array, "O E 32"]:
    xy = polylines.xyz[..., :2] / DISTANCE_SCALE
    lights = jnp.where(polylines.light_valid[..., None], _one_hot(polylines.light, SIGNAL_STATE_GROUPS), 0.0)
    parts = [
        polylines.valid.astype(jnp.float32),
        xy.reshape(*xy.shape[:-2], -1),
        _one_hot(polylines.type, POLYLINE_TYPES),
        lights,
    ]
    return jnp.concatenate(parts, axis=-1)


def _one_hot(codes: Int[Array, "O K"], groups: tuple) -> Float[Array, "O K G"]:
    """Membership of each code in each group of codes, as zeros and ones."""

    def is_member(group: int | tuple[int, ...]) -> Bool[Array, "O K"]:
        members = jnp.asarray(group, jnp.int32).reshape(-1)
        return jnp.any(codes[..., None] == members[None, None], axis=-1)

    return jnp.stack([is_member(group) for group in groups], axis=-1).astype(jnp.float32)


def _goals(goals: Goals | None, valid: Bool[Array, " O"]) -> Float[Array, "O 6"]:
    """Validity, position, direction and logarithmic distance of goals; zeros without goals."""
    if goals is None:
        return jnp.zeros((valid.shape[0], NUM_GOAL_VALUES))
    distance = geometry.norm(goals.xy)[:, None]
    direction = goals.xy / jnp.maximum(distance, 1e-3)
    valid = goals.valid.astype(jnp.float32)[:, None]
    log_distance = jnp.log1p(distance) / LOG_DISTANCE_SCALE
    encoded = jnp.concatenate([valid, goals.xy / DISTANCE_SCALE, direction, log_distance], axis=-1)
    return jnp.where(goals.valid[:, None], encoded, 0.0)


def _routes(observation: Observation, view: View) -> Float[Array, "O points"]:
    """The route in the row of the sdc, zeros in all other rows."""
    is_sdc = view.valid & view.agents.is_sdc[:, 0]
    return jnp.where(is_sdc[:, None], _route(observation)[None], 0.0)


def _route(observation: Observation) -> Float[Array, " points"]:
    """Points ahead in the frame of the sdc, on the first on-route path, or else on the first path."""
    routes = observation.routes
    if routes is None:
        return jnp.zeros(3 * NUM_ROUTE_POINTS, jnp.float32)
    has_points = jnp.any(jnp.asarray(routes.valid), axis=-1)
    path = jnp.argmax(2 * (has_points & routes.on_route).astype(jnp.int32) + has_points.astype(jnp.int32))
    xyz, arc_length, valid = routes.xyz[path], routes.arc_length[path], routes.valid[path]
    sdc = tree_index(observation.agents, jnp.argmax(observation.info.is_sdc))
    offset = xyz[:, :2] - sdc.xyz[None, :2]
    nearest = first_argmin(jnp.where(valid, offset[:, 0] ** 2 + offset[:, 1] ** 2, jnp.inf))
    targets = arc_length[nearest] + ROUTE_SPACING * jnp.arange(1, NUM_ROUTE_POINTS + 1, dtype=jnp.float32)
    # Valid samples precede padding, and arc lengths ascend.
    index = jnp.sum(valid[None] & (arc_length[None] < targets[:, None]), axis=-1, dtype=jnp.int32)
    exists = (index < jnp.sum(valid, dtype=jnp.int32))[:, None]
    points = geometry.rotate(offset[jnp.minimum(index, valid.shape[0] - 1)], -sdc.yaw)
    ahead = jnp.where(exists, points / DISTANCE_SCALE, 0.0)
    return jnp.concatenate([exists.astype(jnp.float32), ahead], axis=-1).reshape(-1)
