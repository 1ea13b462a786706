"""Selection of agents by name or by distance to the goal."""

import jax.numpy as jnp
from jaxtyping import Bool, Int

from waymax_sim import geometry
from waymax_sim.datatypes.agents import Selector, select
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.maps.goals import log_end_goals
from waymax_sim.ops.batched_lookup import nonzero_padded
from waymax_sim.pytree import Array, static_record, tree_index


@static_record
class Traveling:
    """Selects the agents that are valid at the current step and more than a minimum distance from their goal.

    Without goals in the scenario, the goal is the end of the log. Parked agents are excluded, as they start at their
    goal.

    Attributes:
      min_distance: Minimum straight-line distance to the goal, m.
      among: Selector of the candidates.
    """

    min_distance: float = 4.0
    among: Selector = "vehicle"


AgentSelector = Selector | Traveling


def select_agents(scenario: Scenario, selector: str | Traveling) -> Bool[Array, " N"]:
    """Mask of the agents of a selector; "traveling" means `Traveling()`.

    Raises:
      ValueError: The selector is unknown.
    """
    if selector == "traveling":
        selector = Traveling()
    if isinstance(selector, str):
        return select(scenario.agents, selector)
    goals, now = scenario.goals or log_end_goals(scenario), tree_index(scenario.log, scenario.current_step)
    distance = geometry.norm(jnp.asarray(now.xyz[:, :2]) - goals.xy)
    is_traveling = now.valid & goals.valid & (distance > selector.min_distance)
    return select(scenario.agents, selector.among) & is_traveling


def first_agents(mask: Bool[Array, "*B N"], max_agents: int) -> Bool[Array, "*B N"]:
    """Mask of the first `max_agents` agents of a mask."""
    return mask & (jnp.cumsum(mask, axis=-1, dtype=jnp.int32) <= max_agents)


def mask_to_rows(mask: Bool[Array, " N"], max_agents: int) -> Int[Array, " K"]:
    """Slots of the first `max_agents` agents of a mask, ascending, then -1."""
    rows, _ = nonzero_padded(mask, max_agents)
    return jnp.where(rows < mask.shape[0], rows, -1)[:max_agents]
