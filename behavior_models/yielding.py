"""Who lets whom go first where ways cross or join."""

from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from behavior_models.car_following import FAR, HARDEST_BRAKING
from behavior_models.ways import NUM_PIECES, Ways, same_level
from waymax_sim.datatypes.agents import AgentState
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


class Meetings(NamedTuple):
    """Where the ways of N agents first meet those of K others; distances along each way (m), `FAR` where nowhere.

    Attributes:
      other: The others.
      crosses: Whether the ways cross there; otherwise they join.
      own: Distance of the agent.
      theirs: Distance of the other one.
      sin: Of the angle between the ways, not negative.
      cos: The same, not negative.
      own_turn: Cosine of the angle by which the agent turns on the way there.
    """

    other: Int[Array, "N K"]
    crosses: Bool[Array, "N K"]
    own: Float[Array, "N K"]
    theirs: Float[Array, "N K"]
    sin: Float[Array, "N K"]
    cos: Float[Array, "N K"]
    own_turn: Float[Array, "N K"]


def watched(
    agents: AgentState, speed: Float[Array, " N"], moves: Bool[Array, " N"]
) -> tuple[Int[Array, "N K"], Bool[Array, "N K"]]:
    """The others that each agent watches, among those that move, and whether there are as many."""
    x, y = agents.xyz[:, 0], agents.xyz[:, 1]
    distance = jnp.sqrt((x[:, None] - x[None]) ** 2 + (y[:, None] - y[None]) ** 2)
    seen = ~jnp.eye(x.shape[0], dtype=bool) & moves[None] & same_level(agents, distance)
    distance = jax.lax.optimization_barrier(jnp.where(seen, distance - (REACH * speed)[None], FAR))
    nearness, other = jax.lax.top_k(-distance, min(NUM_WATCHED, x.shape[0]))
    return other, nearness > -FAR


def meetings(
    ways: Ways, heading: Float[Array, "N 2"], other: Int[Array, "N K"], watches: Bool[Array, "N K"]
) -> Meetings:
    """Where ways first meet those of others that are watched: each piece of one is compared with each of the other."""
    theirs = jax.lax.optimization_barrier(take(ways, other))
    number = jnp.arange(NUM_PIECES, dtype=jnp.int32)[None, None]
    first = jnp.full(theirs.x.shape, NUM_PIECES**2, jnp.int32)
    for piece in range(NUM_PIECES):
        crosses, joins, _, _ = _compare(take(ways, (slice(None), slice(piece, piece + 1), None)), theirs)
        first = jnp.minimum(first, jnp.where(crosses | joins, piece * NUM_PIECES + number, NUM_PIECES**2))
    first = jnp.min(first, axis=-1)
    met = watches & (first < NUM_PIECES**2)
    first = jnp.where(met, first, 0)

    pieces = jax.tree.map(lambda values: values.reshape(-1), ways)

    def chosen(which: Int[Array, "N K"], piece: Int[Array, "N K"]) -> Ways:
        return _rows(pieces, which * NUM_PIECES + piece)

    own_index = jnp.broadcast_to(jnp.arange(other.shape[0], dtype=jnp.int32)[:, None], other.shape)
    own, theirs = chosen(own_index, first // NUM_PIECES), chosen(other, first % NUM_PIECES)
    crosses, _, to_line, there = _compare(own, theirs)
    return Meetings(
        other=other,
        crosses=crosses,
        own=jnp.where(met, own.begin + own.length / 2 + to_line, FAR),
        theirs=theirs.begin + there,
        sin=jnp.abs(theirs.cos * own.sin - theirs.sin * own.cos),
        cos=jnp.abs(theirs.cos * own.cos + theirs.sin * own.sin),
        own_turn=own.cos * heading[:, :1] + own.sin * heading[:, 1:],
    )


def _rows(record: T, rows: Int[Array, "N K"]) -> T:
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


def yields(meet: Meetings, claims: Claims) -> tuple[Float[Array, " N"], Float[Array, "N K"], Float[Array, "N K"]]:
    """What agents have to let pass.

    There is one order of all agents, so that nobody waits in a circle: by rank, then by who is at a crossing first.
    Only who can no longer stop comes before it. Where ways cross the later one waits, unless it would be over well
    before the other one is there, or there well after.

    Returns:
      Distance from the front to where the agent waits, m, `FAR` for who need not; and gap (m) and speed (m/s) of
      those who will be in front once the ways have joined, as if they were there already.
    """
    own = Claims(*(value[:, None] for value in claims))
    other = _rows(claims, meet.other)
    index = jnp.arange(own.speed.shape[0])[:, None]
    met = (meet.own < FAR) & (meet.own < own.halt) & (meet.theirs < other.halt)

    enter, leave = _zone(meet.own, own, other, meet)
    other_enter, other_leave = _zone(meet.theirs, other, own, meet)
    crosses = met & meet.crosses & (leave > 0) & (other_leave > 0)
    place = _order(claims, crosses, meet, enter)
    other_place = place[meet.other]
    later = (other_place < place[:, None]) | ((other_place == place[:, None]) & (meet.other < index))
    committed, other_committed = _cannot_stop(enter, own.speed), _cannot_stop(other_enter, other.speed)
    later = jnp.where(committed == other_committed, later, other_committed)
    over_before = _time(leave, own) + MARGIN < _time(other_enter, other)
    there_after = _time(other_leave, other) + MARGIN < _time(enter, own)
    waits = crosses & later & ~committed & ~over_before & ~there_after
    stop = jnp.min(jnp.where(waits, enter, FAR), axis=-1)

    ahead = (meet.theirs < meet.own) | ((meet.theirs == meet.own) & (meet.other < index))
    follows = met & ~meet.crosses & ahead & ~other.on_foot
    # The other one need not be let in long before the ways join.
    gap = meet.own - meet.theirs - (own.length + other.length) / 2 + 0.2 * jnp.maximum(meet.theirs, 0.0)
    return stop, jnp.where(follows, gap, FAR), other.speed


def _zone(distance, own: Claims, other: Claims, meet: Meetings):
    """Distances (m) at which an agent begins and ceases to be in the way of the other one."""
    sin = jnp.maximum(meet.sin, CROSSING)
    half = (other.width / 2 + own.width / 2 * meet.cos) / sin + ROOM + own.length / 2
    return distance - half, distance + half


def _order(claims: Claims, crosses, meet: Meetings, enter) -> Float[Array, " N"]:
    """A number for each agent; the lower goes first."""
    turns = jnp.any(crosses & (meet.own_turn < STRAIGHT), axis=-1)
    rank = 2 * (~claims.has_green).astype(jnp.int32) + turns.astype(jnp.int32)
    rank = jnp.where(claims.has_sign, 4, rank)
    rank = jnp.where(claims.on_foot, -1, rank)
    first = jnp.min(jnp.where(crosses, enter, FAR), axis=-1)
    return FAR * rank.astype(jnp.float32) + _time(first, claims)


def _time(distance, agent: Claims):
    """When somebody who speeds up gently, or hardly on foot, will have come so far (s)."""
    speed_up = jnp.where(agent.on_foot, 0.05, SPEED_UP)
    reached = jnp.sqrt(agent.speed**2 + 2 * speed_up * jnp.maximum(distance, 0.0))
    return (reached - agent.speed) / speed_up


def _cannot_stop(enter, speed):
    return (enter < 0) | (speed**2 > 2 * 0.6 * HARDEST_BRAKING * enter)
