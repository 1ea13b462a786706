"""Drives in which each modality carries information that no other one has: a test bed for joint models.

The sdc passes a closed lane, a light, a bend and a junction. Which lane is closed shows in the boxes of obstacles, the
state of the light in its tokens, the bend in the map, the exit in the route, and the acceleration of the driver in its
motion before the first decision. All choices are independent and uniform. `modality_scenes` makes drives into scenes.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from waymax_sim import geometry
from waymax_sim.datatypes.scenario import TIME_STEP
from waymax_sim.datatypes.signals import CAUTION, GO, STOP
from waymax_sim.pytree import Array, pytree, static_record


@static_record
class ModalityBedParams:
    """Constants of the bed; all are choices.

    Attributes:
      accelerations: Accelerations of the motion tokens, m/s^2.
      curvatures: Curvatures of the motion tokens, 1/m.
      styles: Accelerations of the drivers on a free road, m/s^2.
      steps_per_token: Steps of 0.1 s of a motion token.
      num_history: Motion tokens before the first decision.
      num_decisions: Decisions T.
      lane_offset: Lateral offset of the two lanes from the middle of the road, m.
      closed_range: Arc lengths between which obstacles close a lane, m.
      num_obstacles: Obstacles on the closed lane.
      obstacle_size: Side of an obstacle, m.
      bend: Arc lengths between which the road is bent, m.
      max_bend: Largest curvature of the bend, 1/m.
      line: Arc length of the stop line, m.
      junction: Arc lengths between which the exits are bent, m.
      exit_curvature: Curvature of the left exit, 1/m; the right one is its mirror image, the third one straight.
      road_length: Length of road and exit, m.
      map_length: Length of the part of it that the map and the routes contain, m.
      start_speed: Range of the first speed, m/s.
      desired_speed: Speed on a free road, m/s.
      reaction_distance: Distance to the stopping point from which drivers react to the light, m; the first decisions
        are before it.
      stop_margin: Distance from the center of a waiting vehicle to the line, m.
      caution_time: Duration of caution, s.
      max_caution_braking: Braking above which drivers do not stop at caution, m/s^2.
      acceleration_noise: Standard deviation of the acceleration, m/s^2.
      curvature_noise: Standard deviation of the curvature, 1/m.
      size: Length, width and height of the sdc, m.
    """

    accelerations: tuple[float, ...] = (-4.0, -2.0, -1.0, 0.0, 0.5, 1.5, 2.5)
    curvatures: tuple[float, ...] = (-0.08, -0.06, -0.04, -0.02, 0.0, 0.02, 0.04, 0.06, 0.08)
    styles: tuple[float, ...] = (0.5, 1.5, 2.5)
    steps_per_token: int = 5
    num_history: int = 3
    num_decisions: int = 26
    lane_offset: float = 1.75
    closed_range: tuple[float, float] = (14.0, 20.0)
    num_obstacles: int = 3
    obstacle_size: float = 2.0
    bend: tuple[float, float] = (30.0, 48.0)
    max_bend: float = 0.03
    line: float = 26.0
    junction: tuple[float, float] = (52.0, 68.0)
    exit_curvature: float = 0.06
    road_length: float = 110.0
    map_length: float = 78.0
    start_speed: tuple[float, float] = (4.0, 6.0)
    desired_speed: float = 7.0
    reaction_distance: float = 18.0
    stop_margin: float = 2.5
    caution_time: float = 2.0
    max_caution_braking: float = 3.0
    acceleration_noise: float = 0.1
    curvature_noise: float = 0.004
    size: tuple[float, float, float] = (4.6, 2.0, 1.6)

    @property
    def num_tokens(self) -> int:
        """Number of motion tokens V."""
        return len(self.accelerations) * len(self.curvatures)

    @property
    def token_duration(self) -> float:
        """Duration of a motion token, s."""
        return TIME_STEP * self.steps_per_token

    @property
    def first_step(self) -> int:
        """Step of the record of the first decision."""
        return self.num_history * self.steps_per_token


MODALITY_BED = ModalityBedParams()
# Distance between samples of the middle of the road, m.
ROAD_SPACING = 0.5


@pytree
class Situation:
    """The random choices of E drives.

    Attributes:
      bend: Curvature of the bend, 1/m.
      closed: Lane that is closed, -1 right or 1 left.
      exit: Exit of the route: 0 left, 1 straight, 2 right.
      style: Row of the style.
      speed: Speed at the first decision, m/s.
      light: State of the light at each step of the record.
    """

    bend: Float[Array, " E"]
    closed: Int[Array, " E"]
    exit: Int[Array, " E"]
    style: Int[Array, " E"]
    speed: Float[Array, " E"]
    light: Int[Array, "E S"]


@pytree
class EgoMotion:
    """Poses and speeds.

    Attributes:
      xy: Positions, m.
      yaw: Headings, rad.
      speed: Speeds, m/s.
    """

    xy: Float[Array, "*e 2"]
    yaw: Float[Array, "*e"]
    speed: Float[Array, "*e"]


@pytree
class RoadPosition:
    """Position relative to the middle of the road and of its exit.

    Attributes:
      arc: Arc length of the nearest sample, m.
      lateral: Offset to the left, m.
    """

    arc: Float[Array, " E"]
    lateral: Float[Array, " E"]


def draw_situations(seed: int, count: int, params: ModalityBedParams = MODALITY_BED) -> Situation:
    """Independent uniform choices, equal for a drive of a seed for any number of them.

    Args:
      seed: Seed of a series of drives.
      count: Number of drives E.
      params: Constants.
    """
    rows = [_draw_situation(np.random.default_rng([seed, index]), params) for index in range(count)]
    columns = [np.stack(column) for column in zip(*rows, strict=True)]
    bend, closed, exit_index, style, speed, light = columns
    integers = [item.astype(np.int32) for item in (closed, exit_index, style)]
    return Situation(
        bend=bend.astype(np.float32),
        closed=integers[0],
        exit=integers[1],
        style=integers[2],
        speed=speed.astype(np.float32),
        light=light.astype(np.int32),
    )


def _draw_situation(rng: np.random.Generator, params: ModalityBedParams) -> tuple:
    bend, speed = rng.uniform(-params.max_bend, params.max_bend), rng.uniform(*params.start_speed)
    closed, exit_index, style = rng.choice([-1, 1]), rng.integers(3), rng.integers(len(params.styles))
    return bend, closed, exit_index, style, speed, _draw_light(rng, params)


def _draw_light(rng: np.random.Generator, params: ModalityBedParams) -> Int[np.ndarray, " S"]:
    """States by a hidden clock: red until a random time (1/2), green (1/4), or green, caution and red (1/4)."""
    num_steps = params.first_step + params.num_decisions * params.steps_per_token + 1
    time = TIME_STEP * (np.arange(num_steps) - params.first_step)
    kind, end_of_red, start_of_caution = rng.integers(4), rng.uniform(2.0, 7.0), rng.uniform(0.5, 4.0)
    if kind < 2:
        return np.where(time < end_of_red, STOP, GO)
    if kind == 2:
        return np.full(num_steps, GO)
    return np.where(time < start_of_caution, GO, np.where(time < start_of_caution + params.caution_time, CAUTION, STOP))


def road_middle(
    bend: Float[np.ndarray, " E"], exit_index: Int[np.ndarray, " E"], params: ModalityBedParams = MODALITY_BED
) -> Float[np.ndarray, "E K 3"]:
    """x, y (m) and yaw (rad) along the middle of the road and of an exit, `ROAD_SPACING` apart.

    The first sample is the start of the sdc.

    Args:
      bend: Curvature of the bend, 1/m.
      exit_index: Exit.
      params: Constants.
    """
    arc = ROAD_SPACING * np.arange(round(params.road_length / ROAD_SPACING))[None] + ROAD_SPACING / 2
    is_bent = (arc >= params.bend[0]) & (arc < params.bend[1])
    is_exit = (arc >= params.junction[0]) & (arc < params.junction[1])
    curvature = is_bent * bend[:, None] + is_exit * (params.exit_curvature * (1 - exit_index))[:, None]
    yaw = np.cumsum(ROAD_SPACING * curvature, axis=1)
    middle_yaw = yaw - ROAD_SPACING * curvature / 2
    xy = np.cumsum(ROAD_SPACING * np.stack([np.cos(middle_yaw), np.sin(middle_yaw)], axis=-1), axis=1)
    samples = np.concatenate([xy, yaw[..., None]], axis=-1)
    return np.concatenate([np.zeros((len(bend), 1, 3)), samples], axis=1).astype(np.float32)


def project(middle: Float[Array, "E K 3"], xy: Float[Array, "E 2"]) -> RoadPosition:
    """The nearest sample of the middle of the road, and the offset to its left."""
    offset = xy[:, None] - middle[..., :2]
    index = jnp.argmin(jnp.sum(offset**2, axis=-1), axis=-1)
    nearest = jnp.take_along_axis(middle, index[:, None, None], axis=1)[:, 0]
    lateral = geometry.cross(geometry.unit_vector(nearest[:, 2]), xy - nearest[:, :2])
    return RoadPosition(index.astype(jnp.float32) * ROAD_SPACING, lateral)


def token_values(token: Int[Array, "*e"], params: ModalityBedParams = MODALITY_BED) -> tuple[Array, Array]:
    """Acceleration (m/s^2) and curvature (1/m) of motion tokens."""
    row, column = jnp.divmod(token, len(params.curvatures))
    return jnp.asarray(params.accelerations)[row], jnp.asarray(params.curvatures)[column]


def nearest_token(acceleration: Array, curvature: Array, params: ModalityBedParams = MODALITY_BED) -> Int[Array, "*e"]:
    """The motion token next to an acceleration and a curvature.

    Args:
      acceleration: m/s^2.
      curvature: 1/m.
      params: Constants.
    """

    def nearest(values: Array, levels: tuple[float, ...]) -> Array:
        table = jnp.asarray(levels).reshape(*(1 for _ in values.shape), -1)
        return jnp.argmin(jnp.abs(values[..., None] - table), axis=-1).astype(jnp.int32)

    row = nearest(acceleration, params.accelerations)
    return row * len(params.curvatures) + nearest(curvature, params.curvatures)


def advance(
    state: EgoMotion,
    acceleration: Float[Array, " E"],
    curvature: Float[Array, " E"],
    params: ModalityBedParams = MODALITY_BED,
) -> tuple[EgoMotion, EgoMotion]:
    """The state after a motion token, and those after each of its steps, [k, E].

    Args:
      state: States of E drives.
      acceleration: Accelerations, m/s^2; vehicles do not reverse.
      curvature: Curvatures, 1/m.
      params: Constants.
    """

    def step(now: EgoMotion, _: None) -> tuple[EgoMotion, EgoMotion]:
        speed = jnp.maximum(now.speed + acceleration * TIME_STEP, 0.0)
        distance = (now.speed + speed) / 2 * TIME_STEP
        turn = curvature * distance
        xy = now.xy + distance[:, None] * geometry.unit_vector(now.yaw + turn / 2)
        after = EgoMotion(xy, now.yaw + turn, speed)
        return after, after

    return jax.lax.scan(step, state, length=params.steps_per_token)


def expert_token(
    state: EgoMotion,
    position: RoadPosition,
    middle: Float[Array, "E K 3"],
    situation: Situation,
    light: Int[Array, " E"],
) -> Int[Array, " E"]:
    """The motion token of the driver: pure pursuit of the open lane, its own acceleration, and braking for the light.

    Args:
      state: States.
      position: Positions on the road.
      middle: Middle of the road.
      situation: Choices of the drives.
      light: State of the light.
    """
    params = MODALITY_BED
    ahead = position.arc + jnp.maximum(4.0, 0.9 * state.speed)
    index = jnp.minimum((ahead / ROAD_SPACING).astype(jnp.int32), middle.shape[1] - 1)
    target = jnp.take_along_axis(middle, index[:, None, None], axis=1)[:, 0]
    progress = jnp.clip((ahead - 2.0) / (params.closed_range[0] - 4.0), 0.0, 1.0)
    offset = -params.lane_offset * situation.closed.astype(jnp.float32) * progress**2 * (3.0 - 2.0 * progress)
    left = geometry.unit_vector(target[:, 2] + jnp.pi / 2)
    local = geometry.to_frame(target[:, :2] + offset[:, None] * left, state.xy, state.yaw)
    curvature = 2.0 * local[:, 1] / jnp.maximum(geometry.dot(local, local), 1.0)
    return nearest_token(_expert_acceleration(state, position, situation, light), curvature)


def _expert_acceleration(
    state: EgoMotion, position: RoadPosition, situation: Situation, light: Int[Array, " E"]
) -> Float[Array, " E"]:
    params = MODALITY_BED
    style = jnp.asarray(params.styles)[situation.style]
    free = jnp.where(state.speed < params.desired_speed - 0.25, style, 0.0)
    free = jnp.where(state.speed > params.desired_speed + 0.5, -1.0, free)
    gap = params.line - params.stop_margin - position.arc
    needed = state.speed**2 / (2.0 * jnp.maximum(gap, 0.3))
    stops = (light == STOP) | ((light == CAUTION) & (needed <= params.max_caution_braking))
    stops &= (position.arc < params.line) & (gap < params.reaction_distance)
    # The weakest braking that suffices, within rounding of the levels.
    braking = jnp.where(needed > 1.8, -4.0, jnp.where(needed > 0.9, -2.0, -1.0))
    braking = jnp.where(needed < 0.6, jnp.minimum(free, jnp.where(gap > 8.0, 0.5, 0.0)), braking)
    braking = jnp.where((gap < 1.0) & (state.speed < 0.5), -1.0, braking)
    return jnp.where(stops, braking, free)


@functools.partial(jax.jit, static_argnames="noisy")
def drive_expert(
    situation: Situation, middle: Float[Array, "E K 3"], seed: Int[Array, ""], noisy: bool = True
) -> EgoMotion:
    """The states of the drivers at all steps of the record, [S, E].

    Args:
      situation: Choices of E drives.
      middle: Middle of their roads.
      seed: Seed of the noise.
      noisy: Whether accelerations and curvatures are noisy.
    """
    params, count = MODALITY_BED, situation.bend.shape[0]

    def decide(state: EgoMotion, inputs: tuple[Array, Array]):
        light, key = inputs
        token = expert_token(state, project(middle, state.xy), middle, situation, light)
        noise = jax.random.normal(key, (2, count)) * float(noisy)
        acceleration, curvature = token_values(token)
        # Vehicles at rest stay at rest.
        acceleration += params.acceleration_noise * noise[0] * (state.speed > 0).astype(jnp.float32)
        return advance(state, acceleration, curvature + params.curvature_noise * noise[1])

    first = _first_state(situation)
    decisions = params.first_step + params.steps_per_token * np.arange(params.num_decisions)
    keys = jax.random.split(jax.random.key(seed), params.num_decisions)
    _, states = jax.lax.scan(decide, first, (situation.light[:, decisions].T, keys))
    states = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), states)
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), _history(situation), states)


def _first_state(situation: Situation) -> EgoMotion:
    zeros = jnp.zeros_like(situation.bend)
    return EgoMotion(jnp.stack([zeros, zeros], axis=-1), zeros, jnp.asarray(situation.speed))


def _history(situation: Situation) -> EgoMotion:
    """Straight motion at the acceleration of the driver up to the first decision, that step included."""
    time = TIME_STEP * jnp.arange(-MODALITY_BED.first_step, 1, dtype=jnp.float32)[:, None]
    style = jnp.asarray(MODALITY_BED.styles)[situation.style][None]
    x = situation.speed[None] * time + style * time**2 / 2
    zeros = jnp.zeros_like(x)
    return EgoMotion(jnp.stack([x, zeros], axis=-1), zeros, situation.speed[None] + style * time)


def closed_lane_entry(position: RoadPosition, closed: Int[Array, " E"]) -> Bool[Array, " E"]:
    """Whether the box of the sdc meets an obstacle on the closed lane, whose headings are taken as parallel."""
    reach = MODALITY_BED.obstacle_size / 2
    near = (position.arc > MODALITY_BED.closed_range[0] - reach) & (position.arc < MODALITY_BED.closed_range[1] + reach)
    offset = position.lateral - MODALITY_BED.lane_offset * closed.astype(jnp.float32)
    return near & (jnp.abs(offset) < reach + MODALITY_BED.size[1] / 2)
