"""How soon an agent collides if nobody reacts."""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from waymax_sim.datatypes.agents import AgentState
from waymax_sim.metrics.contact import FRONT, Movers, meeting
from waymax_sim.metrics.metric import MetricValue, Snapshot, masked_value
from waymax_sim.pytree import Array

# What is further ahead in time is as good as free (s).
HORIZON = 5.0


def time_to_collision(snapshot: Snapshot) -> MetricValue:
    """Time until the box of an agent meets that of another if all keep velocity and heading (s); at most 5.

    In closed form for oriented boxes, so it sees crossing and merging traffic as well as a lead. Heights go on as they
    did in the last step: a slope and a bridge are told apart. Contacts at the rear do not count, since it is for the
    other to avoid them, nor does anything for an agent that stands. 0 where boxes share space. Valid where the agent
    is.

    Source: Hayward (1972) and Hyden (1987); which contacts count as in nuPlan. Limits: turning, braking and
    changes of slope are not foreseen.
    """
    agents, info = snapshot.agents, snapshot.scenario.agents
    others = Movers.of(agents, agents.velocity, climb_rate(agents, snapshot.previous, snapshot.dt), info.size)
    ours = jax.tree.map(lambda leaf: leaf[:, None], snapshot.of_subjects(others))
    meets = meeting(ours, jax.tree.map(lambda leaf: leaf[None], others))
    counts = (meets.begin < meets.end) & (meets.end > 0) & (meets.ahead > -FRONT) & ~ours.stands & ~snapshot.is_itself
    time = jnp.where(counts, jnp.clip(meets.begin, 0.0, HORIZON), HORIZON)
    return masked_value(jnp.min(time, axis=-1, initial=HORIZON), snapshot.subjects.valid)


def climb_rate(agents: AgentState, previous: AgentState, dt: float) -> Float[Array, " N"]:
    """How fast agents rose in the last step, m/s; 0 for those that were not there."""
    return jnp.where(agents.valid & previous.valid, (agents.xyz[:, 2] - previous.xyz[:, 2]) / dt, 0.0)
