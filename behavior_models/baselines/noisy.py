"""Constant velocity with noise: what a simulator that knows nothing but its own ignorance would do."""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Key

from waymax_sim.datatypes.state import Action
from waymax_sim.dynamics import Teleport
from waymax_sim.env import Observation, Policy
from waymax_sim.pytree import Array, static_record

# Noise of velocity, of place, and of heading: one draw per agent, and one per agent and step.
Carry = tuple[Float[Array, "N 2"], Float[Array, "N 2"]]


@static_record
class NoisyConstantVelocity(Policy):
    """Keeps a velocity that is off by a constant error, at places that are off a little; headings wander.

    All noise is normal and independent. Each agent has its own stream of random numbers.

    Attributes:
      velocity_noise: Of both components of the velocity of an agent, m/s.
      place_noise: Of both coordinates at each step, m; it does not add up.
      yaw_noise: Of the change of heading at each step, rad; it adds up.
    """

    velocity_noise: float = 0.5
    place_noise: float = 0.01
    yaw_noise: float = 0.01
    dynamics = Teleport()

    def init(self, observation: Observation, key: Key[Array, ""]) -> Carry:
        """The errors of the velocities; places are exact at first."""
        error = self.velocity_noise * _draws(key, observation.agents.valid.shape[0], 2)
        return error, jnp.zeros_like(error)

    def act(self, observation: Observation, carry: Carry, key: Key[Array, ""]) -> tuple[Action, Carry]:
        """The pose that the wrong velocity leads to."""
        now, (error, before) = observation.agents, carry
        drawn = _draws(key, now.valid.shape[0], 3)
        noise = self.place_noise * drawn[:, :2]
        xy = now.xyz[:, :2] - before + (now.velocity + error) * observation.dt + noise
        yaw = now.yaw + self.yaw_noise * drawn[:, 2]
        return Action(jnp.concatenate([xy, yaw[:, None], now.velocity], axis=-1), now.valid), (error, noise)


def _draws(key: Key[Array, ""], num_agents: int, count: int) -> Float[Array, "N count"]:
    def of_agent(index):
        return jax.random.normal(jax.random.fold_in(key, index), (count,))

    return jax.vmap(of_agent)(jnp.arange(num_agents))
