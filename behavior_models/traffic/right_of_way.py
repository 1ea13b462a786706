"""Who lets whom go first where ways cross or join."""

from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from behavior_models.traffic.car_following import FAR, HARDEST_BRAKING
from behavior_models.traffic.swept_path import BATCH, NUM_PIECES, Ways, same_level
from waymax_sim import geometry
from waymax_sim.datatypes.agents import AgentState
from waymax_sim.ops.batched_lookup import map_masked
from waymax_sim.pytree import Array, take

T = TypeVar("T")

# Others that each agent watches: those that may soon be near, by distance less what they drive in this time (s).
NUM_WATCHED, REACH = 12, 3.0
# Ways cross where the sine of the angle between them is larger; where it is smaller they join, if so near (m).
CROSSING, JOINED = 0.5, 1.5
# Room around those who cross (m) and time between them (s). How agents are thought to speed up (m/s^2).
ROOM, MARGIN, SPEED_UP = 0.7, 1.0, 1.0
# Who turns by more than this before the crossing (cosine of the angle) lets those go first who go straight.
STRAIGHT = 0.87


class Claims(NamedTuple):
    """What decides who goes first.

    Attributes:
      speed: m/s.
      length: m.
      width: m.
      on_foot: Whether it is a pedestrian.
      halt: Distance to a closed light at which the agent will stop, m, `FAR` without one.
      has_green: Whether an open light is just ahead or behind.
      has_sign: Whether a stop sign is just ahead or behind.
    """

    speed: Float[Array, "*n"]
    length: Float[Array, "*n"]
    width: Float[Array, "*n"]
    on_foot: Bool[Array, "*n"]
    halt: Float[Array, "*n"]
    has_green: Bool[Array, "*n"]
    has_sign: Bool[Array, "*n"]


class Meetings(NamedTuple):
    """Where the ways of N agents first meet those of K others.

    Attributes:
      other: The others.
      enter: Distance of the agent to where it begins to be in the way of one that it crosses, m, `FAR` where it crosses
        nobody's way.
      turns: Whether the agent turns on the way there.
      minds: Whether the agent can wait there, and has to if it is the later one.
      first: Whether the other one goes first whatever the order, since it can no longer stop.
      gap: To the other one once the ways have joined, as if it were there already, m, `FAR` where it will not be ahead.
      speed: Of the other one, m/s.
    """

    other: Int[Array, "N K"]
    enter: Float[Array, "N K"]
    turns: Bool[Array, "N K"]
    minds: Bool[Array, "N K"]
    first: Bool[Array, "N K"]
    gap: Float[Array, "N K"]
    speed: Float[Array, "N K"]


