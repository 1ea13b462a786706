"""Right of way at conflicts between crossing or merging paths."""

from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from behavior_models.traffic.car_following import FAR
from behavior_models.traffic.swept_path import SWEPT_PATH, SweptPath, on_same_level
from behavior_models.traffic.vehicle import VEHICLE_LIMITS
from waymax_sim import geometry
from waymax_sim.datatypes.agents import AgentState
from waymax_sim.ops import backend
from waymax_sim.ops.batched_lookup import map_masked
from waymax_sim.pytree import Array, static_record, tree_index

T = TypeVar("T")


@static_record
class PriorityParams:
    """Detection of conflicts and priority in them. The values are choices of this package.

    Attributes:
      num_observed: Other agents K that each agent compares its path with.
      observation_time: The observed agents are those with the least distance after this driving time, s.
      min_crossing_sine: Paths whose directions differ by a larger sine cross; others merge if they overlap.
      merge_distance: Lateral distance below which nearly parallel pieces overlap, m.
      conflict_margin: Free space before and after the area that both agents cover, m.
      time_margin: Time between two agents in this area, s; an agent that clears it by more need not yield.
      vehicle_acceleration: Expected acceleration of vehicles up to the conflict, m/s^2.
      pedestrian_acceleration: That of pedestrians, m/s^2; not zero, since arrival times divide by it.
      max_turn_cosine: Agents whose direction changes by a smaller cosine up to the conflict turn (about 30 degrees).
      braking_fraction: Fraction of the maximum deceleration up to which an agent is expected to stop for others.
      merge_gap_growth: Part of the distance of the other agent to the merge by which its gap may fall short.
    """

    num_observed: int = 12
    observation_time: float = 3.0
    min_crossing_sine: float = 0.5
    merge_distance: float = 1.5
    conflict_margin: float = 0.7
    time_margin: float = 1.0
    vehicle_acceleration: float = 1.0
    pedestrian_acceleration: float = 0.05
    max_turn_cosine: float = 0.87
    braking_fraction: float = 0.6
    merge_gap_growth: float = 0.2


PRIORITY = PriorityParams()
# Pairs of pieces of two swept paths; also the index that stands for no overlapping pair.
NUM_PAIRS = SWEPT_PATH.num_pieces**2


class PriorityInputs(NamedTuple):
    """State of agents that decides on priority.

    Attributes:
      speed: m/s.
      length: m.
      width: m.
      is_pedestrian: Pedestrians precede vehicles.
      stop_distance: Distance to the stop line of a closed light at which the agent will stop, m, `FAR` without one.
      has_green: Whether an open light is just ahead or behind.
      has_sign: Whether a stop sign is just ahead or behind.
    """

    speed: Float[Array, "*n"]
    length: Float[Array, "*n"]
    width: Float[Array, "*n"]
    is_pedestrian: Bool[Array, "*n"]
    stop_distance: Float[Array, "*n"]
    has_green: Bool[Array, "*n"]
    has_sign: Bool[Array, "*n"]


class Conflicts(NamedTuple):
    """First conflict of the paths of N agents with those of K observed agents.

    Attributes:
      other_index: Slots of the observed agents.
      conflict_entry: Distance of the agent to the conflict area with a crossing path, m, `FAR` without one.
      is_turning: Whether the agent turns before the conflict.
      must_consider: Whether the agent can stop before the conflict area, and has to if the other agent has priority.
      other_cannot_stop: Whether the other agent has priority because it can no longer stop.
      merge_gap: Gap to the other agent after a merge, m, as if it were on the path already; `FAR` unless it leads then.
      other_speed: m/s.
    """

    other_index: Int[Array, "N K"]
    conflict_entry: Float[Array, "N K"]
    is_turning: Bool[Array, "N K"]
    must_consider: Bool[Array, "N K"]
    other_cannot_stop: Bool[Array, "N K"]
    merge_gap: Float[Array, "N K"]
    other_speed: Float[Array, "N K"]


