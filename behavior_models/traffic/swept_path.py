"""The next few seconds of everybody's way, as short straight pieces: what drivers compare with one another."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from behavior_models.traffic.car_following import FAR
from waymax_sim import geometry
from waymax_sim.datatypes.agents import AgentState
from waymax_sim.datatypes.lanes import LanePath
from waymax_sim.maps.nearest import first_smallest
from waymax_sim.maps.paths import point_at
from waymax_sim.ops.batched_lookup import map_masked
from waymax_sim.pytree import Array, pytree, take

# Pieces of a way; they grow with the distance.
NUM_PIECES, GROWTH = 8, 1.3
# Ways reach as far as agents get in this time (s), within these bounds (m).
LOOK_AHEAD, SHORTEST, LONGEST = 6.0, 24.0, 130.0
# Who is beside its path comes back to it within this time (s), but not in a shorter distance (m).
RETURN, SHORTEST_RETURN = 2.0, 8.0
# Room that drivers want on either side (m), and how far they see others move towards them, in time (s) and place (m).
ROOM, FORESIGHT, MOST_FORESIGHT = 0.2, 0.8, 1.2
# Agents that a CPU compares with all others at once.
BATCH = 32
# Others are on the same level within this height (m) and this slope.
LEVEL, SLOPE = 2.5, 0.06


@pytree
class Ways:
    """Ways of N agents from where they are now, in K straight pieces.

    Attributes:
      x: Start of each piece, m.
      y: The same.
      cos: Direction of each piece.
      sin: The same.
      length: m.
      begin: Distance from the agent along the way, m.
    """

    x: Float[Array, "*lead K"]
    y: Float[Array, "*lead K"]
    cos: Float[Array, "*lead K"]
    sin: Float[Array, "*lead K"]
    length: Float[Array, "*lead K"]
    begin: Float[Array, "*lead K"]


def ways_ahead(
    agents: AgentState, speed: Float[Array, " N"], path: LanePath, arc: Float[Array, " N"], has_lane: Bool[Array, " N"]
) -> Ways:
    """Ways along paths from an arc length (m) on, back to which agents come little by little if they are beside them;
    or straight ahead for agents without a lane."""
    reach = jnp.clip(LOOK_AHEAD * speed, SHORTEST, LONGEST)
    part = jnp.arange(1, NUM_PIECES + 1, dtype=jnp.float32) / NUM_PIECES
    steps = (part**GROWTH)[None] * reach[:, None]
    on_path = jax.vmap(lambda step: point_at(path, arc + step)[0][:, :2], in_axes=1, out_axes=1)(steps)
    xy = agents.xyz[:, None, :2]
    beside = xy - point_at(path, arc)[0][:, None, :2]
    left = jnp.maximum(1.0 - steps / jnp.maximum(RETURN * speed, SHORTEST_RETURN)[:, None], 0.0)
    on_path = on_path + left[..., None] * beside
    straight = xy + steps[..., None] * geometry.heading(agents.yaw)[:, None]
    points = jnp.concatenate([xy, jnp.where(has_lane[:, None, None], on_path, straight)], axis=1)
    along = points[:, 1:] - points[:, :-1]
    length = geometry.norm(along)
    unit = jnp.where(length > 0, length, 1.0)[..., None]
    cos, sin = jnp.moveaxis(along / unit, -1, 0)
    return Ways(points[:, :-1, 0], points[:, :-1, 1], cos, sin, length, jnp.cumsum(length, axis=1) - length)


class _Lead(NamedTuple):
    """Who is next on the way of agents, on which piece of it, and whether there is anybody."""

    who: Int[Array, "*n"]
    piece: Int[Array, "*n"]
    exists: Bool[Array, "*n"]


def leads(
    ways: Ways, agents: AgentState, size: Float[Array, "N 2"], asked: Bool[Array, " N"]
) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
    """The gap (m) from each agent to whoever is next on its way, and the speed of that one along it (m/s).

    One is in the way if its box overlaps the strip that the agent sweeps along its way, or will soon at its present
    speed. Gaps are from bumper to bumper, and `FAR` without anybody, and for agents that are not `asked`. No gradient
    flows through the choice.
    """
    ours, boxes = (ways, size[:, 1]), _boxes(agents, size)
    column = take(boxes, None)
    # Behind the barrier nothing about one agent is worked out anew for each pair of agents.
    still, others, now = jax.lax.optimization_barrier(jax.lax.stop_gradient((ours, column, agents)))

    def find(which: Int[Array, " b"]) -> _Lead:
        own, width = take(still, which)
        rear, at = jnp.full((which.shape[0], now.yaw.shape[0]), FAR), jnp.int32(0)
        # One piece after another, agents side by side: that is what compilers vectorise.
        for piece in range(NUM_PIECES):
            in_way, distance = _in_way(take(own, (slice(None), piece, None)), width[:, None], others, piece > 0)
            nearer = in_way & (distance < rear)
            rear, at = jnp.where(nearer, distance, rear), jnp.where(nearer, piece, at)
        number = jnp.arange(now.yaw.shape[0], dtype=jnp.int32)[None]
        there = now.valid[None] & (number != which[:, None]) & same_level(take(now, which), now, rear)
        rear = jax.lax.optimization_barrier(jnp.where(there, rear, FAR))
        who = first_smallest(rear)
        return _Lead(who, jnp.take_along_axis(at, who[:, None], axis=-1)[:, 0], jnp.min(rear, axis=-1) < FAR)

    nobody = jnp.zeros(asked.shape, jnp.int32)
    lead = map_masked(_Lead(nobody, nobody, asked & False), asked, BATCH, find)
    own = jax.tree.map(lambda values: jnp.take_along_axis(values, lead.piece[:, None], axis=-1)[:, 0], ways)
    _, distance = _in_way(own, size[:, 1], take(boxes, lead.who), lead.piece > 0)
    # The speed is that along the piece where the rear is.
    there = jnp.maximum(jnp.sum(ways.begin <= distance[:, None], axis=-1, dtype=jnp.int32) - 1, 0)[:, None]
    cos, sin = (jnp.take_along_axis(values, there, axis=-1)[:, 0] for values in (ways.cos, ways.sin))
    velocity = agents.velocity[lead.who]
    return jnp.where(lead.exists, distance - size[:, 0] / 2, FAR), cos * velocity[:, 0] + sin * velocity[:, 1]


class _Boxes(NamedTuple):
    """Boxes of agents in the plane (m), their directions, and how far they will soon move along those (m)."""

    x: Float[Array, "*n"]
    y: Float[Array, "*n"]
    cos: Float[Array, "*n"]
    sin: Float[Array, "*n"]
    half_length: Float[Array, "*n"]
    half_width: Float[Array, "*n"]
    soon: Float[Array, "*n"]


def _boxes(agents: AgentState, size: Float[Array, "N 2"]) -> _Boxes:
    cos, sin = jnp.cos(agents.yaw), jnp.sin(agents.yaw)
    speed = cos * agents.velocity[:, 0] + sin * agents.velocity[:, 1]
    soon = jnp.clip(FORESIGHT * speed, -MOST_FORESIGHT, MOST_FORESIGHT)
    return _Boxes(agents.xyz[:, 0], agents.xyz[:, 1], cos, sin, size[:, 0] / 2, size[:, 1] / 2, soon / 2)


def _in_way(own: Ways, width: Float[Array, "*#n"], box: _Boxes, further_on: bool | Bool[Array, "*#n"]):
    """Whether boxes are in the way on pieces of ways of a width (m), and how far ahead their rear is there (m).

    On the first piece, that is not `further_on`, the rear may be behind the middle of the agent; but whose middle is
    behind that of the agent has to mind the agent.
    """
    dx, dy = box.x - own.x, box.y - own.y
    ahead, aside = own.cos * dx + own.sin * dy, own.cos * dy - own.sin * dx
    turn_cos, turn_sin = own.cos * box.cos + own.sin * box.sin, own.cos * box.sin - own.sin * box.cos
    drift = turn_sin * box.soon
    turn_cos, turn_sin = jnp.abs(turn_cos), jnp.abs(turn_sin)
    long = turn_cos * box.half_length + turn_sin * box.half_width
    wide = turn_sin * box.half_length + turn_cos * box.half_width
    across = jnp.abs(aside + drift) < width / 2 + ROOM + wide + jnp.abs(drift)
    along = (ahead - long < own.length) & (ahead + jnp.where(further_on, long, 0.0) > 0.0)
    return across & along, own.begin + jnp.maximum(ahead - long, jnp.where(further_on, 0.0, -FAR))


def same_level(ours: AgentState, others: AgentState, distance: Float[Array, "b N"]) -> Bool[Array, "b N"]:
    """Whether others could be on the same road at a distance (m), and not on a bridge or below it."""
    return jnp.abs(ours.xyz[:, None, 2] - others.xyz[None, :, 2]) < LEVEL + SLOPE * distance
