"""Made-up traffic that follows ways, keeps its distance, obeys lights and never touches anybody.

Vehicles follow the Intelligent Driver Model (Treiber, Hennecke, Helbing 2000). Everybody is tried at random
and taken only where their boxes stay clear of all earlier ones, in three dimensions.
"""

import dataclasses
from bisect import bisect
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float

from waymax_sim.datasets.synthetic_layouts import CAUTION, GO, STOP
from waymax_sim.datasets.synthetic_roads import NUM_STEPS, TIME_STEP, Place, Way, pick
from waymax_sim.datatypes.agents import CYCLIST, PEDESTRIAN, VEHICLE

CARS = ((4.1, 1.75, 1.5), (4.6, 1.85, 1.5), (4.9, 1.95, 1.7), (5.4, 2.0, 1.9))  # length, width, height, m
LARGE = ((11.0, 2.5, 3.2), (7.6, 2.3, 3.0))
BICYCLE, PERSON = (1.8, 0.7, 1.7), (0.7, 0.75, 1.75)

ACCELERATION, COMFORT, BRAKING, HARDEST = 1.6, 1.4, 2.0, 3.0  # m/s^2
SIDEWAYS = 2.0  # lateral acceleration in bends, m/s^2
HEADWAY, ANTICIPATION, STANDSTILL = 1.2, 0.8, 2.0  # s, s, m
ROOM = (3.0, 0.5)  # added to a newcomer's length and width when it looks for others, m


@dataclasses.dataclass(frozen=True, eq=False)
class Track:
    """One agent on its way.

    Attributes:
      way: What it follows.
      type: Agent type (WOMD numbering).
      size: Length, width, height, m.
      arc: Distance of its centre along the way, m; outside of the way before it enters and after it leaves.
      speed: m/s.
    """

    way: Way
    type: int
    size: tuple[float, float, float]
    arc: Float[np.ndarray, " T"]
    speed: Float[np.ndarray, " T"]
    xyz: Float[np.ndarray, "T 3"] = dataclasses.field(init=False)
    yaw: Float[np.ndarray, " T"] = dataclasses.field(init=False)

    def __post_init__(self):
        columns = [np.interp(self.arc, self.way.arc, column) for column in self.way.xyz.T]
        columns[2] += self.size[2] / 2
        object.__setattr__(self, "xyz", np.stack(columns, axis=-1))
        object.__setattr__(self, "yaw", np.interp(self.arc, self.way.arc, self.way.yaw))

    @property
    def present(self) -> Bool[np.ndarray, " T"]:
        """When the whole box is on the way."""
        half = self.size[0] / 2
        return (self.arc >= half) & (self.arc <= self.way.arc[-1] - half)


def _long_enough(track: Track) -> bool:
    return bool(track.present.sum() >= 25)


def populate(place: Place, rng: np.random.Generator) -> tuple[list[Track], Track]:
    """Puts agents on a place.

    Returns:
      All tracks, and the one of the sdc.
    """
    tracks: list[Track] = []

    def fill(count: int, make: Callable[[], Track], accept: Callable[[Track], bool] = _long_enough, tries: int = 60):
        goal = len(tracks) + count
        for _ in range(tries):
            if len(tracks) == goal:
                break
            track = make()
            if accept(track) and not _runs_red(track, place) and not any(_touch(track, other) for other in tracks):
                tracks.append(track)

    def driver(ways: Sequence[Way], agent_type: int, sizes: Sequence[tuple]) -> Track:
        way, size = pick(ways, rng), pick(sizes, rng)
        start = rng.uniform(-35.0, min(way.stop, way.arc[-1] - 20.0))
        lights = place.light_state[:, way.light].tolist() if way.light >= 0 else [GO] * NUM_STEPS
        return _drive(way, agent_type, size, start, rng.uniform(0.8, 1.0), lights, _leader(way, start, tracks))

    fill(2, lambda: _parked(place, rng))
    closed = [way for way in place.crossings if place.light_state[0, way.light] == STOP]
    if place.crossings:
        fill(2, lambda: _over_crosswalk(place, closed, rng))
        fill(1, lambda: _over_crosswalk(place, place.crossings, rng))
    if place.overpass:
        below, above = place.overpass
        when = rng.uniform(2.5, 6.0)
        fill(1, lambda: _timed(*below, when, rng))
        sdc = tracks[-1]
        fill(1, lambda: _timed(*above, when, rng))
    else:
        ways = [way for way in place.drives if way.light < 0 or place.light_state[0, way.light] == GO]
        fill(1, lambda: driver(ways, VEHICLE, CARS), _drives_through, tries=500)
        sdc = tracks[-1]
    gentle = [way for way in place.drives if way.curvature.max() < 0.04]
    fill(1, lambda: driver(gentle, VEHICLE, LARGE), tries=200)
    fill(1, lambda: driver(place.rides, CYCLIST, [BICYCLE]), tries=200)
    fill(int(rng.integers(2, 4)), lambda: _walk(place, rng))
    fill(int(rng.integers(7, 14)), lambda: driver(place.drives, VEHICLE, CARS))
    return tracks, sdc


