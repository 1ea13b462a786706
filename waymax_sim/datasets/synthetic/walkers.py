"""People on foot: along streets, over crosswalks when they may, and standing about."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float

from waymax_sim.datasets.synthetic.curves import SPACING, Polyline, offset, resample, yaw_along
from waymax_sim.datasets.synthetic.paths import interpolate
from waymax_sim.datasets.synthetic.world import ARROW_STOP, LIGHT_STEPS, STOP, TIME_STEP, Crosswalk, World

BEYOND = 12.0  # m that people walk before and after a crosswalk
KERB = 0.7  # m before the kerb where they wait
QUICKENING = 1.5  # m/s^2
PERSONAL = (1.5, 1.0)  # m ahead and m to the side that people keep free
APART = 1.6  # m between people at the beginning


@dataclasses.dataclass
class Walkers:
    """People on their ways; the last four change over time.

    Attributes:
      samples: x, y, z (m) and yaw (rad) along each way, `SPACING` metres apart.
      length: Of each way, m.
      crosswalk: Which one each uses, the number of all of them where none.
      kerbs: Where on the way the road begins and ends, m; infinite where none.
      pace: m/s.
      arc: Where on the way, m.
      speed: m/s.
      going: Who may be on the road.
      asking: Who wants to step on it and may as far as lights are concerned.
    """

    samples: Float[np.ndarray, "N K 4"]
    length: Float[np.ndarray, " N"]
    crosswalk: np.ndarray
    kerbs: Float[np.ndarray, "N 2"]
    pace: Float[np.ndarray, " N"]
    arc: Float[np.ndarray, " N"]
    speed: Float[np.ndarray, " N"]
    going: Bool[np.ndarray, " N"]
    asking: Bool[np.ndarray, " N"]

    def places(self) -> Float[np.ndarray, "N 4"]:
        """x, y, z (m) and yaw (rad) of everybody now."""
        return interpolate(self.samples, np.arange(len(self.arc)), np.clip(self.arc, 0.0, self.length))

    def present(self) -> Bool[np.ndarray, " N"]:
        """Who is on the way, neither before its beginning nor behind its end."""
        return (self.arc > 0.0) & (self.arc < self.length)

    def walking(self, num_crosswalks: int) -> Bool[np.ndarray, " W"]:
        """Which crosswalks are taken: somebody is on them or wants to."""
        taken = np.zeros(num_crosswalks + 1, bool)
        taken[self.crosswalk[(self.going & (self.arc < self.kerbs[:, 1] + 0.4)) | self.asking]] = True
        return taken[:-1]

    def step(self, step: int, light: np.ndarray, in_use: Bool[np.ndarray, " W"]) -> None:
        """Moves everybody on by one step.

        Args:
          step: Counted from the beginning of the warm-up.
          light: Whether traffic stops at red, for each crosswalk (columns) at each step; always true without lights.
          in_use: Crosswalks that somebody may drive over.
        """
        at_kerb = np.abs(self.arc - self.kerbs[:, 0] + KERB) < 0.5
        for i in np.flatnonzero(at_kerb & ~self.going):
            needed = int((self.kerbs[i, 1] - self.arc[i]) / self.pace[i] / TIME_STEP)
            self.asking[i] = light[step : step + needed, self.crosswalk[i]].all()
            self.going[i] = self.asking[i] and not in_use[self.crosswalk[i]]
        self.asking &= ~self.going
        wanted = np.where(at_kerb & ~self.going, 0.0, self.pace)
        wanted[self._somebody_ahead()] = 0.0
        change = np.clip(wanted - self.speed, -2 * QUICKENING * TIME_STEP, QUICKENING * TIME_STEP)
        after = self.speed + change
        self.arc = np.round(self.arc + TIME_STEP * (self.speed + after) / 2, 6)
        self.speed = np.round(after, 6)

    def _somebody_ahead(self) -> Bool[np.ndarray, " N"]:
        """Who has somebody right ahead who is slower; of two who are as fast, only one stops.

        Who has not come yet waits until there is room.
        """
        x, y, _, yaw = self.places().T
        dx, dy = x - x[:, None], y - y[:, None]
        cos, sin = np.cos(yaw)[:, None], np.sin(yaw)[:, None]
        ahead, left = cos * dx + sin * dy, cos * dy - sin * dx
        near = (ahead > 0.0) & (ahead < PERSONAL[0]) & (np.abs(left) < PERSONAL[1])
        here = self.present()
        slower = self.speed < self.speed[:, None] - 1e-3
        first = np.tril(np.ones(near.shape, bool), -1) & (self.speed < self.speed[:, None] + 1e-3)
        crowded = ~here[:, None] & (dx * dx + dy * dy < APART * APART)
        return (here & ((near & (slower | first)) | crowded)).any(axis=1)


def draw_walkers(world: World, rng: np.random.Generator) -> Walkers:
    """Puts people on foot near the streets of a place, more where there are crosswalks."""
    ways, crosswalks, kerbs, arcs, paces, taken = [], [], [], [], [], []

    def add(way: Polyline, crosswalk: int, kerb: tuple[float, float], arc: float) -> None:
        place = way[int(np.clip(arc / SPACING, 0, len(way) - 1)), :2]
        if any(np.hypot(*(place - other)) < APART for other in taken):
            return
        taken.append(place)
        ways.append(way)
        crosswalks.append(crosswalk)
        kerbs.append(kerb)
        arcs.append(arc)
        paces.append(float(np.clip(rng.normal(1.25, 0.3), 0.4, 1.9)))

    for index, crosswalk in enumerate(world.crosswalks):
        for slot in rng.permutation(4)[: rng.poisson(world.people)].tolist():
            way = _over(crosswalk, slot)
            kerb = BEYOND, SPACING * (len(way) - 1) - BEYOND
            if kerb[1] - kerb[0] > 3.0:
                add(way, index, kerb, rng.uniform(-6.0, BEYOND - KERB - 0.6))
    for way in world.walks:
        for _ in range(rng.poisson(0.45 * world.people)):
            walk = resample(offset(way, rng.uniform(-0.25, 0.25)))
            end = SPACING * (len(walk) - 1)
            add(walk, len(world.crosswalks), (np.inf, np.inf), rng.uniform(-10.0, end))
    count, longest = len(ways), max([len(way) for way in ways], default=2)
    samples = np.zeros((count, longest, 4))
    for row, way in enumerate(ways):
        samples[row] = np.pad(np.column_stack([way, yaw_along(way)]), [(0, longest - len(way)), (0, 0)], mode="edge")
    return Walkers(
        samples=np.round(samples, 9),
        length=np.array([SPACING * (len(way) - 1) for way in ways]),
        crosswalk=np.array(crosswalks, int),
        kerbs=np.array(kerbs).reshape(-1, 2),
        pace=np.array(paces),
        arc=np.array(arcs),
        speed=np.array(paces),
        going=np.zeros(count, bool),
        asking=np.zeros(count, bool),
    )


def _over(crosswalk: Crosswalk, slot: int) -> Polyline:
    """A way over a crosswalk; slots 0 and 1 lead one way and 2 and 3 back, each at its own place across."""
    ahead = crosswalk.way[-1] - crosswalk.way[0]
    ahead = np.array([*(ahead[:2] / np.hypot(ahead[0], ahead[1])), 0.0])
    whole = np.stack([crosswalk.way[0] - BEYOND * ahead, *crosswalk.way[[0, -1]], crosswalk.way[-1] + BEYOND * ahead])
    way = resample(whole)
    way = way[:: 1 if slot < 2 else -1]
    return resample(offset(way, -0.35 - 0.95 * (slot % 2)))


def lights_for_walkers(world: World) -> Bool[np.ndarray, "T W"]:
    """Whether the traffic over each crosswalk has to stop, at each step."""
    states = [*world.light_states, np.full(LIGHT_STEPS, STOP)]  # the last one is for crosswalks without a light
    columns = [np.isin(states[crosswalk.light], (STOP, ARROW_STOP)) for crosswalk in world.crosswalks]
    return np.array(columns, bool).reshape(-1, LIGHT_STEPS).T
