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
from waymax_sim.ops.bottom_k import bottom_k, first_argmin
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
# Values per agent, per past step of an agent, per polyline (the last three are its light), of the goal, and per light.
NUM_AGENT_VALUES = 13
NUM_HISTORY_VALUES = 7
NUM_POLYLINE_VALUES = 32
NUM_GOAL_VALUES = 6
NUM_LIGHT_VALUES = 6


@dataclasses.dataclass(frozen=True)
class FlatView:
    """The nearest agents and polylines, the goal, the remaining time and the route as float32 values.

    One row per observer, in its own frame: for each agent, the observer first, [valid, x, y, z, cos yaw, sin yaw, vx,
    vy, length, width, vehicle, pedestrian, cyclist]; for each polyline [8 valid, 8 (x, y), lane, road line, road edge,
    crosswalk, stop sign, light stop, light caution, light go]; the goal as [valid, x, y, unit vector (2),
    log(1 + distance)]; the time until the end of the record; for the sdc points at 5, 10, ..., 50 m on its route,
    [valid, x, y] each. With a history, for each agent and past step, the most recent one first, [valid, x, y, cos yaw,
    sin yaw, vx, vy] in the frame of the observer now; with lights as a set, for the nearest ones [valid, x, y of the
    stop point, stop, caution, go]. Distances are in units of 20 m, speeds of 10 m/s, sizes of 5 m, times of 10 s.
    Invalid entries are zero.

    Attributes:
      observers: A row for each of the K entries of `Observation.controlled` (zero for -1), or for all N agents.
      num_agents: Agents in a view, the observer included.
      num_polylines: Polylines in a view.
      limit: Values are clipped to [-limit, limit].
      num_history: Past steps of each agent; `EnvConfig.num_history_steps` must be at least `num_history_steps`.
      history_stride: Simulated steps between them.
      lights: Lights as values of the polylines of their lanes, as a set of their own, or not at all.
      num_lights: Lights in the set.
      goal: Whether the goal is part of the rows.
      route: Whether the route is part of the rows. Scenarios have routes of the sdc alone.
    """

    observers: Literal["controlled", "all"] = "controlled"
    num_agents: int = 16
    num_polylines: int = 32
    limit: float = 10.0
    num_history: int = 0
    history_stride: int = 1
    lights: Literal["polylines", "set", "none"] = "polylines"
    num_lights: int = 8
    goal: bool = True
    route: bool = True

    def __post_init__(self):
        if self.num_history < 0 or self.history_stride < 1 or self.num_lights < 1:
            raise ValueError(f"{self}: num_history must not be negative, history_stride and num_lights be at least 1")

    @property
    def num_history_steps(self) -> int:
        """Steps of history that the observation needs, the current one included."""
        return max(1 + self.num_history * self.history_stride, 2)

    def spec(self) -> ObservationSpec:
        """Names, shapes and ranges of the features, in order."""
        distance, speed = f"{DISTANCE_SCALE:g} m", f"{SPEED_SCALE:g} m/s"
        num_polyline_values = NUM_POLYLINE_VALUES - (0 if self.lights == "polylines" else len(SIGNAL_STATE_GROUPS))
        history = (self.num_agents, self.num_history, NUM_HISTORY_VALUES)
        # Names and units are stored in checkpoints.
        shapes = {
            "agents": ((self.num_agents, NUM_AGENT_VALUES), f"{distance}, {speed}, {SIZE_SCALE:g} m"),
            "elements": ((self.num_polylines, num_polyline_values), distance),
            "goal": self.goal and ((NUM_GOAL_VALUES,), f"{distance}, {LOG_DISTANCE_SCALE:g} log m"),
            "remaining_time": ((1,), f"{TIME_SCALE:g} s"),
            "route": self.route and ((NUM_ROUTE_POINTS, 3), distance),
            "history": self.num_history > 0 and (history, f"{distance}, {speed}, every {self.history_stride} steps"),
            "lights": self.lights == "set" and ((self.num_lights, NUM_LIGHT_VALUES), distance),
        }
        features = (
            ObservationFeature(name, *(item[0], -self.limit, self.limit, item[1]))
            for name, item in shapes.items()
            if item
        )
        return ObservationSpec("flat_view", 2, tuple(features))

    def __call__(self, observation: Observation) -> Float[Array, "O D"]:
        """The encoding of each observer, zeros where it is invalid.

        Raises:
          ValueError: The observation has too little history.
        """
        self._check_history(observation)
        observers = "all" if self.observers == "all" else observation.controlled
        view = agent_centric_view(observation, observers, num_agents=self.num_agents, num_polylines=self.num_polylines)
        parts = self._parts(observation, view)
        flat = jnp.concatenate([part.reshape(part.shape[0], -1) for part in parts], axis=-1)
        flat = jnp.clip(flat, -self.limit, self.limit)
        # Non-finite values of a diverged simulation are encoded as zeros.
        return jnp.where(jnp.isfinite(flat) & view.valid[:, None], flat, 0.0)

    def _parts(self, observation: Observation, view: View) -> list[Array]:
        """The features of `spec`."""
        parts = [_agents(view.agents), _polylines(view.polylines, has_lights=self.lights == "polylines")]
        if self.goal:
            parts.append(encode_goals(view.goals, view.valid))
        parts.append(jnp.broadcast_to(observation.remaining_time / TIME_SCALE, view.valid.shape))
        if self.route:
            parts.append(_routes(observation, view))
        if self.num_history:
            parts.append(_history(view.agents, self.num_history, self.history_stride))
        if self.lights == "set":
            parts.append(_lights(observation, view, self.num_lights))
        return parts

    def _check_history(self, observation: Observation) -> None:
        given = observation.history.valid.shape[0]
        if self.num_history and given < self.num_history_steps:
            raise ValueError(
                f"the view needs {self.num_history_steps} steps of history, the observation has {given}: "
                f"set EnvConfig(num_history_steps={self.num_history_steps})"
            )


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


