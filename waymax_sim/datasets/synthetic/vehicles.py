"""Vehicles and cyclists of a synthetic world and their initial states."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

from waymax_sim.datasets.synthetic.curves import SAMPLE_SPACING
from waymax_sim.datasets.synthetic.drivers import DriverParams, draw_driver_params
from waymax_sim.datasets.synthetic.paths import Paths
from waymax_sim.datasets.synthetic.world import World
from waymax_sim.datatypes import roadmap

ENTRY_DISTANCE = 90.0  # m before the border from which vehicles enter
EXIT_DISTANCE = 15.0  # m before the end of a path without initial vehicles
MIN_VEHICLES = 5
MAX_VEHICLES = 80
MAX_CYCLISTS = 4
LARGE_VEHICLE_SHARE = 0.05
MAX_CURVATURE_OF_LARGE = 0.04  # 1/m
PLACEMENT_ATTEMPTS = 3  # per vehicle
MIN_INITIAL_GAP = 9.0  # m
INITIAL_DECELERATION = 1.5  # m/s^2, with which a vehicle can stop at the next rule
# Length, width and height, m.
LARGE_VEHICLE_SIZES = np.array([(11.5, 2.55, 3.2), (8.2, 2.4, 3.0), (7.2, 2.35, 2.8)])
BICYCLE_SIZE = np.array([1.85, 0.8, 1.75])


@dataclasses.dataclass
class Vehicles:
    """N vehicles and cyclists; fields from `path` on change over time.

    Attributes:
      params: Parameters of the drivers.
      size: Length, width, height, m.
      is_bike: Whether it is a cyclist.
      lane_offset: Preferred lateral offset from the center of the lane, m, positive to the left.
      path: Row of the path.
      arc: Arc length of the center, m; outside of the path the agent is absent.
      speed: m/s.
      from_path: Path that a lane change started from.
      from_arc: Arc length on that path, m.
      lateral_shift: Lateral offset from the new path at the start of a lane change, m.
      progress: Completed fraction of a lane change; 1 without one.
    """

    params: DriverParams
    size: Float[np.ndarray, "N 3"]
    is_bike: Bool[np.ndarray, " N"]
    lane_offset: Float[np.ndarray, " N"]
    path: Int[np.ndarray, " N"]
    arc: Float[np.ndarray, " N"]
    speed: Float[np.ndarray, " N"]
    from_path: Int[np.ndarray, " N"]
    from_arc: Float[np.ndarray, " N"]
    lateral_shift: Float[np.ndarray, " N"]
    progress: Float[np.ndarray, " N"]


def draw_sizes(count: int, rng: np.random.Generator) -> Float[np.ndarray, "N 3"]:
    """Boxes of cars and vans (length, width, height, m) with mirrors, as sensors measure them."""
    length = np.clip(4.65 * np.exp(rng.normal(0.0, 0.07, count)), 3.7, 6.2)
    width = np.clip(2.03 + 0.16 * (length - 4.65) + rng.normal(0.0, 0.05, count), 1.8, 2.3)
    height = np.clip(1.6 + 0.2 * (length - 4.65) + np.abs(rng.normal(0.0, 0.15, count)), 1.4, 2.4)
    return np.round(np.column_stack([length, width, height]), 3)


def draw_vehicles(
    world: World, paths: Paths, rng: np.random.Generator, entry_distance: float = ENTRY_DISTANCE
) -> Vehicles:
    """Draws vehicles at random positions on paths, by rejection sampling.

    Initial positions keep a gap to each other and are not on lanes that need the right of way.

    Args:
      world: The world.
      paths: Its paths.
      rng: Source of randomness.
      entry_distance: Distance before the border from which vehicles enter, m; their number grows with it.
    """
    lane_types = roadmap.LANE_TYPES[:3]
    lane_length = sum(SAMPLE_SPACING * len(xyz) for kind, xyz, _ in world.features if kind in lane_types)
    mean_length = float(np.mean(paths.length))
    lane_length *= (mean_length + entry_distance) / (mean_length + ENTRY_DISTANCE)
    num_cars = int(np.clip(world.vehicle_density * lane_length * rng.uniform(0.5, 1.3), MIN_VEHICLES, MAX_VEHICLES))
    num_cyclists = int(rng.integers(1, MAX_CYCLISTS + 1)) if paths.is_bike.any() else 0
    is_bike = np.arange(num_cars + num_cyclists) >= num_cars
    count = len(is_bike)
    size = draw_sizes(count, rng)
    max_curvature = np.abs(np.diff(paths.samples[..., 3], axis=1)).max(axis=1) / SAMPLE_SPACING
    has_rule = np.zeros(paths.start.shape[1], bool)
    has_rule[[rule.lane for rule in world.rules]] = True
    path, arc, is_placed = np.zeros(count, int), np.zeros(count), np.zeros(count, bool)
    for agent in range(count):
        is_large = not is_bike[agent] and rng.random() < LARGE_VEHICLE_SHARE
        is_suitable = (max_curvature < MAX_CURVATURE_OF_LARGE) | ~np.bool_(is_large)
        suitable = np.flatnonzero((paths.is_bike == is_bike[agent]) & is_suitable)
        if is_large and len(suitable):
            size[agent] = LARGE_VEHICLE_SIZES[rng.integers(len(LARGE_VEHICLE_SIZES))]
        for _ in range(PLACEMENT_ATTEMPTS if len(suitable) else 0):
            q = int(suitable[rng.integers(len(suitable))])
            s = rng.uniform(-entry_distance, paths.length[q] - EXIT_DISTANCE)
            bumpers = s + (size[agent, 0] / 2 + 1.0) * np.array([-1.0, 1.0])
            if has_rule[paths.lane_at(np.full(2, q), bumpers)].any():
                continue
            others = np.flatnonzero(is_placed)
            distance = np.abs(positions_along(paths, q, path[others], arc[others]) - s)
            if not (distance - (size[others, 0] + size[agent, 0]) / 2 < MIN_INITIAL_GAP).any():
                path[agent], arc[agent], is_placed[agent] = q, s, True
                break
    rows = np.flatnonzero(is_placed)
    path, arc, size, is_bike = path[rows], arc[rows], size[rows], is_bike[rows]
    size[is_bike] = np.round(BICYCLE_SIZE * rng.uniform(0.92, 1.08, (is_bike.sum(), 1)), 3)
    params = draw_driver_params(len(rows), rng)
    # Each vehicle is able to stop at the next rule.
    rule_distance = paths.rule_begin[path] - (arc + size[:, 0] / 2)[:, None]
    rule_distance = np.where(rule_distance > 0.0, rule_distance, np.inf).min(axis=1, initial=np.inf)
    max_speed = np.sqrt(2 * INITIAL_DECELERATION * np.maximum(rule_distance - 2.0, 0.0))
    return Vehicles(
        params=params,
        size=size,
        is_bike=is_bike,
        lane_offset=np.where(is_bike, 0.0, np.clip(rng.normal(0.0, 0.1, len(rows)), -0.2, 0.2)),
        path=path,
        arc=arc,
        speed=np.minimum(params.speed_factor * paths.at(path, arc)[:, 4] * rng.uniform(0.6, 1.0, len(rows)), max_speed),
        from_path=path.copy(),
        from_arc=arc.copy(),
        lateral_shift=np.zeros(len(rows)),
        progress=np.ones(len(rows)),
    )


def positions_along(
    paths: Paths, target: int, path: Int[np.ndarray, " N"], arc: Float[np.ndarray, " N"]
) -> Float[np.ndarray, " N"]:
    """Arc lengths on one path of agents on other paths, m; infinite if their lane is not part of it.

    Args:
      paths: All paths.
      target: Row of the path.
      path: Row of the path of each agent.
      arc: Arc length of each agent on its own path, m.
    """
    lane = paths.lane_at(path, arc)
    start = paths.start[path, lane]
    return paths.start[target, lane] + np.where(np.isfinite(start), arc - start, 0.0)
