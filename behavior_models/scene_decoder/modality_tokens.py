"""Tokens of five modalities and of the driver, read from the fields of a scenario.

All geometry is in the frame of the sdc at the current step. Lights are read at the step of each decision.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from behavior_models.encoders.grid import Grid, box_masks, combine_masks, unpack_mask
from behavior_models.scene_decoder.modality_bed import MODALITY_BED, nearest_token
from waymax_sim import geometry
from waymax_sim.datatypes.roadmap import LANE_TYPES
from waymax_sim.datatypes.scenario import TIME_STEP, Scenario
from waymax_sim.datatypes.signals import CAUTION_STATES, GO_STATES, STOP_STATES, observed_states
from waymax_sim.pytree import Array, pytree, stack, static_record

# Order of the axis of modalities.
MODALITIES = ("map", "route", "raster", "lights", "history")


@static_record
class ModalityTokenParams:
    """Sizes of the tokens; all are choices.

    Attributes:
      piece_length: Length of a piece of a lane or of the route, m.
      max_map: Pieces of lanes.
      max_route: Pieces of the route.
      separation: Distance between the candidate paths from which they differ, m.
      grid: Cells of the raster in front of the sdc.
      patch: Rows and columns of cells of a patch.
    """

    piece_length: float = 12.5
    max_map: int = 24
    max_route: int = 4
    separation: float = 0.5
    grid: Grid = Grid(size=32, resolution=1.0, behind=0.0)
    patch: int = 16

    @property
    def num_patches(self) -> int:
        """Patches of the raster."""
        return (self.grid.size // self.patch) ** 2


TOKENS = ModalityTokenParams()
# Values of a piece: middle x and y (m), cosine and sine of its direction, change of direction (rad), length (m).
NUM_PIECE_VALUES = 6
# The last of them, for pieces of the route.
NUM_ROUTE_VALUES = 2
# Values of a light: stop, caution, go, unknown, and the stop point x and y (m).
NUM_LIGHT_VALUES = 6
# Values of the driver: x and y (m), cosine and sine of the heading, speed (m/s).
NUM_EGO_VALUES = 5


@pytree
class SceneTokens:
    """Contents of the tokens of a drive, with any leading axes.

    Attributes:
      map: Pieces of lanes.
      map_valid: Valid pieces.
      route: Changes of direction and lengths of the pieces of the path on route where the candidate paths differ.
      route_valid: Valid pieces.
      raster: Patches of the occupancy by other agents, 0 or 1.
      lights: The light at each decision.
      history: Motion tokens before the first decision.
      ego: Pose and speed at each decision.
      label: Motion tokens of the record.
    """

    map: Float[Array, "*lead M 6"]
    map_valid: Bool[Array, "*lead M"]
    route: Float[Array, "*lead R 2"]
    route_valid: Bool[Array, "*lead R"]
    raster: Float[Array, "*lead P C"]
    lights: Float[Array, "*lead T 6"]
    history: Int[Array, "*lead H"]
    ego: Float[Array, "*lead T 5"]
    label: Int[Array, "*lead T"]


def scene_tokens(scenario: Scenario, params: ModalityTokenParams = TOKENS) -> SceneTokens:
    """The tokens of a scenario on the host.

    Args:
      scenario: A drive of `modality_scenes`, or another scenario with a light and a route of the sdc.
      params: Sizes.

    Raises:
      ValueError: The sdc has no record over all decisions, no path is on route, or there are too many pieces.
    """
    log, sdc = scenario.log, int(np.argmax(scenario.agents.is_sdc))
    steps = MODALITY_BED.first_step + MODALITY_BED.steps_per_token * np.arange(
        -MODALITY_BED.num_history, MODALITY_BED.num_decisions + 1
    )
    steps = steps + int(scenario.current_step) - MODALITY_BED.first_step
    if steps[0] < 0 or steps[-1] > int(scenario.last_step) or not np.asarray(log.valid)[steps, sdc].all():
        raise ValueError("the sdc needs a complete record of history and decisions")
    xy, yaw = np.asarray(log.xyz)[steps, sdc, :2], np.unwrap(np.asarray(log.yaw)[steps, sdc])
    velocity = np.asarray(log.velocity)[steps, sdc]
    speed = velocity[:, 0] * np.cos(yaw) + velocity[:, 1] * np.sin(yaw)
    frame = _Frame(xy[MODALITY_BED.num_history], float(yaw[MODALITY_BED.num_history]))
    token = _motion_tokens(xy, yaw, speed)
    now = slice(MODALITY_BED.num_history, -1)
    pieces = _pieces([_route(scenario, params)], frame, params)[:, -NUM_ROUTE_VALUES:]
    route, route_valid = _pad(pieces, params.max_route, "route")
    lanes, lanes_valid = _pad(_pieces(_lanes(scenario), frame, params), params.max_map, "map")
    return SceneTokens(
        map=lanes,
        map_valid=lanes_valid,
        route=route,
        route_valid=route_valid,
        raster=_raster(scenario, sdc, frame, params),
        lights=_lights(scenario, steps[now], frame),
        history=token[: MODALITY_BED.num_history],
        ego=_ego_values(frame(xy[now]), yaw[now] - frame.yaw, speed[now]),
        label=token[MODALITY_BED.num_history :],
    )


def stack_tokens(scenarios: list[Scenario]) -> SceneTokens:
    """The tokens of several scenarios, [E, ...]."""
    return stack([scene_tokens(scenario) for scenario in scenarios])


class _Frame:
    """The frame of a pose on the host.

    Args:
      xy: Origin, m.
      yaw: Heading, rad.
    """

    def __init__(self, xy: Float[np.ndarray, " 2"], yaw: float):
        self.xy, self.yaw = xy, yaw
        self.rotation = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])

    def __call__(self, xy: np.ndarray) -> np.ndarray:
        return (xy - self.xy) @ self.rotation


def _motion_tokens(
    xy: Float[np.ndarray, "n 2"], yaw: Float[np.ndarray, " n"], speed: Float[np.ndarray, " n"]
) -> Int[np.ndarray, " m"]:
    """Motion tokens between poses: mean acceleration, and change of heading per distance."""
    distance = np.linalg.norm(np.diff(xy, axis=0), axis=-1)
    moves = distance > 0.1
    curvature = np.where(moves, np.diff(yaw) / np.where(moves, distance, 1.0), 0.0)
    acceleration = np.diff(speed) / (MODALITY_BED.steps_per_token * TIME_STEP)
    return np.asarray(nearest_token(acceleration.astype(np.float32), curvature.astype(np.float32)))


def _lanes(scenario: Scenario) -> list[np.ndarray]:
    """Center lines of lanes, x and y."""
    roadmap = scenario.roadmap
    xy, feature = np.asarray(roadmap.xyz)[:, :2], np.asarray(roadmap.feature)
    valid = np.asarray(roadmap.valid)
    rows = np.flatnonzero(np.isin(np.asarray(roadmap.feature_type), LANE_TYPES))
    return [xy[valid & (feature == row)] for row in rows]


def _route(scenario: Scenario, params: ModalityTokenParams) -> np.ndarray:
    """x and y of the first path on route, from the point on at which the candidate paths differ."""
    routes = scenario.routes
    if routes is None or not np.any(routes.on_route):
        raise ValueError("the scenario has no path on route")
    row, xy, valid = int(np.argmax(routes.on_route)), np.asarray(routes.xyz)[..., :2], np.asarray(routes.valid)
    distance = np.where(valid & valid[row], np.linalg.norm(xy - xy[row], axis=-1), 0.0)
    differs = np.any(distance > params.separation, axis=0)
    start = int(np.argmax(differs)) if differs.any() else 0
    return xy[row, start:][valid[row, start:]]


def _pieces(lines: list[np.ndarray], frame: _Frame, params: ModalityTokenParams) -> Float[np.ndarray, "n 6"]:
    """Pieces of equal length of polylines, at least two thirds of the given length."""
    return np.concatenate([_split(frame(line), params.piece_length) for line in lines] or [np.zeros((0, 6))])


def _split(line: Float[np.ndarray, "n 2"], piece_length: float) -> Float[np.ndarray, "m 6"]:
    arc = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=-1))])
    count = max(1, round(arc[-1] / piece_length))
    bounds = np.linspace(0.0, arc[-1], count + 1)
    # A short chord at each end has the direction there.
    chord = min(1.0, arc[-1] / count / 4)

    def at(arcs: np.ndarray) -> np.ndarray:
        return np.stack([np.interp(arcs, arc, column) for column in line.T], axis=-1)

    start, end = at(bounds[:-1] + chord) - at(bounds[:-1]), at(bounds[1:]) - at(bounds[1:] - chord)
    turn = np.arctan2(start[:, 0] * end[:, 1] - start[:, 1] * end[:, 0], np.sum(start * end, axis=-1))
    along = at(bounds[1:]) - at(bounds[:-1])
    along = along / np.maximum(np.linalg.norm(along, axis=-1, keepdims=True), 1e-6)
    middle = at((bounds[:-1] + bounds[1:]) / 2)
    return np.column_stack([middle, along, turn, np.diff(bounds)]).astype(np.float32)


def _pad(rows: np.ndarray, count: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    if len(rows) > count:
        raise ValueError(f"{len(rows)} pieces of the {name} do not fit {count} tokens")
    return np.pad(rows, ((0, count - len(rows)), (0, 0))).astype(np.float32), np.arange(count) < len(rows)


def _raster(scenario: Scenario, sdc: int, frame: _Frame, params: ModalityTokenParams) -> Float[np.ndarray, "P C"]:
    """Patches of the cells that boxes of other agents occupy at the current step."""
    now, size = int(scenario.current_step), np.asarray(scenario.agents.size)
    xy = frame(np.asarray(scenario.log.xyz)[now, :, :2]).astype(np.float32)
    yaw = (np.asarray(scenario.log.yaw)[now] - frame.yaw).astype(np.float32)
    boxes = geometry.Boxes(xy[:, 0], xy[:, 1], np.cos(yaw), np.sin(yaw), size[:, 0] / 2, size[:, 1] / 2)
    valid = np.asarray(scenario.log.valid)[now] & (np.arange(len(yaw)) != sdc)
    return np.asarray(_draw(params, boxes, valid))


@jax.jit
def _draw(params: ModalityTokenParams, boxes: geometry.Boxes, valid: Bool[Array, " N"]) -> Float[Array, "P C"]:
    image = unpack_mask(params.grid, combine_masks(box_masks(params.grid, boxes, valid)))
    side, patch = params.grid.size // params.patch, params.patch
    patches = image.reshape(side, patch, side, patch).swapaxes(1, 2)
    return patches.reshape(params.num_patches, -1).astype(jnp.float32)


def _lights(scenario: Scenario, steps: Int[np.ndarray, " T"], frame: _Frame) -> Float[np.ndarray, "T 6"]:
    """State and stop point of the light that is nearest to the sdc at each decision."""
    signals = scenario.signals
    stop = frame(np.asarray(signals.stop_point)[steps, :, :2])
    column = np.argmin(np.linalg.norm(stop[0], axis=-1))
    state = np.asarray(observed_states(signals))[steps, column]
    kinds = [np.isin(state, group) for group in (STOP_STATES, CAUTION_STATES, GO_STATES)]
    kinds = [*kinds, ~np.any(kinds, axis=0)]
    return np.column_stack([*kinds, stop[:, column]]).astype(np.float32)


def _ego_values(
    xy: Float[np.ndarray, "T 2"], yaw: Float[np.ndarray, " T"], speed: Float[np.ndarray, " T"]
) -> Float[np.ndarray, "T 5"]:
    return np.column_stack([xy, np.cos(yaw), np.sin(yaw), speed]).astype(np.float32)
