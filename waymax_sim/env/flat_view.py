"""The flat view: an observation as one row of values per agent."""

import dataclasses
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from waymax_sim import geometry
from waymax_sim.datatypes.agents import CYCLIST, PEDESTRIAN, VEHICLE
from waymax_sim.datatypes.goals import Goals
from waymax_sim.datatypes.roadmap import CROSSWALK, LANE_TYPES, ROAD_EDGE_TYPES, ROAD_LINE_TYPES, STOP_SIGN
from waymax_sim.env.encoder import Feature, ObservationSpec
from waymax_sim.env.observation import Observation
from waymax_sim.env.view import AgentsView, ElementsView, View, view
from waymax_sim.maps.nearest import first_smallest
from waymax_sim.pytree import Array, take

# Units of encoded values, so that most of them are between -1 and 1: m, m/s, m, s, and log(1 + m).
DISTANCE, SPEED, SIZE, TIME, LOG_DISTANCE = 20.0, 10.0, 5.0, 10.0, 4.0
TYPES = (VEHICLE, PEDESTRIAN, CYCLIST)
KINDS = (LANE_TYPES, ROAD_LINE_TYPES, ROAD_EDGE_TYPES, (CROSSWALK,), (STOP_SIGN,))
# Lights (see `SIGNAL_STATE_NAMES`): stop, caution, go.
LIGHTS = ((1, 4, 7), (2, 5, 8), (3, 6))
# Points of the route, and the distance between them (m).
NUM_ROUTE_POINTS, ROUTE_SPACING = 10, 5.0
AGENT_SIZE, ELEMENT_SIZE, GOAL_SIZE = 13, 32, 6


@dataclasses.dataclass(frozen=True)
class FlatView:
    """The nearest agents, the nearest map elements, the goal, the remaining time and the route as float32 values.

    One row per observer, in its own frame: for each agent, the observer first, [valid, x, y, z, cos yaw, sin yaw, vx,
    vy, length, width, vehicle, pedestrian, cyclist]; for each map element [8 valid, 8 (x, y), lane, road line, road
    edge, crosswalk, stop sign, light stop, light caution, light go]; the goal as [valid, x, y, unit vector (2),
    log(1 + distance)]; the time until the end of the record; for the sdc 5, 10, ..., 50 m ahead on its route, [valid,
    x, y] each. Distances are in units of 20 m, speeds of 10 m/s, sizes of 5 m, times of 10 s. Invalid entries are zero.

    Attributes:
      observers: A row for each of the K controlled agents (zero where a row is absent), or for all N agents.
      num_agents: Agents in a view, the observer included.
      num_elements: Map elements in a view.
      limit: Values are clipped to [-limit, limit].
    """

    observers: Literal["controlled", "all"] = "controlled"
    num_agents: int = 16
    num_elements: int = 32
    limit: float = 10.0

    def spec(self) -> ObservationSpec:
        """Names, shapes and ranges of the features, in order."""
        shapes = {
            "agents": ((self.num_agents, AGENT_SIZE), f"{DISTANCE:g} m, {SPEED:g} m/s, {SIZE:g} m"),
            "elements": ((self.num_elements, ELEMENT_SIZE), f"{DISTANCE:g} m"),
            "goal": ((GOAL_SIZE,), f"{DISTANCE:g} m, {LOG_DISTANCE:g} log m"),
            "remaining_time": ((1,), f"{TIME:g} s"),
            "route": ((NUM_ROUTE_POINTS, 3), f"{DISTANCE:g} m"),
        }
        features = [Feature(name, shape, -self.limit, self.limit, unit) for name, (shape, unit) in shapes.items()]
        return ObservationSpec("flat_view", 2, tuple(features))

    def __call__(self, observation: Observation) -> Float[Array, "O D"]:
        """The rows of the controlled agents, or of all agents."""
        who = "all" if self.observers == "all" else observation.controlled
        seen = view(observation, who, num_agents=self.num_agents, num_elements=self.num_elements)
        time = jnp.broadcast_to(observation.remaining_time / TIME, seen.valid.shape)
        route = _routes(observation, seen)
        parts = [_agents(seen.agents), _elements(seen.elements), _goals(seen.goals, seen.valid), time, route]
        flat = jnp.concatenate([part.reshape(part.shape[0], -1) for part in parts], axis=-1)
        flat = jnp.clip(flat, -self.limit, self.limit)
        # A diverged simulation gives zeros and no NaN.
        return jnp.where(jnp.isfinite(flat) & seen.valid[:, None], flat, 0.0)


