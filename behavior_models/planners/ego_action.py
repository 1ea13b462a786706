"""The action that a planner returns: for the ego alone, with an emergency brake."""

import jax.numpy as jnp
from jaxtyping import Float

from behavior_models.planners.prediction import PlanningContext
from behavior_models.traffic.vehicle import VEHICLE_LIMITS
from waymax_sim.datatypes.state import Action
from waymax_sim.env import Observation
from waymax_sim.pytree import Array

# A contact within this time (s) triggers the emergency brake, as in PDM (Dauner et al. 2023).
EMERGENCY_TIME = 2.0


def apply_emergency_brake(
    context: PlanningContext, contact_time: Float[Array, ""], action: Float[Array, " 2"]
) -> Float[Array, " 2"]:
    """The action, or the maximum deceleration on the same curve if even the best candidate has a contact soon.

    Args:
      context: The present.
      contact_time: Time of the first contact of the best candidate, s, infinite without one.
      action: Its acceleration (m/s^2) and curvature (1/m).
    """
    # An ego at rest cannot avoid a contact by braking, and must not start to roll backwards.
    is_emergency = (contact_time <= EMERGENCY_TIME) & (context.speed > 0)
    braking = jnp.stack([jnp.asarray(-VEHICLE_LIMITS.max_deceleration), action[1]])
    return jnp.where(is_emergency, braking, action)


def ego_action(observation: Observation, action: Float[Array, " 2"]) -> Action:
    """The action of the ego; other agents get none."""
    valid = observation.info.is_sdc & observation.agents.valid
    return Action(value=jnp.where(valid[:, None], action[None], 0.0), valid=valid)
