"""Paths through a world, chains of lanes from border to border, and conflicts between lanes."""

import dataclasses
import itertools

import numpy as np
from jaxtyping import Bool, Float, Int

from waymax_sim.datasets.synthetic.curves import SAMPLE_SPACING, Polyline, arc_length, subcurve, yaw_along
from waymax_sim.datasets.synthetic.world import Crosswalk, World
from waymax_sim.datatypes import roadmap

MAX_LATERAL_ACCELERATION = 2.0  # in bends, m/s^2
BEND_DECELERATION = 1.4  # before bends, m/s^2
MIN_CURVATURE = 1e-3  # 1/m; below it a bend does not limit the speed
SMOOTHING_SAMPLES = 9  # length of the moving average of curvature, odd
CONFLICT_DISTANCE = 2.9  # m between center lines, below which two lanes conflict
PATHS_PER_LANE = 3  # drawn for each lane that begins at the border


@dataclasses.dataclass(frozen=True, eq=False)
class Paths:
    """Q paths of at most K samples, `SAMPLE_SPACING` apart, over L - 1 lanes with C right-of-way rules.

    Attributes:
      samples: x, y, z (m), unwrapped yaw (rad) and allowed speed (m/s).
      length: Arc length, m.
      lane: Row of the lane of each sample.
      start: Arc length at which each lane begins, m; infinite for lanes that are not part of the path. The last column,
        for no lane, is always infinite.
      rule_begin: Arc length at which the lane of each rule begins, m; infinite if it is not part of the path.
      rule_end: Arc length at which the lane of each rule ends, m.
      is_bike: Whether the path is for cyclists.
      is_blocked: Whether the path ends before the border.
    """

    samples: Float[np.ndarray, "Q K 5"]
    length: Float[np.ndarray, " Q"]
    lane: Int[np.ndarray, "Q K"]
    start: Float[np.ndarray, "Q L"]
    rule_begin: Float[np.ndarray, "Q C"]
    rule_end: Float[np.ndarray, "Q C"]
    is_bike: Bool[np.ndarray, " Q"]
    is_blocked: Bool[np.ndarray, " Q"]

    def at(self, path: Int[np.ndarray, " N"], arc: Float[np.ndarray, " N"]) -> Float[np.ndarray, "N 5"]:
        """Samples interpolated at arc lengths (m), clipped to the ends of the path."""
        return interpolate(self.samples, path, np.clip(arc, 0.0, self.length[path]))

    def lane_at(self, path: Int[np.ndarray, "*b"], arc: Float[np.ndarray, "*b"]) -> Int[np.ndarray, "*b"]:
        """Lanes at arc lengths (m): before the path its first lane, behind it the row of no lane."""
        sample = np.clip(arc / SAMPLE_SPACING, 0, self.lane.shape[1] - 1).astype(int)
        return np.where(arc > self.length[path], self.start.shape[1] - 1, self.lane[path, sample])


def interpolate(
    samples: Float[np.ndarray, "Q K D"], row: Int[np.ndarray, " N"], arc: Float[np.ndarray, " N"]
) -> Float[np.ndarray, "N D"]:
    """Linear interpolation in a table of curves.

    Args:
      samples: Values of each curve, `SAMPLE_SPACING` apart.
      row: Row of each query.
      arc: Arc length of each query, m.
    """
    position = arc / SAMPLE_SPACING
    below = np.clip(position.astype(int), 0, samples.shape[1] - 2)
    fraction = (position - below)[:, None]
    return samples[row, below] * (1 - fraction) + samples[row, below + 1] * fraction


def find_paths(world: World, rng: np.random.Generator) -> Paths:
    """Draws paths with random turns, at least one from each lane that begins at the border."""
    chains = list(dict.fromkeys(chain for _ in range(PATHS_PER_LANE) for chain in _draw_chains(world, rng)))
    curves = [chain_curve(world, chain) for chain in chains]
    max_samples = max(len(xyz) for xyz, _, _ in curves)
    count, num_lanes = len(chains), len(world.features)
    samples = np.zeros((count, max_samples, 5))
    lane = np.zeros((count, max_samples), int)
    start = np.full((count, num_lanes + 1), np.inf)
    for index, (xyz, rows, lane_starts) in enumerate(curves):
        limits = np.array([world.features[row][2] for row in rows])
        values = np.column_stack([xyz, yaw_along(xyz), _allowed_speed(xyz, limits)])
        samples[index] = np.pad(values, [(0, max_samples - len(xyz)), (0, 0)], mode="edge")
        lane[index] = np.pad(rows, (0, max_samples - len(rows)), mode="edge")
        start[index, list(chains[index])] = lane_starts
    rule_lanes = [rule.lane for rule in world.rules]
    lengths = np.array([arc_length(world.features[row][1])[-1] for row in rule_lanes])
    return Paths(
        samples=np.round(samples, 9),
        length=np.array([SAMPLE_SPACING * (len(xyz) - 1) for xyz, _, _ in curves]),
        lane=lane,
        start=start,
        rule_begin=start[:, rule_lanes],
        rule_end=start[:, rule_lanes] + lengths,
        is_bike=np.array([world.features[chain[0]][0] == roadmap.LANE_BIKE for chain in chains]),
        is_blocked=np.array([chain[-1] in world.ending_lanes for chain in chains]),
    )


