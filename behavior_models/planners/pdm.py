"""PDM-Closed: the proposal with the best closed-loop score.

Dauner, Hallgarten, Geiger, Chitta 2023: Parting with misconceptions about learning-based vehicle motion planning.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Float, Int, Key

from behavior_models.planners.ego_action import apply_emergency_brake, ego_action
from behavior_models.planners.prediction import (
    EGO_DYNAMICS,
    EgoRollouts,
    PlanningContext,
    planning_context,
    update_cleared_stop_line,
)
from behavior_models.planners.proposals import PDM_PARAMS, simulate_proposals
from behavior_models.planners.scoring import ScoreTerms, closed_loop_score, score_terms
from waymax_sim.datatypes.state import Action
from waymax_sim.env import Observation, Policy
from waymax_sim.pytree import Array, static_record


@static_record
class PDM(Policy):
    """PDM-Closed for the ego (Dauner et al. 2023).

    At every step, 15 proposals follow the route at lateral offsets of -1, 0 and 1 m and at 20 to 100 % of the speed
    limit for 4 s, and keep their gaps to other agents, predicted at constant velocity. Each is simulated with the
    bicycle model and gets the nuPlan closed-loop score of its trajectory; the first action of the best one is executed.
    If even that one has a contact within 2 s, the ego brakes at the maximum deceleration.

    It controls the sdc alone: other agents that are assigned to it get no action, and coast.
    """

    dynamics = EGO_DYNAMICS

    def init(self, observation: Observation, key: Key[Array, ""]) -> Int[Array, ""]:
        """The stop line at which the ego has stopped: none."""
        return jnp.asarray(-1, jnp.int32)

    def act(
        self, observation: Observation, carry: Int[Array, ""], key: Key[Array, ""]
    ) -> tuple[Action, Int[Array, ""]]:
        """Acceleration and curvature of the ego."""
        plan = self.plan(observation, carry)
        return ego_action(observation, plan.action), update_cleared_stop_line(plan.context, carry)

    def plan(self, observation: Observation, cleared_stop_line: Int[Array, ""]) -> "PDMPlan":
        """The proposals with their scores, for an ego that has stopped at a stop line already (-1 for none)."""
        # Without an sdc the plan is that of slot 0, and `ego_action` discards it.
        context = planning_context(observation, jnp.argmax(observation.info.is_sdc), cleared_stop_line)
        rollouts = simulate_proposals(context)
        terms = score_terms(observation, context, rollouts)
        # Mean over the horizon: a short evasive motion costs little.
        lateral_offset = jnp.mean(jnp.abs(rollouts.lateral), axis=0)
        # Scores are often equal; the tie break prefers the center of the lane.
        best = jnp.argmax(closed_loop_score(terms) - PDM_PARAMS.lateral_tie_break * lateral_offset)
        action = apply_emergency_brake(context, terms.contact_time[best], rollouts.action[0, best])
        return PDMPlan(context, rollouts, terms, best, action)


class PDMPlan(NamedTuple):
    """The planning context, the proposals and their score terms; the index of the best one; the action (m/s^2, 1/m)."""

    context: PlanningContext
    rollouts: EgoRollouts
    terms: ScoreTerms
    best: Int[Array, ""]
    action: Float[Array, " 2"]
