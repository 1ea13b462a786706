"""Simulation of the traffic of a world: vehicles, cyclists and pedestrians advance together by steps of 0.1 s."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

from waymax_sim.datasets.synthetic import lane_changes
from waymax_sim.datasets.synthetic.curves import SAMPLE_SPACING, yaw_along
from waymax_sim.datasets.synthetic.drivers import Driver, DriverObservation
from waymax_sim.datasets.synthetic.paths import Paths, find_paths, interpolate
from waymax_sim.datasets.synthetic.pedestrians import draw_pedestrians, traffic_stop_table
from waymax_sim.datasets.synthetic.right_of_way import RightOfWay
from waymax_sim.datasets.synthetic.vehicles import ENTRY_DISTANCE, Vehicles, draw_sizes, draw_vehicles
from waymax_sim.datasets.synthetic.world import NUM_STEPS, NUM_WARM_UP_STEPS, World
from waymax_sim.datatypes.agents import CYCLIST, PEDESTRIAN, VEHICLE
from waymax_sim.datatypes.scenario import TIME_STEP

TAIL_LENGTH = 5.0  # m behind a rear bumper that block a path where lanes diverge
OLD_LANE_FRACTION = 0.7  # completed fraction of a lane change until which a vehicle also occupies its old lane
PEDESTRIAN_SIZE = np.array([0.9, 0.85, 1.72])  # mean length, width and height, m


@dataclasses.dataclass(frozen=True)
class TrafficLog:
    """The states of all N agents at T steps, before sensors.

    Attributes:
      type: Agent type (WOMD numbering).
      size: Length, width, height, m.
      xyz: Centers of the boxes, m.
      yaw: rad, not wrapped.
      speed: m/s.
      present: Whether the agent is on the map.
      paths: All paths of vehicles and cyclists.
      path: Row of the last path of each of them, -1 for other agents.
    """

    type: Int[np.ndarray, " N"]
    size: Float[np.ndarray, "N 3"]
    xyz: Float[np.ndarray, "T N 3"]
    yaw: Float[np.ndarray, "T N"]
    speed: Float[np.ndarray, "T N"]
    present: Bool[np.ndarray, "T N"]
    paths: Paths
    path: Int[np.ndarray, " N"]


def simulate(
    world: World,
    driver: Driver,
    rng: np.random.Generator,
    *,
    num_steps: int = NUM_STEPS,
    entry_distance: float = ENTRY_DISTANCE,
) -> TrafficLog:
    """Simulates a warm-up, then the steps of the log.

    Args:
      world: The world.
      driver: Driver model of vehicles and cyclists.
      rng: Source of the agents.
      num_steps: Steps of the log, at most `MAX_NUM_STEPS`.
      entry_distance: Distance before the border from which vehicles enter, m.
    """
    paths = find_paths(world, rng)
    vehicles = draw_vehicles(world, paths, rng, entry_distance)
    pedestrians = draw_pedestrians(world, rng)
    traffic_stops = traffic_stop_table(world)
    right_of_way = RightOfWay(world, paths, len(vehicles.arc))
    adjacent = lane_changes.adjacent_lanes(world)
    vehicle_states, pedestrian_states = [], []
    for step in range(NUM_WARM_UP_STEPS + num_steps):
        if step >= NUM_WARM_UP_STEPS:
            vehicle_states.append(
                (vehicles.path.copy(), vehicles.arc.copy(), vehicles.speed, *_lateral_motion(vehicles))
            )
            pedestrian_states.append((pedestrians.poses(), pedestrians.speed, pedestrians.present()))
        gap, leader_speed = _leaders(paths, vehicles)
        is_occupied = pedestrians.occupied_crosswalks(len(world.crosswalks))
        stop_distance = right_of_way.step(
            step, vehicles.path, vehicles.arc, vehicles.speed, vehicles.size[:, 0], gap, leader_speed, is_occupied
        )
        path_end = np.where(paths.is_blocked, paths.length, np.inf)[vehicles.path]
        end_distance = path_end - vehicles.arc - vehicles.size[:, 0] / 2
        observation = DriverObservation(
            speed=vehicles.speed,
            allowed_speed=paths.at(vehicles.path, vehicles.arc)[:, 4],
            gap=gap,
            leader_speed=leader_speed,
            stop_distance=np.minimum(stop_distance, end_distance),
        )
        acceleration = driver(observation, vehicles.params)
        if step % lane_changes.DECISION_INTERVAL == 0:
            lane_changes.change_lanes(vehicles, paths, adjacent, right_of_way, driver, observation, acceleration, rng)
        pedestrians.step(step, traffic_stops, right_of_way.reserved_crosswalks())
        _advance(vehicles, acceleration)
    return _build_log(world, paths, vehicles, vehicle_states, pedestrian_states, rng)


def _advance(vehicles: Vehicles, acceleration: Float[np.ndarray, " N"]) -> None:
    """Integrates speed and arc length over one step; vehicles do not reverse."""
    new_speed = np.maximum(0.0, vehicles.speed + TIME_STEP * acceleration)
    distance = TIME_STEP * (vehicles.speed + new_speed) / 2
    # Rounded, so that scenes do not depend on the last bits of a machine.
    vehicles.arc = np.round(vehicles.arc + distance, 6)
    vehicles.from_arc = vehicles.from_arc + distance
    vehicles.speed = np.round(new_speed, 6)
    vehicles.progress = np.minimum(1.0, vehicles.progress + TIME_STEP / lane_changes.LANE_CHANGE_TIME)


def _lateral_motion(vehicles: Vehicles) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
    """Lateral offset from the path (m) and lateral velocity (m/s), a quintic polynomial of time in lane changes."""
    p = vehicles.progress
    smooth = p * p * p * (10 + p * (6 * p - 15))
    rate = 30 * p * p * (1 - p) * (1 - p) / lane_changes.LANE_CHANGE_TIME
    return vehicles.lane_offset + vehicles.lateral_shift * (1 - smooth), -vehicles.lateral_shift * rate


def _leaders(paths: Paths, vehicles: Vehicles) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
    """Gap to the leader (m) and its speed (m/s); during a lane change, the nearest of both lanes."""
    half = vehicles.size[:, 0] / 2
    is_changing = vehicles.progress < OLD_LANE_FRACTION
    # Occupied positions: rear bumpers, their tails where lanes diverge, and rear bumpers on the old lane.
    path = np.stack([vehicles.path, vehicles.path, np.where(is_changing, vehicles.from_path, vehicles.path)])
    rear_distance = np.stack([half, half + TAIL_LENGTH, half])
    center = np.stack([vehicles.arc, vehicles.arc, np.where(is_changing, vehicles.from_arc, vehicles.arc)])
    lane = paths.lane_at(path, center - rear_distance)
    lane_start = paths.start[path, lane]
    position = np.where(np.isfinite(lane_start), center - lane_start, 0.0)
    position[2, ~is_changing] = np.inf

    # Queries: each vehicle along its path, and those that change lanes along their old path too.
    changing = np.flatnonzero(is_changing)
    agent = np.concatenate([np.arange(len(half)), changing])
    query_path = np.append(vehicles.path, vehicles.from_path[changing])
    query_arc = np.append(vehicles.arc, vehicles.from_arc[changing])
    distance = paths.start[query_path[:, None, None], lane] + position - query_arc[:, None, None]
    distance = np.where(distance > 0.0, distance, np.inf).min(axis=1)
    distance[np.arange(len(agent)), agent] = np.inf
    gaps = distance - half - half[agent][:, None]
    nearest = np.argmin(gaps, axis=1)
    min_gap, leader_speed = gaps[np.arange(len(agent)), nearest], vehicles.speed[nearest]

    gap, speed = min_gap[: len(half)].copy(), leader_speed[: len(half)].copy()
    old_gap, old_speed = min_gap[len(half) :], leader_speed[len(half) :]
    speed[changing] = np.where(old_gap < gap[changing], old_speed, speed[changing])
    gap[changing] = np.minimum(old_gap, gap[changing])
    return gap, speed


def _build_log(
    world: World,
    paths: Paths,
    vehicles: Vehicles,
    vehicle_states: list,
    pedestrian_states: list,
    rng: np.random.Generator,
) -> TrafficLog:
    """Log of vehicles and cyclists, pedestrians and parked cars, in this order."""
    path, arc, speed, lateral, rate = (np.stack(values) for values in zip(*vehicle_states, strict=True))
    samples = paths.at(path.ravel(), arc.ravel()).reshape(*path.shape, 5)
    yaw = samples[..., 3]
    xyz = samples[..., :3] + lateral[..., None] * np.stack([-np.sin(yaw), np.cos(yaw), np.zeros_like(yaw)], axis=-1)
    yaw = yaw + np.where(lateral != 0.0, np.arctan2(rate, np.maximum(speed, 1.0)), 0.0)
    half = vehicles.size[:, 0] / 2
    present = (arc > half) & (arc < paths.length[path] - half)
    poses, walking_speed, is_walking = (np.stack(values) for values in zip(*pedestrian_states, strict=True))
    pedestrian_size = np.round(PEDESTRIAN_SIZE * rng.uniform(0.88, 1.12, (walking_speed.shape[1], 3)), 3)
    parked_size, parked_pose = _park(world, rng)
    num_pedestrians, num_parked = len(pedestrian_size), len(parked_size)
    zeros = np.zeros((len(xyz), num_parked))
    size = np.concatenate([vehicles.size, pedestrian_size, parked_size])
    parked_xyz = np.broadcast_to(parked_pose[:, :3], (len(xyz), num_parked, 3))
    xyz = np.concatenate([xyz, poses[..., :3], parked_xyz], axis=1)
    xyz[..., 2] += size[:, 2] / 2
    vehicle_type = np.where(vehicles.is_bike, CYCLIST, VEHICLE)
    types = [vehicle_type, np.full(num_pedestrians, PEDESTRIAN), np.full(num_parked, VEHICLE)]
    return TrafficLog(
        type=np.concatenate(types),
        size=size,
        xyz=xyz,
        yaw=np.concatenate([yaw, poses[..., 3], parked_pose[:, 3] + zeros], axis=1),
        speed=np.concatenate([speed, walking_speed, zeros], axis=1),
        present=np.concatenate([present, is_walking, zeros == 0.0], axis=1),
        paths=paths,
        path=np.pad(path[-1], (0, num_pedestrians + num_parked), constant_values=-1),
    )


def _park(world: World, rng: np.random.Generator) -> tuple[Float[np.ndarray, "N 3"], Float[np.ndarray, "N 4"]]:
    """Sizes (m) and poses (x, y, z, yaw) of parked cars, at a random occupancy of each row."""
    sizes, poses = [], []
    for row in world.parking:
        curve = np.column_stack([row.line, yaw_along(row.line)])[None]
        end, occupancy, arc = SAMPLE_SPACING * (len(row.line) - 1), rng.uniform(0.2, 0.95), 0.5
        turn = rng.choice([-1.0, 1.0]) * np.pi / 2 if row.is_perpendicular else 0.0
        while True:
            size = draw_sizes(1, rng)[0]
            extent = size[1] if row.is_perpendicular else size[0]
            if arc + extent > end:
                break
            if rng.random() < occupancy:
                sizes.append(size)
                pose = interpolate(curve, np.zeros(1, int), np.array([arc + extent / 2]))[0]
                poses.append(pose + np.array([0.0, 0.0, 0.0, turn + rng.normal(0.0, 0.012)]))
            arc += extent + rng.uniform(0.7, 1.6)
    return np.array(sizes).reshape(-1, 3), np.array(poses).reshape(-1, 4)
