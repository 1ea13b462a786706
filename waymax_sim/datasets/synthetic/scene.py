"""Synthetic scenes in the form of recorded ones, for demos, tests and use without recorded data."""

import numpy as np
from jaxtyping import Float, Int

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.scene import RawRoutes, RawScene
from waymax_sim.datasets.synthetic.curves import SAMPLE_SPACING, rotate
from waymax_sim.datasets.synthetic.drivers import Driver, idm_acceleration
from waymax_sim.datasets.synthetic.layouts import LAYOUTS
from waymax_sim.datasets.synthetic.sensors import SensorTracks, simulate_tracks
from waymax_sim.datasets.synthetic.traffic import TrafficLog, simulate
from waymax_sim.datasets.synthetic.world import NUM_LIGHT_STEPS, NUM_STEPS, NUM_WARM_UP_STEPS, World
from waymax_sim.datatypes.agents import VEHICLE
from waymax_sim.datatypes.scenario import TIME_STEP

CURRENT_STEP = 10
UNKNOWN_LIGHT = 0  # light state of WOMD
MAX_LIGHT_DISTANCE = 80.0  # m from the sdc; the state of farther lights is unknown
MIN_AGENTS = 8
MAX_AGENTS = 128
MAX_SDC_LENGTH = 6.5  # m
MIN_SDC_DISTANCE = 20.0  # m driven by the sdc if any candidate drives as far
SEPARATION_MARGIN = 5e-4  # m around boxes at the first step, more than rounding moves them
MAX_TRACKS_TO_PREDICT = 4
MAX_OBJECTS_OF_INTEREST = 2


def synthetic_scene(seed: int, index: int = 0, driver: Driver = idm_acceleration) -> RawScene:
    """Generates a scene of 91 steps of 0.1 s whose current step is 10.

    The layout is `LAYOUTS[index % len(LAYOUTS)]`. Traffic drives on the right, follows and changes lanes and yields.
    The record holds the noisy observations of the sensors of the self-driving car. As in recorded data, the invalid
    states of one agent hold garbage, the headings of another are not wrapped, and the scene is kilometers away from the
    world origin.

    Args:
      seed: Seed of a series of scenes, 0 or more.
      index: Index in the series, 0 or more. The same pair gives the same scene.
      driver: Driver model.

    Raises:
      DataError: The seed or index is negative.
    """
    if seed < 0 or index < 0:
        raise DataError(f"seed {seed} and index {index} must not be negative", file="synthetic")
    rng = np.random.default_rng([seed, index])
    # Drawn again if there is no sdc, if there are too few agents, or if agents overlap at the first step.
    while True:
        world = LAYOUTS[index % len(LAYOUTS)](rng)
        log = simulate(world, driver, rng)
        sdc = _select_sdc(log, rng)
        if sdc >= 0:
            tracks = simulate_tracks(log, sdc, rng)
            rows = _recorded_rows(tracks, sdc, rng)
            if len(rows) >= MIN_AGENTS and _are_separate(log, tracks, rows):
                break
    transform = WorldTransform(rng)
    return RawScene(
        scenario_id=f"synthetic-{seed}-{index}",
        timestamps=TIME_STEP * np.arange(NUM_STEPS),
        current_step=CURRENT_STEP,
        sdc_index=int(np.flatnonzero(rows == sdc)[0]),
        **_agents(log, tracks, rows, sdc, transform, rng),
        **map_fields(world, transform),
        **_signals(world, log.xyz[:, sdc], transform),
        routes=_routes(log, sdc, transform),
    )


class WorldTransform:
    """A random rotation and translation of a scene, rounded to micrometers."""

    def __init__(self, rng: np.random.Generator):
        self.yaw = rng.uniform(-np.pi, np.pi)
        self.translation = np.array([8000.0, -3000.0, 20.0]) + rng.uniform(0.0, [900.0, 900.0, 5.0])

    def __call__(self, xyz: np.ndarray) -> np.ndarray:
        return np.round(rotate(xyz, self.yaw) + self.translation, 6)


