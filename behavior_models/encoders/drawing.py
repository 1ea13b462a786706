"""Content of the images of a raster in the frame of the scenario, and its levels in the cells around an agent."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from behavior_models.encoders.grid import Grid, box_masks, combine_masks, unpack_mask
from waymax_sim import geometry
from waymax_sim.datatypes.agents import CYCLIST, PEDESTRIAN, AgentState, is_finite
from waymax_sim.datatypes.roadmap import LANE_FREEWAY, LANE_SURFACE_STREET, LANE_UNDEFINED
from waymax_sim.datatypes.signals import CAUTION_STATES, FLASHING_CAUTION, FLASHING_STOP, GO_STATES, STOP_STATES
from waymax_sim.env.observation import Observation
from waymax_sim.ops import backend
from waymax_sim.pytree import Array, pytree, tree_index

# Lanes of vehicles, and half of their width, m (lanes of urban streets are 3 to 3.6 m wide, AASHTO Green Book).
DRIVABLE_TYPES = (LANE_UNDEFINED, LANE_FREEWAY, LANE_SURFACE_STREET)
HALF_LANE_WIDTH = 1.75
# Levels of unsigned channels are multiples of 1/255, those of signed ones of 1/127.
MAX_LEVEL = 255
MAX_SIGNED_LEVEL = 127
ZERO_LEVEL = 128
# Level of each signal state; a light of unknown state is no open one. Red covers all others in a cell.
STOP_LEVEL = 255
CAUTION_LEVEL = 191
UNKNOWN_LEVEL = 127
GO_LEVEL = 63
NUM_STATES = 9
# Levels of occupied cells, vehicles over cyclists over pedestrians.
VEHICLE_LEVEL = 255
CYCLIST_LEVEL = 170
PEDESTRIAN_LEVEL = 85


class Pose(NamedTuple):
    """Frame of an agent: position, heading, and cosine and sine of it."""

    x: Float[Array, "*k"]
    y: Float[Array, "*k"]
    yaw: Float[Array, "*k"]
    cos: Float[Array, "*k"]
    sin: Float[Array, "*k"]


@pytree
class Points:
    """Points with the levels of their cells, in the frame of the scenario."""

    x: Float[Array, " P"]
    y: Float[Array, " P"]
    valid: Bool[Array, " P"]
    level: Int[Array, " P"]


@pytree
class RasterContent:
    """Content of the images of all agents, in the frame of the scenario.

    Attributes:
      lanes: Points of center lines; the level is not used.
      direction: Direction of the center line at each point.
      route: Points of the route of the sdc.
      stops: Stop points of lights.
      agents: Agents at T steps, [T, N].
      half_size: Half of the length and width of the agents.
      level: Level of the type of each agent.
    """

    lanes: Points
    direction: Float[Array, "P 2"]
    route: Points
    stops: Points
    agents: AgentState
    half_size: Float[Array, "N 2"]
    level: Int[Array, " N"]


def raster_content(observation: Observation, steps: Int[Array, " T"], points_per_segment: int) -> RasterContent:
    """The content of the images of all agents.

    Args:
      observation: The observation.
      steps: Steps of its history at which agents are drawn.
      points_per_segment: Points on each segment of a center line.
    """
    lanes, direction = _lane_points(observation, points_per_segment)
    type_ = jnp.asarray(observation.info.type)
    level = jnp.where(type_ == PEDESTRIAN, PEDESTRIAN_LEVEL, jnp.where(type_ == CYCLIST, CYCLIST_LEVEL, VEHICLE_LEVEL))
    return RasterContent(
        lanes=lanes,
        direction=direction,
        route=_route_points(observation),
        stops=_stop_points(observation),
        agents=tree_index(observation.history, steps),
        half_size=jnp.asarray(observation.info.size)[:, :2] / 2,
        level=level,
    )


def _lane_points(observation: Observation, count: int) -> tuple[Points, Float[Array, "P 2"]]:
    """Points at the centers of equal parts of the segments of vehicle lanes, and the directions of the segments."""
    lanes = observation.lanes
    ends = jnp.asarray(lanes.endpoints)
    # A chunk belongs to one feature.
    kind = jnp.asarray(observation.roadmap.feature_type)[jnp.asarray(lanes.feature)[:, 0]]
    is_drivable = (kind == DRIVABLE_TYPES[0]) | (kind == DRIVABLE_TYPES[1]) | (kind == DRIVABLE_TYPES[2])
    valid = (jnp.asarray(lanes.valid) & is_drivable[:, None]).reshape(-1)
    x, y, end_x, end_y = (ends[:, row].reshape(-1) for row in (0, 1, 3, 4))
    dx, dy = end_x - x, end_y - y
    length = jnp.maximum(jnp.sqrt(dx * dx + dy * dy), 1e-6)
    direction = jnp.stack([dx / length, dy / length], axis=-1)
    shares = [(index + 0.5) / count for index in range(count)]
    x, y = (jnp.concatenate([first + share * step for share in shares]) for first, step in ((x, dx), (y, dy)))
    valid = jnp.tile(valid, count)
    return Points(x, y, valid, jnp.full(valid.shape, MAX_LEVEL)), jnp.tile(direction, (count, 1))


def _route_points(observation: Observation) -> Points:
    """Points of the paths on the route, or of all paths if none is on the route."""
    routes = observation.routes
    if routes is None:
        empty = jnp.zeros(0)
        return Points(empty, empty, jnp.zeros(0, bool), jnp.zeros(0, jnp.int32))
    valid = jnp.asarray(routes.valid)
    on_route = routes.on_route & jnp.any(valid, axis=-1)
    valid = (valid & (on_route | ~jnp.any(on_route))[:, None]).reshape(-1)
    x, y = (jnp.asarray(routes.xyz)[..., axis].reshape(-1) for axis in range(2))
    return Points(x, y, valid, jnp.full(valid.shape, MAX_LEVEL))


def _stop_points(observation: Observation) -> Points:
    """Stop points of lights with the levels of their states."""
    signals = observation.signals
    levels = [UNKNOWN_LEVEL] * NUM_STATES
    groups = {
        STOP_LEVEL: (*STOP_STATES, FLASHING_STOP),
        CAUTION_LEVEL: (*CAUTION_STATES, FLASHING_CAUTION),
        GO_LEVEL: GO_STATES,
    }
    for level, states in groups.items():
        for state in states:
            levels[state] = level
    level = jnp.asarray(levels, jnp.int32)[jnp.clip(signals.state, 0, NUM_STATES - 1)]
    return Points(signals.stop_point[:, 0], signals.stop_point[:, 1], jnp.asarray(signals.valid), level)


def poses(agents: AgentState) -> Pose:
    """The frames of agents."""
    # Otherwise XLA:CPU computes the sines again for each point (bench row `observe_raster`).
    yaw = agents.yaw
    return backend.materialize(Pose(agents.xyz[..., 0], agents.xyz[..., 1], yaw, jnp.cos(yaw), jnp.sin(yaw)))


def _in_frame(x: Array, y: Array, ego: Pose) -> tuple[Array, Array]:
    """Positions in the frame of an agent."""
    return _rotate_back(x - ego.x, y - ego.y, ego)


def _rotate_back(x: Array, y: Array, ego: Pose) -> tuple[Array, Array]:
    """Vectors in the frame of an agent."""
    return ego.cos * x + ego.sin * y, ego.cos * y - ego.sin * x


def draw_points(grid: Grid, points: Points, ego: Pose) -> Int[Array, "H H"]:
    """The largest level of the points in each cell.

    Args:
      grid: Cells around the agent.
      points: Points with levels.
      ego: Frame of the agent.
    """
    index = grid.index(*_in_frame(points.x, points.y, ego), points.valid)
    image = jnp.zeros(grid.size**2, jnp.int32).at[index].max(points.level, mode="drop")
    return image.reshape(grid.size, grid.size)


def draw_lanes(grid: Grid, content: RasterContent, ego: Pose) -> Int[Array, "H H 3"]:
    """Number of points of center lines in each cell, and the levels of the components of their mean direction.

    Args:
      grid: Cells around the agent.
      content: Content of the images.
      ego: Frame of the agent.
    """
    index = grid.index(*_in_frame(content.lanes.x, content.lanes.y, ego), content.lanes.valid)
    cos, sin = _rotate_back(content.direction[:, 0], content.direction[:, 1], ego)
    # Sums of integers do not depend on the order of the points.
    levels = [jnp.round(MAX_SIGNED_LEVEL * item).astype(jnp.int32) for item in (cos, sin)]
    values = jnp.stack([jnp.ones_like(index), *levels], axis=-1)
    sums = jnp.zeros((grid.size**2, 3), jnp.int32).at[index].add(values, mode="drop")
    count = jnp.maximum(sums[:, :1], 1).astype(jnp.float32)
    mean = jnp.round(sums[:, 1:].astype(jnp.float32) / count).astype(jnp.int32) + ZERO_LEVEL
    return jnp.concatenate([sums[:, :1], mean], axis=-1).reshape(grid.size, grid.size, 3)


def draw_boxes(grid: Grid, content: RasterContent, ego: Pose) -> list[Int[Array, "H H"]]:
    """Levels of the cells that agents occupy, at each step.

    Args:
      grid: Cells around the agent.
      content: Content of the images.
      ego: Frame of the agent.
    """
    agents = content.agents
    num_steps, num_agents = agents.valid.shape
    valid = agents.valid & is_finite(agents)
    fields = agents.xyz[..., 0], agents.xyz[..., 1], agents.yaw
    x, y, yaw = (jnp.where(valid, item, 0.0).reshape(-1) for item in fields)
    x, y = _in_frame(x, y, ego)
    heading = yaw - ego.yaw
    half = jnp.tile(content.half_size, (num_steps, 1))
    boxes = geometry.Boxes(x, y, jnp.cos(heading), jnp.sin(heading), half[:, 0], half[:, 1])
    masks = box_masks(grid, boxes, valid.reshape(-1)).reshape(num_steps, num_agents, grid.size, -1)
    image = jnp.zeros((num_steps, grid.size, grid.size), jnp.int32)
    for level in (PEDESTRIAN_LEVEL, CYCLIST_LEVEL, VEHICLE_LEVEL):
        own = jnp.where((content.level == level)[None, :, None, None], masks, jnp.uint32(0))
        image = jnp.where(unpack_mask(grid, combine_masks(own)), level, image)
    return [image[step] for step in range(num_steps)]
