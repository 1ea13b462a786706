"""A planner by proposals: some ways of following the lane are foreseen, and the best one is driven."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Float, Int, Key

from behavior_models.planners.prediction import BICYCLE, Outlook, Rollouts, outlook_of, serve
from behavior_models.planners.proposals import proposals
from behavior_models.planners.scoring import Terms, score_of, terms_of
from behavior_models.traffic.car_following import HARDEST_BRAKING
from waymax_sim.datatypes.state import Action
from waymax_sim.env import Observation, Policy
from waymax_sim.pytree import Array, static_record

# If even the best proposal ends in a contact so soon (s), the ego brakes as hard as it can.
EMERGENCY = 2.0
# What it costs a proposal to be a metre beside the course: without it, the inside of a bend is always best (1/m).
BESIDE_COST = 0.04


@static_record
class PDM(Policy):
    """PDM-Closed for the ego (Dauner et al. 2023, Parting with misconceptions about learning-based motion planning).

    At every step, 15 proposals follow the route at offsets of -1, 0 and 1 m and at 20 to 100 % of the speed limit for
    4 s, keeping their distance from others, who are thought to keep their velocity. Each is rolled forward with the
    bicycle and given the closed-loop score of nuPlan that it would get; the first action of the best one is driven.
    If that one still runs into somebody within 2 s, the ego brakes hard.

    It drives the sdc alone: other agents get no action, and coast where they are handed to it.
    """

    dynamics = BICYCLE

    def init(self, observation: Observation, key: Key[Array, ""]) -> Int[Array, ""]:
        """The stop line that the ego has stopped at last: none."""
        return jnp.asarray(-1, jnp.int32)

    def act(
        self, observation: Observation, carry: Int[Array, ""], key: Key[Array, ""]
    ) -> tuple[Action, Int[Array, ""]]:
        """Acceleration and curvature of the ego."""
        plan = self.plan(observation, carry)
        return action_of_ego(observation, plan.value), serve(plan.outlook, carry)

    def plan(self, observation: Observation, served: Int[Array, ""]) -> "Plan":
        """What the ego has looked at, having stopped at the stop line `served` (-1 for none)."""
        outlook = outlook_of(observation, jnp.argmax(observation.info.is_sdc), served)
        rollouts = proposals(outlook)
        terms = terms_of(observation, outlook, rollouts)
        beside = jnp.mean(jnp.abs(rollouts.lateral), axis=0)
        best = jnp.argmax(score_of(terms) - BESIDE_COST * beside)
        value = unless_emergency(outlook, terms.contact[best], rollouts.value[0, best])
        return Plan(outlook, rollouts, terms, best, value)


class Plan(NamedTuple):
    """What was looked at, the proposals and how they were judged; the best one, and what is driven (m/s^2, 1/m)."""

    outlook: Outlook
    rollouts: Rollouts
    terms: Terms
    best: Int[Array, ""]
    value: Float[Array, " 2"]


def unless_emergency(outlook: Outlook, contact: Float[Array, ""], value: Float[Array, " 2"]) -> Float[Array, " 2"]:
    """The action, or hard braking on the same curve where the best that was found runs into somebody that soon (s)."""
    emergency = (contact <= EMERGENCY) & (outlook.speed > 0)
    return jnp.where(emergency, jnp.stack([jnp.asarray(-HARDEST_BRAKING), value[1]]), value)


def action_of_ego(observation: Observation, value: Float[Array, " 2"]) -> Action:
    """An action for the ego and none for others."""
    valid = observation.info.is_sdc & observation.agents.valid
    return Action(value=jnp.where(valid[:, None], value[None], 0.0), valid=valid)