def find_conflicts(
    path: SweptPath, agents: AgentState, inputs: PriorityInputs, is_moving: Bool[Array, " N"], mask: Bool[Array, " N"]
) -> Conflicts:
    """The first conflict of each agent with each agent that it observes. No gradient flows.

    Args:
      path: Swept paths of the agents.
      agents: Present states, [N].
      inputs: State that decides on priority.
      is_moving: Agents that others observe; stationary ones are leading agents, if anything.
      mask: Agents whose conflicts are computed; others have none.
    """
    # Conflicts are decisions; their gradient would be that of a step function.
    path, agents, inputs = backend.materialize(jax.lax.stop_gradient((path, agents, inputs)))
    heading, pieces = geometry.unit_vector(agents.yaw), jax.tree.map(lambda values: values.reshape(-1), path)

    def find(index: Int[Array, " b"]) -> Conflicts:
        other_index, is_observed = _observed(agents, inputs.speed, is_moving, index)
        pair = _first_overlap(tree_index(path, index), tree_index(path, other_index))
        # [K, b] from here on.
        # Only the first conflict with each agent counts: it is resolved before the next one is reached.
        overlaps = (is_observed & (pair < NUM_PAIRS)).T
        pair, others = jnp.where(overlaps, pair.T, 0), other_index.T
        own = _gather_rows(pieces, index[None] * SWEPT_PATH.num_pieces + pair // SWEPT_PATH.num_pieces)
        theirs = _gather_rows(pieces, others * SWEPT_PATH.num_pieces + pair % SWEPT_PATH.num_pieces)
        turn_cosine = own.cos * heading[index, 0][None] + own.sin * heading[index, 1][None]
        agent, other = tree_index(tree_index(inputs, index), None), _gather_rows(inputs, others)
        fields = _conflict(own, theirs, overlaps, turn_cosine, agent, other, others < index[None])
        return Conflicts(other_index, *(values.T for values in fields))

    num_observed = min(PRIORITY.num_observed, mask.shape[0])
    zero = jnp.zeros((mask.shape[0], num_observed))
    index, no, far = zero.astype(jnp.int32), zero > 0, zero + FAR
    return map_masked(Conflicts(index, far, no, no, no, far, zero), mask, SWEPT_PATH.batch_size, find)


def _conflict(
    own: SweptPath,
    theirs: SweptPath,
    overlaps: Bool[Array, "K b"],
    turn_cosine: Float[Array, "K b"],
    agent: PriorityInputs,
    other: PriorityInputs,
    other_is_lower: Bool[Array, "K b"],
) -> tuple[Array, ...]:
    """All fields of `Conflicts` but the first, of the first overlapping pieces; ties go to the lower slot."""
    is_crossing, _, own_offset, their_offset = _compare_pieces(own, theirs)
    # At a flat angle the conflict area would become infinitely long.
    sine = jnp.maximum(jnp.abs(theirs.cos * own.sin - theirs.sin * own.cos), PRIORITY.min_crossing_sine)
    cosine = jnp.abs(theirs.cos * own.cos + theirs.sin * own.sin)
    distance = own.start + own.length / 2 + own_offset
    other_distance = theirs.start + their_offset
    # Behind a closed light there is no conflict before it opens.
    overlaps = overlaps & (distance < agent.stop_distance) & (other_distance < other.stop_distance)

    half = _half_conflict_length(agent, other, sine, cosine)
    other_half = _half_conflict_length(other, agent, sine, cosine)
    entry, end = distance - half, distance + half
    other_entry, other_end = other_distance - other_half, other_distance + other_half
    is_crossing_ahead = overlaps & is_crossing & (end > 0) & (other_end > 0)
    # Both agents are expected to accelerate gently, which makes the arrival time of stationary ones finite.
    clears_before = _arrival_time(end, agent) + PRIORITY.time_margin < _arrival_time(other_entry, other)
    arrives_after = _arrival_time(other_end, other) + PRIORITY.time_margin < _arrival_time(entry, agent)
    # An agent that can no longer stop drives on: a stop in the conflict area would block it.
    must_consider = is_crossing_ahead & ~_cannot_stop(entry, agent.speed) & ~clears_before & ~arrives_after

    # At a merge the agent that is nearer to it leads. Pedestrians on the road edge are no leading vehicles.
    other_leads = (other_distance < distance) | ((other_distance == distance) & other_is_lower)
    is_merge = overlaps & ~is_crossing & other_leads & ~other.is_pedestrian
    # The other agent is projected onto the own path at equal distance from the merge.
    gap = distance - other_distance - (agent.length + other.length) / 2
    # Long before the merge there is time left to open the gap.
    gap = gap + PRIORITY.merge_gap_growth * jnp.maximum(other_distance, 0.0)
    return (
        jnp.where(is_crossing_ahead, entry, FAR),
        turn_cosine < PRIORITY.max_turn_cosine,
        must_consider,
        _cannot_stop(other_entry, other.speed),
        jnp.where(is_merge, gap, FAR),
        other.speed,
    )


def _observed(
    agents: AgentState, speed: Float[Array, " N"], is_moving: Bool[Array, " N"], index: Int[Array, " b"]
) -> tuple[Int[Array, "b K"], Bool[Array, "b K"]]:
    """Moving agents that can be nearest soon: by distance minus the distance that they drive; and which are valid."""
    own = tree_index(agents, index)
    dx, dy = (own.xyz[:, None, axis] - agents.xyz[None, :, axis] for axis in range(2))
    distance = jnp.sqrt(dx * dx + dy * dy)
    agent_index = jnp.arange(speed.shape[0], dtype=jnp.int32)[None]
    # Agents on another level pass on a bridge.
    mask = (agent_index != index[:, None]) & is_moving[None] & on_same_level(own, agents, distance)
    distance = jnp.where(mask, distance - (PRIORITY.observation_time * speed)[None], FAR)
    negative, other_index = jax.lax.top_k(-distance, min(PRIORITY.num_observed, speed.shape[0]))
    return other_index, negative > -FAR


def _first_overlap(own: SweptPath, theirs: SweptPath) -> Int[Array, "b K"]:
    """The first own piece that overlaps any of theirs, times `num_pieces`, plus the index of the first such piece of
    theirs; `NUM_PAIRS` without overlap. Their pieces have the axes [b, K, pieces]."""
    num_pieces = SWEPT_PATH.num_pieces
    their_index = jnp.arange(num_pieces, dtype=jnp.int32)[None, None]
    first = jnp.full(theirs.x.shape, NUM_PAIRS, jnp.int32)
    for piece in range(num_pieces):
        column = tree_index(own, (slice(None), slice(piece, piece + 1), None))
        is_crossing, is_merging, _, _ = _compare_pieces(column, theirs)
        pair = jnp.where(is_crossing | is_merging, piece * num_pieces + their_index, NUM_PAIRS)
        first = jnp.minimum(first, pair)
    return jnp.min(first, axis=-1)


def _gather_rows(record: T, index: Int[Array, "*n"]) -> T:
    """Rows of a record of arrays over L items, by one gather for all its arrays."""
    leaves, structure = jax.tree.flatten(record)
    table = jnp.stack([leaf.astype(jnp.float32) for leaf in leaves], axis=-1)[index]
    return structure.unflatten([table[..., column].astype(leaf.dtype) for column, leaf in enumerate(leaves)])


def _compare_pieces(own: SweptPath, theirs: SweptPath):
    """Whether pieces cross or merge, and the distance of that point to the own middle and to their start, m.

    Pieces cross if they intersect at an angle of more than 30 degrees. They merge if they have nearly the same
    direction and the middle of the own one is within `merge_distance` of the other one. Oncoming pieces do neither.
    """
    half = own.length / 2
    dx, dy = own.x + own.cos * half - theirs.x, own.y + own.sin * half - theirs.y
    longitudinal, lateral = theirs.cos * dx + theirs.sin * dy, theirs.cos * dy - theirs.sin * dx
    cos, sin = theirs.cos * own.cos + theirs.sin * own.sin, theirs.cos * own.sin - theirs.sin * own.cos
    is_steep = jnp.abs(sin) > PRIORITY.min_crossing_sine
    own_offset = jnp.where(is_steep, -lateral / jnp.where(is_steep, sin, 1.0), 0.0)
    their_offset = longitudinal + own_offset * cos
    is_crossing = is_steep & (jnp.abs(own_offset) <= half) & (their_offset >= 0) & (their_offset <= theirs.length)
    is_near = jnp.abs(lateral) < PRIORITY.merge_distance + half * jnp.abs(sin)
    is_merging = ~is_steep & (cos > 0) & is_near & (longitudinal >= -half) & (longitudinal <= theirs.length + half)
    return is_crossing, is_merging, own_offset, their_offset


def yield_distance(conflicts: Conflicts, inputs: PriorityInputs) -> Float[Array, " N"]:
    """Distance (m) from the center to the point before which each agent yields, `FAR` without one.

    Conflict resolution by a total order of all agents, by rank and then by arrival at their first conflict: an order
    has no cycles, so no group of agents waits for each other. Only agents that can no longer stop precede it.
    """
    rank = _priority_rank(conflicts, inputs)
    # Without a conflict the arrival is that at distance `FAR`: late, but finite.
    arrival = _arrival_time(jnp.min(conflicts.conflict_entry, axis=-1), inputs)
    # Arrival times are below `FAR`, so they order agents of equal rank only. The lower one has priority.
    order = FAR * rank.astype(jnp.float32) + arrival
    own, other = order[:, None], order[conflicts.other_index]
    index = jnp.arange(order.shape[0], dtype=jnp.int32)[:, None]
    other_precedes = (other < own) | ((other == own) & (conflicts.other_index < index))
    # Agents that cannot stop do not wait for others, so this exception to the order adds no cycle.
    must_yield = conflicts.must_consider & (conflicts.other_cannot_stop | other_precedes)
    return jnp.min(jnp.where(must_yield, conflicts.conflict_entry, FAR), axis=-1)


def _priority_rank(conflicts: Conflicts, inputs: PriorityInputs) -> Int[Array, " N"]:
    """Pedestrians -1, then by green light (0) or none (2), plus 1 for agents that turn; agents at a stop sign 4."""
    # Turning vehicles yield to oncoming ones that go straight.
    is_turning = jnp.any((conflicts.conflict_entry < FAR) & conflicts.is_turning, axis=-1)
    rank = 2 * (~inputs.has_green).astype(jnp.int32) + is_turning.astype(jnp.int32)
    return jnp.where(inputs.is_pedestrian, -1, jnp.where(inputs.has_sign, 4, rank))


def _half_conflict_length(own: PriorityInputs, other: PriorityInputs, sine, cosine):
    """Distance before and after the intersection of the paths within which the agent obstructs the other one, m."""
    return (other.width / 2 + own.width / 2 * cosine) / sine + PRIORITY.conflict_margin + own.length / 2


def _arrival_time(distance, agent: PriorityInputs):
    """Time (s) in which an agent covers a distance (m) at its expected acceleration."""
    pedestrian, vehicle = PRIORITY.pedestrian_acceleration, PRIORITY.vehicle_acceleration
    acceleration = jnp.where(agent.is_pedestrian, pedestrian, vehicle)
    final_speed = jnp.sqrt(agent.speed**2 + 2 * acceleration * jnp.maximum(distance, 0.0))
    return (final_speed - agent.speed) / acceleration


def _cannot_stop(entry, speed):
    """Whether an agent is in the conflict area, or reaches it even if it brakes hard."""
    max_deceleration = PRIORITY.braking_fraction * VEHICLE_LIMITS.max_deceleration
    return (entry < 0) | (speed**2 > 2 * max_deceleration * entry)
