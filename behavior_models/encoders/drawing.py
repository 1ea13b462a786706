"""Content of the images of a raster in the frame of the scenario, and its levels in the cells around an agent."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from behavior_models.encoders.grid import Grid, box_masks, combine_masks, unpack_mask
from waymax_sim import geometry
from waymax_sim.datatypes.agents import CYCLIST, PEDESTRIAN, AgentState, is_finite
from waymax_sim.datatypes.roadmap import LANE_FREEWAY, LANE_SURFACE_STREET, LANE_UNDEFINED
from waymax_sim.datatypes.signals import CAUTION_STATES, FLASHING_CAUTION, FLASHING_STOP, GO_STATES, STOP_STATES
from waymax_sim.env.observation import Observation
from waymax_sim.pytree import Array, pytree, static, tree_index

# Lanes of vehicles, and half of their width, m (lanes of urban streets are 3 to 3.6 m wide, AASHTO Green Book).
DRIVABLE_TYPES = (LANE_UNDEFINED, LANE_FREEWAY, LANE_SURFACE_STREET)
HALF_LANE_WIDTH = 1.75
# Shorter segments have no direction, m.
MIN_LENGTH = 1e-6
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
    """Frame of an agent: its position, m, and its heading, rad."""

    xy: Float[Array, "*k 2"]
    yaw: Float[Array, "*k"]


@pytree
class Points:
    """Points with the levels of their cells, in the frame of the scenario."""

    xy: Float[Array, "2 P"]
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
      agents: Centers and levels of N agents at T steps, step by step.
      heading: Directions of the agents.
      half_size: Half of their lengths and widths, m.
      num_steps: T.
    """

    lanes: Points
    direction: Float[Array, "2 P"]
    route: Points
    stops: Points
    agents: Points
    heading: Float[Array, "2 B"]
    half_size: Float[Array, "2 B"]
    num_steps: int = static()


def raster_content(observation: Observation, steps: Int[Array, " T"], points_per_segment: int) -> RasterContent:
    """The content of the images of all agents.

    Args:
      observation: The observation.
      steps: Steps of its history at which agents are drawn.
      points_per_segment: Points on each segment of a center line.
    """
    lanes, direction = _lane_points(observation, points_per_segment)
    agents = tree_index(observation.history, steps)
    valid, size = (agents.valid & is_finite(agents)).reshape(-1), jnp.asarray(observation.info.size)
    num_steps = steps.shape[0]
    yaw = jnp.where(valid, agents.yaw.reshape(-1), 0.0)
    xy = jnp.where(valid[None], _columns(agents.xyz), 0.0)
    return RasterContent(
        lanes=lanes,
        direction=direction,
        route=_route_points(observation),
        stops=_stop_points(observation),
        agents=Points(xy, valid, jnp.tile(_agent_levels(jnp.asarray(observation.info.type)), num_steps)),
        heading=jnp.stack([jnp.cos(yaw), jnp.sin(yaw)]),
        half_size=jnp.tile(_columns(size) / 2, (1, num_steps)),
        num_steps=num_steps,
    )


def _columns(values: Float[Array, "*b 3"]) -> Float[Array, "2 B"]:
    """The first two components of vectors."""
    return jnp.stack([values[..., 0].reshape(-1), values[..., 1].reshape(-1)])


def _agent_levels(types: Int[Array, " N"]) -> Int[Array, " N"]:
    return jnp.where(types == PEDESTRIAN, PEDESTRIAN_LEVEL, jnp.where(types == CYCLIST, CYCLIST_LEVEL, VEHICLE_LEVEL))


def _lane_points(observation: Observation, count: int) -> tuple[Points, Float[Array, "2 P"]]:
    """Points at the centers of equal parts of the segments of vehicle lanes, and the directions of the segments."""
    lanes = observation.lanes
    ends = jnp.asarray(lanes.endpoints)
    # A chunk belongs to one feature.
    kind = jnp.asarray(observation.roadmap.feature_type)[jnp.asarray(lanes.feature)[:, 0]]
    is_drivable = (kind == DRIVABLE_TYPES[0]) | (kind == DRIVABLE_TYPES[1]) | (kind == DRIVABLE_TYPES[2])
    valid = (jnp.asarray(lanes.valid) & is_drivable[:, None]).reshape(-1)
    start, end = (jnp.stack([ends[:, row].reshape(-1), ends[:, row + 1].reshape(-1)]) for row in (0, 3))
    step = end - start
    length = jnp.maximum(jnp.sqrt(step[0] ** 2 + step[1] ** 2), MIN_LENGTH)
    points = jnp.concatenate([start + (index + 0.5) / count * step for index in range(count)], axis=1)
    valid = jnp.tile(valid, count)
    return Points(points, valid, jnp.full(valid.shape, MAX_LEVEL)), jnp.tile(step / length[None], (1, count))


