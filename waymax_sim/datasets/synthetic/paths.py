"""The ways through a place: chains of lanes from border to border, and where ways cross or share a lane."""

import dataclasses
import itertools

import numpy as np
from jaxtyping import Bool, Float, Int

from waymax_sim.datasets.synthetic.curves import SPACING, Polyline, arc_length, stretch, yaw_along
from waymax_sim.datasets.synthetic.world import Crosswalk, World
from waymax_sim.datatypes import roadmap

SIDEWAYS = 2.0  # lateral acceleration in bends, m/s^2
BRAKING = 1.4  # before bends, m/s^2
CROSSING = 2.9  # lanes whose middles come closer than this (m) cannot be used at once
PATHS_PER_LANE = 3  # drawn per lane that begins at the border


@dataclasses.dataclass(frozen=True, eq=False)
class Paths:
    """Ways through a place, as tables: Q paths of up to K samples, `SPACING` metres apart, over L lanes.

    Attributes:
      samples: x, y, z (m), unwrapped yaw (rad) and the speed that the road allows (m/s) at each sample.
      length: m.
      lane: Row of the lane at each sample.
      start: Where on a path each lane begins, m; infinite where the path does not use it. The last column, of no
        lane, is always infinite.
      gate: Where each gate is, m; infinite where the path does not pass it.
      leave: Where the lane of each gate ends, m.
      is_bike: Whether it is for cyclists.
      blocked: Whether it ends before the border.
    """

    samples: Float[np.ndarray, "Q K 5"]
    length: Float[np.ndarray, " Q"]
    lane: Int[np.ndarray, "Q K"]
    start: Float[np.ndarray, "Q L"]
    gate: Float[np.ndarray, "Q C"]
    leave: Float[np.ndarray, "Q C"]
    is_bike: Bool[np.ndarray, " Q"]
    blocked: Bool[np.ndarray, " Q"]

    def at(self, path: Int[np.ndarray, " N"], arc: Float[np.ndarray, " N"]) -> Float[np.ndarray, "N 5"]:
        """The samples at some arc lengths, interpolated; beyond an end, that of the end."""
        return interpolate(self.samples, path, np.clip(arc, 0.0, self.length[path]))

    def lane_at(self, path: Int[np.ndarray, "*b"], arc: Float[np.ndarray, "*b"]) -> Int[np.ndarray, "*b"]:
        """Lanes at some arc lengths: before the path its first, after its end the row of no lane."""
        sample = np.clip(arc / SPACING, 0, self.lane.shape[1] - 1).astype(int)
        return np.where(arc > self.length[path], self.start.shape[1] - 1, self.lane[path, sample])


def interpolate(
    samples: Float[np.ndarray, "Q K D"], row: Int[np.ndarray, " N"], arc: Float[np.ndarray, " N"]
) -> Float[np.ndarray, "N D"]:
    """Values at some arc lengths (m) of some rows of a table of samples `SPACING` metres apart."""
    place = arc / SPACING
    below = np.clip(place.astype(int), 0, samples.shape[1] - 2)
    share = (place - below)[:, None]
    return samples[row, below] * (1 - share) + samples[row, below + 1] * share


def find_paths(world: World, rng: np.random.Generator) -> Paths:
    """Draws ways through a place, turning at random; every lane that begins at the border is used."""
    chains = list(dict.fromkeys(chain for _ in range(PATHS_PER_LANE) for chain in _chains(world, rng)))
    lines = [_line(world, chain) for chain in chains]
    longest = max(len(xyz) for xyz, _, _ in lines)
    count, num_lanes = len(chains), len(world.features)
    samples = np.zeros((count, longest, 5))
    lane = np.zeros((count, longest), int)
    start = np.full((count, num_lanes + 1), np.inf)
    for index, (xyz, rows, begins) in enumerate(lines):
        limits = np.array([world.features[row][2] for row in rows])
        values = np.column_stack([xyz, yaw_along(xyz), _allowed(xyz, limits)])
        samples[index] = np.pad(values, [(0, longest - len(xyz)), (0, 0)], mode="edge")
        lane[index] = np.pad(rows, (0, longest - len(rows)), mode="edge")
        start[index, list(chains[index])] = begins
    gates = [gate.lane for gate in world.gates]
    sizes = np.array([arc_length(world.features[row][1])[-1] for row in gates])
    return Paths(
        samples=np.round(samples, 9),
        length=np.array([SPACING * (len(xyz) - 1) for xyz, _, _ in lines]),
        lane=lane,
        start=start,
        gate=start[:, gates],
        leave=start[:, gates] + sizes,
        is_bike=np.array([world.features[chain[0]][0] == roadmap.LANE_BIKE for chain in chains]),
        blocked=np.array([chain[-1] in world.endings for chain in chains]),
    )


