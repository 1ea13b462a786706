"""Selection of agents by name or by the distance that they have to travel."""

import jax.numpy as jnp
from jaxtyping import Bool, Int

from waymax_sim import geometry
from waymax_sim.datatypes.agents import Selector, select
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.maps.goals import end_of_log
from waymax_sim.ops.batched_lookup import nonzero_padded
from waymax_sim.pytree import Array, static_record, take


@static_record
class Travelling:
    """Selects the agents that are valid at the current step and farther than a distance from their goal.

    Without goals in the scenario, the goal is the end of the log. Parked agents are not selected: they are at their
    goal from the start.

    Attributes:
      min_distance: Straight distance to the goal that is exceeded, m.
      among: Selector of the agents that are considered.
    """

    min_distance: float = 4.0
    among: Selector = "vehicle"


AgentSelector = Selector | Travelling


def select_agents(scenario: Scenario, selector: str | Travelling) -> Bool[Array, " N"]:
    """Mask of the agents that a selector names; "travelling" stands for `Travelling()`.

    Raises:
      ValueError: The selector is unknown.
    """
    if selector == "travelling":
        selector = Travelling()
    if isinstance(selector, str):
        return select(scenario.agents, selector)
    goals, now = scenario.goals or end_of_log(scenario), take(scenario.log, scenario.current_step)
    distance = geometry.norm(jnp.asarray(now.xyz[:, :2]) - goals.xy)
    to_go = now.valid & goals.valid & (distance > selector.min_distance)
    return select(scenario.agents, selector.among) & to_go


def first_agents(mask: Bool[Array, "*B N"], max_agents: int) -> Bool[Array, "*B N"]:
    """The first agents of a mask, `max_agents` at most."""
    return mask & (jnp.cumsum(mask, axis=-1, dtype=jnp.int32) <= max_agents)


def mask_to_rows(mask: Bool[Array, " N"], max_agents: int) -> Int[Array, " K"]:
    """Rows of the agents in a mask in ascending order, -1 after the last; those beyond `max_agents` are left out."""
    rows, _ = nonzero_padded(mask, max_agents)
    return jnp.where(rows < mask.shape[0], rows, -1)[:max_agents]
