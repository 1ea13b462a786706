"""Lane changes by the incentive and safety criteria of MOBIL (Kesting, Treiber, Helbing 2007), in NumPy."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from waymax_sim.datasets.synthetic.curves import SAMPLE_SPACING
from waymax_sim.datasets.synthetic.drivers import Driver, DriverObservation
from waymax_sim.datasets.synthetic.paths import Paths
from waymax_sim.datasets.synthetic.right_of_way import RightOfWay
from waymax_sim.datasets.synthetic.vehicles import Vehicles, positions_along
from waymax_sim.datasets.synthetic.world import World
from waymax_sim.datatypes import roadmap

DECISION_INTERVAL = 4  # steps
LANE_CHANGE_TIME = 4.0  # s
# Distances behind a vehicle at which the old and the new path must be parallel, m.
PARALLEL_CHECKS = np.array([0.0, 25.0, 50.0, 75.0, 100.0, 150.0])
MAX_PARALLEL_DISTANCE = 6.0  # m between parallel paths


class LaneChangeModelParams(NamedTuple):
    """Parameters of lane changes; all chosen, with the safe deceleration below that of Kesting et al. 2007."""

    threshold: float = 0.35  # m/s^2 of gained acceleration below which a vehicle does not change
    gain_noise: float = 0.15  # m/s^2, standard deviation
    mandatory_gain: float = 8.0  # m/s^2 gained by leaving a lane that ends
    safe_deceleration: float = 1.8  # m/s^2, largest of the vehicle and its new follower
    min_speed: float = 4.0  # m/s
    min_gap: float = 2.5  # m to the new leader and the new follower
    max_length: float = 7.0  # m, longer vehicles do not change
    rule_distance: float = 30.0  # m to the next right-of-way rule at least
    rule_time: float = 4.0  # s to the next right-of-way rule at least, in addition
    max_search_distance: float = 15.0  # m around the expected arc length on the new path


LANE_CHANGE_PARAMS = LaneChangeModelParams()


def adjacent_lanes(world: World) -> Int[np.ndarray, "L 2"]:
    """The lanes to the left and right of each lane, -1 without one; the last row is for no lane."""
    adjacent = np.full((len(world.features) + 1, 2), -1)
    for a, b, kind in world.links:
        if kind != roadmap.SUCCESSOR:
            adjacent[a, 0 if kind == roadmap.LEFT_NEIGHBOR else 1] = b
    return adjacent


def change_lanes(
    vehicles: Vehicles,
    paths: Paths,
    adjacent: Int[np.ndarray, "L 2"],
    right_of_way: RightOfWay,
    driver: Driver,
    observation: DriverObservation,
    acceleration: Float[np.ndarray, " N"],
    rng: np.random.Generator,
) -> None:
    """Starts the lane change of largest gain. One at a time, because two could have the same target.

    Args:
      vehicles: The vehicles, which are modified.
      paths: Their paths.
      adjacent: Lanes to the left and right of each lane.
      right_of_way: Granted rules.
      driver: Driver model.
      observation: Observation of each driver on the present path.
      acceleration: Acceleration of each driver on the present path, m/s^2.
      rng: Source of paths and noise.
    """
    front = vehicles.arc + vehicles.size[:, 0] / 2
    lane = paths.lane_at(vehicles.path, vehicles.arc)
    rule_distance = right_of_way.distances(vehicles.path, front).min(axis=1, initial=np.inf)
    may_change = rule_distance > LANE_CHANGE_PARAMS.rule_distance + LANE_CHANGE_PARAMS.rule_time * vehicles.speed
    may_change &= ~right_of_way.is_granted.any(axis=1)
    may_change &= (vehicles.progress >= 1.0) & (vehicles.speed > LANE_CHANGE_PARAMS.min_speed) & (vehicles.arc > 0.0)
    may_change &= ~vehicles.is_bike & (vehicles.size[:, 0] < LANE_CHANGE_PARAMS.max_length)
    max_gain, best = 0.0, None
    for agent in np.flatnonzero(may_change & (adjacent[lane] >= 0).any(axis=1)).tolist():
        for target in adjacent[lane[agent]]:
            candidates = np.flatnonzero(np.isfinite(paths.start[:, target]) & ~paths.is_blocked) if target >= 0 else []
            if not len(candidates):
                continue
            path = int(candidates[rng.integers(len(candidates))])
            arc = vehicles.arc[agent] - paths.start[vehicles.path[agent], lane[agent]] + paths.start[path, target]
            if not _are_parallel(paths, int(vehicles.path[agent]), float(vehicles.arc[agent]), path, float(arc)):
                continue
            new_acceleration = _acceleration_after(vehicles, paths, driver, observation, agent, path, arc, int(target))
            gain = new_acceleration - acceleration[agent]
            is_mandatory = paths.is_blocked[vehicles.path[agent]]
            gain += (
                LANE_CHANGE_PARAMS.mandatory_gain
                if is_mandatory
                else rng.normal(0.0, LANE_CHANGE_PARAMS.gain_noise) - LANE_CHANGE_PARAMS.threshold
            )
            if gain > max_gain and _is_unregulated(paths, path, arc, vehicles.speed[agent]):
                max_gain, best = gain, (agent, path, arc)
    if best is not None:
        _start_change(vehicles, paths, *best)


def _are_parallel(paths: Paths, path: int, arc: float, other: int, other_arc: float) -> bool:
    """Whether two paths have been side by side since either began, so that the driven track remains a path."""
    back = np.minimum(PARALLEL_CHECKS, max(arc, other_arc, 0.0))
    points = paths.at(np.repeat([path, other], len(back)), np.append(arc - back, other_arc - back))[:, :2]
    offset = points[: len(back)] - points[len(back) :]
    return bool((np.sum(offset * offset, axis=1) < MAX_PARALLEL_DISTANCE**2).all())


def _is_unregulated(paths: Paths, path: int, arc: float, speed: float) -> bool:
    """Whether no right-of-way rule of a path begins soon."""
    distance = paths.rule_begin[path] - arc
    max_distance = LANE_CHANGE_PARAMS.rule_distance + LANE_CHANGE_PARAMS.rule_time * speed
    return bool(not ((distance > -5.0) & (distance < max_distance)).any())


def _acceleration_after(
    vehicles: Vehicles,
    paths: Paths,
    driver: Driver,
    observation: DriverObservation,
    agent: int,
    path: int,
    arc: float,
    target: int,
) -> float:
    """Acceleration on another path (m/s^2); minus infinity if the change is not safe."""
    half = vehicles.size[:, 0] / 2
    offset = positions_along(paths, path, vehicles.path, vehicles.arc) - arc
    # Vehicles that approach on a path of their own, which joins the target lane.
    joining = vehicles.arc - (paths.start[vehicles.path, target] + arc - paths.start[path, target])
    offset = np.where(np.isinf(offset) & np.isfinite(joining), joining, offset)
    offset[agent] = np.inf
    gaps = np.abs(offset) - half - half[agent]
    if gaps.min() < LANE_CHANGE_PARAMS.min_gap:
        return -np.inf
    ahead = np.where(offset > 0.0, gaps, np.inf)
    behind = np.where(offset < 0.0, gaps, np.inf)
    leader, follower = int(np.argmin(ahead)), int(np.argmin(behind))
    rows = np.array([agent, follower])
    accelerations = driver(
        DriverObservation(
            speed=vehicles.speed[rows],
            allowed_speed=observation.allowed_speed[rows],
            gap=np.array([ahead[leader], behind[follower]]),
            leader_speed=vehicles.speed[[leader, agent]],
            stop_distance=np.full(2, np.inf),
        ),
        vehicles.params.select(rows),
    )
    return float(accelerations[0]) if accelerations.min() > -LANE_CHANGE_PARAMS.safe_deceleration else -np.inf


def _start_change(vehicles: Vehicles, paths: Paths, agent: int, path: int, arc: float) -> None:
    """Projects a vehicle onto the nearest sample of its new path and starts the lateral motion."""
    pose = paths.at(vehicles.path[[agent]], vehicles.arc[[agent]])[0]
    near = np.arange(paths.samples.shape[1])
    near = near[np.abs(near * SAMPLE_SPACING - arc) < LANE_CHANGE_PARAMS.max_search_distance]
    offsets = paths.samples[path, near, :2] - pose[:2]
    nearest = near[np.argmin(np.sum(offsets * offsets, axis=1))]
    sample = paths.samples[path, nearest]
    cos, sin = np.cos(sample[3]), np.sin(sample[3])
    dx, dy = pose[0] - sample[0], pose[1] - sample[1]
    vehicles.from_path[agent], vehicles.from_arc[agent] = vehicles.path[agent], vehicles.arc[agent]
    vehicles.path[agent], vehicles.arc[agent] = path, SAMPLE_SPACING * nearest + cos * dx + sin * dy
    vehicles.lateral_shift[agent], vehicles.progress[agent] = cos * dy - sin * dx, 0.0