def _draw_chains(world: World, rng: np.random.Generator) -> list[tuple[int, ...]]:
    """A random chain of lanes from each lane that begins at the border."""
    successors: dict[int, list[int]] = {}
    for a, b, kind in world.links:
        if kind == roadmap.SUCCESSOR:
            successors.setdefault(a, []).append(b)
    internal = {b for rows in successors.values() for b in rows} | world.internal_lanes
    chains = []
    for row, (kind, _, _) in enumerate(world.features):
        if kind in roadmap.LANE_TYPES and row not in internal:
            chain = [row]
            # A chain does not use a lane twice.
            while choices := [lane for lane in successors.get(chain[-1], []) if lane not in chain]:
                chain.append(choices[int(rng.integers(len(choices)))])
            chains.append(tuple(chain))
    return chains


def chain_curve(world: World, chain: tuple[int, ...]) -> tuple[Polyline, np.ndarray, np.ndarray]:
    """Samples of a chain of lanes, the lane of each sample, and the arc length at which each lane begins (m)."""
    parts = [world.features[row][1] for row in chain]
    points = np.concatenate([parts[0], *(part[1:] for part in parts[1:])])
    lane_starts = np.concatenate([[0.0], np.cumsum([arc_length(part)[-1] for part in parts])[:-1]])
    total = SAMPLE_SPACING * int(arc_length(points)[-1] / SAMPLE_SPACING)
    xyz = subcurve(points, 0.0, total)
    index = np.searchsorted(lane_starts, SAMPLE_SPACING * np.arange(len(xyz)), side="right") - 1
    return xyz, np.array(chain)[index], lane_starts


def _allowed_speed(xyz: Polyline, limits: Float[np.ndarray, " K"]) -> Float[np.ndarray, " K"]:
    """Speed at each point (m/s) within speed limits and lateral acceleration, braking in time before bends."""
    curvature = np.abs(np.gradient(yaw_along(xyz), SAMPLE_SPACING))
    padded = np.pad(curvature, SMOOTHING_SAMPLES // 2, mode="edge")
    smooth = np.convolve(padded, np.full(SMOOTHING_SAMPLES, 1 / SMOOTHING_SAMPLES), mode="valid")
    square = np.minimum(limits * limits, MAX_LATERAL_ACCELERATION / np.maximum(smooth, MIN_CURVATURE))
    reachable = square + 2 * BEND_DECELERATION * SAMPLE_SPACING * np.arange(len(xyz))
    ahead = np.minimum.accumulate(reachable[::-1])[::-1]
    return np.sqrt(ahead - 2 * BEND_DECELERATION * SAMPLE_SPACING * np.arange(len(xyz)))


def conflicting_rules(world: World) -> Bool[np.ndarray, "C C"]:
    """Pairs of rules whose lanes cross or merge; lanes with a common predecessor diverge and do not conflict."""
    rules = world.rules
    predecessors: dict[int, set[int]] = {}
    for a, b, kind in world.links:
        if kind == roadmap.SUCCESSOR:
            predecessors.setdefault(b, set()).add(a)
    conflicts = np.zeros((len(rules), len(rules)), bool)
    lines = [world.features[rule.lane][1][::2] for rule in rules]
    for (i, one), (j, other) in itertools.combinations(enumerate(rules), 2):
        common = predecessors.get(one.lane, set()) & predecessors.get(other.lane, set())
        if one.junction == other.junction and not common:
            offset = lines[i][:, None] - lines[j][None]
            conflicts[i, j] = conflicts[j, i] = (np.sum(offset * offset, axis=-1) < CONFLICT_DISTANCE**2).any()
    return conflicts


def rules_over_crosswalks(world: World) -> Bool[np.ndarray, "C W"]:
    """Whether the lane of each rule passes over each crosswalk."""
    is_over = np.zeros((len(world.rules), len(world.crosswalks)), bool)
    for c, rule in enumerate(world.rules):
        for w, crosswalk in enumerate(world.crosswalks):
            if rule.junction == crosswalk.junction:
                is_over[c, w] = _intersects(world.features[rule.lane][1], crosswalk)
    return is_over


def _intersects(lane: Polyline, crosswalk: Crosswalk) -> bool:
    """Whether a point of a lane is on a crosswalk."""
    start, direction = crosswalk.line[0, :2], crosswalk.line[-1, :2] - crosswalk.line[0, :2]
    length = np.hypot(*direction)
    direction = direction / length
    offset = lane[:, :2] - start
    longitudinal = offset @ direction
    lateral = offset[:, 1] * direction[0] - offset[:, 0] * direction[1]
    is_within = np.abs(lateral) < crosswalk.width / 2 + 0.5
    return bool((is_within & (longitudinal > 0.0) & (longitudinal < length)).any())