def _history(agents: AgentsView, num_steps: int, stride: int) -> Float[Array, "O K H 7"]:
    """Past states of the agents of a view, the most recent first.

    Args:
      agents: The agents, with at least 1 + `num_steps` * `stride` steps.
      num_steps: Past steps H.
      stride: Simulated steps between them.
    """
    last = agents.state.valid.shape[-1] - 1
    steps = last - stride * jnp.arange(1, num_steps + 1, dtype=jnp.int32)
    past = tree_index(agents.state, (slice(None), slice(None), steps))
    valid = past.valid[..., None]
    heading = jnp.where(valid, jnp.stack([jnp.cos(past.yaw), jnp.sin(past.yaw)], axis=-1), 0.0)
    xy, velocity = past.xyz[..., :2] / DISTANCE_SCALE, past.velocity / SPEED_SCALE
    return jnp.concatenate([valid.astype(jnp.float32), xy, heading, velocity], axis=-1)


def _polylines(polylines: PolylinesView, *, has_lights: bool) -> Float[Array, "O E values"]:
    xy = polylines.xyz[..., :2] / DISTANCE_SCALE
    parts = [
        polylines.valid.astype(jnp.float32),
        xy.reshape(*xy.shape[:-2], -1),
        _one_hot(polylines.type, POLYLINE_TYPES),
    ]
    if has_lights:
        lights = _one_hot(polylines.light, SIGNAL_STATE_GROUPS)
        parts.append(jnp.where(polylines.light_valid[..., None], lights, 0.0))
    return jnp.concatenate(parts, axis=-1)


def _lights(observation: Observation, view: View, num_lights: int) -> Float[Array, "O L 6"]:
    """The lights whose stop points are nearest to each observer, by ascending distance in the plane.

    Args:
      observation: The observation.
      view: Its view.
      num_lights: Lights L.
    """
    signals, slot = observation.signals, jnp.maximum(view.agents.index[:, 0], 0)
    ego = tree_index(observation.agents, slot)
    offset = signals.stop_point[None, :, :2] - ego.xyz[:, None, :2]
    is_candidate = signals.valid[None] & view.valid[:, None]
    squared_distance = jnp.where(is_candidate, offset[..., 0] ** 2 + offset[..., 1] ** 2, jnp.inf)
    # A set may have more entries than the scenario has lights.
    padding = (0, 0), (0, max(num_lights - squared_distance.shape[1], 0))
    squared_distance = jnp.pad(squared_distance, padding, constant_values=jnp.inf)
    nearest, index = bottom_k(squared_distance, num_lights)
    exists = jnp.isfinite(nearest)[..., None]
    index = jnp.minimum(index, offset.shape[1] - 1)
    xy = geometry.rotate(jnp.take_along_axis(offset, index[..., None], axis=1), -ego.yaw[:, None])
    parts = [exists.astype(jnp.float32), xy / DISTANCE_SCALE, _one_hot(signals.state[index], SIGNAL_STATE_GROUPS)]
    return jnp.where(exists, jnp.concatenate(parts, axis=-1), 0.0)


def _one_hot(codes: Int[Array, "O K"], groups: tuple) -> Float[Array, "O K G"]:
    """Membership of each code in each group of codes, as zeros and ones."""

    def is_member(group: int | tuple[int, ...]) -> Bool[Array, "O K"]:
        members = jnp.asarray(group, jnp.int32).reshape(-1)
        return jnp.any(codes[..., None] == members[None, None], axis=-1)

    return jnp.stack([is_member(group) for group in groups], axis=-1).astype(jnp.float32)


def encode_goals(goals: Goals | None, valid: Bool[Array, " O"]) -> Float[Array, "O 6"]:
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
