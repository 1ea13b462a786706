"""The world as agents see it: near agents and near map elements, in the frame of each observer."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from waymax_sim import geometry
from waymax_sim.datatypes.agents import AgentState, masked
from waymax_sim.datatypes.elements import NUM_ELEMENT_POINTS
from waymax_sim.datatypes.goals import Goals
from waymax_sim.datatypes.route import Routes
from waymax_sim.env.observation import Observation
from waymax_sim.env.selection import mask_to_rows
from waymax_sim.maps.nearby import element_points, nearest_elements
from waymax_sim.ops.bottom_k import bottom_k
from waymax_sim.pytree import Array, pytree, take


@pytree
class AgentsView:
    """Agents in the frames of O observers: K of them over H steps, the observer itself first, then the nearest first.

    Attributes:
      state: Their history, oldest first, [O, K, H]. xyz is relative to the box centre of the observer now, yaw is
        wrapped, velocity is turned into the frame but not made relative.
      index: Row of each among the agents of the scene, -1 for none.
      type: 0 unset, 1 vehicle, 2 pedestrian, 3 cyclist, 4 other; 0 for none.
      size: Length, width and height of the boxes, m.
      is_self: The observer itself.
      is_sdc: The self-driving car.
    """

    state: AgentState
    index: Int[Array, "O K"]
    type: Int[Array, "O K"]
    size: Float[Array, "O K 3"]
    is_self: Bool[Array, "O K"]
    is_sdc: Bool[Array, "O K"]


@pytree
class ElementsView:
    """Map elements in the frames of O observers: E of them, with up to 8 points each.

    Attributes:
      xyz: Points in the order of the feature, m; z is the height above the box centre of the observer.
      valid: Which points exist.
      type: WOMD tf.Example code of the feature (see `RoadMap.feature_type`), -1 for none.
      speed_limit: Of lanes, m/s; 0 where unknown.
      light: State of the light of the lane now (see `Signals.state`), 0 where there is none.
      light_valid: Whether a light of the lane is seen now.
    """

    xyz: Float[Array, "O E 8 3"]
    valid: Bool[Array, "O E 8"]
    type: Int[Array, "O E"]
    speed_limit: Float[Array, "O E"]
    light: Int[Array, "O E"]
    light_valid: Bool[Array, "O E"]


@pytree
class View:
    """What O observers see, each in its own frame: origin at the centre of its box now, x along its heading.

    What is not valid is zero. Nothing is hidden by height: agents and elements are the nearest in the plane, and
    their z tells a policy whether they are on another level.

    Attributes:
      valid: Whether the observer is there now; if not, it sees nothing.
      type: Type of the observer.
      size: Length, width and height of its box, m.
      speed: Its speed now, m/s.
      agents: The observer and the agents nearest to it.
      elements: The map elements nearest to it, the nearest first.
      routes: Paths of the sdc in the frame of the sdc, [M, R]; None where the scene has none, and not valid where the
        sdc is not among the observers.
      goals: Where each observer was told to go, [O]; None where nobody was.
    """

    valid: Bool[Array, " O"]
    type: Int[Array, " O"]
    size: Float[Array, "O 3"]
    speed: Float[Array, " O"]
    agents: AgentsView
    elements: ElementsView
    routes: Routes | None
    goals: Goals | None


def view(
    observation: Observation,
    who: Literal["sdc", "all"] | Int[Array, " O"],
    *,
    num_agents: int = 16,
    num_elements: int = 64,
) -> View:
    """The world from the frame of each observer.

    Nearest means: by the distance in the plane, now, from the centre of the observer to the centre of an agent or to
    the nearest point of a map element. Only what is valid counts. The cost grows with the number of observers times
    (`num_agents` times the steps of history + `num_elements`); the size of the map hardly matters.

    Args:
      observation: The world now; its history has H steps (`EnvConfig.num_history_steps`).
      who: "sdc" (O = 1), "all" (O = N), or rows of agents, such as `present_rows` gives; -1 is nobody.
      num_agents: Agents in a view, K, the observer included.
      num_elements: Map elements in a view, E.
    """
    now, info = observation.agents, observation.info
    if isinstance(who, str):
        sdc = jnp.argmax(info.is_sdc).astype(jnp.int32)
        rows = jnp.arange(info.id.shape[0], dtype=jnp.int32) if who == "all" else jnp.where(info.is_sdc[sdc], sdc, -1)
        who = jnp.atleast_1d(rows)
    row = jnp.maximum(who, 0)
    valid = now.valid[row] & (who >= 0)
    frame = masked(take(now, row), valid)
    return View(
        valid=valid,
        type=jnp.where(valid, info.type[row], 0),
        size=jnp.where(valid[:, None], info.size[row], 0.0),
        speed=geometry.norm(frame.velocity),
        agents=_agents(observation, frame, row, num_agents),
        elements=_elements(observation, frame, num_elements),
        routes=_routes(observation, jnp.any(valid & info.is_sdc[row])),
        goals=_goals(observation, frame, row),
    )


def present_rows(observation: Observation, most: int) -> Int[Array, " O"]:
    """Rows of the agents that are there now, in order, -1 behind the last of them: observers for `view`.

    Args:
      observation: The world now.
      most: How many rows, O; agents beyond are left out.
    """
    return mask_to_rows(observation.agents.valid, most)


def _agents(observation: Observation, frame: AgentState, row: Int[Array, " O"], num_agents: int) -> AgentsView:
    now, info = observation.agents, observation.info
    place, origin = jax.lax.stop_gradient((now.xyz, frame.xyz))
    dx, dy = (place[None, :, axis] - origin[:, axis, None] for axis in range(2))
    # Who is not seen is infinitely far: added, in floats, since one kind of number is what compilers vectorise.
    absent, blind = jnp.where(now.valid, 0.0, jnp.inf), jnp.where(frame.valid, 0.0, jnp.inf)
    itself = jnp.arange(now.valid.shape[0], dtype=jnp.int32)[None] == row[:, None]
    distance2 = dx * dx + dy * dy + (absent[None] + blind[:, None]) + jnp.where(itself, jnp.inf, 0.0)
    # A view may have room for more agents than the scene has.
    missing = max(num_agents - 1 - distance2.shape[1], 0)
    distance2 = jnp.pad(distance2, ((0, 0), (0, missing)), constant_values=jnp.inf)
    nearest, others = bottom_k(distance2, num_agents - 1)
    index = jnp.concatenate([row[:, None], others], axis=-1)
    found = jnp.concatenate([frame.valid[:, None], jnp.isfinite(nearest)], axis=-1)
    index = jnp.where(found, index, 0)

    history = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1)[index], observation.history)
    history = _in_frame(history, frame)
    return AgentsView(
        state=masked(history, history.valid & found[..., None]),
        index=jnp.where(found, index, -1),
        type=jnp.where(found, info.type[index], 0),
        size=jnp.where(found[..., None], info.size[index], 0.0),
        is_self=found & (jnp.arange(num_agents) == 0)[None],
        is_sdc=found & info.is_sdc[index],
    )


def _in_frame(agents: AgentState, frame: AgentState) -> AgentState:
    yaw = frame.yaw[:, None, None]
    return AgentState(
        xyz=_place(agents.xyz, frame),
        yaw=geometry.wrap_angle(agents.yaw - yaw),
        velocity=geometry.rotate(agents.velocity, -yaw),
        valid=agents.valid,
    )


def _place(xyz: Float[Array, "O K H 3"], frame: AgentState) -> Float[Array, "O K H 3"]:
    """Subtract first, rotate second: far from the origin of the scene no digits are lost."""
    offset = xyz - frame.xyz[:, None, None]
    x, y = geometry.turned(offset[..., 0], offset[..., 1], -frame.yaw[:, None, None])
    return geometry.stacked(x, y, offset[..., 2])


def _elements(observation: Observation, frame: AgentState, num_elements: int) -> ElementsView:
    elements, roadmap, signals = observation.elements, observation.roadmap, observation.signals
    if roadmap.valid.shape[0] == 0:
        return _no_elements(frame.yaw.shape[0], num_elements)
    element, found = nearest_elements(elements, frame.xyz[:, :2], frame.valid, num_elements)
    # One element more at either end, see `_place_in_row`.
    first, count, points = element_points(elements, roadmap, jnp.pad(element.reshape(-1), 1))
    first, count = (of[1:-1].reshape(found.shape) for of in (first, count))
    count = jnp.where(found, count, 0)
    point = np.arange(3 * NUM_ELEMENT_POINTS, dtype=np.int32) // 3
    xyz = jnp.where(point[None, None] < count[..., None], _place_in_row(points, frame, num_elements), 0.0)

    # Lights of features first, since there are fewer of them than of elements in all views. Both answers in one
    # reduction: XLA keeps the result of such a one, while it works out others again for each element.
    lit = (roadmap.feature_id[:, None] == signals.lane_id[None]) & signals.valid[None]
    light, seen = jax.lax.reduce(
        (jnp.where(lit, signals.state[None], 0), lit),
        (jnp.zeros((), signals.state.dtype), jnp.zeros((), bool)),
        lambda one, other: (jnp.maximum(one[0], other[0]), one[1] | other[1]),
        (1,),
    )
    feature = roadmap.feature[first]
    return ElementsView(
        xyz=xyz.reshape(*found.shape, NUM_ELEMENT_POINTS, 3),
        valid=jnp.arange(NUM_ELEMENT_POINTS, dtype=jnp.int32)[None, None] < count[..., None],
        type=jnp.where(found, roadmap.feature_type[feature], -1),
        speed_limit=jnp.where(found, roadmap.speed_limit[feature], 0.0),
        light=jnp.where(found, light[feature], 0),
        light_valid=found & seen[feature],
    )


def _place_in_row(points: Float[Array, "q 8 3"], frame: AgentState, num_elements: int) -> Float[Array, "O E 24"]:
    """`_place` of O times E elements, between one more at either end, as rows of numbers: x, y, z, x, y, z, ...

    Numbers one behind the other are what compilers vectorise: to turn a point, each takes in the number next to it.
    """
    width = 3 * NUM_ELEMENT_POINTS
    row, shape = points.reshape(-1), (frame.yaw.size, num_elements, width)
    before, here, behind = (row[width + by : row.size - width + by].reshape(shape) for by in (-1, 0, 1))
    x, y, z = (frame.xyz[:, None, None, axis] for axis in range(3))
    cos, sin = jnp.cos(frame.yaw)[:, None, None], jnp.sin(frame.yaw)[:, None, None]
    along = cos * (here - x) + sin * (behind - y)
    aside = cos * (here - y) - sin * (before - x)
    axis = np.arange(width)[None, None] % 3
    return jnp.where(axis == 0, along, jnp.where(axis == 1, aside, here - z))


def _no_elements(num_observers: int, num_elements: int) -> ElementsView:
    nothing = jnp.zeros((num_observers, num_elements), jnp.int32)
    points = jnp.zeros((num_observers, num_elements, NUM_ELEMENT_POINTS, 3), jnp.float32)
    return ElementsView(
        xyz=points,
        valid=points[..., 0] > 0,
        type=nothing - 1,
        speed_limit=nothing.astype(jnp.float32),
        light=nothing,
        light_valid=nothing > 0,
    )


def _routes(observation: Observation, wanted: Bool[Array, ""]) -> Routes | None:
    routes = observation.routes
    if routes is None:
        return None
    sdc = take(observation.agents, jnp.argmax(observation.info.is_sdc)[None])
    valid = routes.valid & wanted
    return Routes(
        xyz=jnp.where(valid[..., None], _place(routes.xyz[None], sdc)[0], 0.0),
        arc_length=jnp.where(valid, routes.arc_length, 0.0),
        valid=valid,
        on_route=routes.on_route & wanted,
    )


def _goals(observation: Observation, frame: AgentState, row: Int[Array, " O"]) -> Goals | None:
    if observation.goals is None:
        return None
    valid = frame.valid & observation.goals.valid[row]
    xy = geometry.rotate(observation.goals.xy[row] - frame.xyz[:, :2], -frame.yaw)
    return Goals(xy=jnp.where(valid[:, None], xy, 0.0), valid=valid)
