"""Junctions from which the same approach leads to several exits, each in a scene of its own."""

import dataclasses

import numpy as np
from jaxtyping import Float

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.scene import RawRoutes, RawScene
from waymax_sim.datasets.synthetic.curves import SAMPLE_SPACING, Polyline, arc_length, yaw_along
from waymax_sim.datasets.synthetic.layouts import stop_signs
from waymax_sim.datasets.synthetic.paths import chain_curve
from waymax_sim.datasets.synthetic.scene import CURRENT_STEP, WorldTransform, map_fields
from waymax_sim.datasets.synthetic.world import NUM_STEPS, World
from waymax_sim.datatypes import roadmap
from waymax_sim.datatypes.agents import VEHICLE
from waymax_sim.datatypes.scenario import TIME_STEP


@dataclasses.dataclass(frozen=True)
class ExitParams:
    """Motion of the sdc, at constant speed along its path. The values are choices of this package.

    Attributes:
      min_speed: Smallest speed, m/s.
      max_speed: Largest speed, m/s; less than 3 m/s^2 of lateral acceleration in the bends of the junctions.
      min_approach: Smallest distance from the current position to the point where the paths separate, m.
      max_approach: Largest one, m.
      separation: Distance between paths from which they are separate, m.
      size: Length, width and height of the box, m.
    """

    min_speed: float = 4.0
    max_speed: float = 5.0
    min_approach: float = 4.0
    max_approach: float = 10.0
    separation: float = 0.5
    size: tuple[float, float, float] = (4.6, 1.9, 1.6)


def exit_scenes(seed: int, index: int = 0, params: ExitParams = ExitParams()) -> list[RawScene]:
    """Scenes of one junction that differ in the exit that the sdc takes, and in the path that is on route.

    There is one scene for each of the three or more exits, and no agent but the sdc. Its record up to the junction, the
    map and the paths are the same in all of them, so observations before the junction differ in the route alone.

    Args:
      seed: Seed of a series of junctions, 0 or more.
      index: Index in the series, 0 or more.
      params: Motion of the sdc.

    Raises:
      DataError: The seed or index is negative.
    """
    if seed < 0 or index < 0:
        raise DataError(f"seed {seed} and index {index} must not be negative", file="synthetic")
    rng = np.random.default_rng([seed, index])
    world = stop_signs(rng)
    approaches = list(_approaches(world).values())
    paths = approaches[int(rng.integers(len(approaches)))]
    speed = rng.uniform(params.min_speed, params.max_speed)
    now = _separation_arc(paths, params.separation) - rng.uniform(params.min_approach, params.max_approach)
    arc = now + speed * TIME_STEP * (np.arange(NUM_STEPS) - CURRENT_STEP)
    transform = WorldTransform(rng)
    fields = map_fields(world, transform) | _no_signals()
    return [
        RawScene(
            scenario_id=f"exit-{seed}-{index}-{exit_index}",
            timestamps=TIME_STEP * np.arange(NUM_STEPS),
            current_step=CURRENT_STEP,
            sdc_index=0,
            routes=_routes(paths, exit_index, transform),
            **_sdc(path, arc, speed, params, transform),
            **fields,
        )
        for exit_index, path in enumerate(paths)
    ]


def _approaches(world: World) -> dict[int, list[Polyline]]:
    """For each lane from the border that leads to three or more exits, the paths to them from left to right."""
    successors: dict[int, list[int]] = {}
    for a, b, kind in world.links:
        if kind == roadmap.SUCCESSOR:
            successors.setdefault(a, []).append(b)
    internal = {b for rows in successors.values() for b in rows} | world.internal_lanes
    starts = [row for row, (kind, _, _) in enumerate(world.features) if kind in roadmap.LANE_TYPES]
    approaches = {}
    for start in starts:
        if start not in internal:
            chains = _chains(successors, (start,))
            if len({chain[-1] for chain in chains}) == len(chains) >= 3:
                paths = [chain_curve(world, chain)[0] for chain in chains]
                approaches[start] = sorted(paths, key=lambda path: -float(yaw_along(path)[-1] - yaw_along(path)[0]))
    return approaches


def _chains(successors: dict[int, list[int]], chain: tuple[int, ...]) -> list[tuple[int, ...]]:
    """All chains of lanes without repetition that begin with a given one and end at the border."""
    following = [lane for lane in successors.get(chain[-1], []) if lane not in chain]
    return [longer for lane in following for longer in _chains(successors, (*chain, lane))] or [chain]


def _separation_arc(paths: list[Polyline], distance: float) -> float:
    """Arc length at which the first pair of paths is at a distance (m) from each other."""
    count = min(map(len, paths))
    points = np.stack([path[:count, :2] for path in paths])
    gap = np.linalg.norm(points[:, None] - points[None], axis=-1).max(axis=(0, 1))
    return SAMPLE_SPACING * int(np.argmax(gap > distance))


def _sdc(
    path: Polyline, arc: Float[np.ndarray, " T"], speed: float, params: ExitParams, transform: WorldTransform
) -> dict:
    """Agents of the `RawScene`: the sdc at given arc lengths of a path.

    Args:
      path: Samples of the path.
      arc: Arc length at each step, m.
      speed: m/s.
      params: Its size.
      transform: From the frame of the path to that of the scene.
    """
    path_arc, path_yaw = arc_length(path), yaw_along(path)
    xyz = np.stack([np.interp(arc, path_arc, column) for column in path.T], axis=-1)
    yaw = np.interp(arc, path_arc, path_yaw) + transform.yaw
    heading = np.stack([np.cos(yaw), np.sin(yaw)], axis=-1)
    shape, one = (len(arc), 1), np.ones(1, bool)
    return {
        "agent_id": np.ones(1, int),
        "agent_type": np.full(1, VEHICLE),
        "xyz": transform(xyz + np.array([0.0, 0.0, params.size[2] / 2]))[:, None],
        "yaw": (np.mod(yaw + np.pi, 2 * np.pi) - np.pi)[:, None],
        "velocity": (speed * heading)[:, None],
        "size": np.broadcast_to(params.size, (*shape, 3)).copy(),
        # Beyond the ends of the path there is no record.
        "valid": ((arc >= 0.0) & (arc <= path_arc[-1]))[:, None],
        "to_predict": one,
        "of_interest": ~one,
    }


def _routes(paths: list[Polyline], exit_index: int, transform: WorldTransform) -> RawRoutes:
    """All paths, of which one is on route."""
    count = np.array([len(path) for path in paths])
    sample = np.arange(count.max())
    xyz = np.stack([np.pad(path, [(0, count.max() - len(path)), (0, 0)]) for path in paths])
    valid = sample < count[:, None]
    return RawRoutes(
        xyz=np.where(valid[..., None], transform(xyz), 0.0),
        arc_length=np.where(valid, SAMPLE_SPACING * sample, 0.0),
        valid=valid,
        on_route=np.arange(len(paths)) == exit_index,
    )


def _no_signals() -> dict:
    return {
        "signal_lane_id": np.zeros(0, int),
        "signal_state": np.zeros((NUM_STEPS, 0), int),
        "signal_stop_point": np.zeros((NUM_STEPS, 0, 3)),
        "signal_valid": np.zeros((NUM_STEPS, 0), bool),
    }
