"""Goals that a scene offers. Put them into a scene with `dataclasses.replace(scenario, goals=...)`."""

import jax.numpy as jnp
from jaxtyping import Float

from waymax_sim.datatypes.goals import Goals
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.pytree import Array


def end_of_log(scenario: Scenario) -> Goals:
    """Where each agent was last seen, from the current step on. Privileged: it is the logged future."""
    log, steps = scenario.log, jnp.arange(scenario.num_steps)
    seen = log.valid & (steps >= scenario.current_step)[:, None]
    last = jnp.max(jnp.where(seen, steps[:, None], 0), axis=0)
    xy = jnp.take_along_axis(jnp.asarray(log.xyz[..., :2]), last[None, :, None], axis=0)[0]
    valid = jnp.any(seen, axis=0)
    return Goals(xy=jnp.where(valid[:, None], xy, 0.0), valid=valid)


def point_on_route(scenario: Scenario, distance: float) -> Goals:
    """The point so far (m) along the first on-route path of the sdc from where it is now, or its end; for it alone.

    Nobody has a goal where there is no such path.
    """
    routes, is_sdc = scenario.routes, scenario.agents.is_sdc
    nowhere = Goals(xy=jnp.zeros((scenario.num_agents, 2)), valid=jnp.zeros(scenario.num_agents, bool))
    if routes is None or not routes.valid.size:
        return nowhere
    path = jnp.argmax(routes.on_route & jnp.any(routes.valid, axis=-1))
    valid, xy, arc = (jnp.asarray(leaf)[path] for leaf in (routes.valid, routes.xyz[..., :2], routes.arc_length))
    sdc = jnp.asarray(scenario.log.xyz)[scenario.current_step, jnp.argmax(is_sdc), :2]
    begin = arc[jnp.argmin(jnp.where(valid, _squared(xy - sdc[None]), jnp.inf))]
    goal = xy[jnp.argmin(jnp.where(valid, jnp.abs(arc - begin - distance), jnp.inf))]
    has_goal = is_sdc & routes.on_route[path] & jnp.any(valid)
    return Goals(xy=jnp.where(has_goal[:, None], goal[None], 0.0), valid=has_goal)


def _squared(vector: Float[Array, "*n 2"]) -> Float[Array, "*n"]:
    return jnp.sum(vector * vector, axis=-1)
