"""Open-loop maneuvers that could have avoided a collision."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Key

from behavior_models.traffic.idm import IDM
from waymax_sim.datatypes.state import Action
from waymax_sim.env import Observation, Policy
from waymax_sim.pytree import Array, pytree

# Steps after the current one at which maneuvers begin, and their accelerations, m/s^2.
BEGIN_STEPS = (0, 5, 10, 15, 20, 30, 40, 50)
MANEUVER_ACCELERATIONS = (-8.0, -4.0, -2.0, 1.5)


@pytree
class Maneuver(Policy):
    """IDM until a step, then a constant acceleration along its path; braking ends at rest.

    Attributes:
      begin: Steps after the first observation.
      acceleration: Acceleration afterwards, m/s^2.
    """

    begin: Int[Array, "*lead"]
    acceleration: Float[Array, "*lead"]

    dynamics = IDM.dynamics

    def init(self, observation: Observation, key: Key[Array, ""]):
        """The state of IDM, and the step of the first observation."""
        return IDM().init(observation, key), jnp.asarray(observation.step)

    def act(self, observation: Observation, carry, key: Key[Array, ""]):
        """The action of IDM with the acceleration of the maneuver."""
        inner, first = carry
        action, inner = IDM().act(observation, inner, key)
        begins = observation.step >= first + self.begin
        acceleration = jnp.where(begins, self.acceleration, action.value[:, 0])
        value = jnp.stack([acceleration, action.value[:, 1]], axis=-1)
        return Action(value=value, valid=action.valid), (inner, first)


def all_maneuvers() -> Maneuver:
    """Maneuvers of all beginnings and accelerations, with a leading axis."""
    begin, acceleration = np.meshgrid(BEGIN_STEPS, MANEUVER_ACCELERATIONS, indexing="ij")
    return Maneuver(begin=begin.ravel().astype(np.int32), acceleration=acceleration.ravel().astype(np.float32))
