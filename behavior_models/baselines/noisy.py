"""Constant velocity with noise: an uninformed baseline for the realism of distributions."""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Key

from waymax_sim.datatypes.state import Action
from waymax_sim.dynamics import Teleport
from waymax_sim.env import Observation, Policy
from waymax_sim.pytree import Array, static_record

# Velocity error of each agent, and its position noise of the last step.
Carry = tuple[Float[Array, "N 2"], Float[Array, "N 2"]]


@static_record
class NoisyConstantVelocity(Policy):
    """Constant velocity with a constant error per agent, white position noise and a random walk of the heading.

    All noise is normal and independent. Each agent has its own stream of random numbers.

    Attributes:
      velocity_noise: Of both components of the velocity of an agent, m/s.
      position_noise: Of both coordinates at each step, m; it does not add up.
      yaw_noise: Of the change of heading at each step, rad; it adds up.
    """

    velocity_noise: float = 0.5
    position_noise: float = 0.01
    yaw_noise: float = 0.01
    dynamics = Teleport()

    def init(self, observation: Observation, key: Key[Array, ""]) -> Carry:
        """The velocity errors; positions are exact at first."""
        error = self.velocity_noise * _draws(key, observation.agents.valid.shape[0], 2)
        return error, jnp.zeros_like(error)

    def act(self, observation: Observation, carry: Carry, key: Key[Array, ""]) -> tuple[Action, Carry]:
        """The pose one step later at the velocity with its error."""
        now, (error, last_noise) = observation.agents, carry
        drawn = _draws(key, now.valid.shape[0], 3)
        noise = self.position_noise * drawn[:, :2]
        # The noise of the last step is removed, so that positions are off by one draw and not by their sum.
        xy = now.xyz[:, :2] - last_noise + (now.velocity + error) * observation.dt + noise
        yaw = now.yaw + self.yaw_noise * drawn[:, 2]
        return Action(jnp.concatenate([xy, yaw[:, None], now.velocity], axis=-1), now.valid), (error, noise)


def _draws(key: Key[Array, ""], num_agents: int, num_draws: int) -> Float[Array, "N D"]:
    def draw(index):
        return jax.random.normal(jax.random.fold_in(key, index), (num_draws,))

    return jax.vmap(draw)(jnp.arange(num_agents))