def _route_points(observation: Observation) -> Points:
    """Points of the paths on the route, or of all paths if none is on the route."""
    routes = observation.routes
    if routes is None:
        return Points(jnp.zeros((2, 0)), jnp.zeros(0, bool), jnp.zeros(0, jnp.int32))
    valid = jnp.asarray(routes.valid)
    on_route = routes.on_route & jnp.any(valid, axis=-1)
    valid = (valid & (on_route | ~jnp.any(on_route))[:, None]).reshape(-1)
    return Points(_columns(jnp.asarray(routes.xyz)), valid, jnp.full(valid.shape, MAX_LEVEL))


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
    return Points(_columns(jnp.asarray(signals.stop_point)), jnp.asarray(signals.valid), level)


def poses(agents: AgentState) -> Pose:
    """The frames of agents."""
    return Pose(agents.xyz[..., :2], agents.yaw)


def to_frame(xy: Float[Array, "2 P"], ego: Pose) -> Float[Array, "2 P"]:
    """Positions in the frame of an agent."""
    return rotate_back(xy - ego.xy[:, None], ego)


def rotate_back(vectors: Float[Array, "2 P"], ego: Pose) -> Float[Array, "2 P"]:
    """Vectors in the frame of an agent.

    A product of matrices: XLA:CPU computes the sines once, not for each point (bench row `observe_raster`).
    """
    cos, sin = jnp.cos(ego.yaw), jnp.sin(ego.yaw)
    matrix = jnp.stack([jnp.stack([cos, sin]), jnp.stack([-sin, cos])])
    return jnp.matmul(matrix, vectors, precision=jax.lax.Precision.HIGHEST)


def draw_points(grid: Grid, points: Points, ego: Pose) -> Int[Array, "H H"]:
    """The largest level of the points in each cell.

    Args:
      grid: Cells around the agent.
      points: Points with levels.
      ego: Frame of the agent.
    """
    index = grid.index(to_frame(points.xy, ego), points.valid)
    image = jnp.zeros(grid.size**2, jnp.int32).at[index].max(points.level, mode="drop")
    return image.reshape(grid.size, grid.size)


def draw_lanes(grid: Grid, content: RasterContent, ego: Pose) -> Int[Array, "3 H H"]:
    """Number of points of center lines in each cell, and the levels of the components of their mean direction.

    Args:
      grid: Cells around the agent.
      content: Content of the images.
      ego: Frame of the agent.
    """
    index = grid.index(to_frame(content.lanes.xy, ego), content.lanes.valid)
    # Sums of integers do not depend on the order of the points.
    levels = jnp.round(MAX_SIGNED_LEVEL * rotate_back(content.direction, ego)).astype(jnp.int32)
    values = jnp.concatenate([jnp.ones_like(index)[None], levels])
    sums = jnp.zeros((3, grid.size**2), jnp.int32).at[:, index].add(values, mode="drop")
    count = jnp.maximum(sums[:1], 1).astype(jnp.float32)
    mean = jnp.round(sums[1:].astype(jnp.float32) / count).astype(jnp.int32) + ZERO_LEVEL
    return jnp.concatenate([sums[:1], mean]).reshape(3, grid.size, grid.size)


def draw_boxes(grid: Grid, content: RasterContent, ego: Pose) -> list[Int[Array, "H H"]]:
    """Levels of the cells that agents occupy, at each step.

    Args:
      grid: Cells around the agent.
      content: Content of the images.
      ego: Frame of the agent.
    """
    xy, (cos, sin) = to_frame(content.agents.xy, ego), rotate_back(content.heading, ego)
    boxes = geometry.Boxes(xy[0], xy[1], cos, sin, content.half_size[0], content.half_size[1])
    masks = box_masks(grid, boxes, content.agents.valid)
    masks, level = (item.reshape(content.num_steps, -1, *item.shape[1:]) for item in (masks, content.agents.level))
    image = _draw_centers(grid, content, xy)
    for own in (PEDESTRIAN_LEVEL, CYCLIST_LEVEL, VEHICLE_LEVEL):
        mask = combine_masks(jnp.where((level == own)[..., None, None], masks, jnp.uint32(0)))
        image = jnp.maximum(image, jnp.where(unpack_mask(grid, mask), own, 0))
    return [image[step] for step in range(content.num_steps)]


def _draw_centers(grid: Grid, content: RasterContent, xy: Float[Array, "2 B"]) -> Int[Array, "T H H"]:
    """The largest level of the box centers in each cell at each step.

    Args:
      grid: Cells around the agent.
      content: Content of the images.
      xy: Centers in the frame of the agent, m.
    """
    num_steps, num_cells = content.num_steps, grid.size**2
    index = grid.index(xy, content.agents.valid)
    step = jnp.repeat(jnp.arange(num_steps, dtype=jnp.int32), xy.shape[1] // num_steps)
    index = jnp.where(index < num_cells, step * num_cells + index, num_steps * num_cells)
    image = jnp.zeros(num_steps * num_cells, jnp.int32).at[index].max(content.agents.level, mode="drop")
    return image.reshape(num_steps, grid.size, grid.size)