def meetings(
    ways: Ways, agents: AgentState, claims: Claims, moves: Bool[Array, " N"], asked: Bool[Array, " N"]
) -> Meetings:
    """Where the ways of those who are `asked` first meet those of the others that they watch, among those that move.

    No gradient flows.
    """
    # Behind the barrier nothing about one agent is worked out anew for each pair of agents.
    ways, agents, claims = jax.lax.optimization_barrier(jax.lax.stop_gradient((ways, agents, claims)))
    heading, pieces = geometry.heading(agents.yaw), jax.tree.map(lambda values: values.reshape(-1), ways)

    def find(which: Int[Array, " b"]) -> Meetings:
        other, watches = _watched(agents, claims.speed, moves, which)
        first = _first(take(ways, which), jax.lax.optimization_barrier(take(ways, other)))
        # Agents side by side, which compilers vectorise.
        met = (watches & (first < NUM_PIECES**2)).T
        first, others = jnp.where(met, first.T, 0), other.T
        own = _rows(pieces, which[None] * NUM_PIECES + first // NUM_PIECES)
        theirs = _rows(pieces, others * NUM_PIECES + first % NUM_PIECES)
        turned = own.cos * heading[which, 0][None] + own.sin * heading[which, 1][None]
        row = take(take(claims, which), None)
        found = _meet(own, theirs, met, turned, row, _rows(claims, others), others < which[None])
        return Meetings(other, *(values.T for values in found))

    nothing = jnp.zeros((asked.shape[0], min(NUM_WATCHED, asked.shape[0])))
    nobody, no = nothing.astype(jnp.int32), nothing > 0
    return map_masked(Meetings(nobody, nothing + FAR, no, no, no, nothing + FAR, nothing), asked, BATCH, find)


def _meet(own: Ways, theirs: Ways, met, turned, claims: Claims, other: Claims, before):
    """All that `Meetings` holds but who the others are; of pieces that meet, and who has the lower number."""
    cross, _, to_line, there = _compare(own, theirs)
    sin = jnp.maximum(jnp.abs(theirs.cos * own.sin - theirs.sin * own.cos), CROSSING)
    cos = jnp.abs(theirs.cos * own.cos + theirs.sin * own.sin)
    mine, yours = own.begin + own.length / 2 + to_line, theirs.begin + there
    met = met & (mine < claims.halt) & (yours < other.halt)

    half, other_half = _zone(claims, other, sin, cos), _zone(other, claims, sin, cos)
    enter, leave, other_enter, other_leave = mine - half, mine + half, yours - other_half, yours + other_half
    crosses = met & cross & (leave > 0) & (other_leave > 0)
    over_before = _time(leave, claims) + MARGIN < _time(other_enter, other)
    there_after = _time(other_leave, other) + MARGIN < _time(enter, claims)
    minds = crosses & ~_cannot_stop(enter, claims.speed) & ~over_before & ~there_after

    ahead = (yours < mine) | ((yours == mine) & before)
    follows = met & ~cross & ahead & ~other.on_foot
    # The other one need not be let in long before the ways join.
    gap = mine - yours - (claims.length + other.length) / 2 + 0.2 * jnp.maximum(yours, 0.0)
    return (
        jnp.where(crosses, enter, FAR),
        turned < STRAIGHT,
        minds,
        _cannot_stop(other_enter, other.speed),
        jnp.where(follows, gap, FAR),
        other.speed,
    )


def _watched(
    agents: AgentState, speed: Float[Array, " N"], moves: Bool[Array, " N"], which: Int[Array, " b"]
) -> tuple[Int[Array, "b K"], Bool[Array, "b K"]]:
    """The others that agents watch, among those that move, and whether there are as many."""
    own = take(agents, which)
    dx, dy = (own.xyz[:, None, axis] - agents.xyz[None, :, axis] for axis in range(2))
    distance = jnp.sqrt(dx * dx + dy * dy)
    number = jnp.arange(speed.shape[0], dtype=jnp.int32)[None]
    seen = (number != which[:, None]) & moves[None] & same_level(own, agents, distance)
    distance = jax.lax.optimization_barrier(jnp.where(seen, distance - (REACH * speed)[None], FAR))
    nearness, other = jax.lax.top_k(-distance, min(NUM_WATCHED, speed.shape[0]))
    return other, nearness > -FAR


def _first(own: Ways, theirs: Ways) -> Int[Array, "b K"]:
    """The first piece of ways that meets one of those of others, which are K x pieces, times 8, and that one's number;
    64 where none does."""
    number = jnp.arange(NUM_PIECES, dtype=jnp.int32)[None, None]
    first = jnp.full(theirs.x.shape, NUM_PIECES**2, jnp.int32)
    for piece in range(NUM_PIECES):
        crosses, joins, _, _ = _compare(take(own, (slice(None), slice(piece, piece + 1), None)), theirs)
        first = jnp.minimum(first, jnp.where(crosses | joins, piece * NUM_PIECES + number, NUM_PIECES**2))
    return jnp.min(first, axis=-1)


def _rows(record: T, rows: Int[Array, "*n"]) -> T:
    """Rows of arrays over L items, taken from one table: each gather of its own would cost as much."""
    leaves, structure = jax.tree.flatten(record)
    table = jnp.stack([leaf.astype(jnp.float32) for leaf in leaves], axis=-1)[rows]
    return structure.unflatten([table[..., place].astype(leaf.dtype) for place, leaf in enumerate(leaves)])


def _compare(own: Ways, theirs: Ways):
    """Whether pieces cross or join, and where: from the middle of the own and from the start of the other one (m)."""
    half = own.length / 2
    dx, dy = own.x + own.cos * half - theirs.x, own.y + own.sin * half - theirs.y
    ahead, aside = theirs.cos * dx + theirs.sin * dy, theirs.cos * dy - theirs.sin * dx
    cos, sin = theirs.cos * own.cos + theirs.sin * own.sin, theirs.cos * own.sin - theirs.sin * own.cos
    steep = jnp.abs(sin) > CROSSING
    to_line = jnp.where(steep, -aside / jnp.where(steep, sin, 1.0), 0.0)
    there = ahead + to_line * cos
    crosses = steep & (jnp.abs(to_line) <= half) & (there >= 0) & (there <= theirs.length)
    near = jnp.abs(aside) < JOINED + half * jnp.abs(sin)
    joins = ~steep & (cos > 0) & near & (ahead >= -half) & (ahead <= theirs.length + half)
    return crosses, joins, to_line, there


def waits_at(meet: Meetings, claims: Claims) -> Float[Array, " N"]:
    """Distance from the centre to where agents wait for others that cross their way, m, `FAR` for who need not.

    There is one order of all agents, so that nobody waits in a circle: by rank, then by who is at a crossing first.
    Only who can no longer stop comes before it. The later one waits, unless it would be over well before the other one
    is there, or there well after.
    """
    rank = 2 * (~claims.has_green).astype(jnp.int32)
    rank = rank + jnp.any((meet.enter < FAR) & meet.turns, axis=-1).astype(jnp.int32)
    rank = jnp.where(claims.has_sign, 4, rank)
    rank = jnp.where(claims.on_foot, -1, rank)
    # The lower goes first.
    place = FAR * rank.astype(jnp.float32) + _time(jnp.min(meet.enter, axis=-1), claims)
    own, other = place[:, None], place[meet.other]
    number = jnp.arange(place.shape[0], dtype=jnp.int32)[:, None]
    later = meet.first | (other < own) | ((other == own) & (meet.other < number))
    return jnp.min(jnp.where(meet.minds & later, meet.enter, FAR), axis=-1)


def _zone(own: Claims, other: Claims, sin, cos):
    """How long an agent is in the way of the other one before and after the ways cross (m)."""
    return (other.width / 2 + own.width / 2 * cos) / sin + ROOM + own.length / 2


def _time(distance, agent: Claims):
    """When somebody who speeds up gently, or hardly on foot, will have come so far (s)."""
    speed_up = jnp.where(agent.on_foot, 0.05, SPEED_UP)
    reached = jnp.sqrt(agent.speed**2 + 2 * speed_up * jnp.maximum(distance, 0.0))
    return (reached - agent.speed) / speed_up


def _cannot_stop(enter, speed):
    return (enter < 0) | (speed**2 > 2 * 0.6 * HARDEST_BRAKING * enter)
