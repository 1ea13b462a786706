"""A bird's-eye image around each controlled agent, drawn in the graph.

Sources: the channels of ChauffeurNet (Bansal et al. 2019), at 64 x 64 cells of 1 m.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, UInt8

from behavior_models.encoders.drawing import (
    HALF_LANE_WIDTH,
    MAX_LEVEL,
    MAX_SIGNED_LEVEL,
    ZERO_LEVEL,
    Pose,
    RasterContent,
    draw_boxes,
    draw_lanes,
    draw_points,
    poses,
    raster_content,
)
from behavior_models.encoders.grid import Grid, dilate
from waymax_sim import geometry
from waymax_sim.datatypes.agents import AgentState, forward_speed, is_finite
from waymax_sim.datatypes.goals import Goals
from waymax_sim.env.encoder import ObservationFeature, ObservationSpec
from waymax_sim.env.flat_view import NUM_GOAL_VALUES, SIZE_SCALE, SPEED_SCALE, encode_goals
from waymax_sim.env.observation import Observation
from waymax_sim.pytree import Array, tree_index

MAP_CHANNELS = ("drivable", "lane_cos", "lane_sin", "route", "lights")
SIGNED_CHANNELS = ("lane_cos", "lane_sin")
# Scales of the scalars of the observer.
ACCELERATION_SCALE = 5.0  # m/s^2
YAW_RATE_SCALE = 1.0  # rad/s
NUM_EGO_VALUES = 5


@dataclasses.dataclass(frozen=True)
class Raster:
    """An image and a few scalars for each controlled agent, in its frame now.

    Rows are the image [H, W, C], H along the heading from the rear to the front, W from the right to the left; the
    speed, acceleration, yaw rate, length and width of the agent; and its goal as in `FlatView`. Channels:

    - drivable: 1 in cells within half a lane width of a cell with a point of the center line of a lane for vehicles.
    - lane_cos, lane_sin: mean direction of the center lines in a cell, 0 without one.
    - route: 1 in cells with a point of the route of the sdc, in the row of the sdc.
    - lights: state of the light of a stop point, within half a lane width: 1 stop, 0.75 caution, 0.5 unknown, 0.25 go.
    - occupancy, occupancy_1, ...: boxes of all agents now, and at past steps: 1 vehicle, 2/3 cyclist, 1/3 pedestrian. A
      cell is occupied if its center lies in a box, or the center of the box in the cell.

    Heights are ignored. Values of the image have 255 levels, so they are stored as bytes exactly (`quantize`).

    Attributes:
      size: Rows and columns H = W.
      resolution: Side of a cell, m.
      behind: Distance from the rear border to the agent, m.
      num_history: Past images of boxes; `EnvConfig.num_history_steps` must be at least `num_history_steps`.
      history_stride: Simulated steps between them; 5 are 0.5 s of recorded scenes.
      points_per_segment: Points on each segment of a center line; more for maps with points further apart than a cell.
      goal: Whether the goal is part of the rows.
      limit: Scalars are clipped to [-limit, limit].
    """

    size: int = 64
    resolution: float = 1.0
    behind: float = 16.0
    num_history: int = 2
    history_stride: int = 5
    points_per_segment: int = 1
    goal: bool = True
    limit: float = 10.0

    def __post_init__(self):
        if self.size < 1 or self.resolution <= 0 or self.points_per_segment < 1:
            raise ValueError(f"{self}: size, resolution and points_per_segment must be positive")
        if self.num_history < 0 or self.history_stride < 1:
            raise ValueError(f"{self}: num_history must not be negative, history_stride be at least 1")

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels."""
        past = (f"occupancy_{index}" for index in range(1, self.num_history + 1))
        return (*MAP_CHANNELS, "occupancy", *past)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """H, W and C."""
        return self.size, self.size, len(self.channels)

    @property
    def num_history_steps(self) -> int:
        """Steps of history that the observation needs, the current one included."""
        return max(1 + self.num_history * self.history_stride, 2)

    def spec(self) -> ObservationSpec:
        """Names, shapes and ranges of the features, in order."""
        unit = f"{self.resolution:g} m, {self.behind:g} m behind, {', '.join(self.channels)}"
        ego_unit = f"{SPEED_SCALE:g} m/s, {ACCELERATION_SCALE:g} m/s^2, {YAW_RATE_SCALE:g} rad/s, {SIZE_SCALE:g} m"
        features = [
            ObservationFeature("image", self.image_shape, -1.0, 1.0, unit),
            ObservationFeature("ego", (NUM_EGO_VALUES,), -self.limit, self.limit, ego_unit),
        ]
        if self.goal:
            features.append(ObservationFeature("goal", (NUM_GOAL_VALUES,), -self.limit, self.limit, "as flat_view"))
        return ObservationSpec("raster", 1, tuple(features))

    def __call__(self, observation: Observation) -> Float[Array, "K D"]:
        """The rows of the controlled agents, zeros where an agent is invalid.

        Raises:
          ValueError: The observation has too little history.
        """
        given = observation.history.valid.shape[0]
        if given < self.num_history_steps:
            raise ValueError(
                f"the raster needs {self.num_history_steps} steps of history, the observation has {given}: "
                f"set EnvConfig(num_history_steps={self.num_history_steps})"
            )
        steps = given - 1 - self.history_stride * jnp.arange(self.num_history + 1, dtype=jnp.int32)
        content = raster_content(observation, steps, self.points_per_segment)
        slot = jnp.maximum(observation.controlled, 0)
        ego = tree_index(observation.agents, slot)
        valid = (observation.controlled >= 0) & ego.valid & is_finite(ego)
        is_sdc = jnp.asarray(observation.info.is_sdc)[slot]
        images = jax.vmap(lambda pose, is_sdc: self._draw(content, pose, is_sdc))(poses(ego), is_sdc)
        scalars = [_ego_values(observation, slot, self.history_stride if self.num_history else 1)]
        if self.goal:
            scalars.append(_goal_values(observation, ego, slot, valid))
        flat = jnp.concatenate(scalars, axis=-1)
        flat = jnp.clip(jnp.where(jnp.isfinite(flat), flat, 0.0), -self.limit, self.limit)
        rows = jnp.concatenate([self._values(images).reshape(len(slot), -1), flat], axis=-1)
        return jnp.where(valid[:, None], rows, 0.0)

    def quantize(self, rows: Float[Array, "*lead D"]) -> UInt8[Array, "*lead B"]:
        """Rows as bytes: one for each value of the image, four for each scalar. `dequantize` restores equal rows."""
        image, scalars = jnp.split(rows, [self._image_size], axis=-1)
        signed = self._is_signed()
        values = image.reshape(*image.shape[:-1], *self.image_shape)
        signed = signed.reshape(*(1 for _ in values.shape[:-1]), -1)
        levels = jnp.where(signed, jnp.round(values * MAX_SIGNED_LEVEL) + ZERO_LEVEL, jnp.round(values * MAX_LEVEL))
        own = jax.lax.bitcast_convert_type(scalars, jnp.uint8)
        lead = rows.shape[:-1]
        return jnp.concatenate([levels.astype(jnp.uint8).reshape(*lead, -1), own.reshape(*lead, -1)], axis=-1)

    def dequantize(self, stored: UInt8[Array, "*lead B"]) -> Float[Array, "*lead D"]:
        """The rows of `quantize`."""
        image, scalars = jnp.split(stored, [self._image_size], axis=-1)
        lead = stored.shape[:-1]
        values = self._values(image.reshape(*lead, *self.image_shape).astype(jnp.int32)).reshape(*lead, -1)
        own = jax.lax.bitcast_convert_type(scalars.reshape(*lead, -1, 4), jnp.float32)
        return jnp.concatenate([values, own], axis=-1)

    @property
    def _image_size(self) -> int:
        return self.size**2 * len(self.channels)

    def _is_signed(self) -> Bool[Array, " C"]:
        return jnp.asarray([name in SIGNED_CHANNELS for name in self.channels])

    def _values(self, levels: Int[Array, "*lead C"]) -> Float[Array, "*lead C"]:
        """Values of levels from 0 to 255."""
        signed = self._is_signed().reshape(*(1 for _ in levels.shape[:-1]), -1)
        offset, scale = jnp.where(signed, ZERO_LEVEL, 0), jnp.where(signed, 1 / MAX_SIGNED_LEVEL, 1 / MAX_LEVEL)
        return (levels - offset).astype(jnp.float32) * scale

    def _draw(self, content: RasterContent, ego: Pose, is_sdc: Bool[Array, ""]) -> Int[Array, "H W C"]:
        """Levels of the image of one agent."""
        grid = Grid(self.size, self.resolution, self.behind)
        lanes, lights = draw_lanes(grid, content, ego), draw_points(grid, content.stops, ego)
        is_lane = (lanes[..., 0] > 0).astype(jnp.int32) * MAX_LEVEL
        wide = dilate(jnp.stack([is_lane, lights], axis=-1), HALF_LANE_WIDTH / self.resolution)
        route = jnp.where(is_sdc, draw_points(grid, content.route, ego), 0)
        boxes = draw_boxes(grid, content, ego)
        channels = [wide[..., 0], lanes[..., 1], lanes[..., 2], route, wide[..., 1], *boxes]
        return jnp.stack(channels, axis=-1)


