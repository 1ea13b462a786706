"""A made-up source of scenes, for demos and tests and for whoever has no recorded data."""

import numpy as np
from jaxtyping import Float, Int

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.scene import RawRoutes, RawScene
from waymax_sim.datasets.synthetic.curves import SPACING, turned
from waymax_sim.datasets.synthetic.drivers import Driver, intelligent_driver
from waymax_sim.datasets.synthetic.layouts import LAYOUTS
from waymax_sim.datasets.synthetic.sensors import Tracks, observe
from waymax_sim.datasets.synthetic.traffic import Log, simulate
from waymax_sim.datasets.synthetic.world import LIGHT_STEPS, NUM_STEPS, TIME_STEP, WARM_UP, World
from waymax_sim.datatypes.agents import VEHICLE

CURRENT_STEP = 10
UNKNOWN = 0  # light state of WOMD
LIGHTS_SEEN = 80.0  # m
MOST_AGENTS, FEWEST_AGENTS = 128, 8
CAR_LENGTH = 6.5  # m; what is longer is no self-driving car
CLEAR = 5e-4  # m of room around boxes at the first step, for what rounding moves
PROGRESS = 20.0  # m that a self-driving car makes at least, if any car does


def synthetic_scene(seed: int, index: int = 0, driver: Driver = intelligent_driver) -> RawScene:
    """Makes up a scene: 91 steps of 0.1 s, with step 10 as now.

    By `index` the place is a road, a crossing with lights, a road under a bridge, a roundabout, a crossing with stop
    signs, a freeway, a side road, an arterial road, a busy crossing and a town in turn (`LAYOUTS`). Traffic drives on
    the right, follows and changes lanes, keeps its distance and gives way. Only what the sensors of the self-driving
    car would have seen is in the record, with noise. As in recorded data numbers of one agent are garbage where it is
    not valid, and the headings of another are not wrapped. The place lies kilometres away from the world origin.

    Args:
      seed: Seed of a series of scenes, 0 or more.
      index: Scene of the series, 0 or more. The same pair gives the same scene.
      driver: How drivers accelerate.

    Raises:
      DataError: A negative seed or index.
    """
    if seed < 0 or index < 0:
        raise DataError(f"seed {seed} and index {index} must not be negative", file="synthetic")
    rng = np.random.default_rng([seed, index])
    while True:
        world = LAYOUTS[index % len(LAYOUTS)](rng)
        log = simulate(world, driver, rng)
        sdc = _self_driving_car(log, rng)
        # Now and then traffic is such that no car is there all the time, or that two have touched before the record.
        if sdc >= 0:
            tracks = observe(log, sdc, rng)
            rows = _recorded(log, tracks, sdc, rng)
            if len(rows) >= FEWEST_AGENTS and _apart(log, tracks, rows):
                break
    move = _Move(rng)
    return RawScene(
        scenario_id=f"synthetic-{seed}-{index}",
        timestamps=TIME_STEP * np.arange(NUM_STEPS),
        current_step=CURRENT_STEP,
        sdc_index=int(np.flatnonzero(rows == sdc)[0]),
        **_agents(log, tracks, rows, sdc, move, rng),
        **_map(world, move),
        **_signals(world, log.xyz[:, sdc], move),
        routes=_routes(log, sdc, move),
    )


class _Move:
    """Puts a place somewhere in the world: a turn and a shift. Rounded to micrometres."""

    def __init__(self, rng: np.random.Generator):
        self.turn = rng.uniform(-np.pi, np.pi)
        self.shift = np.array([8000.0, -3000.0, 20.0]) + rng.uniform(0.0, [900.0, 900.0, 5.0])

    def __call__(self, xyz: np.ndarray) -> np.ndarray:
        return np.round(turned(xyz, self.turn) + self.shift, 6)


