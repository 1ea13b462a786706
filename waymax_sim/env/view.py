"""Agent-centric views: the nearest agents and map polylines in the frame of each observer."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from waymax_sim import geometry
from waymax_sim.datatypes.agents import AgentState, mask_agents
from waymax_sim.datatypes.goals import Goals
from waymax_sim.datatypes.polylines import POINTS_PER_POLYLINE
from waymax_sim.datatypes.route import Routes
from waymax_sim.env.observation import Observation
from waymax_sim.env.selection import mask_to_rows
from waymax_sim.maps.nearest_polylines import nearest_polylines, polyline_points
from waymax_sim.ops.bottom_k import bottom_k
from waymax_sim.pytree import Array, pytree, tree_index


@pytree
class AgentsView:
    """K agents over H steps in the frames of O observers: the observer first, then others by ascending distance.

    Attributes:
      state: States, oldest first, [O, K, H]. xyz is relative to the box center of the observer now, yaw is wrapped,
        velocity is rotated into the frame but not relative to the velocity of the observer.
      index: Agent slot in the scenario, -1 for an empty entry.
      type: 0 unset, 1 vehicle, 2 pedestrian, 3 cyclist, 4 other; 0 for an empty entry.
      size: Length, width and height of the boxes, m.
      is_self: Mask of the observer itself.
      is_sdc: Mask of the self-driving car.
    """

    state: AgentState
    index: Int[Array, "O K"]
    type: Int[Array, "O K"]
    size: Float[Array, "O K 3"]
    is_self: Bool[Array, "O K"]
    is_sdc: Bool[Array, "O K"]


@pytree
class PolylinesView:
    """E map polylines of up to 8 points in the frames of O observers, by ascending distance.

    Attributes:
      xyz: Points in the order of the feature, m; z is relative to the box center of the observer.
      valid: Mask of the points.
      type: WOMD tf.Example code of the feature (see `RoadMap.feature_type`), -1 for an empty entry.
      speed_limit: Speed limit of lanes, m/s; 0 where unknown.
      light: State of the traffic light of the lane now (see `Signals.state`), 0 where there is none.
      light_valid: Whether a traffic light of the lane is observed now.
    """

    xyz: Float[Array, "O E 8 3"]
    valid: Bool[Array, "O E 8"]
    type: Int[Array, "O E"]
    speed_limit: Float[Array, "O E"]
    light: Int[Array, "O E"]
    light_valid: Bool[Array, "O E"]


@pytree
class View:
    """Surroundings of O observers in their own frames: origin at the box center now, x along the heading.

    Invalid entries are zero. Visibility is not limited by height: distances are planar, and z distinguishes levels
    such as a bridge and the road below it.

    Attributes:
      valid: Whether the observer is valid now; otherwise its view is empty.
      type: Type of the observer.
      size: Length, width and height of its box, m.
      speed: Its speed now, m/s.
      agents: The observer and the agents nearest to it.
      polylines: The map polylines nearest to it.
      routes: Paths of the sdc in the frame of the sdc, [M, R]; invalid unless the sdc is an observer, None where the
        scenario has none.
      goals: Goal of each observer in its frame, [O]; None where the scenario has none.
    """

    valid: Bool[Array, " O"]
    type: Int[Array, " O"]
    size: Float[Array, "O 3"]
    speed: Float[Array, " O"]
    agents: AgentsView
    polylines: PolylinesView
    routes: Routes | None
    goals: Goals | None


def agent_centric_view(
    observation: Observation,
    observers: Literal["sdc", "all"] | Int[Array, " O"],
    *,
    num_agents: int = 16,
    num_polylines: int = 64,
) -> View:
    """The nearest valid agents and polylines of each observer, in its frame.

    Distances are planar, now: from the box center of the observer to the center of an agent or to the nearest point of
    a polyline. The cost grows with the number of observers times (`num_agents` times the steps of history +
    `num_polylines`) and hardly depends on the size of the map.

    Args:
      observation: The observation; its history has H steps (`EnvConfig.num_history_steps`).
      observers: "sdc" (O = 1), "all" (O = N), or agent slots, such as those of `valid_agent_indices`; -1 for none.
      num_agents: Agents in a view, K, the observer included.
      num_polylines: Polylines in a view, E.
    """
    now, info = observation.agents, observation.info
    requested = _named_observers(observation, observers) if isinstance(observers, str) else observers
    slot = jnp.maximum(requested, 0)
    valid = now.valid[slot] & (requested >= 0)
    ego = mask_agents(tree_index(now, slot), valid)
    return View(
        valid=valid,
        type=jnp.where(valid, info.type[slot], 0),
        size=jnp.where(valid[:, None], info.size[slot], 0.0),
        speed=geometry.norm(ego.velocity),
        agents=_agents(observation, ego, slot, num_agents),
        polylines=_polylines(observation, ego, num_polylines),
        routes=_routes(observation, jnp.any(valid & info.is_sdc[slot])),
        goals=_goals(observation, ego, slot),
    )


def valid_agent_indices(observation: Observation, max_agents: int) -> Int[Array, " O"]:
    """Slots of the agents that are valid now, ascending, then -1: observers for `agent_centric_view`.

    Args:
      observation: The observation.
      max_agents: Number of entries O; further agents are left out.
    """
    return mask_to_rows(observation.agents.valid, max_agents)


def _named_observers(observation: Observation, name: str) -> Int[Array, " O"]:
    is_sdc = observation.info.is_sdc
    if name == "all":
        return jnp.arange(is_sdc.shape[0], dtype=jnp.int32)
    sdc = jnp.argmax(is_sdc).astype(jnp.int32)
    return jnp.where(is_sdc[sdc], sdc, -1)[None]


def _agents(observation: Observation, ego: AgentState, slot: Int[Array, " O"], num_agents: int) -> AgentsView:
    now, info = observation.agents, observation.info
    xyz, origin = jax.lax.stop_gradient((now.xyz, ego.xyz))
    dx, dy = (xyz[None, :, axis] - origin[:, axis, None] for axis in range(2))
    is_other = jnp.arange(now.valid.shape[0], dtype=jnp.int32)[None] != slot[:, None]
    is_candidate = now.valid[None] & ego.valid[:, None] & is_other
    squared_distance = jnp.where(is_candidate, dx * dx + dy * dy, jnp.inf)
    # A view may have more entries than the scenario has agents.
    num_padding = max(num_agents - 1 - squared_distance.shape[1], 0)
    squared_distance = jnp.pad(squared_distance, ((0, 0), (0, num_padding)), constant_values=jnp.inf)
    nearest, others = bottom_k(squared_distance, num_agents - 1)
    valid = jnp.concatenate([ego.valid[:, None], jnp.isfinite(nearest)], axis=-1)
    index = jnp.where(valid, jnp.concatenate([slot[:, None], others], axis=-1), 0)

    history = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1)[index], observation.history)
    return AgentsView(
        state=mask_agents(_states_to_ego_frame(history, ego), history.valid & valid[..., None]),
        index=jnp.where(valid, index, -1),
        type=jnp.where(valid, info.type[index], 0),
        size=jnp.where(valid[..., None], info.size[index], 0.0),
        is_self=valid & (jnp.arange(num_agents) == 0)[None],
        is_sdc=valid & info.is_sdc[index],
    )


def _states_to_ego_frame(agents: AgentState, ego: AgentState) -> AgentState:
    yaw = ego.yaw[:, None, None]
    return AgentState(
        xyz=_to_ego_frame(agents.xyz, ego),
        yaw=geometry.wrap_angle(agents.yaw - yaw),
        velocity=geometry.rotate(agents.velocity, -yaw),
        valid=agents.valid,
    )


def _to_ego_frame(xyz: Float[Array, "O K H 3"], ego: AgentState) -> Float[Array, "O K H 3"]:
    """Positions in the frame of each observer.

    Translation precedes rotation, which keeps float32 precision far from the origin of the scenario.
    """
    offset = xyz - ego.xyz[:, None, None]
    x, y = geometry.rotate_components(offset[..., 0], offset[..., 1], -ego.yaw[:, None, None])
    return geometry.stack_last(x, y, offset[..., 2])


def _polylines(observation: Observation, ego: AgentState, num_polylines: int) -> PolylinesView:
    polylines, roadmap = observation.polylines, observation.roadmap
    index, exists = nearest_polylines(polylines, ego.xyz[:, :2], ego.valid, num_polylines)
    first, count, points = polyline_points(polylines, roadmap, index.reshape(-1))
    first, count = first.reshape(exists.shape), jnp.where(exists, count.reshape(exists.shape), 0)
    valid = jnp.arange(POINTS_PER_POLYLINE, dtype=jnp.int32)[None, None] < count[..., None]
    xyz = _to_ego_frame(points.reshape(*exists.shape, POINTS_PER_POLYLINE, 3), ego)
    feature, (light, light_valid) = roadmap.feature[first], _feature_lights(observation)
    return PolylinesView(
        xyz=jnp.where(valid[..., None], xyz, 0.0),
        valid=valid,
        type=jnp.where(exists, roadmap.feature_type[feature], -1),
        speed_limit=jnp.where(exists, roadmap.speed_limit[feature], 0.0),
        light=jnp.where(exists, light[feature], 0),
        light_valid=exists & light_valid[feature],
    )


def _feature_lights(observation: Observation) -> tuple[Int[Array, " F"], Bool[Array, " F"]]:
    """State of the traffic light of each map feature, and whether one is observed."""
    signals = observation.signals
    is_light = (observation.roadmap.feature_id[:, None] == signals.lane_id[None]) & signals.valid[None]
    # One reduction for both results: 0 without a light, 1 + state otherwise.
    code = jnp.max(jnp.where(is_light, signals.state[None] + 1, 0), axis=1)
    return jnp.maximum(code - 1, 0), code > 0


def _routes(observation: Observation, observes_sdc: Bool[Array, ""]) -> Routes | None:
    """Routes in the frame of the sdc, invalid unless the sdc is an observer."""
    routes = observation.routes
    if routes is None:
        return None
    sdc = tree_index(observation.agents, jnp.argmax(observation.info.is_sdc)[None])
    valid = routes.valid & observes_sdc
    return Routes(
        xyz=jnp.where(valid[..., None], _to_ego_frame(routes.xyz[None], sdc)[0], 0.0),
        arc_length=jnp.where(valid, routes.arc_length, 0.0),
        valid=valid,
        on_route=routes.on_route & observes_sdc,
    )


def _goals(observation: Observation, ego: AgentState, slot: Int[Array, " O"]) -> Goals | None:
    if observation.goals is None:
        return None
    valid = ego.valid & observation.goals.valid[slot]
    xy = geometry.rotate(observation.goals.xy[slot] - ego.xyz[:, :2], -ego.yaw)
    return Goals(xy=jnp.where(valid[:, None], xy, 0.0), valid=valid)