def _ego_values(observation: Observation, slot: Int[Array, " K"], stride: int) -> Float[Array, "K 5"]:
    """Speed, acceleration and yaw rate over a number of steps, length and width of agents."""
    last = observation.history.valid.shape[0] - 1
    now, past = (tree_index(observation.history, (step, slot)) for step in (last, last - stride))
    duration = stride * observation.dt
    acceleration = (forward_speed(now) - forward_speed(past)) / (duration * ACCELERATION_SCALE)
    yaw_rate = geometry.wrap_angle(now.yaw - past.yaw) / (duration * YAW_RATE_SCALE)
    rates = jnp.where(past.valid[:, None], jnp.stack([acceleration, yaw_rate], axis=-1), 0.0)
    size = jnp.asarray(observation.info.size)[slot, :2] / SIZE_SCALE
    return jnp.concatenate([forward_speed(now)[:, None] / SPEED_SCALE, rates, size], axis=-1)


def _goal_values(
    observation: Observation, ego: AgentState, slot: Int[Array, " K"], valid: Bool[Array, " K"]
) -> Float[Array, "K 6"]:
    """Goals as in the flat view; zeros without goals."""
    goals = observation.goals
    if goals is None:
        return encode_goals(None, valid)
    xy = geometry.rotate(goals.xy[slot] - ego.xyz[:, :2], -ego.yaw)
    return encode_goals(Goals(xy, goals.valid[slot] & valid), valid)
