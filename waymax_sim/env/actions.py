"""Application of actions to agents."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Bool

from waymax_sim.datatypes.agents import AgentState, is_finite, rows_are_finite
from waymax_sim.datatypes.state import Action, State
from waymax_sim.dynamics import Dynamics
from waymax_sim.pytree import Array


def apply_actions(
    dynamics: Dynamics, state: State, action: Action, controlled: Bool[Array, " N"], dt: float
) -> tuple[AgentState, Bool[Array, " N"], Bool[Array, " N"]]:
    """Agents after their actions, and the validity of the actions.

    Unused and non-finite actions are replaced by zero before the dynamics, so that they affect neither values nor
    gradients; a state never holds non-finite values.

    Args:
      dynamics: Model of the actions.
      state: The current state.
      action: Actions of all agents.
      controlled: Mask of the agents to move.
      dt: Time step, s.

    Returns:
      The next agents [N], a mask of the controlled agents with a usable action, and a mask of those whose action or
      next pose is not finite.
    """
    given = controlled & action.valid
    usable = given & rows_are_finite(action.value)
    value = jnp.where(usable[:, None], action.value, jnp.zeros((), action.value.dtype))
    next_agents = dynamics.apply(state.agents, value, dt)
    if not getattr(dynamics, "preserves_finite", False):
        usable = usable & is_finite(next_agents)
    return next_agents, usable, given & ~usable & state.agents.valid & ~state.ended


def coast(agents: AgentState, dt: float) -> AgentState:
    """Agents after a time step at constant velocity and heading."""
    xy = agents.xyz[:, :2] + agents.velocity * dt
    return dataclasses.replace(agents, xyz=jnp.concatenate([xy, agents.xyz[:, 2:]], axis=-1))
