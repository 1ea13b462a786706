"""When and where drivers change lanes: the incentive and the safety criterion of MOBIL (Kesting et al. 2007)."""

import numpy as np
from jaxtyping import Float, Int

from waymax_sim.datasets.synthetic.drivers import Driver, Sight
from waymax_sim.datasets.synthetic.fleet import Fleet, places_on
from waymax_sim.datasets.synthetic.paths import Paths
from waymax_sim.datasets.synthetic.right_of_way import RightOfWay
from waymax_sim.datasets.synthetic.world import World
from waymax_sim.datatypes import roadmap

EVERY = 4  # steps between looks
DURATION = 4.0  # s
GAIN = 0.35  # m/s^2 that a change has to be worth
MUST = 8.0  # m/s^2 that it is worth to leave a lane that ends
SAFE = 1.8  # deceleration that nobody behind may be forced to, m/s^2
SLOWEST = 4.0  # m/s
CLEAR = 2.5  # m to be free before and behind
LOOK_BACK, APART = np.array([0.0, 25.0, 50.0, 75.0, 100.0, 150.0]), 6.0  # m behind; m between lanes side by side


def neighbours(world: World) -> Int[np.ndarray, "L 2"]:
    """The lanes to the left and right of each lane, -1 where there is none."""
    found = np.full((len(world.features) + 1, 2), -1)
    for a, b, kind in world.links:
        if kind != roadmap.SUCCESSOR:
            found[a, 0 if kind == roadmap.LEFT_NEIGHBOR else 1] = b
    return found


def change(
    fleet: Fleet,
    paths: Paths,
    beside: Int[np.ndarray, "L 2"],
    right_of_way: RightOfWay,
    driver: Driver,
    sight: Sight,
    acceleration: Float[np.ndarray, " N"],
    rng: np.random.Generator,
) -> None:
    """Lets the one driver begin a change who gains most by it; never two at once, who might want the same place."""
    front = fleet.arc + fleet.size[:, 0] / 2
    lane = paths.lane_at(fleet.path, fleet.arc)
    clear_of_gates = right_of_way.distances(fleet.path, front).min(axis=1, initial=np.inf) > 30.0 + 4.0 * fleet.speed
    free = clear_of_gates & ~right_of_way.held.any(axis=1) & (fleet.progress >= 1.0) & (fleet.speed > SLOWEST)
    free &= (fleet.arc > 0.0) & ~fleet.is_bike & (fleet.size[:, 0] < 7.0)
    best, chosen = 0.0, None
    for agent in np.flatnonzero(free & (beside[lane] >= 0).any(axis=1)).tolist():
        for target in beside[lane[agent]]:
            ways = np.flatnonzero(np.isfinite(paths.start[:, target]) & ~paths.blocked) if target >= 0 else []
            if not len(ways):
                continue
            way = int(ways[rng.integers(len(ways))])
            arc = fleet.arc[agent] - paths.start[fleet.path[agent], lane[agent]] + paths.start[way, target]
            if not _come_from_the_same_side(paths, int(fleet.path[agent]), float(fleet.arc[agent]), way, float(arc)):
                continue
            gain = _gain(fleet, paths, driver, sight, agent, way, arc, int(target)) - acceleration[agent]
            gain += MUST if paths.blocked[fleet.path[agent]] else rng.normal(0.0, 0.15) - GAIN
            if gain > best and _runs_on(paths, way, arc, fleet.speed[agent]):
                best, chosen = gain, (agent, way, arc)
    if chosen is not None:
        _begin(fleet, paths, *chosen)


def _come_from_the_same_side(paths: Paths, path: int, arc: float, way: int, along: float) -> bool:
    """Whether two ways have been side by side for as long as either of them; so what one has driven stays a way."""
    back = np.minimum(LOOK_BACK, max(arc, along, 0.0))
    both = paths.at(np.repeat([path, way], len(back)), np.append(arc - back, along - back))[:, :2]
    gap = both[: len(back)] - both[len(back) :]
    return bool((np.sum(gap * gap, axis=1) < APART**2).all())


def _runs_on(paths: Paths, way: int, arc: float, speed: float) -> bool:
    """Whether no gate comes soon on a way, nor its end."""
    ahead = paths.gate[way] - arc
    return bool(not ((ahead > -5.0) & (ahead < 30.0 + 4.0 * speed)).any())


def _gain(
    fleet: Fleet, paths: Paths, driver: Driver, sight: Sight, agent: int, way: int, arc: float, target: int
) -> float:
    """Acceleration on another way (m/s^2), minus infinity where the change is not safe."""
    half = fleet.size[:, 0] / 2
    apart = places_on(paths, way, fleet.path, fleet.arc) - arc
    # Who comes towards the place on a way of its own that joins there.
    theirs = fleet.arc - (paths.start[fleet.path, target] + arc - paths.start[way, target])
    apart = np.where(np.isinf(apart) & np.isfinite(theirs), theirs, apart)
    apart[agent] = np.inf
    gaps = np.abs(apart) - half - half[agent]
    if gaps.min() < CLEAR:
        return -np.inf
    ahead = np.where(apart > 0.0, gaps, np.inf)
    behind = np.where(apart < 0.0, gaps, np.inf)
    leader, follower = int(np.argmin(ahead)), int(np.argmin(behind))
    rows = np.array([agent, follower])
    found = driver(
        Sight(
            speed=fleet.speed[rows],
            allowed=sight.allowed[rows],
            gap=np.array([ahead[leader], behind[follower]]),
            leader=fleet.speed[[leader, agent]],
            stop=np.full(2, np.inf),
        ),
        fleet.traits.of(rows),
    )
    return float(found[0]) if found.min() > -SAFE else -np.inf


def _begin(fleet: Fleet, paths: Paths, agent: int, way: int, arc: float) -> None:
    here = paths.at(fleet.path[[agent]], fleet.arc[[agent]])[0]
    nearby = np.arange(paths.samples.shape[1])
    nearby = nearby[np.abs(nearby * 0.5 - arc) < 15.0]
    offsets = paths.samples[way, nearby, :2] - here[:2]
    nearest = nearby[np.argmin(np.sum(offsets * offsets, axis=1))]
    sample = paths.samples[way, nearest]
    cos, sin = np.cos(sample[3]), np.sin(sample[3])
    dx, dy = here[0] - sample[0], here[1] - sample[1]
    fleet.from_path[agent], fleet.from_arc[agent] = fleet.path[agent], fleet.arc[agent]
    fleet.path[agent], fleet.arc[agent] = way, 0.5 * nearest + cos * dx + sin * dy
    fleet.shift[agent], fleet.progress[agent] = cos * dy - sin * dx, 0.0