def _drives_through(track: Track) -> bool:
    """Whether an agent is there all the time, goes somewhere, and is on the junction early if there is one."""
    over = track.way.light < 0 or track.arc[NUM_STEPS // 2] > track.way.stop
    return bool(track.present.all() and track.arc[-1] - track.arc[0] > 30.0 and over)


def _runs_red(track: Track, place: Place) -> bool:
    """Whether the front passes the stop line at red, or did just before the record."""
    if track.way.light < 0:
        return False
    beyond = track.arc + track.size[0] / 2 > track.way.stop
    passes = np.diff(beyond, prepend=False)
    return bool((passes & (place.light_state[:, track.way.light] == STOP)).any())


def _parked(place: Place, rng: np.random.Generator) -> Track:
    way = pick(place.parking, rng)
    arc = np.full(NUM_STEPS, rng.uniform(4.0, way.arc[-1] - 4.0))
    return Track(way, VEHICLE, pick(CARS, rng), arc, np.zeros(NUM_STEPS))


def _walk(place: Place, rng: np.random.Generator) -> Track:
    way = pick(place.walks, rng)
    pace = rng.uniform(1.2, 1.6)
    arc = rng.uniform(2.0, way.arc[-1] - 16.0) + pace * TIME_STEP * np.arange(NUM_STEPS)
    return Track(way, PEDESTRIAN, PERSON, arc, np.full(NUM_STEPS, pace))


def _over_crosswalk(place: Place, ways: Sequence[Way], rng: np.random.Generator) -> Track:
    """Somebody on a crosswalk while the arm's light is red: leaving the road before green, or setting out at red."""
    way = pick(ways, rng)
    state = place.light_state[:, way.light]
    seconds, pace = TIME_STEP * np.arange(NUM_STEPS), rng.uniform(1.3, 1.5)
    if state[0] == STOP:
        green = seconds[np.argmax(state == GO)]
        kerb = way.arc[-1] - 12.0
        speed = np.full(NUM_STEPS, pace)
        start = kerb - pace * (green - rng.uniform(0.3, 1.5))
    else:
        red = seconds[np.argmax(state == STOP)]
        start = 10.5
        speed = np.clip((seconds - red - rng.uniform(0.2, 1.0)) * 1.5, 0.0, pace)
    return Track(way, PEDESTRIAN, PERSON, start + _integral(speed), speed)


def _timed(way: Way, at: float, when: float, rng: np.random.Generator) -> Track:
    """A car that passes an arc length (m) at a time (s), at a constant pace."""
    speed = way.speed * rng.uniform(0.75, 1.0)
    arc = at + speed * (TIME_STEP * np.arange(NUM_STEPS) - when)
    return Track(way, VEHICLE, pick(CARS, rng), arc, np.full(NUM_STEPS, speed))


def _integral(speed: Float[np.ndarray, " T"]) -> Float[np.ndarray, " T"]:
    return np.concatenate([[0.0], np.cumsum((speed[1:] + speed[:-1]) / 2 * TIME_STEP)])


def _speed_limits(way: Way) -> Float[np.ndarray, " K"]:
    """Speed at each point (m/s) that the way's bends allow, braking in time for those ahead."""
    square = np.minimum(way.speed**2, SIDEWAYS / np.maximum(way.curvature, 1e-3))
    reachable = square + 2 * COMFORT * way.arc
    return np.sqrt(np.minimum.accumulate(reachable[::-1])[::-1] - 2 * COMFORT * way.arc)


def _leader(way: Way, start: float, tracks: Sequence[Track]) -> tuple[np.ndarray, np.ndarray]:
    """Arc of the rear bumper and speed of whoever is next ahead on the same lane, [T]; infinite where nobody is."""
    rear, speed = np.full(NUM_STEPS, np.inf), np.zeros(NUM_STEPS)
    for track in tracks:
        if track.way.lane == way.lane >= 0 and track.arc[0] > start:
            # Once it has branched off onto another way its arc says nothing about this one.
            ours = (track.way is way) | (track.arc < way.stop + 8.0)
            back = np.where(ours, track.arc - track.size[0] / 2, np.inf)
            nearer = back < rear
            rear, speed = np.where(nearer, back, rear), np.where(nearer, track.speed, speed)
    return rear, speed


def _drive(
    way: Way, agent_type: int, size: tuple, start: float, pace: float, lights: list[int], leader: tuple
) -> Track:
    """Simulates one driver or cyclist from `start` (m); pays attention to lights and leader, not to cross traffic.

    Speeds are `pace` times what the way allows.
    """
    points, limits = way.arc.tolist(), (pace * _speed_limits(way)).tolist()
    rears, others = (values.tolist() for values in leader)
    half = size[0] / 2

    def limit(arc: float) -> float:
        return limits[min(bisect(points, arc), len(limits) - 1)]

    arc, speed = start, min(limit(start), others[0] + _stoppable(rears[0] - start - half))
    if lights[0] != GO and start + half < way.stop:
        speed = min(speed, _stoppable(way.stop - start - half))
    arcs, speeds = [], []
    for light, rear, other in zip(lights, rears, others, strict=True):
        arcs.append(arc)
        speeds.append(speed)
        closeness = _closeness(rear - arc - half, speed, speed - other)
        to_line = way.stop - arc - half
        obeys = light == STOP or (light == CAUTION and speed * speed < 2 * BRAKING * to_line)
        if to_line > 0 and obeys:
            closeness = max(closeness, _closeness(to_line, speed, speed))
        desired = min(limit(arc), limit(arc + ANTICIPATION * speed))
        acceleration = ACCELERATION * (1 - (speed / desired) ** 4 - closeness)
        after = max(0.0, speed + TIME_STEP * max(-HARDEST, acceleration))
        arc, speed = arc + TIME_STEP * (speed + after) / 2, after
    return Track(way, agent_type, size, np.array(arcs), np.array(speeds))


def _stoppable(gap: float) -> float:
    """Speed from which one stops comfortably within a gap."""
    return (2 * COMFORT * max(gap - STANDSTILL, 0.0)) ** 0.5


def _closeness(gap: float, speed: float, closing: float) -> float:
    """The interaction term of the driver model: squared ratio of wanted gap and gap."""
    wanted = STANDSTILL + max(0.0, HEADWAY * speed + speed * closing / (2 * (ACCELERATION * BRAKING) ** 0.5))
    return (wanted / max(gap, 0.1)) ** 2


def _touch(new: Track, old: Track) -> bool:
    """Whether two tracks come too close at any step: separating axes in the plane, intervals in height."""
    offset = old.xyz - new.xyz
    both = new.present & old.present & (np.abs(offset[:, 2]) < (new.size[2] + old.size[2]) / 2 + 0.5)
    if not both.any():
        return False
    offset, turn = offset[both], (old.yaw - new.yaw)[both]
    half_new = (new.size[0] + ROOM[0]) / 2, (new.size[1] + ROOM[1]) / 2
    half_old = old.size[0] / 2, old.size[1] / 2
    cos, sin = np.abs(np.cos(turn)), np.abs(np.sin(turn))
    apart = np.zeros(len(turn), bool)
    for yaw, own, other in ((new.yaw[both], half_new, half_old), (old.yaw[both], half_old, half_new)):
        along = np.cos(yaw) * offset[:, 0] + np.sin(yaw) * offset[:, 1]
        across = np.cos(yaw) * offset[:, 1] - np.sin(yaw) * offset[:, 0]
        apart |= np.abs(along) > own[0] + cos * other[0] + sin * other[1]
        apart |= np.abs(across) > own[1] + sin * other[0] + cos * other[1]
    return bool((~apart).any())
