"""Expert actions by the corners of boxes: the least-squares fit of a dynamics model to logged motion.

Source: "Imitation Is Not Enough" (Lu et al. 2023), which minimizes the mean squared error of the corners between a
step of the model and the next logged state.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Key

from behavior_models.baselines.log_expert import arc_action, smoothed_states, target_steps
from waymax_sim import geometry
from waymax_sim.datatypes.agents import AgentState, forward_speed, mask_agents
from waymax_sim.datatypes.state import Action
from waymax_sim.dynamics import Bicycle, Dynamics
from waymax_sim.dynamics.bicycle import MIN_HEADING_SPEED
from waymax_sim.dynamics.protocol import TimeStep
from waymax_sim.env import Observation, Policy
from waymax_sim.pytree import Array, pytree, static_record


@dataclasses.dataclass(frozen=True)
class FitParams:
    """Parameters of the Gauss-Newton iteration. Chosen.

    Attributes:
      num_iterations: Iterations.
      damping: Added to the diagonal of the normal equations, m^2 per squared unit of the action.
      step_sizes: Step sizes, of which an iteration takes the one with the smallest error, or none.
    """

    num_iterations: int = 5
    damping: float = 1e-6
    step_sizes: tuple[float, ...] = (1.0, 0.5, 0.1)


@pytree
class CornerFit:
    """Fitted actions.

    Attributes:
      action: Actions within the bounds; valid where both states and the initial action are.
      error: Mean squared distance of the four corners, m^2; 0 where not valid.
    """

    action: Action
    error: Float[Array, " N"]


def fit_corners(
    dynamics: Dynamics,
    before: AgentState,
    after: AgentState,
    size: Float[Array, "N 2"],
    dt: TimeStep,
    *,
    initial: Action | None = None,
    num_steps: Int[Array, " N"] | None = None,
    max_steps: int = 1,
    fixed: Bool[Array, "N A"] | None = None,
    params: FitParams = FitParams(),
) -> CornerFit:
    """The constant actions after which the corners of boxes are nearest to those of a later state.

    Gauss-Newton iteration from an initial action. The error is never larger than that of the initial action.

    Args:
      dynamics: The model.
      before: N agents.
      after: The same agents later.
      size: Length and width, m.
      dt: Duration of a step, s.
      initial: Initial actions; by default the inverse of the model.
      num_steps: Steps from `before` to `after`, between 1 and `max_steps`; by default `max_steps`.
      max_steps: Largest number of steps.
      fixed: Components that keep their initial value.
      params: Parameters of the iteration.
    """
    initial = dynamics.invert(before, after, dt) if initial is None else initial
    steps = jnp.full(before.valid.shape, max_steps, jnp.int32) if num_steps is None else num_steps
    target = geometry.box_corners(after.xyz[:, :2], after.yaw, size)
    free = jnp.ones(initial.value.shape) if fixed is None else 1.0 - fixed.astype(jnp.float32)
    low, high = (bound[None] for bound in dynamics.bounds)

    def residual(value: Float[Array, "N A"]) -> Float[Array, "N R"]:
        reached = _drive(dynamics, before, value, dt, steps, max_steps)
        corners = geometry.box_corners(reached.xyz[:, :2], reached.yaw, size)
        return (corners - target).reshape(len(value), -1)

    def iterate(carry: tuple[Array, Array], _) -> tuple[tuple[Array, Array], None]:
        value, error = carry
        change = free * _gauss_newton(residual, value, free, params.damping)
        for step_size in params.step_sizes:
            candidate = jnp.clip(carry[0] + step_size * change, low, high)
            candidate_error = _mean_squared(residual(candidate))
            is_better = candidate_error < error
            value, error = jnp.where(is_better[:, None], candidate, value), jnp.where(is_better, candidate_error, error)
        return (value, error), None

    first = jnp.clip(initial.value, low, high)
    carry = first, _mean_squared(residual(first))
    (value, error), _ = jax.lax.scan(iterate, carry, length=params.num_iterations)
    valid = initial.valid & before.valid & after.valid
    return CornerFit(Action(jnp.where(valid[:, None], value, 0.0), valid), jnp.where(valid, error, 0.0))


def _drive(
    dynamics: Dynamics,
    agents: AgentState,
    value: Float[Array, "N A"],
    dt: TimeStep,
    num_steps: Int[Array, " N"],
    max_steps: int,
) -> AgentState:
    """Agents after a number of steps with a constant action.

    Args:
      dynamics: The model.
      agents: N agents.
      value: Actions.
      dt: Duration of a step, s.
      num_steps: Steps of each agent.
      max_steps: Largest number of steps.
    """
    for step in range(max_steps):
        moved = dynamics.apply(agents, value, dt)
        moves = step < num_steps
        agents = dataclasses.replace(
            agents,
            xyz=jnp.where(moves[:, None], moved.xyz, agents.xyz),
            yaw=jnp.where(moves, moved.yaw, agents.yaw),
            velocity=jnp.where(moves[:, None], moved.velocity, agents.velocity),
        )
    return agents


def _gauss_newton(residual, value: Float[Array, "N A"], free: Float[Array, "N A"], damping: float):
    """The change of the actions that minimizes the linearized error, [N, A].

    Args:
      residual: From actions [N, A] to residuals [N, R]; agents are independent.
      value: Actions.
      free: 1 for components that may change, 0 for others.
      damping: Added to the diagonal of the normal equations.
    """
    size = value.shape[-1]
    units = jnp.broadcast_to(jnp.eye(size)[:, None], (size, *value.shape))
    now = residual(value)
    # Agents are independent: one derivative along a unit vector has the column of the Jacobian of every agent.
    columns = jax.vmap(lambda unit: jax.jvp(residual, (value,), (unit,))[1])(units)
    jacobian = jnp.moveaxis(columns, 0, -1) * free[:, None]
    normal = jnp.einsum("nra,nrb->nab", jacobian, jacobian) + damping * jnp.eye(size)[None]
    slope = jnp.einsum("nra,nr->na", jacobian, now)
    return -jnp.linalg.solve(normal, slope[..., None])[..., 0]


def _mean_squared(residual: Float[Array, "N R"]) -> Float[Array, " N"]:
    """Mean squared distance of the corners, m^2; infinite where it is not finite."""
    error = 2.0 * jnp.mean(residual**2, axis=-1)
    return jnp.where(jnp.isfinite(error), error, jnp.inf)


@static_record
class CornerExpert(Policy):
    """Drives to the logged pose `horizon` steps ahead with the constant action that leads the corners of its box there.

    `LogExpert` gives the initial action, and the action of agents without a logged state within the horizon. Below
    `MIN_HEADING_SPEED` a bicycle keeps its curvature, which the noise of logged headings would dominate.

    Attributes:
      dynamics: Model that the action is expressed in.
      horizon: Steps of look-ahead.
      smoothing: Window of the local linear fit that smooths the log at the target, steps; odd, 1 for none.
    """

    dynamics: Dynamics = Bicycle()
    horizon: int = 5
    smoothing: int = 5
    privileged = True

    def act(self, observation: Observation, carry: tuple[()], key: Key[Array, ""]) -> tuple[Action, tuple[()]]:
        """The action from the simulated present towards the logged target."""
        log, now = observation.log, observation.agents
        assert log is not None, "privileged policies receive the log"
        row, exists = target_steps(log.valid, observation.step, self.horizon)
        num_steps = jnp.maximum(row - observation.step, 1)
        target = mask_agents(smoothed_states(log, row, self.smoothing), exists)
        model = self.dynamics
        if isinstance(model, Bicycle):
            initial = arc_action(model, now, target, num_steps, observation.dt)
        else:
            # Displacements are distributed over the steps.
            whole = model.invert(now, target, observation.dt)
            initial = Action(whole.value / num_steps[:, None].astype(jnp.float32), whole.valid)
        is_slow = jnp.abs(forward_speed(now)) < MIN_HEADING_SPEED
        is_curvature = jnp.arange(initial.value.shape[-1]) == (1 if isinstance(model, Bicycle) else -1)
        fit = fit_corners(
            model,
            now,
            target,
            observation.info.size[:, :2],
            observation.dt,
            initial=initial,
            num_steps=jnp.minimum(num_steps, self.horizon),
            max_steps=self.horizon,
            fixed=is_slow[:, None] & is_curvature[None],
        )
        is_far = (num_steps > self.horizon)[:, None]
        return Action(jnp.where(is_far, initial.value, fit.action.value), fit.action.valid), carry
