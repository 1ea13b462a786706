"""Goals derived from a scenario. Insert them with `dataclasses.replace(scenario, goals=...)`."""

import jax.numpy as jnp
from jaxtyping import Float

from waymax_sim.datatypes.goals import Goals
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.pytree import Array


def log_end_goals(scenario: Scenario) -> Goals:
    """The last logged position of each agent from the current step on. Privileged: part of the logged future."""
    log, steps = scenario.log, jnp.arange(scenario.num_steps)
    is_logged = log.valid & (steps >= scenario.current_step)[:, None]
    last = jnp.max(jnp.where(is_logged, steps[:, None], 0), axis=0)
    xy = jnp.take_along_axis(jnp.asarray(log.xyz[..., :2]), last[None, :, None], axis=0)[0]
    valid = jnp.any(is_logged, axis=0)
    return Goals(xy=jnp.where(valid[:, None], xy, 0.0), valid=valid)


def point_on_route(scenario: Scenario, distance: float) -> Goals:
    """A goal for the sdc on its first on-route path, at an arc length of `distance` (m) from its current position.

    A shorter path gives its end; without a path there is no goal.
    """
    routes, is_sdc = scenario.routes, scenario.agents.is_sdc
    no_goals = Goals(xy=jnp.zeros((scenario.num_agents, 2)), valid=jnp.zeros(scenario.num_agents, bool))
    if routes is None:
        return no_goals
    path = jnp.argmax(routes.on_route & jnp.any(routes.valid, axis=-1))
    valid, xy, arc = (jnp.asarray(leaf)[path] for leaf in (routes.valid, routes.xyz[..., :2], routes.arc_length))
    sdc = jnp.asarray(scenario.log.xyz)[scenario.current_step, jnp.argmax(is_sdc), :2]
    start = arc[jnp.argmin(jnp.where(valid, _squared_norm(xy - sdc[None]), jnp.inf))]
    goal = xy[jnp.argmin(jnp.where(valid, jnp.abs(arc - start - distance), jnp.inf))]
    has_goal = is_sdc & routes.on_route[path] & jnp.any(valid)
    return Goals(xy=jnp.where(has_goal[:, None], goal[None], 0.0), valid=has_goal)


def _squared_norm(vector: Float[Array, "*n 2"]) -> Float[Array, "*n"]:
    return jnp.sum(vector * vector, axis=-1)
