"""Who is on wheels in a made-up place, and where they begin."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

from waymax_sim.datasets.synthetic.drivers import Traits, draw_traits
from waymax_sim.datasets.synthetic.paths import Paths
from waymax_sim.datasets.synthetic.world import World
from waymax_sim.datatypes import roadmap

QUEUE = 90.0  # m before the border from which vehicles come in
MOST_VEHICLES, MOST_BIKES = 80, 4
GENTLE_BEND = 0.04  # sharpest one for long vehicles, 1/m
TRIES = 3  # per vehicle
GENTLE_BRAKING = 1.5  # m/s^2


@dataclasses.dataclass
class Fleet:
    """Vehicles and cyclists; positions change over time.

    Attributes:
      traits: Of the drivers.
      size: Length, width, height, m.
      is_bike: Who is a cyclist.
      side: How far to the left of the middle of their lane they like to drive, m.
      path: Row of the way each follows.
      arc: Distance of the centre along it, m; before its beginning and behind its end one is not there.
      speed: m/s.
      from_path: Way that one changes lanes from.
      from_arc: Distance along that way, m.
      shift: How far to the left of the new way one was at the beginning of a change, m.
      progress: Share of a change that is over; 1 when there is none.
    """

    traits: Traits
    size: Float[np.ndarray, "N 3"]
    is_bike: Bool[np.ndarray, " N"]
    side: Float[np.ndarray, " N"]
    path: Int[np.ndarray, " N"]
    arc: Float[np.ndarray, " N"]
    speed: Float[np.ndarray, " N"]
    from_path: Int[np.ndarray, " N"]
    from_arc: Float[np.ndarray, " N"]
    shift: Float[np.ndarray, " N"]
    progress: Float[np.ndarray, " N"]


def draw_sizes(count: int, rng: np.random.Generator) -> Float[np.ndarray, "N 3"]:
    """Boxes of cars and vans, as wide as sensors see them."""
    length = np.clip(4.65 * np.exp(rng.normal(0.0, 0.07, count)), 3.7, 6.2)
    width = np.clip(2.03 + 0.16 * (length - 4.65) + rng.normal(0.0, 0.05, count), 1.8, 2.3)
    height = np.clip(1.6 + 0.2 * (length - 4.65) + np.abs(rng.normal(0.0, 0.15, count)), 1.4, 2.4)
    return np.round(np.column_stack([length, width, height]), 3)


LARGE = np.array([(11.5, 2.55, 3.2), (8.2, 2.4, 3.0), (7.2, 2.35, 2.8)])
BICYCLE = np.array([1.85, 0.8, 1.75])


def draw_fleet(world: World, paths: Paths, rng: np.random.Generator) -> Fleet:
    """Puts vehicles on lanes and before the border, clear of each other and of lanes that need the right of way."""
    room = sum(0.5 * len(xyz) for kind, xyz, _ in world.features if kind in roadmap.LANE_TYPES[:3])
    cars = int(np.clip(world.density * room * rng.uniform(0.5, 1.3), 5, MOST_VEHICLES))
    bikes = int(rng.integers(1, MOST_BIKES + 1)) if paths.is_bike.any() else 0
    is_bike = np.arange(cars + bikes) >= cars
    count = len(is_bike)
    size = draw_sizes(count, rng)
    bends = np.abs(np.diff(paths.samples[..., 3], axis=1)).max(axis=1) / 0.5
    gated = np.zeros(paths.start.shape[1], bool)
    gated[[gate.lane for gate in world.gates]] = True
    path, arc, placed = np.zeros(count, int), np.zeros(count), np.zeros(count, bool)
    for agent in range(count):
        large = not is_bike[agent] and rng.random() < 0.05
        fits = np.flatnonzero((paths.is_bike == is_bike[agent]) & ((bends < GENTLE_BEND) | ~np.bool_(large)))
        if large and len(fits):
            size[agent] = LARGE[rng.integers(len(LARGE))]
        for _ in range(TRIES if len(fits) else 0):
            q = int(fits[rng.integers(len(fits))])
            s = rng.uniform(-QUEUE, paths.length[q] - 15.0)
            ends = s + (size[agent, 0] / 2 + 1.0) * np.array([-1.0, 1.0])
            if gated[paths.lane_at(np.full(2, q), ends)].any():
                continue
            others = np.flatnonzero(placed)
            apart = np.abs(places_on(paths, q, path[others], arc[others]) - s)
            if not (apart - (size[others, 0] + size[agent, 0]) / 2 < 9.0).any():
                path[agent], arc[agent], placed[agent] = q, s, True
                break
    keep = np.flatnonzero(placed)
    path, arc, size, is_bike = path[keep], arc[keep], size[keep], is_bike[keep]
    size[is_bike] = np.round(BICYCLE * rng.uniform(0.92, 1.08, (is_bike.sum(), 1)), 3)
    traits = draw_traits(len(keep), rng)
    # Nobody is too fast to stop at the next gate.
    to_gate = paths.gate[path] - (arc + size[:, 0] / 2)[:, None]
    to_gate = np.where(to_gate > 0.0, to_gate, np.inf).min(axis=1, initial=np.inf)
    stoppable = np.sqrt(2 * GENTLE_BRAKING * np.maximum(to_gate - 2.0, 0.0))
    return Fleet(
        traits=traits,
        size=size,
        is_bike=is_bike,
        side=np.where(is_bike, 0.0, np.clip(rng.normal(0.0, 0.1, len(keep)), -0.2, 0.2)),
        path=path,
        arc=arc,
        speed=np.minimum(traits.pace * paths.at(path, arc)[:, 4] * rng.uniform(0.6, 1.0, len(keep)), stoppable),
        from_path=path.copy(),
        from_arc=arc.copy(),
        shift=np.zeros(len(keep)),
        progress=np.ones(len(keep)),
    )


def places_on(
    paths: Paths, way: int, path: Int[np.ndarray, " N"], arc: Float[np.ndarray, " N"]
) -> Float[np.ndarray, " N"]:
    """Where on a way those are who follow other ways, m; infinite where their lane is not part of it."""
    lane = paths.lane_at(path, arc)
    begin = paths.start[path, lane]
    return paths.start[way, lane] + np.where(np.isfinite(begin), arc - begin, 0.0)
