"""Traffic: a place and a driver in, a log out. All agents move at once, a tenth of a second at a time."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

from waymax_sim.datasets.synthetic import lane_changes
from waymax_sim.datasets.synthetic.curves import SPACING, yaw_along
from waymax_sim.datasets.synthetic.drivers import Driver, Sight
from waymax_sim.datasets.synthetic.fleet import Fleet, draw_fleet, draw_sizes
from waymax_sim.datasets.synthetic.paths import Paths, find_paths, interpolate
from waymax_sim.datasets.synthetic.right_of_way import RightOfWay
from waymax_sim.datasets.synthetic.walkers import Walkers, draw_walkers, lights_for_walkers
from waymax_sim.datasets.synthetic.world import NUM_STEPS, TIME_STEP, WARM_UP, World
from waymax_sim.datatypes.agents import CYCLIST, PEDESTRIAN, VEHICLE

TAIL = 5.0  # m behind a rear bumper that still belong to the vehicle where ways part


@dataclasses.dataclass(frozen=True)
class Log:
    """What really happened: every agent at every step, whether anybody saw it or not.

    Attributes:
      type: Agent type (WOMD numbering).
      size: Length, width, height, m.
      xyz: Centres of the boxes, m.
      yaw: rad, not wrapped.
      speed: m/s.
      present: Who was on the map.
      paths: All ways of vehicles and cyclists.
      path: Row of the way that each of these is on in the end, -1 for other agents.
    """

    type: Int[np.ndarray, " N"]
    size: Float[np.ndarray, "N 3"]
    xyz: Float[np.ndarray, "T N 3"]
    yaw: Float[np.ndarray, "T N"]
    speed: Float[np.ndarray, "T N"]
    present: Bool[np.ndarray, "T N"]
    paths: Paths
    path: Int[np.ndarray, " N"]


def simulate(world: World, driver: Driver, rng: np.random.Generator) -> Log:
    """Lets traffic flow for a while, then records it for 91 steps.

    Args:
      world: The place.
      driver: How drivers and cyclists accelerate.
      rng: Draws who is there.
    """
    paths = find_paths(world, rng)
    fleet, walkers = draw_fleet(world, paths, rng), draw_walkers(world, rng)
    lights = lights_for_walkers(world)
    right_of_way = RightOfWay(world, paths, len(fleet.arc))
    neighbours = lane_changes.neighbours(world)
    wheels, feet = [], []
    for step in range(WARM_UP + NUM_STEPS):
        if step >= WARM_UP:
            wheels.append((fleet.path.copy(), fleet.arc.copy(), fleet.speed, *_sideways(fleet)))
            feet.append((walkers.places(), walkers.speed, walkers.present()))
        gap, leader = _leaders(paths, fleet)
        walking = walkers.walking(len(world.crosswalks))
        stop = right_of_way.step(step, fleet.path, fleet.arc, fleet.speed, fleet.size[:, 0], gap, leader, walking)
        ending = np.where(paths.blocked, paths.length, np.inf)[fleet.path] - fleet.arc - fleet.size[:, 0] / 2
        sight = Sight(
            speed=fleet.speed,
            allowed=paths.at(fleet.path, fleet.arc)[:, 4],
            gap=gap,
            leader=leader,
            stop=np.minimum(stop, ending),
        )
        acceleration = driver(sight, fleet.traits)
        if step % lane_changes.EVERY == 0:
            lane_changes.change(fleet, paths, neighbours, right_of_way, driver, sight, acceleration, rng)
        walkers.step(step, lights, right_of_way.crosswalks_in_use())
        _move(fleet, acceleration)
    return _log(world, paths, fleet, walkers, wheels, feet, rng)


def _move(fleet: Fleet, acceleration: Float[np.ndarray, " N"]) -> None:
    after = np.maximum(0.0, fleet.speed + TIME_STEP * acceleration)
    moved = TIME_STEP * (fleet.speed + after) / 2
    # Rounding makes the numbers of all machines alike, whatever their last bits.
    fleet.arc = np.round(fleet.arc + moved, 6)
    fleet.from_arc = fleet.from_arc + moved
    fleet.speed = np.round(after, 6)
    fleet.progress = np.minimum(1.0, fleet.progress + TIME_STEP / lane_changes.DURATION)


def _sideways(fleet: Fleet) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
    """How far to the left of their way agents are (m), and how fast they move to the left (m/s)."""
    p = fleet.progress
    smooth = p * p * p * (10 + p * (6 * p - 15))
    rate = 30 * p * p * (1 - p) * (1 - p) / lane_changes.DURATION
    return fleet.side + fleet.shift * (1 - smooth), -fleet.shift * rate


def _leaders(paths: Paths, fleet: Fleet) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
    """Distance to the next agent on the way (m) and its speed; while one changes lanes, of both lanes."""
    half = fleet.size[:, 0] / 2
    changing = fleet.progress < 0.7
    # Who is where: rear bumpers, what lies behind them where ways part, and the lane that one is about to leave.
    path = np.stack([fleet.path, fleet.path, np.where(changing, fleet.from_path, fleet.path)])
    behind = np.stack([half, half + TAIL, half])
    centre = np.stack([fleet.arc, fleet.arc, np.where(changing, fleet.from_arc, fleet.arc)])
    lane = paths.lane_at(path, centre - behind)
    begin = paths.start[path, lane]
    local = np.where(np.isfinite(begin), centre - begin, 0.0)
    local[2, ~changing] = np.inf

    # Everybody looks along the own way; whoever changes lanes, along the other one too.
    rows = np.flatnonzero(changing)
    who = np.concatenate([np.arange(len(half)), rows])
    way, where = np.append(fleet.path, fleet.from_path[rows]), np.append(fleet.arc, fleet.from_arc[rows])
    apart = paths.start[way[:, None, None], lane] + local - where[:, None, None]
    apart = np.where(apart > 0.0, apart, np.inf).min(axis=1)
    apart[np.arange(len(who)), who] = np.inf
    gaps = apart - half - half[who][:, None]
    closest = np.argmin(gaps, axis=1)
    found, speed = gaps[np.arange(len(who)), closest], fleet.speed[closest]

    gap, leader = found[: len(half)].copy(), speed[: len(half)].copy()
    other, speed = found[len(half) :], speed[len(half) :]
    leader[rows] = np.where(other < gap[rows], speed, leader[rows])
    gap[rows] = np.minimum(other, gap[rows])
    return gap, leader


def _log(world: World, paths: Paths, fleet: Fleet, walkers: Walkers, wheels: list, feet: list, rng) -> Log:
    path, arc, speed, left, rate = (np.stack(values) for values in zip(*wheels, strict=True))
    at = paths.at(path.ravel(), arc.ravel()).reshape(*path.shape, 5)
    yaw = at[..., 3]
    xyz = at[..., :3] + left[..., None] * np.stack([-np.sin(yaw), np.cos(yaw), np.zeros_like(yaw)], axis=-1)
    yaw = yaw + np.where(left != 0.0, np.arctan2(rate, np.maximum(speed, 1.0)), 0.0)
    half = fleet.size[:, 0] / 2
    present = (arc > half) & (arc < paths.length[path] - half)
    places, pace, here = (np.stack(values) for values in zip(*feet, strict=True))
    people = np.round(np.array([0.9, 0.85, 1.72]) * rng.uniform(0.88, 1.12, (pace.shape[1], 3)), 3)
    parked, parked_at = _park(world, rng)
    still = np.zeros((NUM_STEPS, len(parked)))
    size = np.concatenate([fleet.size, people, parked])
    xyz = np.concatenate([xyz, places[..., :3], np.broadcast_to(parked_at[:, :3], (NUM_STEPS, len(parked), 3))], axis=1)
    xyz[..., 2] += size[:, 2] / 2
    kinds = [np.where(fleet.is_bike, CYCLIST, VEHICLE), np.full(len(people), PEDESTRIAN), np.full(len(parked), VEHICLE)]
    return Log(
        type=np.concatenate(kinds),
        size=size,
        xyz=xyz,
        yaw=np.concatenate([yaw, places[..., 3], parked_at[:, 3] + still], axis=1),
        speed=np.concatenate([speed, pace, still], axis=1),
        present=np.concatenate([present, here, still == 0.0], axis=1),
        paths=paths,
        path=np.pad(path[-1], (0, len(people) + len(parked)), constant_values=-1),
    )


def _park(world: World, rng: np.random.Generator) -> tuple[Float[np.ndarray, "N 3"], Float[np.ndarray, "N 4"]]:
    """Sizes (m) and places (x, y, z, yaw) of parked cars; most rows are nearly full, some nearly empty."""
    sizes, places = [], []
    for row in world.parking:
        table = np.column_stack([row.line, yaw_along(row.line)])[None]
        end, taken, at = SPACING * (len(row.line) - 1), rng.uniform(0.2, 0.95), 0.5
        turn = rng.choice([-1.0, 1.0]) * np.pi / 2 if row.sideways else 0.0
        while True:
            size = draw_sizes(1, rng)[0]
            room = size[1] if row.sideways else size[0]
            if at + room > end:
                break
            if rng.random() < taken:
                sizes.append(size)
                place = interpolate(table, np.zeros(1, int), np.array([at + room / 2]))[0]
                places.append(place + np.array([0.0, 0.0, 0.0, turn + rng.normal(0.0, 0.012)]))
            at += room + rng.uniform(0.7, 1.6)
    return np.array(sizes).reshape(-1, 3), np.array(places).reshape(-1, 4)