def _agents(agents: AgentsView) -> Float[Array, "O K 13"]:
    now, size = agents.state, agents.size
    yaw, velocity, valid = now.yaw[..., -1], now.velocity[..., -1, :] / SPEED, now.valid[..., -1]
    turned = jnp.where(valid[..., None], jnp.stack([jnp.cos(yaw), jnp.sin(yaw)], axis=-1), 0.0)
    here = valid[..., None].astype(jnp.float32)
    return jnp.concatenate(
        [here, now.xyz[..., -1, :] / DISTANCE, turned, velocity, size[..., :2] / SIZE, _is_any(agents.type, TYPES)],
        axis=-1,
    )


def _elements(elements: ElementsView) -> Float[Array, "O E 32"]:
    xy = elements.xyz[..., :2] / DISTANCE
    lights = jnp.where(elements.light_valid[..., None], _is_any(elements.light, LIGHTS), 0.0)
    places = xy.reshape(*xy.shape[:-2], -1)
    return jnp.concatenate([elements.valid.astype(jnp.float32), places, _is_any(elements.type, KINDS), lights], axis=-1)


def _is_any(codes: Int[Array, "O K"], groups: tuple) -> Float[Array, "O K G"]:
    """Which group of codes each code is in, as zeros and ones."""

    def inside(group: int | tuple[int, ...]) -> Bool[Array, "O K"]:
        members = jnp.asarray(group, jnp.int32).reshape(-1)
        return jnp.any(codes[..., None] == members[None, None], axis=-1)

    return jnp.stack([inside(group) for group in groups], axis=-1).astype(jnp.float32)


def _goals(goals: Goals | None, valid: Bool[Array, " O"]) -> Float[Array, "O 6"]:
    """Goals as validity, position, direction and distance; zeros without goals."""
    if goals is None:
        return jnp.zeros((valid.shape[0], GOAL_SIZE))
    distance = geometry.norm(goals.xy)[:, None]
    direction = goals.xy / jnp.maximum(distance, 1e-3)
    parts = [goals.valid.astype(jnp.float32)[:, None], goals.xy / DISTANCE, direction, jnp.log1p(distance)]
    encoded = jnp.concatenate([*parts[:3], parts[3] / LOG_DISTANCE], axis=-1)
    return jnp.where(goals.valid[:, None], encoded, 0.0)


def _routes(observation: Observation, seen: View) -> Float[Array, "O points"]:
    """The route in the row of the sdc, zeros in all other rows."""
    is_sdc = seen.valid & seen.agents.is_sdc[:, 0]
    return jnp.where(is_sdc[:, None], _route(observation)[None], 0.0)


def _route(observation: Observation) -> Float[Array, " points"]:
    """Points ahead of the sdc, in its frame, on the first on-route path, or on the first path where none is."""
    routes = observation.routes
    if routes is None or routes.valid.shape[-1] == 0 or routes.valid.shape[0] == 0:
        return jnp.zeros(3 * NUM_ROUTE_POINTS, jnp.float32)
    exists = jnp.any(jnp.asarray(routes.valid), axis=-1)
    path = jnp.argmax(2 * (exists & routes.on_route).astype(jnp.int32) + exists.astype(jnp.int32))
    xyz, along, valid = routes.xyz[path], routes.arc_length[path], routes.valid[path]
    sdc = take(observation.agents, jnp.argmax(observation.info.is_sdc))
    offset = xyz[:, :2] - sdc.xyz[None, :2]
    nearest = first_smallest(jnp.where(valid, offset[:, 0] ** 2 + offset[:, 1] ** 2, jnp.inf))
    distances = along[nearest] + ROUTE_SPACING * jnp.arange(1, NUM_ROUTE_POINTS + 1, dtype=jnp.float32)
    # Valid samples come first, and arc lengths ascend.
    index = jnp.sum(valid[None] & (along[None] < distances[:, None]), axis=-1, dtype=jnp.int32)
    reached = (index < jnp.sum(valid, dtype=jnp.int32))[:, None]
    points = geometry.rotate(offset[jnp.minimum(index, valid.shape[0] - 1)], -sdc.yaw)
    ahead = jnp.where(reached, points / DISTANCE, 0.0)
    return jnp.concatenate([reached.astype(jnp.float32), ahead], axis=-1).reshape(-1)
