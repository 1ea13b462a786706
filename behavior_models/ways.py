"""The next few seconds of everybody's way, as short straight pieces: what drivers compare with one another."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from behavior_models.car_following import FAR
from waymax_sim import geometry
from waymax_sim.datatypes.agents import AgentState
from waymax_sim.datatypes.lanes import LanePath
from waymax_sim.maps.paths import point_at
from waymax_sim.pytree import Array, pytree

# Pieces of a way; they grow with the distance.
NUM_PIECES, GROWTH = 8, 1.3
# Ways reach as far as agents get in this time (s), within these bounds (m).
LOOK_AHEAD, SHORTEST, LONGEST = 6.0, 24.0, 130.0
# Room that drivers want on either side (m), and how far they see others move towards them, in time (s) and place (m).
ROOM, FORESIGHT, MOST_FORESIGHT = 0.2, 0.8, 1.2
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
    """Ways along paths from an arc length (m) on, or straight ahead for agents without a lane."""
    reach = jnp.clip(LOOK_AHEAD * speed, SHORTEST, LONGEST)
    part = jnp.arange(1, NUM_PIECES + 1, dtype=jnp.float32) / NUM_PIECES
    steps = (part**GROWTH)[None] * reach[:, None]
    on_path = jax.vmap(lambda step: point_at(path, arc + step)[0][:, :2], in_axes=1, out_axes=1)(steps)
    xy = agents.xyz[:, None, :2]
    straight = xy + steps[..., None] * geometry.heading(agents.yaw)[:, None]
    points = jnp.concatenate([xy, jnp.where(has_lane[:, None, None], on_path, straight)], axis=1)
    along = points[:, 1:] - points[:, :-1]
    length = geometry.norm(along)
    unit = jnp.where(length > 0, length, 1.0)[..., None]
    cos, sin = jnp.moveaxis(along / unit, -1, 0)
    return Ways(points[:, :-1, 0], points[:, :-1, 1], cos, sin, length, jnp.cumsum(length, axis=1) - length)


def leads(ways: Ways, agents: AgentState, size: Float[Array, "N 2"]) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
    """The gap (m) from each agent to whoever is next on its way, and the speed of that one along it (m/s).

    One is in the way if its box overlaps the strip that the agent sweeps along its way, or will soon at its present
    speed. Gaps are from bumper to bumper, and `FAR` without anybody.
    """
    x, y = agents.xyz[None, :, 0], agents.xyz[None, :, 1]
    cos_yaw, sin_yaw = jnp.cos(agents.yaw), jnp.sin(agents.yaw)
    speed = geometry.dot(agents.velocity, jnp.stack([cos_yaw, sin_yaw], axis=-1))
    half_length, half_width = size[None, :, 0] / 2, size[None, :, 1] / 2
    soon = jnp.clip(FORESIGHT * speed, -MOST_FORESIGHT, MOST_FORESIGHT)[None] / 2
    rear = jnp.full((x.shape[1], x.shape[1]), FAR)
    # One piece after another, agents side by side: that is what compilers vectorise.
    for piece in range(NUM_PIECES):
        cos, sin = ways.cos[:, piece, None], ways.sin[:, piece, None]
        length, begin = ways.length[:, piece, None], ways.begin[:, piece, None]
        dx, dy = x - ways.x[:, piece, None], y - ways.y[:, piece, None]
        ahead, aside = cos * dx + sin * dy, cos * dy - sin * dx
        turn_cos, turn_sin = cos * cos_yaw[None] + sin * sin_yaw[None], cos * sin_yaw[None] - sin * cos_yaw[None]
        drift = turn_sin * soon
        turn_cos, turn_sin = jnp.abs(turn_cos), jnp.abs(turn_sin)
        long, wide = turn_cos * half_length + turn_sin * half_width, turn_sin * half_length + turn_cos * half_width
        across = jnp.abs(aside + drift) < half_width.T + ROOM + wide + jnp.abs(drift)
        # Whose middle is behind that of the agent has to mind the agent.
        along = (ahead - long < length) & (ahead + (long if piece else 0.0) > 0.0)
        near = jnp.where(across & along, begin + jnp.maximum(ahead - long, 0.0 if piece else -FAR), FAR)
        rear = jnp.minimum(rear, near)
    others = agents.valid[None] & ~jnp.eye(x.shape[1], dtype=bool) & same_level(agents, rear)
    rear = jax.lax.optimization_barrier(jnp.where(others, rear, FAR))
    nearest = jnp.min(rear, axis=-1)
    number = jnp.arange(x.shape[1], dtype=jnp.int32)[None]
    lead = jnp.min(jnp.where(rear <= nearest[:, None], number, x.shape[1] - 1), axis=-1)
    there = ways.begin <= nearest[:, None]
    piece = jnp.maximum(jnp.sum(there, axis=-1) - 1, 0)[:, None]
    cos, sin = (jnp.take_along_axis(values, piece, axis=-1)[:, 0] for values in (ways.cos, ways.sin))
    velocity = agents.velocity[lead]
    return jnp.where(nearest < FAR, nearest - half_length[0], FAR), cos * velocity[:, 0] + sin * velocity[:, 1]


def same_level(agents: AgentState, distance: Float[Array, "N N"]) -> Bool[Array, "N N"]:
    """Whether others could be on the same road at a distance (m), and not on a bridge or below it."""
    z = agents.xyz[:, 2]
    return jnp.abs(z[:, None] - z[None]) < LEVEL + SLOPE * distance
