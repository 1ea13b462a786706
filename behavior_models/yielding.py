"""Who lets whom go first where ways cross or join."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from behavior_models.car_following import FAR, HARDEST_BRAKING
from behavior_models.ways import NUM_PIECES, Ways, same_level
from waymax_sim.datatypes.agents import AgentState
from waymax_sim.pytree import Array, take

# Others that each agent watches: those that may soon be near, by distance less what they drive in this time (s).
NUM_WATCHED, REACH = 12, 3.0
# Ways cross where the sine of the angle between them is larger, and join where it is smaller and they are this near (m).
CROSSING, JOINED = 0.5, 1.5
# Room around those who cross (m) and time between them (s). How agents are thought to speed up (m/s^2).
ROOM, MARGIN, SPEED_UP = 0.7, 1.0, 1.0
# Who turns by more than this before the crossing (cosine of the angle) lets those go first who go straight.
STRAIGHT = 0.87
# Ranks at a crossing: the lower goes first.
ON_FOOT, STRAIGHT_ON, TURNING, AT_STOP_SIGN = range(4)


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
      their_turn: The same of the other one.
    """

    other: Int[Array, "N K"]
    crosses: Bool[Array, "N K"]
    own: Float[Array, "N K"]
    theirs: Float[Array, "N K"]
    sin: Float[Array, "N K"]
    cos: Float[Array, "N K"]
    own_turn: Float[Array, "N K"]
    their_turn: Float[Array, "N K"]


def watched(agents: AgentState, speed: Float[Array, " N"], moves: Bool[Array, " N"]) -> Int[Array, "N K"]:
    """The others that each agent watches, among those that move."""
    x, y = agents.xyz[:, 0], agents.xyz[:, 1]
    distance = jnp.sqrt((x[:, None] - x[None]) ** 2 + (y[:, None] - y[None]) ** 2)
    seen = ~jnp.eye(x.shape[0], dtype=bool) & moves[None] & same_level(agents, distance)
    distance = jax.lax.optimization_barrier(jnp.where(seen, distance - (REACH * speed)[None], FAR))
    return jax.lax.top_k(-distance, min(NUM_WATCHED, x.shape[0]))[1]


def meetings(ways: Ways, heading: Float[Array, "N 2"], other: Int[Array, "N K"]) -> Meetings:
    """Where ways first meet those of others: each piece of the one is compared with each piece of the other."""
    theirs = jax.lax.optimization_barrier(take(ways, other))
    number = jnp.arange(NUM_PIECES, dtype=jnp.int32)[None, None]
    first = jnp.full(theirs.x.shape, NUM_PIECES**2, jnp.int32)
    for piece in range(NUM_PIECES):
        crosses, joins, _, _ = _compare(take(ways, (slice(None), slice(piece, piece + 1), None)), theirs)
        first = jnp.minimum(first, jnp.where(crosses | joins, piece * NUM_PIECES + number, NUM_PIECES**2))
    first = jnp.min(first, axis=-1)
    met = first < NUM_PIECES**2
    first = jnp.where(met, first, 0)

    def chosen(which: Int[Array, "N K"], piece: Int[Array, "N K"]) -> Ways:
        place = which * NUM_PIECES + piece
        return jax.tree.map(lambda values: values.reshape(-1)[place], ways)

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
        their_turn=theirs.cos * heading[other][..., 0] + theirs.sin * heading[other][..., 1],
    )


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
      sign: Distance to the stop sign that the agent waits at, has to, or has just left, m, `FAR` without one.
    """

    speed: Float[Array, "*n"]
    length: Float[Array, "*n"]
    width: Float[Array, "*n"]
    on_foot: Bool[Array, "*n"]
    halt: Float[Array, "*n"]
    sign: Float[Array, "*n"]


def yields(meet: Meetings, claims: Claims) -> tuple[Float[Array, " N"], Float[Array, "N K"], Float[Array, "N K"]]:
    """What agents have to let pass.

    At a crossing the lower rank goes first; among equals who is there earlier, but for who can no longer stop. The
    other one waits if it would not be over well before, or there well after.

    Returns:
      Distance from the front to where the agent waits, m, `FAR` for who need not; and gap (m) and speed (m/s) of
      those who will be in front once the ways have joined, as if they were there already.
    """
    own = Claims(*(value[:, None] for value in claims))
    other = Claims(*(value[meet.other] for value in claims))
    index = jnp.arange(own.speed.shape[0])[:, None]
    met = (meet.own < FAR) & (meet.own < own.halt) & (meet.theirs < other.halt)

    enter, leave = _zone(meet.own, own, other, meet)
    other_enter, other_leave = _zone(meet.theirs, other, own, meet)
    enters, leaves = _time(enter, own.speed), _time(leave, own.speed)
    other_enters, other_leaves = _time(other_enter, other.speed), _time(other_leave, other.speed)
    rank = _rank(own, meet.own, meet.own_turn)
    other_rank = _rank(other, meet.theirs, meet.their_turn)
    committed, other_committed = _cannot_stop(enter, own.speed), _cannot_stop(other_enter, other.speed)
    earlier = (other_enters < enters) | ((other_enters == enters) & (meet.other < index))
    first = jnp.where(rank == other_rank, earlier, other_rank < rank)
    first = jnp.where(committed == other_committed, first, other_committed)
    overlap = (enters < other_leaves + MARGIN) & (other_enters < leaves + MARGIN)
    waits = met & meet.crosses & (other_leave > 0) & (enter > -own.length) & first & overlap & ~committed
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


def _time(distance, speed):
    """When somebody who speeds up gently will have come so far (s)."""
    reached = jnp.sqrt(speed**2 + 2 * SPEED_UP * jnp.maximum(distance, 0.0))
    return (reached - speed) / SPEED_UP


def _rank(own: Claims, distance, turn):
    rank = jnp.where(turn < STRAIGHT, TURNING, STRAIGHT_ON)
    rank = jnp.where(own.sign < distance, AT_STOP_SIGN, rank)
    return jnp.where(own.on_foot, ON_FOOT, rank)


def _cannot_stop(enter, speed):
    return (enter < 0) | (speed**2 > 2 * 0.6 * HARDEST_BRAKING * enter)