def _select_sdc(log: TrafficLog, rng: np.random.Generator) -> int:
    """Row of the self-driving car: present at all steps, moving, and near many other agents; -1 without a candidate."""
    is_candidate = (log.type == VEHICLE) & (log.path >= 0) & log.present.all(axis=0)
    is_candidate &= log.size[:, 0] < MAX_SDC_LENGTH
    driven = np.sum(np.hypot(*np.moveaxis(np.diff(log.xyz[..., :2], axis=0), -1, 0)), axis=0)
    for min_distance in (MIN_SDC_DISTANCE, 0.0):
        rows = np.flatnonzero(is_candidate & (driven > min_distance))
        if len(rows):
            position = log.xyz[NUM_STEPS // 2, :, :2]
            distance = np.hypot(*np.moveaxis(position[rows, None] - position[None], -1, 0))
            num_near = ((distance < 60.0) & (log.speed.max(axis=0) > 1.0)).sum(axis=1)
            eccentricity = np.hypot(*(position[rows] - position.mean(axis=0)).T) / 10.0
            return int(rows[np.argmax(num_near - eccentricity + rng.uniform(0.0, 5.0, len(rows)))])
    return -1


def _recorded_rows(tracks: SensorTracks, sdc: int, rng: np.random.Generator) -> Int[np.ndarray, " M"]:
    """Rows of the log in the order of the record: the observed agents with the longest tracks, shuffled."""
    num_valid = tracks.valid.sum(axis=0)
    rows = np.argsort(-num_valid, kind="stable")[: min(MAX_AGENTS, int((num_valid > 0).sum()))]
    rows = rng.permutation(rows)
    if rows[0] == sdc:
        rows[[0, -1]] = rows[[-1, 0]]
    return rows


def _are_separate(log: TrafficLog, tracks: SensorTracks, rows: Int[np.ndarray, " M"]) -> bool:
    """Whether no two valid boxes intersect at the first step, by the separating axis theorem."""
    rows = rows[tracks.valid[0, rows]]
    x, y, z = tracks.xyz[0, rows].T
    yaw, (length, width, height) = tracks.yaw[0, rows], (log.size[rows] / 2 + SEPARATION_MARGIN).T
    dx, dy = x - x[:, None], y - y[:, None]
    cos, sin = np.cos(yaw)[:, None], np.sin(yaw)[:, None]
    abs_cos, abs_sin = np.abs(np.cos(yaw - yaw[:, None])), np.abs(np.sin(yaw - yaw[:, None]))
    separate = np.abs(cos * dx + sin * dy) > length[:, None] + abs_cos * length + abs_sin * width
    separate |= np.abs(cos * dy - sin * dx) > width[:, None] + abs_sin * length + abs_cos * width
    separate |= separate.T | (np.abs(z - z[:, None]) > height + height[:, None]) | np.eye(len(rows), dtype=bool)
    return bool(separate.all())


def _agents(
    log: TrafficLog,
    tracks: SensorTracks,
    rows: Int[np.ndarray, " M"],
    sdc: int,
    transform: WorldTransform,
    rng: np.random.Generator,
) -> dict:
    """Agents of the `RawScene`."""
    valid = tracks.valid[:, rows]
    yaw = np.round(np.mod(tracks.yaw[:, rows] + transform.yaw + np.pi, 2 * np.pi) - np.pi, 6)
    velocity = tracks.velocity[:, rows]
    velocity = np.round(rotate(np.pad(velocity, [(0, 0), (0, 0), (0, 1)]), transform.yaw)[..., :2], 6)
    xyz, size = transform(tracks.xyz[:, rows]), np.broadcast_to(log.size[rows], (*valid.shape, 3)).copy()
    yaw[:, rng.integers(len(rows))] += 2 * np.pi
    garbage_agent = rng.permutation(np.flatnonzero(~valid.all(axis=0)))[:1]
    is_garbage = ~valid & np.isin(np.arange(len(rows)), garbage_agent)
    for values in (xyz, velocity, size, yaw):
        values[~valid] = 0.0
        values[is_garbage] = np.round(rng.normal(0.0, 1e4, values[is_garbage].shape), 6)

    moving = np.flatnonzero(valid[CURRENT_STEP] & (log.speed[:, rows].max(axis=0) > 0.0) & (rows != sdc))
    to_predict = rng.permutation(moving)[:MAX_TRACKS_TO_PREDICT]
    return {
        "agent_id": rng.permutation(2000)[: len(rows)],
        "agent_type": log.type[rows],
        "xyz": xyz,
        "yaw": yaw,
        "velocity": velocity,
        "size": size,
        "valid": valid,
        "to_predict": np.isin(np.arange(len(rows)), to_predict),
        "of_interest": np.isin(np.arange(len(rows)), to_predict[:MAX_OBJECTS_OF_INTEREST]),
    }


def feature_ids(count: int) -> Int[np.ndarray, " F"]:
    """Map ids that differ from rows, have gaps, and include ids that float32 cannot represent."""
    row = np.arange(count)
    return 101 + 13 * row + np.where(row % 3 == 2, 2**24, 0)


def map_fields(world: World, transform: WorldTransform) -> dict:
    """Map of the `RawScene`."""
    types, points, speeds = zip(*world.features, strict=True)
    return {
        "point_xyz": transform(np.concatenate(points)),
        "point_feature": np.repeat(np.arange(len(points)), [len(xyz) for xyz in points]),
        "feature_id": feature_ids(len(points)),
        "feature_type": np.array(types),
        "speed_limit": np.array(speeds),
        "links": np.array(world.links, int).reshape(-1, 3),
    }


def _signals(world: World, sdc: Float[np.ndarray, "T 3"], transform: WorldTransform) -> dict:
    """Lights of the `RawScene`, as in WOMD at the beginning of their lanes; unknown far from the sdc."""
    rows, columns = np.array(world.lights, int).reshape(-1, 2).T
    stop = np.array([world.features[row][1][0] for row in rows]).reshape(-1, 3)
    states = np.array(world.light_states, int).reshape(-1, NUM_LIGHT_STEPS)
    state = states[columns, NUM_WARM_UP_STEPS : NUM_WARM_UP_STEPS + NUM_STEPS].T
    offset = stop[None, :, :2] - sdc[:, None, :2]
    is_near = np.hypot(offset[..., 0], offset[..., 1]) < MAX_LIGHT_DISTANCE
    return {
        "signal_lane_id": feature_ids(len(world.features))[rows],
        "signal_state": np.where(is_near, state, UNKNOWN_LIGHT),
        "signal_stop_point": np.broadcast_to(transform(stop), (NUM_STEPS, *stop.shape)).copy(),
        "signal_valid": np.ones((NUM_STEPS, len(rows)), bool),
    }


def _routes(log: TrafficLog, sdc: int, transform: WorldTransform) -> RawRoutes:
    """The paths that begin on the same lane as the path of the sdc, which is the first and the only one on route."""
    paths, sdc_path = log.paths, log.path[sdc]
    rows = np.flatnonzero(paths.lane[:, 0] == paths.lane[sdc_path, 0])
    rows = np.array([sdc_path, *rows[rows != sdc_path]])
    count = np.round(paths.length[rows] / SAMPLE_SPACING).astype(int) + 1
    sample = np.arange(count.max())
    valid = sample < count[:, None]
    xyz = transform(paths.samples[rows, : len(sample), :3])
    return RawRoutes(
        xyz=np.where(valid[..., None], xyz, 0.0),
        arc_length=np.where(valid, SAMPLE_SPACING * sample, 0.0),
        valid=valid,
        on_route=np.arange(len(rows)) == 0,
    )