def _self_driving_car(log: Log, rng: np.random.Generator) -> int:
    """A car that is there all the time, drives somewhere if any does, and has others around; -1 where there is none."""
    able = (log.type == VEHICLE) & (log.path >= 0) & log.present.all(axis=0) & (log.size[:, 0] < CAR_LENGTH)
    moved = np.sum(np.hypot(*np.moveaxis(np.diff(log.xyz[..., :2], axis=0), -1, 0)), axis=0)
    for least in (PROGRESS, 0.0):
        rows = np.flatnonzero(able & (moved > least))
        if len(rows):
            middle = log.xyz[NUM_STEPS // 2, :, :2]
            apart = np.hypot(*np.moveaxis(middle[rows, None] - middle[None], -1, 0))
            company = ((apart < 60.0) & (log.speed.max(axis=0) > 1.0)).sum(axis=1)
            aside = np.hypot(*(middle[rows] - middle.mean(axis=0)).T) / 10.0
            return int(rows[np.argmax(company - aside + rng.uniform(0.0, 5.0, len(rows)))])
    return -1


def _recorded(log: Log, tracks: Tracks, sdc: int, rng: np.random.Generator) -> Int[np.ndarray, " M"]:
    """Rows of the log in the order of the record: who was seen, those that were seen longest if they are too many."""
    seen = tracks.valid.sum(axis=0)
    rows = np.argsort(-seen, kind="stable")[: min(MOST_AGENTS, int((seen > 0).sum()))]
    rows = rng.permutation(rows)
    if rows[0] == sdc:
        rows[[0, -1]] = rows[[-1, 0]]
    return rows


def _apart(log: Log, tracks: Tracks, rows: Int[np.ndarray, " M"]) -> bool:
    """Whether no two boxes share space at the first step, as far as they are seen: an axis of one keeps them apart."""
    rows = rows[tracks.valid[0, rows]]
    x, y, z = tracks.xyz[0, rows].T
    yaw, (length, width, height) = tracks.yaw[0, rows], (log.size[rows] / 2 + CLEAR).T
    dx, dy = x - x[:, None], y - y[:, None]
    cos, sin = np.cos(yaw)[:, None], np.sin(yaw)[:, None]
    along, across = np.abs(np.cos(yaw - yaw[:, None])), np.abs(np.sin(yaw - yaw[:, None]))
    apart = np.abs(cos * dx + sin * dy) > length[:, None] + along * length + across * width
    apart |= np.abs(cos * dy - sin * dx) > width[:, None] + across * length + along * width
    apart |= apart.T | (np.abs(z - z[:, None]) > height + height[:, None]) | np.eye(len(rows), dtype=bool)
    return bool(apart.all())


def _agents(
    log: Log, tracks: Tracks, rows: Int[np.ndarray, " M"], sdc: int, move: _Move, rng: np.random.Generator
) -> dict:
    valid = tracks.valid[:, rows]
    yaw = np.round(np.mod(tracks.yaw[:, rows] + move.turn + np.pi, 2 * np.pi) - np.pi, 6)
    velocity = tracks.velocity[:, rows]
    velocity = np.round(turned(np.pad(velocity, [(0, 0), (0, 0), (0, 1)]), move.turn)[..., :2], 6)
    xyz, size = move(tracks.xyz[:, rows]), np.broadcast_to(log.size[rows], (*valid.shape, 3)).copy()
    yaw[:, rng.integers(len(rows))] += 2 * np.pi
    lost = rng.permutation(np.flatnonzero(~valid.all(axis=0)))[:1]
    garbage = ~valid & np.isin(np.arange(len(rows)), lost)
    for values in (xyz, velocity, size, yaw):
        values[~valid] = 0.0
        values[garbage] = np.round(rng.normal(0.0, 1e4, values[garbage].shape), 6)

    moving = np.flatnonzero(valid[CURRENT_STEP] & (log.speed[:, rows].max(axis=0) > 0.0) & (rows != sdc))
    chosen = rng.permutation(moving)[:4]
    return {
        "agent_id": rng.permutation(2000)[: len(rows)],
        "agent_type": log.type[rows],
        "xyz": xyz,
        "yaw": yaw,
        "velocity": velocity,
        "size": size,
        "valid": valid,
        "to_predict": np.isin(np.arange(len(rows)), chosen),
        "of_interest": np.isin(np.arange(len(rows)), chosen[:2]),
    }


def _feature_ids(count: int) -> Int[np.ndarray, " F"]:
    """Unlike rows, with gaps, and every third one too large for a float32."""
    row = np.arange(count)
    return 101 + 13 * row + np.where(row % 3 == 2, 2**24, 0)


def _map(world: World, move: _Move) -> dict:
    types, points, speeds = zip(*world.features, strict=True)
    return {
        "point_xyz": move(np.concatenate(points)),
        "point_feature": np.repeat(np.arange(len(points)), [len(xyz) for xyz in points]),
        "feature_id": _feature_ids(len(points)),
        "feature_type": np.array(types),
        "speed_limit": np.array(speeds),
        "links": np.array(world.links).reshape(-1, 3),
    }


def _signals(world: World, sdc: Float[np.ndarray, "T 3"], move: _Move) -> dict:
    """Lights as in WOMD: at the beginning of the lanes that they are for; unknown while they are far away."""
    rows, columns = np.array(world.lights, int).reshape(-1, 2).T
    stop = np.array([world.features[row][1][0] for row in rows]).reshape(-1, 3)
    states = np.array(world.light_states, int).reshape(-1, LIGHT_STEPS)
    state = states[columns, WARM_UP : WARM_UP + NUM_STEPS].T
    apart = stop[None, :, :2] - sdc[:, None, :2]
    return {
        "signal_lane_id": _feature_ids(len(world.features))[rows],
        "signal_state": np.where(np.hypot(apart[..., 0], apart[..., 1]) < LIGHTS_SEEN, state, UNKNOWN),
        "signal_stop_point": np.broadcast_to(move(stop), (NUM_STEPS, *stop.shape)).copy(),
        "signal_valid": np.ones((NUM_STEPS, len(rows)), bool),
    }


def _routes(log: Log, sdc: int, move: _Move) -> RawRoutes:
    """The ways that begin where the way of the sdc does; that one first."""
    paths, driven = log.paths, log.path[sdc]
    others = np.flatnonzero(paths.lane[:, 0] == paths.lane[driven, 0])
    ways = np.array([driven, *others[others != driven]])
    count = np.round(paths.length[ways] / SPACING).astype(int) + 1
    row = np.arange(count.max())
    valid = row < count[:, None]
    xyz = move(paths.samples[ways, : len(row), :3])
    return RawRoutes(
        xyz=np.where(valid[..., None], xyz, 0.0),
        arc_length=np.where(valid, SPACING * row, 0.0),
        valid=valid,
        on_route=np.arange(len(ways)) == 0,
    )
