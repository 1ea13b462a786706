"""How narrowly paths crossed."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from waymax_sim import geometry
from waymax_sim.datatypes.agents import AgentState
from waymax_sim.metrics.metric import MetricValue, Snapshot, masked_value
from waymax_sim.metrics.overlap import gaps
from waymax_sim.pytree import Array

# Steps looked back over; what was longer ago is as good as never.
NUM_STEPS = 31
# Who went the same way, within this angle (rad), was followed, not crossed.
SAME_WAY = jnp.pi / 6


def post_encroachment_time(snapshot: Snapshot) -> MetricValue:
    """Time since another agent, on another way, left the place where the agent is now (s); at most 3.

    The place is the box of the agent, with its height. Ways differ where headings then and now differ by more than 30
    degrees. 0 where boxes share space. The minimum over an episode is the post-encroachment time of its narrowest
    crossing, for the one who came second. Steps are not subdivided. Valid where the agent is.

    Source: Allen, Shin and Cooper (1978). Looks at 31 steps, which the state keeps for it.
    """
    size, subjects = snapshot.scenario.agents.size, snapshot.subjects
    past = jax.tree.map(lambda leaf: leaf[-NUM_STEPS:][::-1], snapshot.history)

    def crossed(others: AgentState) -> Bool[Array, " O"]:
        shared = gaps(subjects, snapshot.info.size, others, size) < 0
        angle = jnp.abs(geometry.wrap_angle(subjects.yaw[:, None] - others.yaw[None]))
        return jnp.any(shared & (angle > SAME_WAY) & ~snapshot.is_itself, axis=-1)

    def look(longer_ago: Float[Array, " O"], moment) -> tuple[Float[Array, " O"], None]:
        age, others = moment
        return jnp.where(crossed(others), jnp.minimum(longer_ago, age), longer_ago), None

    longest = (NUM_STEPS - 1) * snapshot.dt
    ages = snapshot.dt * jnp.arange(past.yaw.shape[0], dtype=jnp.float32)
    never = jnp.full(subjects.valid.shape, longest, jnp.float32)
    return masked_value(jax.lax.scan(look, never, (ages, past))[0], subjects.valid)
