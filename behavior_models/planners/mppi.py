"""Model predictive path integral control (MPPI).

Williams et al. 2017: Information theoretic MPC for model-based reinforcement learning.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Key

from behavior_models.planners.action_sequence import (
    PlannerState,
    initial_planner_state,
    interpolate_knots,
    num_knots,
    shift_plan,
)
from behavior_models.planners.ego_action import apply_emergency_brake, ego_action
from behavior_models.planners.prediction import (
    EGO_DYNAMICS,
    EgoRollouts,
    PlanningContext,
    forward_simulate,
    planning_context,
    update_cleared_stop_line,
)
from behavior_models.planners.proposals import last_action, limit_rates, simulate_proposals
from behavior_models.planners.scoring import rollout_cost, score_terms
from behavior_models.traffic.vehicle import VEHICLE_LIMITS
from waymax_sim.datatypes.state import Action
from waymax_sim.env import Observation, Policy
from waymax_sim.pytree import Array, static_record


@static_record
class MPPI(Policy):
    """Model predictive path integral control of the ego (Williams et al. 2017).

    At every step, perturbations of the last plan are simulated with the bicycle model for 4 s, while other agents are
    predicted at constant velocity. The new plan is their mean, weighted by exp(-cost / temperature); its first action
    is executed. Costs are those of `rollout_cost`. The proposals of `PDM` are among the sequences, as ancillary
    controllers are in Biased-MPPI (Trevisan and Alonso-Mora 2024), so plans do not depend on the perturbations alone.
    If even the best sequence has a contact within 2 s, the ego brakes at the maximum deceleration.

    It controls the sdc alone: other agents that are assigned to it get no action, and coast.

    Attributes:
      num_samples: Perturbed sequences.
      temperature: Differences of the cost that matter (lambda); the lower, the nearer to the best sequence.
      acceleration: Standard deviation of accelerations, m/s^2.
      lateral: Standard deviation of the lateral accelerations that curvatures cause, m/s^2.
      num_elites: If not 0, the plan is the plain mean of this number of best sequences (cross-entropy method).
    """

    num_samples: int = 48
    temperature: float = 0.02
    acceleration: float = 0.8
    lateral: float = 0.5
    num_elites: int = 0
    dynamics = EGO_DYNAMICS

    def init(self, observation: Observation, key: Key[Array, ""]) -> PlannerState:
        """A plan of zero acceleration and curvature."""
        return initial_planner_state(observation.dt)

    def act(self, observation: Observation, carry: PlannerState, key: Key[Array, ""]) -> tuple[Action, PlannerState]:
        """The first action of the new plan."""
        context = planning_context(observation, jnp.argmax(observation.info.is_sdc), carry.cleared_stop_line)
        plan, contact_time = self.improve(observation, context, shift_plan(carry.plan), key)
        action = apply_emergency_brake(context, contact_time, plan[0])
        cleared_stop_line = update_cleared_stop_line(context, carry.cleared_stop_line)
        return ego_action(observation, action), PlannerState(plan=plan, cleared_stop_line=cleared_stop_line)

    def improve(
        self, observation: Observation, context: PlanningContext, plan: Float[Array, "T 2"], key: Key[Array, ""]
    ) -> tuple[Float[Array, "T 2"], Float[Array, ""]]:
        """The weighted mean of the candidates, and the time of the first contact of the best one (s).

        Args:
          observation: The present.
          context: Its planning context.
          plan: The plan that is perturbed.
          key: Of the perturbations.
        """
        rollouts = self._candidates(context, plan, key)
        terms = score_terms(observation, context, rollouts)
        cost = rollout_cost(terms, rollouts)
        if self.num_elites:
            # The double argsort is the rank of each candidate.
            weight = (jnp.argsort(jnp.argsort(cost)) < self.num_elites).astype(jnp.float32) / self.num_elites
        else:
            weight = jax.nn.softmax(-cost / self.temperature)
        return jnp.sum(weight[None, :, None] * rollouts.action, axis=1), terms.contact_time[jnp.argmin(cost)]

    def _candidates(self, context: PlanningContext, plan: Float[Array, "T 2"], key: Key[Array, ""]) -> EgoRollouts:
        """Rollouts of the plan, its perturbations, and the proposals."""
        sequences = self._perturbations(context, plan, key)
        num_sequences = sequences.shape[1]

        def control(state, last, step):
            # Noise at the knots may change faster than a vehicle can; the rollout has the feasible actions.
            action = limit_rates(sequences[step], last, jnp.maximum(state.speed, 0.0), context.dt)
            return action, action

        # All candidates continue from the last action.
        first = jnp.broadcast_to(last_action(context)[None], (num_sequences, 2))
        rollouts = forward_simulate(context, control, first, num_sequences), simulate_proposals(context)
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), *rollouts)

    def _perturbations(
        self, context: PlanningContext, plan: Float[Array, "T 2"], key: Key[Array, ""]
    ) -> Float[Array, "T K 2"]:
        """The plan and its perturbations within the limits of the vehicle."""
        knots = jax.random.normal(key, (num_knots(context.dt), self.num_samples, 2))
        noise = interpolate_knots(knots, context.dt, context.speed, self.acceleration, self.lateral)
        # The unperturbed plan stays among the candidates, so the best cost does not rise.
        sequences = jnp.concatenate([plan[:, None], plan[:, None] + noise], axis=1)
        limits, curvature = VEHICLE_LIMITS, VEHICLE_LIMITS.max_curvature
        bounds = jnp.asarray([[-limits.max_deceleration, -curvature], [limits.max_acceleration, curvature]])
        return jnp.clip(sequences, bounds[0][None, None], bounds[1][None, None])
