"""Post-encroachment time of crossing paths."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from waymax_sim import geometry
from waymax_sim.datatypes.agents import AgentState
from waymax_sim.metrics.metric import MetricValue, Snapshot, masked_value
from waymax_sim.metrics.overlap import pairwise_separation
from waymax_sim.pytree import Array

# Earlier encroachments do not count, s.
MAX_ENCROACHMENT_TIME = 3.0
# Angle between headings from which paths cross, rad; with a smaller one an agent follows the other.
MIN_CROSSING_ANGLE = jnp.pi / 6


def post_encroachment_time(snapshot: Snapshot) -> MetricValue:
    """Time since another agent on a crossing path left the space that the agent occupies (s); at most 3.

    The space is the box of the agent, with its height. Paths cross where the heading of the other agent then and that
    of the agent now differ by more than 30 degrees. 0 where boxes share space. The minimum over an episode is the
    post-encroachment time of its closest crossing, for the agent that came second. Steps are not interpolated. Valid
    where the agent is valid.

    Source: Allen, Shin and Cooper (1978). The state keeps 3 s of history for it.
    """
    size, own = snapshot.scenario.agents.size, snapshot.evaluated_agents
    num_steps = 1 + round(MAX_ENCROACHMENT_TIME / snapshot.dt)
    past = jax.tree.map(lambda leaf: leaf[-num_steps:][::-1], snapshot.history)

    def has_crossed(others: AgentState) -> Bool[Array, " O"]:
        overlaps = pairwise_separation(own, snapshot.info.size, others, size) < 0
        angle = jnp.abs(geometry.wrap_angle(own.yaw[:, None] - others.yaw[None]))
        return jnp.any(overlaps & (angle > MIN_CROSSING_ANGLE) & ~snapshot.is_self, axis=-1)

    def update(time: Float[Array, " O"], past_step) -> tuple[Float[Array, " O"], None]:
        age, others = past_step
        return jnp.where(has_crossed(others), jnp.minimum(time, age), time), None

    longest = (num_steps - 1) * snapshot.dt
    ages = snapshot.dt * jnp.arange(past.yaw.shape[0], dtype=jnp.float32)
    no_crossing = jnp.full(own.valid.shape, longest, jnp.float32)
    return masked_value(jax.lax.scan(update, no_crossing, (ages, past))[0], own.valid)
