"""Car-following laws that reproduce recorded followers in closed loop.

An episode is a vehicle that follows one leader for some seconds of a record. The law drives the follower from its
recorded start, on the path of the record and behind the recorded leader; the error compares its gaps and speeds with
the recorded ones (calibration by gaps, Kesting and Treiber 2008). A program is the acceleration as a function of the
speed, the approach rate, the gap and the desired speed.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from behavior_models.program_search.domain import Domain
from behavior_models.program_search.mutation import MutationParams
from behavior_models.program_search.operators import ARITHMETIC, EXPONENTIAL, TANH
from behavior_models.program_search.program import Program, ProgramSpace, interpret
from behavior_models.traffic.car_following import (
    FollowingLaw,
    IDMParams,
    bounded_interaction_deceleration,
    free_acceleration,
)
from behavior_models.traffic.vehicle import VEHICLE_LIMITS
from waymax_sim.datatypes.agents import VEHICLE
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.pytree import Array, pytree

# Speed v (m/s), approach rate dv = v - v_leader (m/s), gap (m), and desired speed v0 (m/s).
FOLLOWER_INPUTS = ("v", "dv", "gap", "v0")
FOLLOWER_SPACE = ProgramSpace(
    FOLLOWER_INPUTS, (*ARITHMETIC, EXPONENTIAL, TANH), num_nodes=16, constants=(1.0, 2.0, 1.5, 0.25)
)


@dataclasses.dataclass(frozen=True)
class EpisodeParams:
    """Choice of the episodes.

    Attributes:
      max_lateral: Largest distance of the leader from the path of the follower, m.
      max_gap: Largest gap, m.
      min_steps: Shortest episode, steps.
      max_steps: Longest episode, steps; longer ones are divided.
      min_speed: Lowest mean speed of the follower, m/s; laws that never start are found without starts from rest.
      min_desired_speed: Lowest desired speed, m/s; otherwise the largest recorded speed of follower and leader.
    """

    max_lateral: float = 1.5
    max_gap: float = 80.0
    min_steps: int = 40
    max_steps: int = 80
    min_speed: float = 0.3
    min_desired_speed: float = 5.0


EPISODES = EpisodeParams()


@dataclasses.dataclass(frozen=True)
class ErrorParams:
    """Weights of the error of a law.

    Attributes:
      speed: Weight of the speed error relative to that of the gap, s.
      collision: Error of a collision, m; also that of the share of collisions in `stress_episodes`.
      max_error: Largest error of one episode, m.
    """

    speed: float = 1.0
    collision: float = 10.0
    max_error: float = 100.0


ERROR = ErrorParams()


@pytree
class FollowerEpisodes:
    """Episodes of followers, E of up to T steps.

    Attributes:
      leader: Position of the rear of the leader in front of the first position of the front of the follower, m.
      leader_speed: Speeds of the leader, m/s.
      gap: Recorded gaps, m.
      speed: Recorded speeds of the follower, m/s.
      valid: Steps of the episode.
      desired_speed: Desired speed of the follower, m/s.
    """

    leader: Float[Array, "E T"]
    leader_speed: Float[Array, "E T"]
    gap: Float[Array, "E T"]
    speed: Float[Array, "E T"]
    valid: Bool[Array, "E T"]
    desired_speed: Float[Array, " E"]

    def __len__(self) -> int:
        return len(self.desired_speed)


@pytree
class LawErrors:
    """Errors of a law in each episode.

    Attributes:
      gap: Root mean square error of the gap, m.
      speed: Root mean square error of the speed, m/s.
      collision: Whether the follower hits the leader.
    """

    gap: Float[Array, " E"]
    speed: Float[Array, " E"]
    collision: Bool[Array, " E"]

    @property
    def total(self) -> Float[Array, ""]:
        """Mean error, m."""
        error = self.gap + ERROR.speed * self.speed
        error = jnp.minimum(error, ERROR.max_error) + ERROR.collision * self.collision.astype(jnp.float32)
        return jnp.mean(error)


def find_episodes(scenarios: Iterable[Scenario], params: EpisodeParams = EPISODES) -> FollowerEpisodes:
    """Episodes of all vehicles of recorded scenarios.

    Args:
      scenarios: Unbatched scenarios on the host.
      params: Choice of the episodes.

    Raises:
      ValueError: There is no episode.
    """
    rows = [row for scenario in scenarios for row in _scenario_episodes(scenario, params)]
    if not rows:
        raise ValueError("no vehicle follows another one long enough in these scenarios")
    return FollowerEpisodes(*(np.stack(column) for column in zip(*rows, strict=True)))


def _scenario_episodes(scenario: Scenario, params: EpisodeParams) -> list[tuple]:
    log, size = scenario.log, np.asarray(scenario.agents.size)
    valid = np.asarray(log.valid)[: int(scenario.last_step) + 1]
    xy, velocity = (np.asarray(item)[: len(valid), :, :2] for item in (log.xyz, log.velocity))
    speed = np.linalg.norm(velocity, axis=-1)
    rows, vehicles = [], np.flatnonzero(np.asarray(scenario.agents.type) == VEHICLE).tolist()
    for follower in vehicles:
        steps = np.flatnonzero(valid[:, follower])
        # Only vehicles that are present without gaps: positions between steps are not guessed.
        if len(steps) < params.min_steps or len(steps) != steps[-1] - steps[0] + 1:
            continue
        own = xy[steps, follower]
        arc = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(own, axis=0), axis=1))])
        if arc[-1] / (0.1 * len(steps)) < params.min_speed:
            continue
        others = [index for index in vehicles if index != follower]
        front = [
            _leader_arc(own, arc, xy[steps, other], valid[steps, other], params)
            - arc
            - (size[follower, 0] + size[other, 0]) / 2
            for other in others
        ]
        if others:
            traces = arc, speed[steps], np.stack(front), follower, others
            rows += _divide(*traces, params)
    return rows


def _leader_arc(
    own: np.ndarray, arc: np.ndarray, other: np.ndarray, valid: np.ndarray, params: EpisodeParams
) -> np.ndarray:
    """Arc lengths (m) of another vehicle on the path of the follower and its own beyond that; NaN off the path."""
    path, length = own, arc
    present = other[valid]
    if len(present):
        # Beyond the end of the follower's path, that of the leader continues it.
        offset = present - own[-1]
        direction = own[-1] - own[max(len(own) - 10, 0)]
        ahead = offset @ direction > 0
        if ahead.any() and np.linalg.norm(direction) > 0.1:
            rest = present[ahead]
            gap = rest[0] - own[-1]
            lateral = abs(gap @ np.array([-direction[1], direction[0]])) / np.linalg.norm(direction)
            if lateral <= params.max_lateral:
                path = np.concatenate([own, rest])
                steps = np.linalg.norm(np.diff(path, axis=0), axis=1)
                length = np.concatenate([[0.0], np.cumsum(steps)])
    distance = np.linalg.norm(other[:, None] - path[None], axis=-1)
    nearest = distance.argmin(axis=1)
    following = np.minimum(nearest + 1, len(path) - 1)
    previous = np.maximum(nearest - 1, 0)
    tangent = path[following] - path[previous]
    norm = np.linalg.norm(tangent, axis=1)
    unit = tangent / np.maximum(norm, 1e-3)[:, None]
    offset = other - path[nearest]
    along = np.sum(offset * unit, axis=1)
    lateral = np.abs(offset[:, 0] * unit[:, 1] - offset[:, 1] * unit[:, 0])
    on_path = valid & (lateral <= params.max_lateral) & (norm > 1e-3)
    # Before the start and beyond the end of the path the projection is not defined.
    on_path &= np.abs(along) <= 3.0
    return np.where(on_path, length[nearest] + along, np.nan)


def _divide(
    arc: np.ndarray, speed: np.ndarray, gaps: np.ndarray, follower: int, others: Sequence[int], params: EpisodeParams
) -> list[tuple]:
    """Episodes of a follower: runs of steps with one leader."""
    positive = np.where((gaps > 0) & (gaps < params.max_gap), gaps, np.inf)
    leader = np.where(np.isfinite(positive.min(axis=0)), positive.argmin(axis=0), -1)
    ends = np.flatnonzero(np.diff(leader)) + 1
    rows = []
    for begin, end in zip([0, *ends], [*ends, len(leader)], strict=True):
        if leader[begin] < 0:
            continue
        for first in range(begin, end - params.min_steps + 1, params.max_steps):
            steps = slice(first, min(first + params.max_steps, end))
            if steps.stop - first < params.min_steps or speed[steps, follower].mean() < params.min_speed:
                continue
            gap = gaps[leader[begin], steps]
            own, lead = speed[steps, follower], speed[steps, others[leader[begin]]]
            desired = max(speed[:, follower].max(), lead.max(), params.min_desired_speed)
            row = gap + arc[steps] - arc[first], lead, gap, own, np.ones(len(gap), bool)
            rows.append((*(_pad(item, params.max_steps) for item in row), np.float32(desired)))
    return rows


def _pad(values: np.ndarray, length: int) -> np.ndarray:
    """Values with the last one repeated, except masks, which are padded by False."""
    if values.dtype == bool:
        return np.pad(values, (0, length - len(values)))
    return np.pad(values, (0, length - len(values)), mode="edge").astype(np.float32)


def stress_episodes() -> FollowerEpisodes:
    """Approaches to leaders that stand, drive slowly, or brake up to 8 m/s^2, some of which no driver avoids.

    Records have few of these, so a law that fits records alone may collide in them. Recorded gaps and speeds are 0.
    """
    steps, rows = 200, []
    for speed, gap in itertools.product((5.0, 10.0, 15.0, 20.0), (3.0, 6.0, 10.0, 20.0, 30.0, 45.0, 60.0)):
        for leader_speed, deceleration in ((0.0, 0.0), (5.0, 0.0), (speed, 3.0), (speed, 6.0), (speed, 8.0)):
            lead = np.maximum(leader_speed - 0.1 * deceleration * np.arange(steps), 0.0)
            position = gap + 0.1 * np.concatenate([[0.0], np.cumsum((lead[1:] + lead[:-1]) / 2)])
            start = np.zeros(steps)
            start[0] = speed
            rows.append((position, lead, np.zeros(steps), start))
    leader, lead_speed, gap, speed = (np.stack(column).astype(np.float32) for column in zip(*rows, strict=True))
    valid, desired = np.ones((len(rows), steps), bool), np.full(len(rows), 20.0, np.float32)
    return FollowerEpisodes(leader, lead_speed, gap, speed, valid, desired)


def follow(law: FollowingLaw, episodes: FollowerEpisodes, dt: float = 0.1) -> LawErrors:
    """Drives all followers by a law. Pure and differentiable.

    Args:
      law: The law.
      episodes: The episodes.
      dt: Duration of a step, s.
    """
    limits = VEHICLE_LIMITS

    def step(carry: tuple[Array, Array], leader: tuple[Array, Array]) -> tuple[tuple[Array, Array], tuple]:
        position, speed = carry
        gap = leader[0] - position
        acceleration = law(speed, speed - leader[1], gap, episodes.desired_speed)
        acceleration = jnp.clip(acceleration, -limits.max_deceleration, limits.max_acceleration)
        following = jnp.maximum(speed + acceleration * dt, 0.0)
        return (position + (speed + following) * dt / 2, following), (gap, speed)

    leader = jnp.asarray(episodes.leader).T, jnp.asarray(episodes.leader_speed).T
    start = jnp.zeros(len(episodes)), jnp.asarray(episodes.speed[:, 0])
    _, (gap, speed) = jax.lax.scan(step, start, leader)
    valid = jnp.asarray(episodes.valid)

    def root_mean_square(error: Array) -> Array:
        squared = jnp.sum(jnp.where(valid, jnp.square(error), 0.0), axis=1) / jnp.sum(valid, axis=1).astype(jnp.float32)
        return jnp.sqrt(jnp.maximum(squared, 1e-12))

    return LawErrors(
        root_mean_square(gap.T - episodes.gap),
        root_mean_square(speed.T - episodes.speed),
        jnp.any(valid & (gap.T < 0), axis=1),
    )


def program_law(program: Program) -> FollowingLaw:
    """The law of a program.

    Args:
      program: A program of `FOLLOWER_SPACE`.
    """

    def law(speed: Array, approach_rate: Array, gap: Array, desired_speed: Array) -> Array:
        return interpret(FOLLOWER_SPACE, program, jnp.stack([speed, approach_rate, gap, desired_speed]))[0]

    return law


def idm_law(params: IDMParams) -> FollowingLaw:
    """The law of the Intelligent Driver Model of this package.

    Args:
      params: Parameters of one driver.
    """

    def law(speed: Array, approach_rate: Array, gap: Array, desired_speed: Array) -> Array:
        free = jnp.maximum(free_acceleration(speed, desired_speed, params), -params.comfortable_deceleration)
        return free - bounded_interaction_deceleration(speed, gap, approach_rate, params)

    return law


def idm_program() -> Program:
    """The Intelligent Driver Model as a program, where searches begin.

    The acceleration is a (1 - (v / v0)^4 - ((s0 + v T + v dv c) / gap)^2) with the constants a, s0, T and c,
    and without the bounds of `idm_law`.
    """
    node = FOLLOWER_SPACE.node
    speed, approach_rate, gap, desired, acceleration, min_gap, headway, braking = range(8)
    nodes = [
        node("divide", speed, desired),
        node("square", 8),
        node("square", 9),
        node("multiply", braking, approach_rate),
        node("add", headway, 11),
        node("multiply", speed, 12),
        node("add", min_gap, 13),
        node("divide", 14, gap),
        node("square", 15),
        node("add", 10, 16),
        node("multiply", acceleration, 17),
        node("subtract", acceleration, 18),
    ]
    return FOLLOWER_SPACE.build(nodes)


def follower_domain(episodes: FollowerEpisodes, seed: int = 0, num_probes: int = 42) -> Domain:
    """The domain of given episodes; the fitness is the negative mean error, less collisions under stress.

    Args:
      episodes: The episodes.
      seed: Seed of the probe inputs.
      num_probes: Number of probe inputs.
    """
    rng = np.random.default_rng(seed)
    ranges = ((0.0, 20.0), (-5.0, 5.0), (1.0, 60.0), (5.0, 25.0))
    probes = np.stack([rng.uniform(low, high, num_probes) for low, high in ranges])

    stress = stress_episodes()

    def fitness(program: Program) -> Float[Array, ""]:
        law = program_law(program)
        collisions = jnp.mean(follow(law, stress).collision.astype(jnp.float32))
        return -follow(law, episodes).total - ERROR.collision * collisions

    mutation = MutationParams(constant=0.3, fresh=0.05)
    worst = -(ERROR.max_error + 2 * ERROR.collision)
    return Domain("follower", FOLLOWER_SPACE, fitness, probes, mutation, worst, first=(idm_program(),))