def _chains(world: World, rng: np.random.Generator) -> list[tuple[int, ...]]:
    """For each lane at the border one chain of lanes that begins there."""
    following: dict[int, list[int]] = {}
    for a, b, kind in world.links:
        if kind == roadmap.SUCCESSOR:
            following.setdefault(a, []).append(b)
    reached = {b for after in following.values() for b in after} | world.inner
    found = []
    for row, (kind, _, _) in enumerate(world.features):
        if kind in roadmap.LANE_TYPES and row not in reached:
            chain = [row]
            # A way that comes back to where it was ends there.
            while choices := [lane for lane in following.get(chain[-1], []) if lane not in chain]:
                chain.append(choices[int(rng.integers(len(choices)))])
            found.append(tuple(chain))
    return found


def _line(world: World, chain: tuple[int, ...]) -> tuple[Polyline, np.ndarray, np.ndarray]:
    """Samples of a chain of lanes, the lane of each, and where each lane begins (m)."""
    parts = [world.features[row][1] for row in chain]
    whole = np.concatenate([parts[0], *(part[1:] for part in parts[1:])])
    begins = np.concatenate([[0.0], np.cumsum([arc_length(part)[-1] for part in parts])[:-1]])
    total = SPACING * int(arc_length(whole)[-1] / SPACING)
    xyz = stretch(whole, 0.0, total)
    rows = np.array(chain)[np.searchsorted(begins, SPACING * np.arange(len(xyz)), side="right") - 1]
    return xyz, rows, begins


def _allowed(xyz: Polyline, limits: Float[np.ndarray, " K"]) -> Float[np.ndarray, " K"]:
    """Speed at each point (m/s) that limits and bends allow, braking in time for those ahead."""
    curvature = np.abs(np.gradient(yaw_along(xyz), SPACING))
    smooth = np.convolve(np.pad(curvature, 4, mode="edge"), np.full(9, 1 / 9), mode="valid")
    square = np.minimum(limits * limits, SIDEWAYS / np.maximum(smooth, 1e-3))
    reachable = square + 2 * BRAKING * SPACING * np.arange(len(xyz))
    ahead = np.minimum.accumulate(reachable[::-1])[::-1]
    return np.sqrt(ahead - 2 * BRAKING * SPACING * np.arange(len(xyz)))


def crossing_gates(world: World) -> Bool[np.ndarray, "C C"]:
    """Which gates lead to lanes that cross or join; lanes that begin as one do not, as one follows the other there."""
    gates = world.gates
    before: dict[int, set[int]] = {}
    for a, b, kind in world.links:
        if kind == roadmap.SUCCESSOR:
            before.setdefault(b, set()).add(a)
    crosses = np.zeros((len(gates), len(gates)), bool)
    lines = [world.features[gate.lane][1][::2] for gate in gates]
    for (i, one), (j, other) in itertools.combinations(enumerate(gates), 2):
        if one.place == other.place and not before.get(one.lane, set()) & before.get(other.lane, set()):
            gap = lines[i][:, None] - lines[j][None]
            crosses[i, j] = crosses[j, i] = (np.sum(gap * gap, axis=-1) < CROSSING**2).any()
    return crosses


def gates_over_crosswalks(world: World) -> Bool[np.ndarray, "C W"]:
    """Which gates lead to lanes that pass over which crosswalks."""
    over = np.zeros((len(world.gates), len(world.crosswalks)), bool)
    for c, gate in enumerate(world.gates):
        for w, crosswalk in enumerate(world.crosswalks):
            if gate.place == crosswalk.place:
                over[c, w] = _touches(world.features[gate.lane][1], crosswalk)
    return over


def _touches(lane: Polyline, crosswalk: Crosswalk) -> bool:
    start, ahead = crosswalk.way[0, :2], crosswalk.way[-1, :2] - crosswalk.way[0, :2]
    length = np.hypot(*ahead)
    ahead = ahead / length
    apart = lane[:, :2] - start
    along = apart @ ahead
    across = apart[:, 1] * ahead[0] - apart[:, 0] * ahead[1]
    near = np.abs(across) < crosswalk.width / 2 + 0.5
    return bool((near & (along > 0.0) & (along < length)).any())
