"""Time to collision at constant velocities."""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from waymax_sim.datatypes.agents import AgentState
from waymax_sim.metrics.contact import FRONT_CONTACT_COSINE, MovingBoxes, contact_interval
from waymax_sim.metrics.metric import MetricValue, Snapshot, masked_value
from waymax_sim.pytree import Array

# Largest time to collision, s; also the value without a collision.
MAX_TIME_TO_COLLISION = 5.0


def time_to_collision(snapshot: Snapshot) -> MetricValue:
    """Time until the box of an agent collides with that of another if all keep velocity and heading (s); at most 5.

    In closed form for oriented boxes, so crossing and merging traffic counts as well as a leading vehicle. Vertical
    velocities are those of the last step, which separates a slope from a bridge. Contacts at the rear do not count,
    since the other agent has to avoid them, and a stationary agent has no collisions. 0 where boxes share space. Valid
    where the agent is valid.

    Source: Hayward (1972) and Hyden (1987); the contacts that count are those of nuPlan. Limits: turning, braking and
    changes of slope are not predicted.
    """
    agents, info = snapshot.agents, snapshot.scenario.agents
    others = MovingBoxes.from_agents(
        agents, agents.velocity, climb_rate(agents, snapshot.previous, snapshot.dt), info.size
    )
    own = jax.tree.map(lambda leaf: leaf[:, None], snapshot.select_evaluated(others))
    contact = contact_interval(own, jax.tree.map(lambda leaf: leaf[None], others))
    collides = (contact.begin < contact.end) & (contact.end > 0) & (contact.contact_cosine > -FRONT_CONTACT_COSINE)
    collides = collides & ~own.is_stationary & ~snapshot.is_self
    time = jnp.where(collides, jnp.clip(contact.begin, 0.0, MAX_TIME_TO_COLLISION), MAX_TIME_TO_COLLISION)
    return masked_value(jnp.min(time, axis=-1, initial=MAX_TIME_TO_COLLISION), snapshot.evaluated_agents.valid)


def climb_rate(agents: AgentState, previous: AgentState, dt: float) -> Float[Array, " N"]:
    """Vertical velocity of agents in the last step (m/s); 0 where they were not valid in both steps.

    Args:
      agents: The agents, [N].
      previous: The agents one step earlier, [N].
      dt: Time step, s.
    """
    return jnp.where(agents.valid & previous.valid, (agents.xyz[:, 2] - previous.xyz[:, 2]) / dt, 0.0)
