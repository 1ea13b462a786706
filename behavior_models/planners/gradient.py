"""A planner by gradient descent on an action sequence through the bicycle model, with a smooth cost."""

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
    PREDICTION,
    EgoRollouts,
    PlanningContext,
    planning_context,
    prediction_times,
    simulate_actions,
    update_cleared_stop_line,
)
from behavior_models.planners.proposals import desired_speed_profiles, last_action, simulate_proposals
from behavior_models.planners.reference_path import interpolate
from behavior_models.planners.scoring import corner_distances, rollout_cost, score_terms
from waymax_sim import geometry
from waymax_sim.datatypes.agents import forward_speed
from waymax_sim.datatypes.state import Action
from waymax_sim.env import Observation, Policy
from waymax_sim.metrics.comfort import COMFORT
from waymax_sim.pytree import Array, static_record


@static_record
class SoftCostParams:
    """The smooth cost and the optimizer. The values are choices of this package but where it is said.

    Attributes:
      agent_margin: Distance to other agents below which they cost, m.
      edge_margin: Distance to the road edge below which it costs, m.
      headway: Driving time by which the box of the ego is extended ahead, s.
      agent_weight: Weight of the squared missing distance to agents, 1/m^2.
      edge_weight: The same for the road edge, 1/m^2.
      line_weight: Weight of the distance beyond a stop line, 1/m.
      speed_weight: Weight of the squared relative deviation from the desired speed.
      lateral_weight: Weight of the squared offset from the reference path, 1/m^2.
      acceleration_weight: Weight of squared accelerations relative to their comfort limits.
      jerk_weight: Weight of the squared jerk relative to its comfort limit.
      acceleration_unit: Unit of the optimized accelerations, m/s^2.
      lateral_unit: Unit of the optimized curvatures, as lateral acceleration, m/s^2.
      mean_decay: Decay of the mean gradient in Adam (beta1), 0.9 in the paper (Kingma and Ba 2015).
      square_decay: Decay of the mean squared gradient (beta2), 0.999 in the paper; less, since the steps are few.
      min_norm: Lower bound of its root (epsilon), 1e-8 in the paper.
    """

    agent_margin: float = 0.5
    edge_margin: float = 0.3
    headway: float = 1.0
    agent_weight: float = 10.0
    edge_weight: float = 10.0
    line_weight: float = 1.0
    speed_weight: float = 1.0
    lateral_weight: float = 0.1
    acceleration_weight: float = 0.1
    jerk_weight: float = 0.05
    acceleration_unit: float = 1.0
    lateral_unit: float = 0.5
    mean_decay: float = 0.9
    square_decay: float = 0.99
    min_norm: float = 1e-6


SOFT_COST = SoftCostParams()


@static_record
class GradientPlanner(Policy):
    """Gradient descent on the action sequence of the ego through the bicycle model.

    At every step it starts from the last plan or a proposal of `PDM`, the one with the lowest cost, and takes a few
    steps of Adam (Kingma and Ba 2015) on a smooth cost: distances to other agents, predicted at constant velocity, and
    to the road edge, headway, stop lines, desired speed, offset from the reference path, comfort. If the start has a
    contact within 2 s, the ego brakes at the maximum deceleration.

    It controls the sdc alone: other agents that are assigned to it get no action, and coast.

    Attributes:
      num_steps: Steps of the optimizer.
      rate: Size of a step (alpha), in the units of `SoftCostParams`.
    """

    num_steps: int = 6
    rate: float = 0.15
    dynamics = EGO_DYNAMICS

    def init(self, observation: Observation, key: Key[Array, ""]) -> PlannerState:
        """A plan of zero acceleration and curvature."""
        return initial_planner_state(observation.dt)

    def act(self, observation: Observation, carry: PlannerState, key: Key[Array, ""]) -> tuple[Action, PlannerState]:
        """The first action of the improved plan."""
        context = planning_context(observation, jnp.argmax(observation.info.is_sdc), carry.cleared_stop_line)
        # Gradient descent is local: the proposals provide starts in other homotopy classes.
        last_plan = simulate_actions(context, shift_plan(carry.plan)[:, None])
        candidates = last_plan, simulate_proposals(context)
        rollouts = jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), *candidates)
        terms = score_terms(observation, context, rollouts)
        best = jnp.argmin(rollout_cost(terms, rollouts))
        # The emergency brake depends on the start: the soft cost has no contact time.
        plan = self.improve(observation, context, rollouts.action[:, best])
        action = apply_emergency_brake(context, terms.contact_time[best], plan[0])
        cleared_stop_line = update_cleared_stop_line(context, carry.cleared_stop_line)
        return ego_action(observation, action), PlannerState(plan=plan, cleared_stop_line=cleared_stop_line)

    def improve(
        self, observation: Observation, context: PlanningContext, plan: Float[Array, "T 2"]
    ) -> Float[Array, "T 2"]:
        """The best plan of all steps of Adam, the start included.

        Args:
          observation: The present.
          context: Its planning context.
          plan: The start.
        """
        observation, context, plan = jax.lax.stop_gradient((observation, context, plan))
        beta1, beta2 = SOFT_COST.mean_decay, SOFT_COST.square_decay

        def perturbed(knots: Float[Array, "Q 2"]) -> Float[Array, "T 2"]:
            return plan + interpolate_knots(
                knots, context.dt, context.speed, SOFT_COST.acceleration_unit, SOFT_COST.lateral_unit
            )

        def cost(knots: Float[Array, "Q 2"]) -> Float[Array, ""]:
            return soft_cost(observation, context, perturbed(knots))

        def step(loop, iteration):
            knots, mean, square, best, best_cost = loop
            value, gradient = jax.value_and_grad(cost)(knots)
            best = jnp.where(value < best_cost, knots, best)
            mean, square = beta1 * mean + (1 - beta1) * gradient, beta2 * square + (1 - beta2) * gradient**2
            unbiased = mean / (1 - beta1**iteration), square / (1 - beta2**iteration)
            knots = knots - self.rate * unbiased[0] / (jnp.sqrt(unbiased[1]) + SOFT_COST.min_norm)
            return (knots, mean, square, best, jnp.minimum(value, best_cost)), None

        # The perturbation starts at zero, which is the start itself.
        zero = jnp.zeros((num_knots(context.dt), 2))
        iterations = jnp.arange(1, self.num_steps + 1, dtype=jnp.float32)
        initial = zero, zero, zero, zero, jnp.asarray(jnp.inf)
        (last, _, _, best, best_cost), _ = jax.lax.scan(step, initial, iterations)
        return perturbed(jnp.where(cost(last) < best_cost, last, best))


