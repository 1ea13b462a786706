"""A made-up source of scenes, for demos and tests and for whoever has no recorded data."""

import numpy as np

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.scene import RawRoutes, RawScene
from waymax_sim.datasets.synthetic_layouts import LAYOUTS
from waymax_sim.datasets.synthetic_roads import NUM_STEPS, TIME_STEP, Place, turned
from waymax_sim.datasets.synthetic_traffic import Track, populate

CURRENT_STEP = 10


def synthetic_scene(seed: int, index: int = 0) -> RawScene:
    """Makes up a scene: 91 steps of 0.1 s, with step 10 as now.

    By `index` the place is a curved two-way road, a signalised crossing, a bridge over a road, and so on in turn.
    Traffic drives on the right, follows lanes, keeps its distance and stops at red. As in recorded data some
    agents appear late, vanish early or are lost for a while; numbers of one of these are garbage where it is
    not valid, and the headings of another are not wrapped. The place lies kilometres away from the world origin.

    Args:
      seed: Seed of a series of scenes, 0 or more.
      index: Scene of the series, 0 or more. The same pair gives the same scene.

    Raises:
      DataError: A negative seed or index.
    """
    if seed < 0 or index < 0:
        raise DataError(f"seed {seed} and index {index} must not be negative", file="synthetic")
    rng = np.random.default_rng([seed, index])
    place = LAYOUTS[index % len(LAYOUTS)](rng)
    tracks, sdc = populate(place, rng)
    order = rng.permutation(len(tracks))
    tracks = [tracks[i] for i in order]
    if tracks[0] is sdc:
        tracks[0], tracks[-1] = tracks[-1], tracks[0]
    sdc_index = next(i for i, track in enumerate(tracks) if track is sdc)
    move = _Move(rng)
    return RawScene(
        scenario_id=f"synthetic-{seed}-{index}",
        timestamps=TIME_STEP * np.arange(NUM_STEPS),
        current_step=CURRENT_STEP,
        sdc_index=sdc_index,
        **_agents(tracks, sdc_index, move, rng),
        **_map(place, move),
        **_signals(place, move),
        routes=_routes(place, sdc, move),
    )


class _Move:
    """Puts a place somewhere in the world: a slight tilt, a turn and a shift. Rounded to micrometres."""

    def __init__(self, rng: np.random.Generator):
        self.tilt = rng.uniform(-0.004, 0.004, 2)
        self.turn = rng.uniform(-np.pi, np.pi)
        self.shift = np.array([8000.0, -3000.0, 20.0]) + rng.uniform(0.0, [900.0, 900.0, 5.0])

    def __call__(self, xyz: np.ndarray) -> np.ndarray:
        tilted = xyz + (xyz[..., :2] @ self.tilt)[..., None] * [0.0, 0.0, 1.0]
        return np.round(turned(tilted, self.turn) + self.shift, 6)


def _agents(tracks: list[Track], sdc_index: int, move: _Move, rng: np.random.Generator) -> dict:
    shape = NUM_STEPS, len(tracks)
    valid = np.stack([track.present for track in tracks], axis=-1)
    yaw = np.stack([track.yaw for track in tracks], axis=-1) + move.turn
    speed = np.stack([track.speed for track in tracks], axis=-1)
    xyz = move(np.stack([track.xyz for track in tracks], axis=1))
    size = np.broadcast_to([track.size for track in tracks], (*shape, 3)).copy()
    yaw = np.round(np.mod(yaw + np.pi, 2 * np.pi) - np.pi, 6)
    velocity = speed[..., None] * np.stack([np.cos(yaw), np.sin(yaw)], axis=-1)

    # What sensors do to records: somebody seen late, somebody not to the end, somebody with a gap.
    seen = np.flatnonzero(valid.all(axis=0) & (np.arange(len(tracks)) != sdc_index))
    late, early, hidden, unwrapped = rng.permutation(seen)[:4]
    valid[: rng.integers(12, 40), late] = False
    valid[rng.integers(50, 80) :, early] = False
    start = rng.integers(15, 60)
    valid[start : start + rng.integers(5, 20), hidden] = False
    yaw[:, unwrapped] += 2 * np.pi
    for values in (xyz, velocity, size):
        values[~valid] = 0.0
    yaw[~valid] = 0.0
    lost = ~valid[:, hidden]
    for values in (xyz, velocity, size, yaw):
        values[lost, hidden] = rng.normal(0.0, 1e4, values[lost, hidden].shape)

    moving = np.flatnonzero(valid[CURRENT_STEP] & (speed.max(axis=0) > 0))
    chosen = rng.permutation(moving)[:4]
    return {
        "agent_id": rng.permutation(2000)[: len(tracks)],
        "agent_type": np.array([track.type for track in tracks]),
        "xyz": xyz,
        "yaw": yaw,
        "velocity": velocity,
        "size": size,
        "valid": valid,
        "to_predict": np.isin(np.arange(len(tracks)), chosen),
        "of_interest": np.isin(np.arange(len(tracks)), chosen[:2]),
    }


def _feature_ids(count: int) -> np.ndarray:
    """Unlike rows, with gaps, and every third one too large for a float32."""
    row = np.arange(count)
    return 101 + 13 * row + np.where(row % 3 == 2, 2**24, 0)


def _map(place: Place, move: _Move) -> dict:
    types, points, speeds = zip(*place.features, strict=True)
    return {
        "point_xyz": move(np.concatenate(points)),
        "point_feature": np.repeat(np.arange(len(points)), [len(xyz) for xyz in points]),
        "feature_id": _feature_ids(len(points)),
        "feature_type": np.array(types),
        "speed_limit": np.array(speeds),
        "links": np.array(place.links).reshape(-1, 3),
    }


def _signals(place: Place, move: _Move) -> dict:
    rows, columns = np.array(place.lights, int).reshape(-1, 2).T
    stop = np.array([place.features[row][1][-1] for row in rows]).reshape(-1, 3)
    return {
        "signal_lane_id": _feature_ids(len(place.features))[rows],
        "signal_state": place.light_state[:, columns],
        "signal_stop_point": np.broadcast_to(move(stop), (NUM_STEPS, *stop.shape)).copy(),
        "signal_valid": np.ones((NUM_STEPS, len(rows)), bool),
    }


def _routes(place: Place, sdc: Track, move: _Move) -> RawRoutes:
    """The ways that begin on the lane of the sdc."""
    ways = [way for way in place.drives if way.lane == sdc.way.lane]
    longest = max(len(way.arc) for way in ways)

    def padded(values: np.ndarray) -> np.ndarray:
        return np.pad(values, [(0, longest - len(values))] + [(0, 0)] * (values.ndim - 1))

    return RawRoutes(
        xyz=np.stack([padded(move(way.xyz)) for way in ways]),
        arc_length=np.stack([padded(way.arc) for way in ways]),
        valid=np.stack([padded(np.ones(len(way.arc), bool)) for way in ways]),
        on_route=np.array([way is sdc.way for way in ways]),
    )
