"""Uniformly random actions."""

import jax
import jax.numpy as jnp
from jaxtyping import Key

from waymax_sim.datatypes.state import Action
from waymax_sim.dynamics import Bicycle, Dynamics
from waymax_sim.env import Observation, Policy
from waymax_sim.pytree import Array, static_record


@static_record
class Random(Policy):
    """Draws every action uniformly from the bounds of its dynamics, which must be finite.

    Each agent has its own stream of random numbers, so padding and batch size change no draw.
    """

    dynamics: Dynamics = Bicycle()

    def act(self, observation: Observation, carry: tuple[()], key: Key[Array, ""]) -> tuple[Action, tuple[()]]:
        """One draw per agent."""
        low, high = self.dynamics.bounds
        valid = observation.agents.valid

        def draw(index):
            own = jax.random.fold_in(key, index)
            # Bounds of discrete actions are inclusive.
            if jnp.issubdtype(low.dtype, jnp.integer):
                return jax.random.randint(own, low.shape, low, high + 1)
            return jax.random.uniform(own, low.shape, jnp.float32, low, high)

        return Action(value=jax.vmap(draw)(jnp.arange(valid.shape[0])), valid=valid), carry