def soft_cost(observation: Observation, context: PlanningContext, plan: Float[Array, "T 2"]) -> Float[Array, ""]:
    """Differentiable cost of a plan.

    Args:
      observation: The present.
      context: Its planning context.
      plan: Accelerations (m/s^2) and curvatures (1/m).
    """
    rollouts = simulate_actions(context, plan[:, None])
    action, speed = rollouts.action[:, 0], forward_speed(rollouts.agents)[:, 0]
    desired_speed = interpolate(desired_speed_profiles(context.reference)[0], rollouts.arc_length[:, 0])
    # The first jerk is relative to the action of the last step.
    previous = jnp.concatenate([last_action(context)[None, :1], action[:-1, :1]])
    jerk = (action[:, 0] - previous[:, 0]) / context.dt
    lateral_acceleration = action[:, 1] * speed**2
    edge = corner_distances(observation.edges, context, rollouts)
    beyond_line = rollouts.arc_length[:, 0] + context.size[0] / 2 + SOFT_COST.agent_margin - context.stop_line_s
    # Without a stop line its position is infinite, and so would be the gradient of the maximum below.
    beyond_line = jnp.where(jnp.isfinite(context.stop_line_s), beyond_line, 0.0)
    # Relative, so that slow roads weigh as much as fast ones; bounded for stationary starts.
    slowness = jnp.clip(1.0 - speed / jnp.maximum(desired_speed, 1.0), -1.0, 1.0)
    accelerations = (action[:, 0] / COMFORT.max_acceleration) ** 2
    accelerations = accelerations + (lateral_acceleration / COMFORT.max_lateral_acceleration) ** 2
    return (
        SOFT_COST.agent_weight * _agent_cost(context, rollouts)
        + SOFT_COST.edge_weight * jnp.mean(jnp.maximum(edge[1:] + SOFT_COST.edge_margin, 0.0) ** 2)
        + SOFT_COST.line_weight * jnp.mean(jnp.maximum(beyond_line, 0.0))
        + SOFT_COST.speed_weight * jnp.mean(slowness**2)
        + SOFT_COST.lateral_weight * jnp.mean(rollouts.lateral**2)
        + SOFT_COST.acceleration_weight * jnp.mean(accelerations)
        + SOFT_COST.jerk_weight * jnp.mean((jerk / COMFORT.max_longitudinal_jerk) ** 2)
    )


def _agent_cost(context: PlanningContext, rollouts: EgoRollouts) -> Float[Array, ""]:
    """Mean square of the distance that is missing to other agents (m^2).

    The box of the ego is extended ahead by its headway, so that it keeps a gap. Agents behind keep theirs.
    """
    stride = PREDICTION.stride(context.dt)
    agents = jax.tree.map(lambda leaf: leaf[stride - 1 :: stride, 0], rollouts.agents)
    # A reversing ego is not extended.
    extension = SOFT_COST.headway * jnp.maximum(forward_speed(agents), 0.0)
    others, time = context.agents, prediction_times(context.dt)[1:, None]
    # The center moves by half of the extension.
    xy = agents.xyz[:, :2] + geometry.unit_vector(agents.yaw) * extension[:, None] / 2
    size = jnp.stack([context.size[0] + extension, jnp.broadcast_to(context.size[1], extension.shape)], axis=-1)
    ego = jax.tree.map(lambda leaf: leaf[:, None], geometry.Boxes.from_poses(xy, agents.yaw, size))
    other_boxes = jax.tree.map(lambda leaf: leaf[None], others).outline_at(time)
    # Box separation is a lower bound of the distance, with a gradient inside overlaps too.
    missing = jnp.maximum(SOFT_COST.agent_margin - geometry.box_separation(ego, other_boxes), 0.0)
    is_behind = context.agents_on_path.center[0] < context.arc_length
    counts = others.valid & ~is_behind
    return jnp.mean(jnp.sum(jnp.where(counts[None], missing, 0.0) ** 2, axis=-1))
